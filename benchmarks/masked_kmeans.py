"""Time one iteration of masked k-means against faiss's plain k-means on the same weights.

    python benchmarks/masked_kmeans.py [--vectors 300000] [--codewords 512] [--threads 2] [--json FILE]

One iteration is assignment and update of all vectors. Both run in this process, in turn, on the same array and with as
many threads; the least of several repetitions counts. faiss solves the plain problem (all 16 terms count, no mask), so
it is a yardstick, not a rival.
"""

import argparse
import json
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from algo.masked_kmeans import MaskedVectors
from algo.pruning import magnitude_masks


def _brute_force(vectors, masks, codebook):
    """Float64 (NG, k): ||w - c o bm||^2 less ||w||^2."""
    exact, mask, code = (array.astype(np.float64) for array in (vectors, masks, codebook))
    return mask @ (code.T**2) - 2 * (exact * mask) @ code.T


def measure(count, length, n, m, codewords, threads, repeats, seed=0, checked=20000):
    """Seconds of one iteration of both, their ratio, and how many of ``checked`` assignments are not the minimum."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(count, length, generator=generator)
    masks = magnitude_masks(weights, n, m)
    array = (weights * masks).numpy()
    data = MaskedVectors(array, masks.numpy())
    codebook = data.initial(codewords, seed)
    for _ in range(3):  # away from the initial codewords, which are themselves sparse
        codebook = data.update(codebook, data.assign(codebook))
    reference = faiss.Kmeans(length, codewords, niter=3, seed=seed, max_points_per_centroid=count)
    reference.train(array)

    seconds = {"masked": [], "plain": []}
    for _ in range(repeats):
        start = time.perf_counter()
        data.update(codebook, data.assign(codebook))
        seconds["masked"].append(time.perf_counter() - start)
        plain = faiss.Kmeans(length, codewords, niter=2, seed=seed, max_points_per_centroid=count)
        plain.train(array, init_centroids=reference.centroids)
        first, second = (step["time"] for step in plain.iteration_stats)
        seconds["plain"].append(second - first)  # the first includes what is done once
    assignment = data.assign(codebook)[:checked]
    cost = _brute_force(array[:checked], masks.numpy()[:checked], codebook)
    wrong = int((cost[np.arange(len(cost)), assignment] > cost.min(axis=1)).sum())
    return {
        "vectors": count,
        "vector_length": length,
        "n": n,
        "m": m,
        "codewords": codewords,
        "threads": threads,
        "repeats": repeats,
        "masked_seconds": min(seconds["masked"]),
        "faiss_seconds": min(seconds["plain"]),
        "ratio": min(seconds["masked"]) / min(seconds["plain"]),
        "median_ratio": float(np.median(seconds["masked"]) / np.median(seconds["plain"])),
        "checked": checked,
        "wrong": wrong,
        "faiss": faiss.__version__,
        "torch": torch.__version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=300_000)
    parser.add_argument("--vector-length", type=int, default=16)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--codewords", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    result = measure(
        options.vectors,
        options.vector_length,
        options.n,
        options.m,
        options.codewords,
        options.threads,
        options.repeats,
    )
    print(
        f"{result['vectors']} x {result['vector_length']} weights, {result['n']}:{result['m']}, "
        f"k = {result['codewords']}, {result['threads']} threads, best of {result['repeats']}\n"
        f"masked k-means, one iteration  {result['masked_seconds'] * 1e3:8.1f} ms\n"
        f"faiss plain k-means            {result['faiss_seconds'] * 1e3:8.1f} ms\n"
        f"ratio                          {result['ratio']:8.2f}     (of the medians {result['median_ratio']:.2f})\n"
        f"assignments that differ from float64 brute force: {result['wrong']} of {result['checked']}"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
