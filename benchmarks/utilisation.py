"""Cycles of every convolution against the fewest that the array could take, from the exact model of compiled programs.

    python benchmarks/utilisation.py [--networks resnet20,resnet18] [--sizes 16,32,64] [--variant ews-cms]
                                     [--bus 64] [--l1-banks default,64] [--codebook shared,layer] [--rtl]
                                     [--json FILE]

Weights are random; no cycle depends on their values. ``shared`` is one codebook for the network, which is loaded once;
with one for each ``layer``, what the array cannot hide behind the last weights of the layer before is waited for. For
each convolution:

cycles : from the completion of the layer before to its own (golden.exact).
ideal : ceil(K/L) * ceil(C/H) * R * R * max(E * E, load), where load is what a WRF word takes: one array row a cycle and
    CRF port, and its bits over the bus. Nothing else: no codebook, no feature maps, no filling of the array. A dense
    layer takes ceil(M/N) passes on a sparse tile, which ideal does not have; the first one reads patches of the image,
    with taps as channels, so that it may take fewer passes than its C says.
bus : cycles of the busier direction of the bus, if every byte that the layer moves went over it once: its weights and
    codebook, the feature maps (or parts) that this plan cannot keep in L1.
moved : the same for what it really moves, with the rows that neighbouring strips share and the weights of every strip.

--l1-banks: the paper's L1 is 128 KB at 16x16 and 256 KB above, where maps of 200 KB pass in tiles; 64 banks are 512 KB
of activations, which hold them.

--rtl runs the 16x16 programs with the first L1 and kind of codebook on the compiled gateware (CXXRTL): result, stored
tensors and cycles must equal golden's.
"""

import argparse
import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from golden import lower
from golden.exact import exact_estimate
from golden.files import write_text
from golden.graph import Graph, Node
from golden.networks import from_graph, load_network
from golden.program import compile_program
from golden.schedule import raw_row_words
from golden.synthetic import random_checkpoint, random_network
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import VARIANTS, preset
from mvq.run import make_engine, run_images

#: what a convolution may take of the larger of ideal and bus.
LIMIT = 1.05


def resnet20():
    """Graph of ResNet-20 for CIFAR-10: shortcuts are slices of every other pixel, and zero channels (option A)."""
    nodes = [Node("image", "input", (), {"shape": [3, 32, 32]})]

    def add(name, op, sources, **attrs):
        nodes.append(Node(name, op, tuple(sources), attrs))
        return name

    def conv(name, source, before, channels, stride=1, activation="relu"):
        attrs = {"in_channels": before, "out_channels": channels, "groups": 1, "activation": activation}
        return add(name, "conv", [source], kernel=[3, 3], stride=[stride] * 2, padding=[1] * 4, **attrs)

    x, before, extent = conv("conv1", "image", 3, 16), 16, 32
    for stage, channels in enumerate((16, 32, 64), 1):
        for block in range(3):
            name, stride, shortcut = f"layer{stage}.{block}", channels // before, x
            y = conv(f"{name}.conv1", x, before, channels, stride)
            y = conv(f"{name}.conv2", y, channels, channels, activation="none")
            if stride > 1:
                cut = {"channels": [0, before, 1], "rows": [0, extent, 2], "columns": [0, extent, 2]}
                around = [(channels - before) // 2] * 2
                x = add(f"{name}.slice", "slice", [x], **cut)
                shortcut = add(f"{name}.pad", "pad", [x], channels=around, spatial=[0] * 4)
            x, before, extent = add(f"{name}.add", "add", [y, shortcut], activation="relu"), channels, extent // stride
    x = add("flatten", "flatten", [add("avgpool", "global_avg_pool", [x])])
    add("linear", "linear", [x], in_features=64, out_features=10, activation="none")
    return Graph(nodes, "linear")


def random_lowered(name, array, shared):
    """(:class:`golden.networks.Network`, lowered network with random weights) of a network's name or file."""
    if name == "resnet20":
        graph = resnet20()
        compressed = {node.name for node in graph.layers} - {"conv1", "linear"}
        return from_graph(graph, compressed, name), lower(
            *random_checkpoint(graph, compressed, array, shared=shared), array
        )
    network = load_network(name)
    return network, lower(*random_network(network, array, shared=shared), array)


def ideal_cycles(layer, array):
    """As the module says, for a convolution (:class:`golden.networks.Layer`)."""
    rows = min(array.rows, layer.ifmap[0] // layer.groups)
    load = rows * raw_row_words(array)
    if layer.compressed and array.has_codebook:
        load = rows * max(array.groups / array.crf_read_ports, array.groups * array.entry_width / array.stream_width)
    words = -(-layer.ofmap[0] // array.columns) * -(-(layer.ifmap[0] // layer.groups) // array.rows)
    return words * math.prod(layer.kernel) * max(math.prod(layer.ofmap[1:]), load)


def bus_beats(program, channels):
    """Layer -> (beats if each byte went over the bus once, beats that it moves), of the busier direction.

    Parameters
    ----------
    program : :class:`golden.program.Program`. ``channels`` : layer -> channels of its result.
    """
    config, found = program.config, {}
    for operation in program.operations:
        name, fields = program.layers[operation.layer], operation.fields
        sums = found.setdefault(name, {"once": 0, "reads": 0, "writes": 0, "groups": 0, "mask": None})
        if operation.opcode == "conv":
            sums["reads"] += fields["weight_words"]
            if sums["groups"] < -(-channels[name] // config.array.columns):  # the first strip
                sums["once"] += fields["weight_words"]
                sums["groups"] += fields["ofmap_groups"]
        elif operation.kind != "compute":
            beats = fields["chunks"] * fields["chunk_words"] * fields["word_beats"]
            sums["writes" if operation.opcode == "store" else "reads"] += beats
        if operation.opcode == "load":
            if sums["mask"] is None:
                sums["mask"] = np.zeros(program.size // config.bus_bytes, bool)
            span = operation.memory_read
            for chunk in range(span.count):
                start = (span.start - program.base + chunk * span.stride) // config.bus_bytes
                part = sums["mask"][start : start + span.length // config.bus_bytes]
                sums["once"] += part.size - int(part.sum())
                part[:] = True
    return {name: tuple(max(s[key], s["writes"]) for key in ("once", "reads")) for name, s in found.items()}


def measure(name, config, codebook):
    """(report, lowered network, program) of a network on an accelerator."""
    network, lowered = random_lowered(name, config.array, codebook == "shared")
    program = compile_program(lowered, config)
    found = exact_estimate(network, program)
    beats = bus_beats(program, {layer.name: layer.ofmap[0] for layer in network.layers})
    plans = {plan.name: plan for plan in program.plans}
    layers = []
    for row in found.layers:
        layer, tiling = row.layer, plans[row.layer.name].tiling
        report = {
            "layer": layer.name,
            "op": layer.op,
            "dense": layer.op == "conv" and not (layer.compressed and config.array.has_codebook),
            "linear": layer.linear,
            "cycles": row.cycles,
            "bus": beats[layer.name][0],
            "moved": beats[layer.name][1],
            "weight_stalls": row.weight_stalls,
            "activation_stalls": row.activation_stalls,
            "tiles": plans[layer.name].tiles,
            "modes": [mode for mode in tiling.modes if mode],
        }
        if layer.op == "conv":
            ideal = math.ceil(ideal_cycles(layer, config.array))
            bound = max(ideal, report["bus"])
            report |= {"ideal": ideal, "ratio": round(row.cycles / ideal, 4)}
            report["bound_ratio"] = round(row.cycles / bound, 4)
        layers.append(report)
    report = {"network": name, "config": config.name, "bus_bits": config.array.stream_width}
    report |= {"l1_kb": config.l1_bytes >> 10, "codebook": codebook, "cycles": found.cycles}
    report |= {key: worst(layers, key) for key in ("ratio", "bound_ratio")} | {"layers": layers}
    return report, lowered, program


def worst(layers, key):
    """The largest ratio of a convolution that is not a linear layer, and its layer."""
    ratio, name = max((row[key], row["layer"]) for row in layers if row["op"] == "conv" and not row["linear"])
    return {"layer": name, "value": ratio}


def run_gateware(lowered, program, console):
    """Run one random image on the gateware; returns what to report. Raises MvqError where anything differs."""
    with console.status("compiling the gateware"):
        engine, timing = make_engine("cxxrtl", program.config)
    image = np.random.default_rng(1).standard_normal(program.input_layout.shape, np.float32)
    started = time.perf_counter()
    with console.status("running the gateware"):
        found = run_images(lowered, program, image[None], None, engine, timing)
    seconds = time.perf_counter() - started
    return {"cycles": found.cycles[0], "tensors_compared": found.compared, "seconds": round(seconds, 1)}


def describe(report):
    """Network, array, bus, L1 and codebook in words."""
    codebook = {"shared": "one codebook", "layer": "a codebook a layer"}[report["codebook"]]
    return (
        f"{report['network']}, {report['config']}, {report['bus_bits']}-bit bus, {report['l1_kb']} KB of L1, {codebook}"
    )


def show(report, console):
    """Print a report as a table."""
    table = Table(title=f"{describe(report)}: {report['cycles']:,} cycles")
    headings = ("layer", "cycles", "ideal", "ratio", "bus", "moved", "to bound", "weight stalls", "activation stalls")
    for heading in (*headings, "tiles"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for row in report["layers"]:
        ratios = {key: f"{row[key]:.3f}" if key in row else "" for key in ("ratio", "bound_ratio")}
        if row["op"] == "conv" and row["ratio"] > LIMIT and not row["linear"]:
            ratios = {key: f"[{'red' if row[key] > LIMIT else 'green'}]{text}[/]" for key, text in ratios.items()}
        table.add_row(
            row["layer"] + (" (dense)" if row["dense"] else ""),
            f"{row['cycles']:,}",
            f"{row['ideal']:,}" if "ideal" in row else "",
            ratios["ratio"],
            f"{row['bus']:,}",
            f"{row['moved']:,}",
            ratios["bound_ratio"],
            f"{row['weight_stalls']:,}",
            f"{row['activation_stalls']:,}",
            str(row["tiles"]),
        )
    console.print(table)


def summarise(reports, console):
    """Print a line for each report."""
    table = Table(title=f"Largest ratios of a convolution (wanted: {LIMIT})")
    for heading in ("", "cycles", "to ideal", "layer", "to max(ideal, bus)", "layer"):
        table.add_column(heading, justify="left" if heading in ("", "layer") else "right", overflow="fold")
    for report in reports:
        ratios = [report[key] for key in ("ratio", "bound_ratio")]
        cells = [text for found in ratios for text in (f"{found['value']:.3f}", found["layer"])]
        table.add_row(describe(report), f"{report['cycles']:,}", *cells)
    console.print(table)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet20,resnet18", help="resnet20, names or files of mvq estimate")
    parser.add_argument("--sizes", default="16,32,64", help="rows and columns of the array")
    parser.add_argument("--variant", default="ews-cms", choices=VARIANTS)
    parser.add_argument("--bus", default="64", help="bits of the bus: 64, 128, 256, or several")
    parser.add_argument("--l1-banks", default="default,64", help="default, or numbers of banks, or several")
    parser.add_argument("--codebook", default="shared,layer", help="one for the network, one for each layer, or both")
    parser.add_argument("--rtl", action="store_true", help="also on the gateware: size 16, first L1 and codebook")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console, reports = Console(), []
    ways = [getattr(arguments, key).split(",") for key in ("networks", "sizes", "bus", "l1_banks", "codebook")]
    for name, size, bus, banks, codebook in itertools.product(*ways):
        array = preset(arguments.variant, int(size), stream_width=int(bus), gating_counter=True)
        config = AcceleratorConfig(array=array, l1_banks=None if banks == "default" else int(banks))
        with console.status(f"{name} at {size}x{size}"):
            report, lowered, program = measure(name, config, codebook)
        show(report, console)
        if arguments.rtl and size == "16" and [banks, codebook] == [options[0] for options in ways[-2:]]:
            report["rtl"] = run_gateware(lowered, program, console)
            console.print(f"gateware: {report['rtl']['cycles']:,} cycles, values and cycles equal to golden's")
        reports.append(report)
        if arguments.json:
            write_text(arguments.json, json.dumps(reports, indent=1) + "\n")
    summarise(reports, console)


if __name__ == "__main__":
    main()
