"""The paper's Fig. 19, TOPS/W of six variants, from gate-level activity of their cores on ResNet-20.

    python benchmarks/energy.py [--sizes 16,32,64] [--variants all] [--data ../shared/data] [--liberty nangate45]
                                [--jobs 2] [--out docs/results]

Writes energy.json and fig19.png. A second run comes from the cache. docs/energy.md says what is counted.

Each core's mapped netlist runs weight subsets of one layer of ResNet-20 (public weights, CIFAR-10): weights as that
variant has them (int8; k-means of dense weights; masked k-means), activations of the int8 network on a test image. All
ofmap vectors must equal the golden model's. What events cost there, in each block, is put to the cycles and accesses of
the traffic model (golden.estimate) for the paper's networks; L1 and L2 have the paper's access costs (Tab. 8) in units
of the dense 16x16 EWS's multiplication and addition. DRAM is left out, as in the paper.
"""

import argparse
import hashlib
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from paper_figures import wanted
from rich.console import Console
from rich.table import Table
from stages import stages

from golden import Calibration, Checkpoint, lower
from golden.estimate import estimate
from golden.files import cache_folder, replacing, write_text
from golden.network import quantise
from golden.networks import NETWORKS
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import VARIANTS, MvqError, preset
from mvq.paper import FIG19, FIG20, TITLES
from synth.energy import mac_energy, measure, network_energy, stimulus_of
from synth.liberty import read_liberty, resolve_liberty
from synth.netlist import map_designs

CLOCK_MHZ = 300
LAYER = "layer3.1.conv1"
CYCLES = 2000
#: blocks of the report -> parts of bars.
PARTS = {
    "multipliers": ("array multipliers", "array steering"),
    "adders": ("array adders", "array edges"),
    "WRF/MRF": ("array WRF/MRF",),
    "codebook, loading": ("codebook", "decoding and loading"),
    "PRF/ARF": ("prf/arf",),
    "requantisation, control": ("requantisation", "control"),
    "L1": ("L1",),
    "L2": ("L2",),
}
METHODS = {"int8": "int8", "codebook": "vq", "masked_codebook": "mvq"}


def _checkpoint(method, data):
    """Folder of ResNet-20 compressed by ``method``, with its calibration; made once."""
    files = [data / "cifar10" / name for name in ("resnet20-12fca82f.th", "test.npz")]
    for path in files:
        if not path.is_file():
            raise MvqError(f"{path} is missing: --data must name the folder that holds cifar10/")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    folder = cache_folder("energy") / f"resnet20-{method}-{digest}"
    if (folder / "calibration.json").is_file():
        return folder
    from algo import zoo
    from algo.calibration import calibrate
    from algo.compress import CompressSettings, compress
    from algo.datasets import load_dataset

    pixels = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    images = load_dataset(files[1], count=64, **pixels).images
    shared = {} if method == "int8" else {"codebook": "shared"}
    network = compress(zoo.resnet20(files[0]), (3, 32, 32), CompressSettings(method=method, **shared))
    network.to_checkpoint().save(folder)
    calibrate(network, images).save(folder / "calibration.json")
    return folder


def _activations(data):
    """int8 input of :data:`LAYER` in the int8 network, for the first test image."""
    import numpy as np

    folder = _checkpoint("int8", data)
    network = quantise(Checkpoint.load(folder), Calibration.load(folder / "calibration.json"))
    with np.load(data / "cifar10" / "test.npz") as held:
        image = held["x"][:1].transpose(0, 3, 1, 2) / 255
    image = (image - np.reshape((0.485, 0.456, 0.406), (1, 3, 1, 1))) / np.reshape((0.229, 0.224, 0.225), (1, 3, 1, 1))
    results = network.run(network.quantise_input(image.astype(np.float32)))
    return results[network.graph[LAYER].inputs[0]]


def _measure(design, folder, x):
    """In a process of its own: stimulus and simulation of one core."""
    lowered = lower(Checkpoint.load(folder), Calibration.load(folder / "calibration.json"), design.config)
    return measure(design, stimulus_of(lowered.layers[LAYER], x, CYCLES))


def measure_all(configs, liberty, data, jobs, tell):
    """{(variant, size): what :func:`synth.energy.measure` gives}."""
    folders = {}
    for method in dict.fromkeys(METHODS[config.weights] for config in configs):
        tell("compressing ResNet-20", len(folders), len(METHODS))
        folders[method] = _checkpoint(method, data)
    x = _activations(data)
    library = read_liberty(resolve_liberty(liberty))
    designs = map_designs(configs, library, round(1e6 / CLOCK_MHZ), jobs=jobs, progress=tell)
    found = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        work = [pool.submit(_measure, design, folders[METHODS[design.config.weights]], x) for design in designs]
        try:
            for design, future in zip(designs, work, strict=True):
                found[design.config.variant, design.config.rows] = future.result()
                tell("simulating gates", len(found), len(work))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return found


def efficiencies(measured, sizes, variants, mac):
    """network -> size -> variant -> TOPS/W, J of an image by part, cycles, operations."""
    results = {}
    for name, make in NETWORKS.items():
        shapes, results[name] = make(), {}
        for size in sizes:
            results[name][str(size)] = {}
            for variant in variants:
                accelerator = AcceleratorConfig(
                    array=preset(variant, size)
                )  # MobileNet, too, with the others' 4:16 masks
                part = estimate(shapes, accelerator).select(wanted(name, "figure"))
                energy = network_energy(part, measured[variant, size], mac)
                operations = 2 * sum(one.layer.macs for one in part.layers)
                results[name][str(size)][variant] = {
                    "tops_per_watt": operations / sum(energy.values()) / 1e12,
                    "cycles": part.cycles,
                    "operations": operations,
                    "joules": {bar: sum(energy[block] for block in blocks) for bar, blocks in PARTS.items()},
                }
    return results


def rows(report):
    """Fig. 19 and 20 as rows of text: network, array, TOPS/W of each variant, EWS-CMS over EWS and over WS, paper's."""
    for name, sizes in report["results"].items():
        for size, found in sizes.items():
            ours = {variant: one["tops_per_watt"] for variant, one in found.items()}
            paper = FIG19.get(name, {}).get(int(size))
            texts = []
            for index, variant in enumerate(VARIANTS):
                text = f"{ours[variant]:.2f}" if variant in ours else ""
                texts.append(text + (f" ({paper[index]:.1f})" if paper and text else ""))
            gains = FIG20.get(name, {}).get(int(size))
            for base in ("ews", "ws"):
                text = f"{ours['ews-cms'] / ours[base]:.2f}" if {"ews-cms", base} <= set(ours) else ""
                if text and paper:
                    text += f" ({paper[5] / paper[list(VARIANTS).index(base)]:.2f})"
                elif text and gains:
                    text += f" ({gains[2] / (gains[1] if base == 'ews' else 1):.2f})"
                texts.append(text)
            yield [TITLES[name], f"{size}x{size}", *texts]


HEADINGS = ("TOPS/W (paper)", "array", *(variant.upper() for variant in VARIANTS), "EWS-CMS / EWS", "EWS-CMS / WS")


def draw(report, path):
    """TOPS/W beside the paper's, and where an image's energy goes, for ResNet-18."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#999999", "#D55E00", "#F0E442")
    sizes = report["sizes"]
    figure, axes = plt.subplots(2, len(sizes), figsize=(1 + 4 * len(sizes), 7), squeeze=False, layout="constrained")
    for column, size in enumerate(sizes):
        found = report["results"]["resnet18"][str(size)]
        names, places = list(found), range(len(found))
        paper = FIG19["resnet18"].get(size)
        for offset, values, colour, label in (
            (-0.2, [found[name]["tops_per_watt"] for name in names], "#0072B2", "ours"),
            (0.2, [paper[list(VARIANTS).index(name)] for name in names] if paper else None, "#E69F00", "paper"),
        ):
            if values is None:
                continue
            axes[0, column].bar([x + offset for x in places], values, width=0.38, color=colour, label=label)
            for x, value in zip(places, values, strict=True):
                axes[0, column].annotate(f"{value:.1f}", (x + offset, value), ha="center", va="bottom", fontsize=7.5)
        below = [0.0] * len(names)
        for colour, part in zip(colours, PARTS, strict=True):
            heights = [found[name]["joules"][part] * 1e3 for name in names]
            axes[1, column].bar(places, heights, bottom=below, color=colour, width=0.7, label=part)
            below = [low + height for low, height in zip(below, heights, strict=True)]
        for axis in axes[:, column]:
            axis.set_xticks(places, [name.upper() for name in names], rotation=35, ha="right", fontsize=8)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(axis="y", labelsize=8)
            axis.margins(y=0.12)
        axes[0, column].set_title(f"{size} x {size}", fontsize=10)
    axes[0, 0].set_ylabel("TOPS/W, ResNet-18", fontsize=9)
    axes[1, 0].set_ylabel("mJ of an image", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.legend(
        *axes[1, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(8, 3 * len(sizes)),
        frameon=False,
        fontsize=8,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def main():
    """Measure, print, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="16,32,64", help="rows (= columns) with commas")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="names with commas; ews must be among them")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--liberty", default="nangate45")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    sizes, variants = [int(size) for size in arguments.sizes.split(",")], arguments.variants.split(",")
    console, started = Console(width=max(Console().width, 150)), time.monotonic()
    configs = [preset(variant, size) for size in sizes for variant in variants]
    base = preset("ews", 16)
    try:
        with stages(console) as tell:
            wanted_configs = list(dict.fromkeys([base, *configs]))
            measured = measure_all(wanted_configs, arguments.liberty, arguments.data, arguments.jobs, tell)
            mac = mac_energy(measured["ews", 16])
            results = efficiencies(measured, sizes, variants, mac)
    except MvqError as error:
        sys.exit(f"error: {error}")
    report = {
        "format": "mvq-energy",
        "format_version": 1,
        "liberty": arguments.liberty,
        "clock_mhz": CLOCK_MHZ,
        "layer": f"ResNet-20 {LAYER}",
        "mac_joules": mac,
        "sizes": sizes,
        "variants": variants,
        "paper": {"fig19": FIG19, "fig20": FIG20},
        "measured": {f"{variant}-{size}x{size}": found for (variant, size), found in measured.items()},
        "results": results,
        "seconds": round(time.monotonic() - started, 1),
    }
    table = Table(title=f"TOPS/W, convolutions; a MAC takes {mac * 1e12:.2f} pJ")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right")
    for row in rows(report):
        table.add_row(*row)
    console.print(table)
    written = write_text(arguments.out / "energy.json", json.dumps(report, indent=1) + "\n")
    draw(report, arguments.out / "fig19.png")
    console.print(f"{report['seconds']:.0f} s; written to {written} and fig19.png beside it")


if __name__ == "__main__":
    main()
