"""Fills the tables of README.md from docs/results/*.json: ``python docs/generate.py`` (``--check`` only compares).

A table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``; each NAME is a function below.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"


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
        f"register files {policy['register_files']}. "
    )
    return _table(header, rows) + "\n" + note + f"Synthesised in {report['seconds']:.0f} s on 2 cores.\n"


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


def utilisation():
    """``benchmarks/utilisation.py``."""
    rows = []
    for case in _load("utilisation"):
        convolutions = [layer for layer in case["layers"] if layer["op"] == "conv" and not layer["linear"]]
        within = sum(layer["ratio"] <= 1.05 for layer in convolutions)
        total = sum(layer["cycles"] for layer in convolutions) / sum(layer["ideal"] for layer in convolutions)
        worst = [f"{case[key]['value']:.2f} ({case[key]['layer']})" for key in ("ratio", "bound_ratio")]
        source = "model = RTL" if "rtl" in case else "model"
        codebook = {"shared": "one", "layer": "one a layer"}[case["codebook"]]
        rows.append([case["network"], case["config"], f"{case['l1_kb']} KB", codebook, f"{case['cycles']:,}", source])
        rows[-1] += [f"{total:.2f}", f"{within} of {len(convolutions)}", *worst]
    header = ["network", "accelerator", "L1", "codebook", "cycles", "from", "of ideal, all", "layers within 1.05"]
    header += ["largest", "of max(ideal, bus)"]
    return _table(header, rows)


TABLES = {function.__name__: function for function in (area, demo, networks, utilisation, kmeans, simulation)}


def fill(text):
    """``text`` with every marked table made anew."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        if not re.search(pattern, text, flags=re.DOTALL):
            raise SystemExit(f"README.md has no place for {name}")
        content = make()
        text = re.sub(pattern, lambda match, content=content: match[1] + content + match[2], text, flags=re.DOTALL)
    return text


def main():
    """Rewrite README.md, or with ``--check`` exit with 1 when it would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = fill(old)
    if arguments.check:
        sys.exit(0 if new == old else "README.md disagrees with docs/results; run python docs/generate.py")
    readme.write_text(new)


if __name__ == "__main__":
    main()
