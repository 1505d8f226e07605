"""Area reports as stacked bars by block."""

from golden.files import replacing

__all__ = ["COLOURS", "draw_areas"]

#: Okabe-Ito colours: distinct for colour-blind readers and in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999", "#D55E00", "#F0E442")


def draw_areas(reports, path, labels=None):
    """Draw ``reports`` to the picture ``path``.

    Parameters
    ----------
    reports : list of reports; one row of panels for each report, one panel for each size.
    path : a .png file; written through a temporary name.
    labels : name of each report.
    """
    import matplotlib  # half a second that commands without pictures do not pay

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = labels or [""] * len(reports)
    sizes = [list(dict.fromkeys((row["rows"], row["columns"]) for row in report["rows"])) for report in reports]
    blocks = list(dict.fromkeys(block for report in reports for row in report["rows"] for block in row["blocks"]))
    colours = {block: COLOURS[index % len(COLOURS)] for index, block in enumerate(blocks)}
    columns = max(map(len, sizes))
    figure, axes = plt.subplots(
        len(reports),
        columns,
        figsize=(1.2 + 3.4 * columns, 0.8 + 3.4 * len(reports)),
        squeeze=False,
        layout="constrained",
    )
    for label, report, own, line in zip(labels, reports, sizes, axes, strict=True):
        for index, axis in enumerate(line):
            if index < len(own):
                _panel(axis, report, own[index], colours)
            else:
                axis.set_axis_off()
        library = report["liberty"]
        line[0].set_ylabel("\n".join(filter(None, (label, library["name"][:30], "area, mm²"))), fontsize=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[block]) for block in blocks]
    figure.legend(
        handles, blocks, loc="outside lower center", ncols=min(len(blocks), 3 * columns), frameon=False, fontsize=8
    )
    figure.suptitle("percentages: total against EWS of the same size", fontsize=8, x=0.99, ha="right")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def _panel(axis, report, size, colours):
    rows = [row for row in report["rows"] if (row["rows"], row["columns"]) == size]
    places = range(len(rows))
    below = [0.0] * len(rows)
    for block, colour in colours.items():
        heights = [row["blocks"].get(block, 0.0) / 1e6 for row in rows]
        axis.bar(places, heights, bottom=below, color=colour, width=0.7)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    for place, row, top in zip(places, rows, below, strict=True):
        if row["vs_ews"] is not None and row["variant"] != "ews":
            axis.annotate(f"{row['vs_ews']:+.0%}", (place, top), ha="center", va="bottom", fontsize=8)
    unit = {row["unit"] for row in rows} - {None}
    axis.set_title(f"{size[0]} x {size[1]}" + (f", {', '.join(sorted(unit))}" if unit else ""), fontsize=10)
    axis.set_xticks(places, [row["variant"] for row in rows], rotation=40, ha="right", fontsize=8)
    axis.margins(y=0.12)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", labelsize=8)
