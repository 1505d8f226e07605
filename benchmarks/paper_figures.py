"""The paper's Fig. 17 (speed-up over WS) and Fig. 15 (data-access cost) rebuilt from layer shapes.

    python benchmarks/paper_figures.py [--exact] [--out docs/results] [--sizes 16,32,64]

Writes fig17.png, fig15.png, paper_figures.json and paper_figures.md. docs/estimate.md says why ours differ from the
paper's. Without --exact, which takes a quarter of an hour, all cycles are those of golden.estimate; with it, those of
Fig. 17 are those of compiled programs.

Decisions (ours, where the paper is silent):

* WS and WS-CMS are the same array and L1 at WRF depth 1.
* Exact cycles of a layer are those from the end of the layer before to its own end (golden.exact); memory answers after
  20 cycles.
* Fig. 17 counts convolutions, of MobileNet the pointwise ones (section 7.5): with linear layers as int8, VGG-16 would
  load weights for three quarters of its time. Mappings are chosen for cycles.
* Fig. 15 is the energy of EWS's accesses over that of EWS-CMS: only against EWS, not WS, does the reduction grow with
  the array as it does in the paper. It counts the compressed convolutions; mappings are chosen for energy.
* MobileNet has 1:2 masks (Tab. 4) and codewords of d = 8, which give its 17x; the others have 4:16 and d = 16.
"""

import argparse
import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from golden.estimate import estimate
from golden.files import replacing, write_text
from golden.networks import NETWORKS, Network
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import preset
from mvq.paper import FIG15, FIG17, TITLES

VARIANTS = ("ws", "ws-cms", "ews", "ews-cms")
#: Okabe-Ito colours, as in synth.plots.
COLOURS = ("#56B4E9", "#E69F00", "#0072B2")

#: which layers a number is about.
SELECTIONS = {
    "figure": lambda layer: layer.op == "conv" and not layer.linear and layer.groups == 1,
    "compressed": lambda layer: layer.compressed and not layer.linear,
    "convolutions": lambda layer: layer.op == "conv" and not layer.linear,
    "network": lambda layer: True,
}


def machine(network, variant, size, **l1):
    """The accelerator of a variant; ``l1`` : other sizes of its L1."""
    masks = {"vector_length": 8, "n": 1, "m": 2} if network == "mobilenet_v1" and variant.endswith("cms") else {}
    return AcceleratorConfig(array=preset(variant, size, **masks), **l1)


def wanted(network, name):
    """Function of a layer: it belongs to the selection. MobileNet's figure has its pointwise convolutions only."""
    pointwise = name == "figure" and network == "mobilenet_v1"
    return lambda layer: SELECTIONS[name](layer) and (not pointwise or layer.kernel == (1, 1))


def exact_cycles(network, shapes, one):
    """Cycles of every selection in a compiled program with random weights; linear layers are left out."""
    from golden.exact import compile_network, exact_estimate

    shapes = Network(shapes.name, tuple(layer for layer in shapes.layers if not layer.linear))
    found = exact_estimate(shapes, compile_network(shapes, one))
    return {name: found.select(wanted(network, name)).cycles for name in SELECTIONS}


def numbers(network, shapes, size, exact=False):
    """Cycles and access energy of every variant and selection on one size."""
    larger = {"l1_bank_words": 1024, "psum_vectors": 2048}  # four times the L1 of 64x64
    found = {}
    for variant in VARIANTS:
        one = machine(network, variant, size)
        runs = {
            "cycles": estimate(shapes, one),
            "cycles_without_preload": estimate(shapes, one, preload=False),
            "access_energy": estimate(shapes, one, objective="energy"),
        }
        if size == 64:
            runs["cycles_with_larger_l1"] = estimate(shapes, machine(network, variant, size, **larger))
        found[variant] = {}
        for key, run in runs.items():
            parts = {name: run.select(wanted(network, name)) for name in SELECTIONS}
            energy = key == "access_energy"
            found[variant][key] = {
                name: round(part.traffic.access_energy) if energy else part.cycles for name, part in parts.items()
            }
        if exact:
            found[variant]["exact_cycles"] = exact_cycles(network, shapes, one)
    return found


def measure(sizes, exact, console):
    """All numbers: network -> size -> variant -> quantity -> selection."""
    started, results = time.perf_counter(), {}
    with console.status("estimating") as status:
        for network, make in NETWORKS.items():
            shapes, results[network] = make(), {}
            for size in sizes:
                status.update(f"estimating {TITLES[network]} on {size}x{size}")
                results[network][str(size)] = numbers(network, shapes, size, exact)
    return {
        "format": "mvq-paper-figures",
        "format_version": 1,
        "sizes": sizes,
        "exact": exact,
        "paper": {"fig17": FIG17, "fig15": FIG15},
        "results": results,
        "seconds": round(time.perf_counter() - started, 1),
    }


# ---- from cycles to ratios
# --------------------------------------------------------------------------------------


def speedups(found, selection="figure", quantity=None):
    """Over WS: of WS-CMS, EWS, EWS-CMS; of exact cycles where there are."""
    quantity = quantity or ("exact_cycles" if "exact_cycles" in found["ws"] else "cycles")
    return [found["ws"][quantity][selection] / found[variant][quantity][selection] for variant in VARIANTS[1:]]


def without_preload(found):
    """Speed-ups over a WS that cannot load while it computes; WS-CMS cannot either."""
    base = found["ws"]["cycles_without_preload"]["figure"]
    quantities = ("cycles_without_preload", "cycles", "cycles")
    return [base / found[v][q]["figure"] for v, q in zip(VARIANTS[1:], quantities, strict=True)]


def reduction(found, selection="compressed", variant="ews"):
    """Access energy of ``variant`` over that of EWS-CMS."""
    return found[variant]["access_energy"][selection] / found["ews-cms"]["access_energy"][selection]


def speed_rows(report):
    """Fig. 17 as rows of text: network, array, then speed-ups of three variants in each column."""

    def three(values):
        return " ".join(f"{value:.2f}" for value in values)

    rows = []
    for network, sizes in report["results"].items():
        for size, found in sizes.items():
            paper = " ".join(f"{value:.1f}" for value in FIG17[network]) if size == "64" else ""
            wide = three(speedups(found, quantity="cycles_with_larger_l1")) if size == "64" else ""
            others = (speedups(found), *(speedups(found, name) for name in ("compressed", "convolutions")))
            estimates = (speedups(found, name, "cycles") for name in ("figure", "network"))
            texts = [three(values) for values in (*others, *estimates, without_preload(found))]
            rows.append([TITLES[network], f"{size}x{size}", texts[0], paper, *texts[1:], wide])
    return rows


SPEED_HEADINGS = (
    "WS-CMS, EWS, EWS-CMS",
    "array",
    "Fig. 17",
    "paper",
    "compressed",
    "all convolutions",
    "Fig. 17, estimate",
    "network, estimate",
    "WS without preload",
    "L1 x 4",
)


def access_rows(report):
    """Fig. 15 as rows of text."""
    rows = []
    for network, sizes in report["results"].items():
        for size, found in sizes.items():
            paper = dict(zip(("16", "32", "64"), FIG15[network], strict=True)).get(size)
            values = [
                reduction(found),
                reduction(found, "figure"),
                reduction(found, "network"),
                reduction(found, variant="ws"),
            ]
            texts = [f"{value:.2f}" for value in values]
            rows.append(
                [TITLES[network], f"{size}x{size}", texts[0], "" if paper is None else f"{paper:.1f}", *texts[1:]]
            )
    return rows


ACCESS_HEADINGS = (
    "over EWS-CMS",
    "array",
    "Fig. 15: EWS, compressed convolutions",
    "paper",
    "EWS, convolutions of Fig. 17",
    "EWS, whole network",
    "WS, compressed convolutions",
)


def markdown(report):
    """Both tables, to read beside the pictures."""

    def table(headings, rows):
        lines = [headings, ["---"] * 2 + ["---:"] * (len(headings) - 2), *rows]
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)

    speed, access = table(SPEED_HEADINGS, speed_rows(report)), table(ACCESS_HEADINGS, access_rows(report))
    return (
        "# The paper's Fig. 17 and Fig. 15, rebuilt\n\n"
        "Written by `python benchmarks/paper_figures.py`; [estimate.md](../estimate.md) says what the columns mean and "
        "why they differ from the paper's.\n\n"
        f"## Fig. 17: speed-up over WS\n\n{speed}\n![Fig. 17](fig17.png)\n\n"
        f"## Fig. 15: data-access cost\n\n{access}\n![Fig. 15](fig15.png)\n"
    )


# ---- pictures
# ---------------------------------------------------------------------------------------------------


def _bars(axis, groups, series, title):
    """Grouped bars with a number above each. ``series`` : list of (label, value of each group)."""
    width, text = 0.8 / len(series), {"ha": "center", "va": "bottom", "fontsize": 7.5}
    for place, (label, values) in enumerate(series):
        xs = [x + (place - (len(series) - 1) / 2) * width for x in range(len(groups))]
        axis.bar(xs, values, width=width * 0.92, color=COLOURS[place], label=label)
        for x, value in zip(xs, values, strict=True):
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.3}  # over the line at 1
            axis.annotate(f"{value:.1f}", (x, value), (0, 1.5), textcoords="offset points", **text, bbox=paper)
    axis.set_xticks(range(len(groups)), [TITLES[name] for name in groups], fontsize=8.5)
    axis.set_title(title, fontsize=10)
    axis.margins(y=0.1)
    axis.axhline(1, color="#555555", linewidth=0.7, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", labelsize=8)
    axis.tick_params(axis="x", length=0)


def _save(figure, path):
    import matplotlib.pyplot as plt

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def draw(report, folder):
    """fig17.png and fig15.png in ``folder``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results, groups = report["results"], list(report["results"])
    labels = [variant.upper() for variant in VARIANTS[1:]]
    ours = {size: [results[name][str(size)] for name in groups] for size in report["sizes"]}
    source = "exact cycles" if report["exact"] else "estimate"
    panels = [(f"{size} x {size}, {source}", [speedups(found) for found in ours[size]]) for size in report["sizes"]]
    if 64 in ours:
        panels.append(("64 x 64, estimate, WS without preload", [without_preload(found) for found in ours[64]]))
        larger = [speedups(found, quantity="cycles_with_larger_l1") for found in ours[64]]
        panels.append(("64 x 64, estimate, L1 four times as large", larger))
    panels.append(("64 x 64, paper's Fig. 17", [FIG17[name] for name in groups]))
    figure, axes = plt.subplots(2, 3, figsize=(14, 6.4), sharey=True, squeeze=False, layout="constrained")
    for axis, (title, values) in zip(axes.flat, panels, strict=False):
        _bars(axis, groups, list(zip(labels, zip(*values, strict=True), strict=True)), title)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("speed-up over WS", fontsize=9)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    figure.suptitle("Cycles of WS over cycles of each variant, convolutions (MobileNet: pointwise)", fontsize=11)
    _save(figure, folder / "fig17.png")

    sizes = [str(size) for size in report["sizes"]]
    ours = [(f"{size} x {size}", [reduction(results[name][size]) for name in groups]) for size in sizes]
    paper = [(f"{size} x {size}", [FIG15[name][i] for name in groups]) for i, size in enumerate((16, 32, 64))]
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.9), sharey=True, layout="constrained")
    _bars(axes[0], groups, ours, "ours")
    _bars(axes[1], groups, paper, "paper's Fig. 15")
    axes[0].set_ylabel("EWS / EWS-CMS", fontsize=9)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle("Energy of all accesses of EWS over that of EWS-CMS, compressed convolutions", fontsize=11)
    _save(figure, folder / "fig15.png")


def show(console, title, headings, rows):
    """A table on the screen."""
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right", min_width=len(heading) // 2)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main():
    """Estimate, draw, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact", action="store_true", help="compile every network and run the exact cycle model")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--sizes", default="16,32,64", help="rows (= columns) with commas")
    arguments = parser.parse_args()
    console = Console(width=max(Console().width, 175))
    report = measure([int(size) for size in arguments.sizes.split(",")], arguments.exact, console)
    show(console, "Fig. 17: speed-up over WS", SPEED_HEADINGS, speed_rows(report))
    show(console, "Fig. 15: data-access cost", ACCESS_HEADINGS, access_rows(report))
    write_text(arguments.out / "paper_figures.json", json.dumps(report, indent=1) + "\n")
    write_text(arguments.out / "paper_figures.md", markdown(report))
    draw(report, arguments.out)
    console.print(
        f"{report['seconds']:.0f} s; written to {arguments.out}: fig17.png, fig15.png, paper_figures.json, .md"
    )


if __name__ == "__main__":
    main()
