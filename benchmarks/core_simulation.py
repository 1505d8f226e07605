"""Cycles a second of a core under cocotb, with Verilator and with Icarus, and the time to compile it.

    python benchmarks/core_simulation.py [--config ews-cms-16x16] [--pixels 32] [--json FILE]

The work is one compressed 3x3 convolution of 64 to 64 channels with random weights; all values are compared with
golden.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cocotb_tests.core_simulation import CoreSimulation, compare
from golden.files import write_text
from golden.integer import Requantisation
from golden.lower import LoweredLayer
from golden.masks import encode_masks
from golden.schedule import LayerShape, choose_repeats
from golden.stream import WeightImage
from hdl.config import load_config

CHANNELS = 64


def random_layer(config, pixels, rng):
    """A compressed 3x3 convolution with random codebook, indices and masks."""
    shape = LayerShape(name="conv", out_channels=CHANNELS, in_channels=CHANNELS, kernel=(3, 3), pixels=(pixels, pixels))
    d, groups = config.vector_length, CHANNELS // config.vector_length
    codebook = rng.integers(-128, 128, (config.codewords, d)).astype(np.int8)
    index = rng.integers(0, config.codewords, (groups, CHANNELS, 3, 3))
    masks = rng.random((*index.shape, config.mask_groups, config.m)).argsort(axis=-1) < config.n
    vectors = codebook[index] * masks.reshape(*index.shape, d)
    weight = np.moveaxis(vectors, -1, 1).reshape(CHANNELS, CHANNELS, 3, 3)
    requantisation = Requantisation.from_real(np.full(CHANNELS, 1e-4), np.zeros(CHANNELS), "relu", 0.05)
    image = WeightImage(config, weight, 1, (codebook, index, encode_masks(masks, config.n)), requantisation)
    repeats = choose_repeats(shape, config, compressed=True)
    return LoweredLayer(shape, (1, 1, 1, 1), image, config, repeats, (0, 0))


def measure(config, simulator, pixels, console):
    """Build, run and compare; returns seconds and cycles."""
    rng = np.random.default_rng(0)
    layer = random_layer(config, pixels, rng)
    runs = list(layer.runs(rng.integers(-128, 128, (1, CHANNELS, pixels, pixels)).astype(np.int8)))
    with tempfile.TemporaryDirectory() as folder, console.status(f"{simulator}: building and running {config.name}"):
        simulation = CoreSimulation(config, Path(folder), simulator)
        start = time.perf_counter()
        simulation.build()
        built = time.perf_counter()
        (result,) = simulation.run([("conv", runs)])
        end = time.perf_counter()
    compare(layer, runs, result.outputs)
    if result.cycles != layer.cycles():
        raise AssertionError(f"{result.cycles} cycles, but the model says {layer.cycles()}")
    return {
        "cycles": result.cycles,
        "build_seconds": round(built - start, 2),
        "run_seconds": round(end - built, 2),
        "cycles_per_second": round(result.cycles / (end - built), 1),
    }


def main():
    """Measure both simulators and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="ews-cms-16x16", help="a configuration with masks")
    parser.add_argument("--pixels", type=int, default=32, help="height and width of the ofmap for Verilator")
    parser.add_argument("--icarus-pixels", type=int, default=4, help="the same for Icarus")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config, console = load_config(arguments.config), Console()
    report = {"config": config.name}
    table = Table(title=f"Simulation of the {config.name} core under cocotb")
    for heading in ("simulator", "build s", "cycles", "run s", "cycles/s"):
        table.add_column(heading, justify="right" if heading != "simulator" else "left")
    for simulator, pixels in (("verilator", arguments.pixels), ("icarus", arguments.icarus_pixels)):
        row = report[simulator] = measure(config, simulator, pixels, console)
        numbers = (row["build_seconds"], row["cycles"], row["run_seconds"], row["cycles_per_second"])
        table.add_row(simulator, *(f"{number:,}" for number in numbers))
    console.print(table)
    if arguments.json:
        write_text(arguments.json, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
