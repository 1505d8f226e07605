"""Compress a small network for handwritten digits, from training to the accuracy of the accelerator's integers.

    python examples/digits.py [--codewords 32] [--vector-length 16] [--pattern 4:16] [--residual] [--out out/digits]

Writes the compressed checkpoint, its calibration and the held-out digits to the folder; takes about ten seconds.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from algo import zoo
from algo.calibration import calibrate
from algo.compress import CompressSettings, compress, report
from algo.finetune import FinetuneSettings, finetune
from algo.integer import TorchIntegerNetwork
from golden.network import quantise

#: columns of the progress bars.
COLUMNS = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def bars(progress):
    """A ``progress(stage, done, total)`` callback that draws a bar for each stage."""
    tasks = {}

    def update(stage, done, total):
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total)
        progress.update(tasks[stage], completed=done)

    return update


def print_report(console, checkpoint):
    found = report(checkpoint)
    table = Table("layer", "stored as", "shape", "codewords", "bytes", "SSE", "masked SSE")
    for row in found["rows"]:
        numbers = ("" if row[key] is None else f"{row[key]:.4g}" for key in ("sse", "masked_sse"))
        shape = " x ".join(map(str, row["shape"]))
        table.add_row(row["name"], row["storage"], shape, str(row["codewords"] or ""), f"{row['bytes']:.0f}", *numbers)
    console.print(table)
    total = found["total"]
    console.print(
        f"compression {total['formula_ratio']:.1f}x by the paper's formula (clustered layers), "
        f"{total['file_ratio']:.1f}x by file: {total['float_bytes']} bytes of float32 to {total['file_bytes']}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codewords", type=int, default=32)
    parser.add_argument("--vector-length", type=int, default=16)
    parser.add_argument("--pattern", default="4:16", help="weights that are kept, N:M")
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning")
    parser.add_argument("--residual", action="store_true", help="a fourth, residual convolution")
    parser.add_argument("--out", type=Path, default=Path("out/digits"))
    options = parser.parse_args()
    console = Console()
    torch.set_num_threads(1)  # a network this small only waits for a second thread
    torch.manual_seed(0)
    train_x, train_y, test_x, test_y = zoo.digits()
    lines, clock = [], time.perf_counter()

    def note(what, module):
        nonlocal clock
        now = time.perf_counter()
        lines.append((what, f"{100 * zoo.accuracy(module, test_x, test_y):.2f} %", f"{now - clock:.2f} s"))
        clock = time.perf_counter()

    with Progress(*COLUMNS, console=console) as progress:
        update = bars(progress)
        module = zoo.DigitsNet(options.residual)
        zoo.train(module, train_x, train_y, progress=lambda done, total: update("train", done, total))
        note("float network", module)
        n, m = map(int, options.pattern.split(":"))
        form = {"codewords": options.codewords, "vector_length": options.vector_length, "n": n, "m": m}
        network = compress(module, (1, 8, 8), CompressSettings(**form), update)
        note("compressed", network)
        settings = FinetuneSettings(epochs=options.epochs, rate=3e-3)
        finetune(network, train_x, train_y, settings, progress=update)
        note("fine-tuned codebooks", network)
        calibration = calibrate(network, train_x[:256], progress=update)
    checkpoint = network.to_checkpoint()
    integers = TorchIntegerNetwork(quantise(checkpoint, calibration))
    right = float((integers(test_x).argmax(dim=1) == test_y).double().mean())
    lines.append(("int8 as in hardware", f"{100 * right:.2f} %", f"{time.perf_counter() - clock:.2f} s"))

    table = Table("network", f"accuracy on {len(test_y)} held-out digits", "time")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    print_report(console, checkpoint)
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(options.out / "checkpoint")
    calibration.save(options.out / "calibration.json")
    np.savez(options.out / "digits.npz", x=test_x.numpy(), y=test_y.numpy())
    console.print(f"wrote checkpoint, calibration.json and digits.npz to {options.out}")


if __name__ == "__main__":
    main()
