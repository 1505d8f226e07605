"""What of several numbers nothing else beats, and a picture of it."""

from golden.files import replacing

__all__ = ["STYLES", "draw_pareto", "front", "is_wide", "scaled"]

#: variant -> (colour, marker in matplotlib, in Bokeh, as a letter); Okabe-Ito colours, distinct for colour-blind
#: readers.
STYLES = {
    "ws": ("#999999", "o", "circle", "\N{BLACK CIRCLE}"),
    "ws-cms": ("#E69F00", "s", "square", "\N{BLACK SQUARE}"),
    "ews": ("#0072B2", "^", "triangle", "\N{BLACK UP-POINTING TRIANGLE}"),
    "ews-c": ("#CC79A7", "D", "diamond", "\N{BLACK DIAMOND}"),
    "ews-cm": ("#56B4E9", "v", "inverted_triangle", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    "ews-cms": ("#D55E00", "P", "plus", "\N{HEAVY GREEK CROSS}"),
}


def front(points):
    """Places of the points that no other dominates: none is as good in every number and better in one.

    Parameters
    ----------
    points : list of equally long tuples of numbers, smaller being better.
    """
    return [
        place
        for place, point in enumerate(points)
        if not any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)
    ]


def scaled(heading, values):
    """(heading, values) of an axis, in mm2 or millions where the numbers are that large."""
    largest = max(values)
    if heading.endswith("um2") and largest >= 1e4:
        return heading.removesuffix("um2") + "mm2", [value / 1e6 for value in values]
    if largest >= 1e6 and "," not in heading:
        return f"{heading}, M", [value / 1e6 for value in values]
    return heading, list(values)


def is_wide(values):
    """Whether numbers span so much that their axis should be logarithmic."""
    return min(values) > 0 and max(values) > 10 * min(values)


def draw_pareto(path, points, variants, axes, title=None):
    """Draw each pair of numbers to a picture; points on the front of all numbers together are large.

    Parameters
    ----------
    path : a .png file; written through a temporary name.
    points : list of tuples, a number for each axis. ``variants`` : of each point, a key of :data:`STYLES`.
    axes : list of (heading, larger is better).
    title : above the panels.
    """
    import matplotlib  # half a second that commands without pictures do not pay

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    best = set(front([tuple(-x if up else x for x, (_, up) in zip(point, axes, strict=True)) for point in points]))
    numbers = [scaled(heading, column) for (heading, _), column in zip(axes, zip(*points, strict=True), strict=True)]
    pairs = [(x, y) for x in range(len(axes)) for y in range(x + 1, len(axes))]
    width = min(3, len(pairs))
    height = -(-len(pairs) // width)
    with matplotlib.rc_context({"text.parse_math": False}):  # names may hold a dollar sign
        figure, panels = plt.subplots(
            height, width, figsize=(1 + 4.2 * width, 0.9 + 3.5 * height), squeeze=False, layout="constrained"
        )
        for panel, (x, y) in zip(panels.flat, pairs, strict=False):
            _panel(panel, numbers[x], numbers[y], variants, best)
        for panel in panels.flat[len(pairs) :]:
            panel.set_axis_off()
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3 * width, frameon=False, fontsize=9)
        if title:
            figure.suptitle(title, fontsize=11)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def _panel(panel, horizontal, vertical, variants, best):
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    for variant, (colour, marker, *_) in STYLES.items():
        if variant not in variants:
            continue
        for chosen, look in ((False, {"alpha": 0.4, "s": 22}), (True, {"s": 62, "edgecolor": "black"})):
            own = [at for at, name in enumerate(variants) if name == variant and (at in best) == chosen]
            places = [[numbers[1][at] for at in own] for numbers in (horizontal, vertical)]
            label = variant if chosen else None
            panel.scatter(*places, label=label, linewidth=0.8, zorder=2 + chosen, color=colour, marker=marker, **look)
    for axis, set_scale, (heading, values) in (
        (panel.xaxis, panel.set_xscale, horizontal),
        (panel.yaxis, panel.set_yscale, vertical),
    ):
        axis.set_label_text(heading, fontsize=9)
        if is_wide(values):
            set_scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_locator(NullLocator())
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, linewidth=0.5)
