"""The paper's Tab. 7 on open libraries: six variants at three sizes, and what else the array can do without.

    python benchmarks/area_table.py [--libraries nangate45,sky130A:sky130_fd_sc_hd,ihp-sg13g2:sg13g2_stdcell]
                                    [--register-files clock_gated,latch] [--codebooks registers,sram]
                                    [--sizes 16,32,64] [--changes nangate45] [--only REGEX] [--jobs 2] [--json FILE]

Everything of a core is counted: array, codebook, decoding and loading, register files, requantisation, control. A row
is compared with base EWS of the same library, register files and size, from the same run; in whole, and without
requantisation and control, which the paper does not name among what Tab. 7 holds. Two tables:

* *reports*: Tab. 7, with L/d read ports of the codebook as in the paper, in registers or in copies of an SRAM.
* *changes*: EWS-CMS with fewer read ports, fewer codewords, or another pattern. Cycles are those of ResNet-18 in closed
  form (`mvq estimate resnet18 --quick`) against those of L/d ports; the accuracy of such a codebook or pattern is in
  docs/results/accuracy.json, as far as it was trained.

Results are added to what FILE holds: one report for each library, register files and codebook. SKY130 and SG13G2 are
found below PDK_ROOT. The picture is FILE with .png.
"""

import argparse
import json
import re
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from stages import stages

from golden.files import replacing, write_text
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import VARIANTS, preset
from mvq.estimate import run_estimate
from mvq.paper import SIZES, TAB7
from synth.area import area_report, expand, in_memory
from synth.flow import Policy

LIBRARIES = "nangate45,sky130A:sky130_fd_sc_hd,ihp-sg13g2:sg13g2_stdcell"
L2_BYTES = 2048 << 10


def changed(size):
    """(what changed, configuration) of EWS-CMS with less than the paper has; the paper's own first."""
    ports = preset("ews-cms", size).crf_read_ports
    one = {"crf_read_ports": 1}
    two, sram = {"crf_read_ports": 2}, {"codebook_memory": "sram"}
    cases = [("k = 512, L/d ports", {})]
    cases += [("k = 512, 2 ports", two), ("k = 256, 2 ports", {**two, "codewords": 256})] if ports > 2 else []
    cases += [("k = 512, 1 port", one)] if ports > 1 else []
    cases += [(f"k = {k}, 1 port", {**one, "codewords": k}) for k in (256, 128, 64)]
    cases += [(f"{n}:{m}, k = 512, 1 port", {**one, "n": n, "m": m}) for n, m in ((2, 8), (1, 4))]
    cases += [("k = 512, 2 SRAMs", {**two, **sram})] if ports > 2 else []
    cases += [("k = 512, 1 SRAM", {**one, **sram})]
    cases += [(f"{n}:{m}, k = 512, 1 SRAM", {**one, **sram, "n": n, "m": m}) for n, m in ((2, 8), (1, 4))]
    return [(name, preset("ews-cms", size, **changes)) for name, changes in cases]


def cycles(config):
    """Cycles of ResNet-18, in closed form."""
    return run_estimate("resnet18", AcceleratorConfig(array=config), quick=True, l2_bytes=L2_BYTES)[0].cycles


def _paper_area(variant, size):
    """mm2 in the paper's Tab. 7, or None where it has none."""
    return dict(zip(SIZES, TAB7[variant], strict=True)).get(size) if variant in TAB7 else None


def paper_ratio(variant, size):
    """The paper's area over its base EWS, minus 1, or None."""
    area = _paper_area(variant, size)
    return None if area is None else area / _paper_area("ews", size) - 1


def named(row):
    """um2 of the blocks that the paper names: array, codebook, decoding and loading, PRF and ARF."""
    return row["total_um2"] - row["blocks"]["requantisation"] - row["blocks"]["control"]


def compare_named(rows, bases):
    """Add :func:`named` to ``rows``, with its ratio to that of base EWS of the same size, minus 1."""
    base = {row["rows"]: named(row) for row in bases if row["variant"] == "ews"}
    for row in rows:
        row["named_um2"] = round(named(row), 3)
        row["named_vs_ews"] = round(named(row) / base[row["rows"]] - 1, 4)


def tab7(library, files, codebook, sizes, jobs, tell):
    """Report of six variants."""
    configs = in_memory(expand([], tuple(VARIANTS), sizes), codebook)
    report = area_report(configs, library, policy=Policy(register_files=files), jobs=jobs, progress=tell)
    compare_named(report["rows"], report["rows"])
    for row in report["rows"]:
        del row["config"]
        row["paper_mm2"] = _paper_area(row["variant"], row["rows"])
        row["paper_vs_ews"] = paper_ratio(row["variant"], row["rows"])
    return {"register_files": files, "codebook": codebook, **report, "references": []}


def changes(library, files, sizes, only, jobs, tell):
    """What EWS-CMS takes with less; ``only`` are the cases whose name has this pattern."""
    cases = [(size, name, config) for size in sizes for name, config in changed(size) if re.search(only, name)]
    configs = list(dict.fromkeys(config for _, _, config in cases))
    report = area_report(configs, library, policy=Policy(register_files=files), jobs=jobs, progress=tell)
    compare_named(report["rows"], report["references"])
    rows = {row["config_hash"]: row for row in report["rows"]}
    found = []
    for size, name, config in cases:
        row = rows[config.hash]
        found.append({"size": size, "change": name})
        found[-1] |= {key: row[key] for key in ("total_um2", "vs_ews", "named_um2", "named_vs_ews")}
        found[-1] |= {"codewords": config.codewords, "n": config.n, "m": config.m}
        found[-1]["cycles"] = cycles(config)
        found[-1]["cycles_of_all_ports"] = cycles(preset("ews-cms", size))
    return {"library": report["liberty"]["name"], "register_files": files, "rows": found}


def draw(results, path):
    """Areas against base EWS, ours and the paper's: a row of panels for each kind of codebook, a panel for each library
    and register files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    codebooks = sorted({report["codebook"] for report in results["reports"]})
    kinds = list(dict.fromkeys((report["liberty"]["name"], report["register_files"]) for report in results["reports"]))
    figure, axes = plt.subplots(
        len(codebooks),
        len(kinds),
        figsize=(3.1 * len(kinds) + 1, 3.1 * len(codebooks) + 0.6),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for line, codebook in zip(axes, codebooks, strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            axis.set_axis_off()
            for report in results["reports"]:
                if (report["liberty"]["name"], report["register_files"], report["codebook"]) == (*kind, codebook):
                    axis.set_axis_on()
                    _panel(axis, report)
        line[0].set_ylabel(f"codebook in {codebook}\narea against base EWS", fontsize=8)
    handles, names = next(axis for axis in axes.flat if axis.get_legend_handles_labels()[0]).get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def _panel(axis, report):
    variants = [variant for variant in VARIANTS if variant != "ews"]
    colours = {"ws": "#999999", "ws-cms": "#56B4E9", "ews-c": "#E69F00", "ews-cm": "#CC79A7", "ews-cms": "#0072B2"}
    rows = {(row["variant"], row["rows"]): row for row in report["rows"]}
    sizes = sorted({size for _, size in rows})
    width = 0.8 / len(variants)
    for index, variant in enumerate(variants):
        places = [place + (index - 2) * width for place in range(len(sizes))]
        heights = [100 * rows[variant, size]["vs_ews"] for size in sizes]
        axis.bar(places, heights, width, color=colours[variant], label=variant)
        papers = [
            (place, 100 * ratio)
            for place, size in zip(places, sizes, strict=True)
            if (ratio := paper_ratio(variant, size)) is not None
        ]
        if papers:
            label = "paper" if variant == "ews-cms" else None
            axis.plot(*zip(*papers, strict=True), "k_", ms=7, label=label)
        if variant == "ews-cms":
            beyond = dict(papers)  # the number stands clear of the paper's mark
            for place, height in zip(places, heights, strict=True):
                pick, side = (max, "bottom") if height > 0 else (min, "top")
                end = pick(height, beyond.get(place, height) + (3 if height > 0 else -3))
                axis.annotate(f"{height:+.0f}", (place, end), ha="center", va=side, fontsize=7)
    axis.axhline(0, color="black", lw=0.6)
    axis.set_title(f"{report['liberty']['name'][:24]}\n{report['register_files']}", fontsize=8)
    axis.set_xticks(range(len(sizes)), [f"{size} x {size}" for size in sizes], fontsize=8)
    axis.yaxis.set_major_formatter("{x:+.0f}%")
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def show(results, screen):
    """Tables on the screen."""
    for report in results["reports"]:
        title = f"{report['liberty']['name']}, {report['register_files']}, codebook in {report['codebook']}"
        headings = ("variant", "size", "mm2", "vs EWS", "as the paper names", "paper mm2", "paper vs EWS")
        table = Table(*headings, title=title, box=box.SIMPLE_HEAD)
        for row in report["rows"]:
            paper = ("", "")
            if row["paper_mm2"] is not None:
                paper = f"{row['paper_mm2']:.3f}", f"{row['paper_vs_ews']:+.1%}"
            size, area = f"{row['rows']}", f"{row['total_um2'] / 1e6:.3f}"
            table.add_row(row["variant"], size, area, f"{row['vs_ews']:+.1%}", f"{row['named_vs_ews']:+.1%}", *paper)
        screen.print(table)
    for group in results["changes"]:
        title = f"EWS-CMS with less: {group['library']}, {group['register_files']}"
        headings = ("size", "what changed", "mm2", "vs EWS", "as the paper names", "cycles")
        table = Table(*headings, title=title, box=box.SIMPLE_HEAD)
        for row in group["rows"]:
            slower = row["cycles"] / row["cycles_of_all_ports"] - 1
            ratios = f"{row['vs_ews']:+.1%}", f"{row['named_vs_ews']:+.1%}", f"{slower:+.1%}"
            table.add_row(f"{row['size']}", row["change"], f"{row['total_um2'] / 1e6:.3f}", *ratios)
        screen.print(table)


def main():
    """Measure, write, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", default=LIBRARIES)
    parser.add_argument("--register-files", default="clock_gated,latch")
    parser.add_argument("--codebooks", default="registers,sram")
    parser.add_argument("--sizes", default="16,32,64")
    parser.add_argument("--changes", default="nangate45", help="libraries of the second table")
    parser.add_argument("--only", default="", help="cases of the second table whose name has this regular expression")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("docs/results/area_table.json"))
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {"reports": [], "changes": []}
    console = Console(stderr=True)
    files = arguments.register_files.split(",")

    def keep(kind, same, fresh):
        results[kind] = [entry for entry in results[kind] if not same(entry)] + [fresh]
        write_text(arguments.json, json.dumps(results, indent=1) + "\n")

    for library in filter(None, arguments.libraries.split(",")):
        for registers in files:
            for codebook in arguments.codebooks.split(","):
                console.print(f"{library}, register files {registers}, codebook in {codebook}")
                with stages(console) as tell:
                    fresh = tab7(library, registers, codebook, sizes, arguments.jobs, tell)
                name = fresh["liberty"]["name"]
                key = (name, registers, codebook)
                keep(
                    "reports",
                    lambda old, key=key: (old["liberty"]["name"], old["register_files"], old["codebook"]) == key,
                    fresh,
                )
    for library in filter(None, arguments.changes.split(",")):
        for registers in files:
            console.print(f"{library}, register files {registers}, fewer ports and codewords")
            with stages(console) as tell:
                fresh = changes(library, registers, sizes, arguments.only, arguments.jobs, tell)
            key = (fresh["library"], registers)
            keep("changes", lambda old, key=key: (old["library"], old["register_files"]) == key, fresh)
    show(results, Console(width=120))
    if results["reports"]:
        draw(results, arguments.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
