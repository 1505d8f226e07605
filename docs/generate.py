"""Fills the tables of README.md and docs/*.md from docs/results/*.json: ``python docs/generate.py`` (``--check`` only
compares).

A table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``; each NAME is a function below, and stands on one page.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from algo.methods import METHODS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: what a convolution may take of its ideal cycles.
LIMIT = 1.05


def _load(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def _table(header, rows):
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def area():
    """Area of the six variants (``mvq area``)."""
    report = _load("area")
    blocks = list(report["rows"][0]["blocks"])
    rows = [
        [
            row["variant"],
            f"{row['rows']} x {row['columns']}",
            *(f"{row['blocks'][block]:,.0f}" for block in blocks),
            f"**{row['total_um2']:,.0f}**",
            f"{row['gate_equivalents'] / 1000:,.0f}",
            f"{row['sequential_share']:.0%}",
            f"{row['vs_ews']:+.1%}",
        ]
        for row in report["rows"]
    ]
    header = ["variant", "array", *blocks, "total", "kGE", "flip-flops", "vs EWS"]
    policy, liberty = report["policy"], report["liberty"]
    note = (
        f"um2 of cells on {liberty['name']} ({liberty['corner']}), pyosys {report['tools']['pyosys']}; "
        f"{policy['hierarchy']}; "
        f"register files {policy['register_files']}.\n"
    )
    return _table(header, rows) + "\n" + note


def _library(name):
    return {"NangateOpenCellLibrary": "NanGate45", "sky130_fd_sc_hd__tt_025C_1v80": "SKY130 HD"}.get(name, "SG13G2")


def area_table():
    """``benchmarks/area_table.py``: Tab. 7."""
    rows, sizes = [], (16, 32, 64)
    for report in _load("area_table")["reports"]:
        areas = {(row["variant"], row["rows"]): row for row in report["rows"]}
        for variant in dict.fromkeys(variant for variant, _ in areas):
            own = [areas.get((variant, size)) for size in sizes]  # some sizes may not have been run
            rows.append([_library(report["liberty"]["name"]), report["register_files"], report["codebook"], variant])
            rows[-1] += ["" if row is None else f"{row['total_um2'] / 1e6:.3f}" for row in own]
            for key in ("vs_ews", "named_vs_ews", "paper_vs_ews"):
                rows[-1] += ["" if row is None or row[key] is None else f"{row[key]:+.1%}" for row in own]
    header = ["library", "register files", "codebook", "variant", *(f"mm2, {size}" for size in sizes)]
    header += [f"{what}, {size}" for what in ("vs EWS", "named blocks", "paper") for size in sizes]
    return _table(header, rows)


def area_changes():
    """``benchmarks/area_table.py``: fewer ports, fewer codewords, other patterns."""
    trained = {}
    for row in _load("accuracy")["rows"]:
        settings = row["settings"]
        if row["network"] == "resnet20" and settings["method"] == "mvq":
            trained[tuple(settings[key] for key in ("codewords", "n", "m"))] = f"{row['int8']:.2%}"
    rows = []
    for group in _load("area_table")["changes"]:
        for row in group["rows"]:
            rows.append([_library(group["library"]), group["register_files"], f"{row['size']}", row["change"]])
            rows[-1] += [f"{row['total_um2'] / 1e6:.3f}", f"{row['vs_ews']:+.1%}", f"{row['named_vs_ews']:+.1%}"]
            rows[-1] += [f"{row['cycles'] / row['cycles_of_all_ports'] - 1:+.1%}"]
            rows[-1] += [trained.get((row["codewords"], row["n"], row["m"]), "")]
    header = [
        "library",
        "register files",
        "size",
        "EWS-CMS with",
        "mm2",
        "vs EWS",
        "named blocks",
        "cycles",
        "accuracy",
    ]
    return _table(header, rows)


def demo():
    """What ``make demo`` showed."""
    report = _load("demo")
    accuracy, total, seconds = report["accuracy"], report["sizes"]["total"], report["seconds"]
    rows = [[name, f"{value:.2%}"] for name, value in accuracy.items()]
    rows += [
        ["compression, paper's eq. 7", f"{total['formula_ratio']:.1f}x"],
        ["compression, file size", f"{total['file_ratio']:.1f}x"],
        ["digits on the Verilog, right", f"{report['right']} of {report['digits']}"],
        ["RTL cycles, equal to the model", f"{sum(layer['cycles'] for layer in report['layers']):,}"],
        ["the whole demo", f"{seconds['total']:.0f} s"],
    ]
    return _table(["handwritten digits", "result"], rows)


def kmeans():
    """``benchmarks/masked_kmeans.py``."""
    result = _load("masked_kmeans")
    return (
        f"One iteration of masked k-means on {result['vectors']:,} x {result['vector_length']} weights, "
        f"{result['n']}:{result['m']}, k = {result['codewords']}: {result['masked_seconds']:.3f} s, "
        f"**{result['ratio']:.2f}x** the time of faiss's plain k-means on the same array in the same run "
        f"({result['faiss_seconds']:.3f} s), with exact assignments.\n"
    )


def simulation():
    """``benchmarks/core_simulation.py``."""
    result = _load("core_simulation")
    return (
        f"The {result['config']} core under cocotb: {result['verilator']['cycles_per_second']:,.0f} cycles/s with "
        f"Verilator (built in {result['verilator']['build_seconds']:.0f} s), "
        f"{result['icarus']['cycles_per_second']:,.0f} with Icarus "
        f"(built in {result['icarus']['build_seconds']:.0f} s).\n"
    )


def networks():
    """``benchmarks/networks.py``."""
    rows = []
    for network in _load("networks")["networks"]:
        for engine, row in network["engines"].items():
            numbers = (row["images"], row["right"], row["cycles"], row["layers_compared"], network["descriptors"])
            rows.append([network["network"], engine, *(f"{number:,}" for number in numbers)])
            rows[-1].append(f"{row['cycles_per_second']:,}")
    header = ["network", "engine", "images", "right", "cycles an image", "layers compared", "descriptors", "cycles/s"]
    return _table(header, rows)


def _of_ideal(case):
    """(convolutions, cycles of all but the first over their ideal, how many are within the limit). The first one reads
    patches, with taps as channels, and takes a fraction of its ideal."""
    found = [layer for layer in case["layers"] if layer["op"] == "conv" and not layer["linear"]]
    total = sum(layer["cycles"] for layer in found[1:]) / sum(layer["ideal"] for layer in found[1:])
    return found, total, sum(layer["ratio"] <= LIMIT for layer in found)


def utilisation():
    """``benchmarks/utilisation.py`` in short: one codebook."""
    rows = {}
    for case in _load("utilisation"):
        if case["codebook"] == "shared":
            found, total, within = _of_ideal(case)
            row = rows.setdefault((case["network"], case["config"]), [case["network"], case["config"]])
            row += [f"{case['l1_kb']} KB", f"{case['cycles']:,}", f"{total:.2f}", f"{within} of {len(found)}"]
    part = ["cycles", "of ideal", f"layers within {LIMIT}"]
    return _table(["network", "accelerator", "L1", *part, "larger L1", *part], rows.values())


def utilisation_by_case():
    """``benchmarks/utilisation.py``."""
    rows = []
    for case in _load("utilisation"):
        found, total, within = _of_ideal(case)
        worst = [f"{case[key]['value']:.2f} ({case[key]['layer']})" for key in ("ratio", "bound_ratio")]
        source = "model = RTL" if "rtl" in case else "model"
        codebook = {"shared": "one", "layer": "one a layer"}[case["codebook"]]
        rows.append([case["network"], case["config"], f"{case['l1_kb']} KB", codebook, f"{case['cycles']:,}", source])
        rows[-1] += [f"{total:.2f}", f"{within} of {len(found)}", *worst]
    header = ["network", "accelerator", "L1", "codebook", "cycles", "from", "of ideal", f"layers within {LIMIT}"]
    return _table([*header, "largest", "of max(ideal, bus)"], rows)


def accuracy():
    """``benchmarks/accuracy.py``."""
    report = _load("accuracy")
    keys = ("float", "trained", "compressed", "fine-tuned", "int8")
    rows = [
        [row["network"], f"{row['case']} ({row['settings']['method']})", _codebook(row["settings"])]
        + [f"{row[key]:.2%}" for key in keys]
        + [f"{row['formula_ratio']:.1f}x", f"{row['file_ratio']:.1f}x", f"{row['masked_sse']:,.1f}"]
        for row in report["rows"]
    ]
    machine, seeds = report["machine"], sorted({row["seed"] for row in report["rows"]})
    aided = [
        f" {network}: products in {precision}{', and the float network as teacher, in both trainings' * teacher}."
        for network, precision, teacher in dict.fromkeys(
            (row["network"], row["precision"], row["teacher"]) for row in report["rows"]
        )
        if precision != "float32" or teacher
    ]
    note = (
        f"{report['epochs']} epochs before and {report['epochs']} after clustering, seed {', '.join(map(str, seeds))}, "
        f"{machine['cores']} cores, torch {machine['torch']}.{''.join(aided)}\n"
    )
    header = ["network", "case", "k x d", *keys, "eq. 7", "file", "masked SSE"]
    return _table(header, rows) + "\n" + note


def _codebook(settings):
    """Size of the codebook of a compression, empty where there is none."""
    if METHODS[settings["method"]].storage != "codebook":
        return ""
    normalised = ", normalised" if settings.get("normalise") else ""
    return f"{settings['codewords']} x {settings['vector_length']}{normalised}"


def imagenet():
    """``benchmarks/imagenet.py``."""
    report, rows = _load("imagenet"), []
    for row in report["rows"]:
        whole, before, after = report["float"][row["network"]], row["compressed"], row["reconstructed"]
        pattern = f"{row['settings']['n']}:{row['settings']['m']}"
        rows.append([row["network"], f"{row['case']} ({row['settings']['method']})", pattern])
        rows[-1] += [f"{row['formula_ratio']:.1f}x", f"{row['sse']:,.0f}", f"{row['masked_sse']:,.0f}"]
        rows[-1] += [f"{share:.1%}" for share in (whole, before, after, (after - before) / (whole - before))]
    one = report["rows"][0]
    note = f"{one['images']} pictures without labels for the fit, the other {one['tested']} classified.\n"
    header = ["network", "case", "N:M", "eq. 7", "SSE", "masked SSE", "float", "compressed", "fitted", "of the drop"]
    return _table(header, rows) + "\n" + note


def kmeans_resnet50():
    """``benchmarks/masked_kmeans.py --resnet50``."""
    result = _load("masked_kmeans_resnet50")
    ours, plain = (f"{result[key] * 1e3:.0f} ms" for key in ("masked_seconds", "faiss_seconds"))
    return (
        f"All {result['vectors']:,} subvectors of ResNet-50, k = {result['codewords']}, {result['threads']} threads: "
        f"{ours} an iteration, **{result['ratio']:.2f}x** the time of faiss's plain k-means ({plain}); "
        f"the assignment alone 1/{result['expanded_ratio']:.0f} of the paper's formulation with expanded codewords; "
        f"{result['clustering_seconds']:.1f} s for {result['clustering_iterations']} iterations, "
        f"{result['clustering_peak_bytes'] / 2**20:.0f} MiB beside the weights. `mvq compress` of the network, with a "
        f"codebook for each layer, from start to end: {result['compress_seconds']:.0f} s.\n"
    )


def compression_ratio():
    """``benchmarks/compression_ratio.py``."""
    rows = [
        [f"{row['codewords']}", *(f"{row[key]:.1f}x" for key in ("convolutions", "with_conv1_and_bn")), row["paper"]]
        for row in _load("compression_ratio")
    ]
    return _table(["k, ResNet-18, 4:16, d = 16", "convolutions", "with conv1 and BN in fp32", "paper"], rows)


def vecq():
    """``benchmarks/vecq.py``."""
    rows = [
        [str(row["bits"]), f"{row['step']:.4f}", f"{row['orientation_loss']:.3e}", f"{row['nmse']:.3e}"]
        for row in _load("vecq")["rows"]
    ]
    return _table(["bits", "lambda", "J_o", "normalised MSE"], rows)


def netlists():
    """``benchmarks/formal.py``: netlists."""
    rows = []
    for case in _load("formal")["cases"].values():
        if case["kind"] == "netlist":
            policy, proofs = case["policy"], case["modules"]
            rows_of_tile = f", {case['config']['tile_rows']} rows" if case["unit"].endswith("tile") else ""
            sums = (sum(proof[key] for proof in proofs) for key in ("cells", "points"))
            row = [case["unit"] + rows_of_tile, policy["style"], policy["register_files"], case["status"]]
            rows.append([*row, f"{len(proofs)}", *(f"{value:,}" for value in sums), f"{case['seconds']:,.0f}"])
    header = ["unit", "style", "register files", "result", "modules", "cells in them", "bits compared", "seconds"]
    return _table(header, rows)


def tiles():
    """``benchmarks/formal.py``: tiles."""
    rows = []
    for case in _load("formal")["cases"].values():
        if case["kind"] == "tiles":
            cycles = "all" if case["cycles"] is None else f"{case['cycles']}"
            bits = f"{case['weight_bits']}, {case['activation_bits']}"
            row = [case["tile"], case["method"], case["config"]["style"], bits, cycles, case["status"]]
            rows.append([*row, f"{case['seconds']:,.0f}"])
    return _table(["tile", "method", "style", "bits of weights, activations", "cycles", "result", "seconds"], rows)


def fpga():
    """``benchmarks/fpga.py``; the dense int8 array with the same register files is the reference."""
    report = _load("fpga")
    families = {"ecp5": "Lattice ECP5", "xilinx7": "AMD 7 series"}
    found = {(row["family"], row["variant"], row["rows"]): row for row in report["rows"]}
    rows = []
    for (family, variant, size), row in found.items():
        base = found.get((family, variant.split("-")[0], size))
        shares = [f"{row['used'][name] / base['used'][name]:.2f}" if base else "" for name in ("LUT", "DSP")]
        used = [f"{row['used'][name]:,g}" for name in ("LUT", "FF", "DSP", "BRAM")]
        rows.append([variant, f"{size} x {row['columns']}", families[family], *used, *shares])
    variants = ("ws", "ws-cms", "ews", "ews-c", "ews-cm", "ews-cms")
    rows.sort(key=lambda row: (list(families.values()).index(row[2]), int(row[1].split()[0]), variants.index(row[0])))
    versions = ", ".join(sorted({row["pyosys"] for row in report["rows"]}))
    note = f"Cores, pyosys {versions}, {report['hierarchy']}; the reference of LUTs and DSPs is ws or ews.\n"
    header = ["variant", "array", "FPGA", "LUTs", "flip-flops", "DSPs", "BRAMs", "LUTs / int8", "DSPs / int8"]
    return _table(header, rows) + "\n" + note


def timing():
    """``benchmarks/timing.py``."""
    report = _load("timing")
    plain = {row["config_hash"]: row["total_um2"] for row in _load("area")["rows"]}
    growth = [row["area_um2"] / plain[row["config_hash"]] - 1 for row in report["rows"]]
    rows = [
        [
            row["variant"],
            f"{row['rows']} x {row['columns']}",
            f"{row['slack_ns']:+.2f}",
            f"**{row['fmax_mhz']:.0f}**",
            row["limited_by"],
            *(f"{row['paths'][block]['slack_ns']:.2f}" if block in row["paths"] else "" for block in _TIMED),
        ]
        for row in report["rows"]
    ]
    header = ["variant", "array", f"slack at {report['clock_mhz']:g} MHz, ns", "Fmax, MHz", "limited by", *_TIMED]
    note = (
        f"Columns of blocks: slack in ns of the worst path into the block, at Fmax. {report['liberty']['name']} "
        f"({report['liberty']['corner']}), tiles of {report['rows'][0]['tile_rows']} rows, OpenSTA, before layout. "
        f"Sized and buffered, these cores are {min(growth):.1%} to {max(growth):.1%} larger than in the area report.\n"
    )
    return _table(header, rows) + "\n" + note


_TIMED = ("array edges", "decoding and loading", "codebook", "prf/arf", "requantisation", "control", "ports")


def energy():
    """``benchmarks/energy.py``: TOPS/W, ours and in brackets the paper's."""
    report, variants = _load("energy"), ("ws", "ws-cms", "ews", "ews-c", "ews-cm", "ews-cms")
    rows = []
    for network, sizes in report["results"].items():
        for size, found in sizes.items():
            paper = report["paper"]["fig19"].get(network, {}).get(size)
            row = [network, f"{size} x {size}"]
            for index, variant in enumerate(variants):
                text = f"{found[variant]['tops_per_watt']:.2f}" if variant in found else ""
                row.append(text + (f" ({paper[index]:.1f})" if text and paper else ""))
            ratio = found["ews-cms"]["tops_per_watt"] / found["ews"]["tops_per_watt"]
            inner = found["ews-cms"]["compressed_tops_per_watt"] / found["ews"]["compressed_tops_per_watt"]
            row.append(f"**{ratio:.2f}**" + (f" ({paper[5] / paper[2]:.2f})" if paper else ""))
            rows.append([*row, f"{inner:.2f}"])
    header = ["network, TOPS/W (paper)", "array", *variants, "EWS-CMS over EWS", "compressed layers alone"]
    return _table(header, rows) + f"\nA multiplication and addition takes {report['mac_joules'] * 1e12:.2f} pJ.\n"


def energy_parts():
    """``benchmarks/energy.py``: where ResNet-18's energy goes."""
    rows = [
        [variant, f"{size} x {size}", f"{sum(one['joules'].values()) * 1e3:.2f}"]
        + [f"{joules / sum(one['joules'].values()):.0%}" for joules in one["joules"].values()]
        for size, found in _load("energy")["results"]["resnet18"].items()
        for variant, one in found.items()
    ]
    parts = next(iter(next(iter(_load("energy")["results"]["resnet18"].values())).values()))["joules"]
    return _table(["ResNet-18", "array", "mJ an image", *parts], rows)


def energy_checks():
    """``benchmarks/energy.py``: what costs of events say about layers that they were not fitted to."""
    rows = []
    for check in _load("energy")["checks"]:
        simulated, predicted = check["simulated_joules"], check["predicted_joules"]
        total, said = sum(simulated.values()), sum(predicted.values())
        off = {block: (predicted[block] - simulated[block]) / total for block in simulated}
        worst = max(off, key=lambda block: abs(off[block]))
        row = [check["name"], f"{check['network']} {check['layer']}", f"{check['cycles']:,}"]
        row += [f"{total * 1e9:,.0f}", f"{said * 1e9:,.0f}", f"{said / total - 1:+.0%}"]
        rows.append([*row, f"{worst} {off[worst]:+.0%}"])
    header = ["array", "layer", "cycles", "simulated, nJ", "predicted, nJ", "difference", "most from"]
    return _table(header, rows)


def board():
    """``mvq fpga --pnr``: the system with a network, on a board."""
    report = _load("board")
    rows, placed = [], report["placed"]
    for name, available in report["available"].items():
        used = report["used"][name]
        row = [name, f"{used:,}", f"{placed[name]:,}" if name in placed else "", f"{available:,}"]
        rows.append([*row, f"{placed.get(name, used) / available:.0%}"])
    config = report["config"]["array"]
    note = (
        f"{config['rows']} x {config['columns']}, {config['n']}:{config['m']}, k = {config['codewords']}, on "
        f"{report['board']} ({report['device']}): Fmax {report['fmax_mhz']:.1f} MHz, "
        f"{report['clock_mhz']:g} MHz needed.\n"
    )
    return _table(["resource", "synthesised", "placed", "available", "share"], rows) + "\n" + note


def comparison():
    """``benchmarks/comparison.py``: how long the whole comparison takes."""
    report = _load("comparison")
    steps = list(next(iter(report.values()))["seconds"])
    rows = [
        [start, f"{found['configurations']}", f"{found['jobs']} on {found['cores']}"]
        + [f"{found['seconds'][step]:,.1f}" for step in steps]
        + [f"{found['total']:,.1f}"]
        for start, found in report.items()
    ]
    return _table(["", "configurations", "processes on cores", *(f"{step}, s" for step in steps), "total, s"], rows)


TABLES = {
    function.__name__: function
    for function in (
        area,
        area_table,
        area_changes,
        demo,
        networks,
        utilisation,
        utilisation_by_case,
        kmeans,
        kmeans_resnet50,
        simulation,
        accuracy,
        imagenet,
        compression_ratio,
        vecq,
        netlists,
        tiles,
        fpga,
        board,
        timing,
        energy,
        energy_parts,
        energy_checks,
        comparison,
    )
}


def fill(text):
    """``text`` with every marked table made anew."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        if re.search(pattern, text, flags=re.DOTALL):
            text = re.sub(pattern, lambda match, make=make: match[1] + make() + match[2], text, flags=re.DOTALL)
    return text


def missing():
    """Tables that stand on no page, or on several."""
    text = "".join(page.read_text() for page in PAGES)
    return [name for name in TABLES if text.count(f"<!-- {name} -->\n") != 1]


def main():
    """Rewrite the pages, or with ``--check`` exit with 1 when one would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if missing():
        sys.exit(f"not on exactly one page: {', '.join(missing())}")
    for page in PAGES:
        old = page.read_text()
        new = fill(old)
        if arguments.check and new != old:
            sys.exit(f"{page.relative_to(ROOT)} disagrees with docs/results; run python docs/generate.py")
        page.write_text(new)


if __name__ == "__main__":
    main()
