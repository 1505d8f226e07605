"""The HTML page of a comparison: one file that needs no network, with tables that sort and plots by Bokeh.

Bokeh is small (1.3 MB in the page, a quarter of plotly.js; Vega-Lite would need a 30 MB converter to be inlined), BSD,
takes its colours from the page's style sheet, light or dark, and draws Dask's dashboards, too. Sorting is
sortable-tablesort, 3 KB in the public domain.
"""

from collections import Counter
from importlib.resources import files

from bokeh.embed import components
from bokeh.models import BasicTickFormatter, ColumnDataSource, FixedTicker, HoverTool, LabelSet
from bokeh.plotting import figure
from bokeh.resources import Resources
from bokeh.transform import factor_cmap, factor_mark
from jinja2 import Environment
from markupsafe import Markup

from golden.files import write_text
from mvq.compare import area_beside_paper, blocks_tables, designs_table, efficiency_beside_paper
from mvq.pareto import STYLES, front, is_wide, scaled
from mvq.reports import AREA, describe
from synth.plots import COLOURS

__all__ = ["write_page"]

_SQUARE = "\N{BLACK SQUARE}"
_GREY = "#7d8793"  # readable on light and dark ground


def _sources(reports):
    """Of which commands a comparison's reports are, in words."""
    counts = Counter(report.command for report in reports)
    return ", ".join(f"{count} report{'s' * (count > 1)} of {command}" for command, count in counts.items())


def write_page(sections, reports, path):
    """Write the page.

    Parameters
    ----------
    sections : of :func:`mvq.compare.compare`. ``reports`` : all of them.
    path : of the .html file; written through a temporary name.
    """
    environment = Environment(autoescape=True, trim_blocks=False)
    environment.filters["zip"] = lambda first, *others: zip(first, *others, strict=True)
    environment.filters["pairs"] = lambda values, between: ", ".join(f"{key}{between}{values[key]}" for key in values)
    figures = {}

    def keep(plot):
        figures[f"plot{len(figures)}"] = plot
        return f"plot{len(figures) - 1}"

    parts = [
        {
            "section": section,
            "designs": designs_table(section),
            "plots": [(title, [keep(plot) for plot in plots], legend) for title, plots, legend in _plots(section)],
            "paper": [table for table in (area_beside_paper(section), *efficiency_beside_paper(section)) if table],
            "blocks": blocks_tables(section),
        }
        for section in sections
    ]
    script, divisions = components(figures) if figures else ("", {})
    for part in parts:
        part["plots"] = [
            (title, [Markup(divisions[name]) for name in names], legend) for title, names, legend in part["plots"]
        ]
    web = files("mvq") / "web"
    text = environment.from_string((web / "compare.html").read_text()).render(
        sources=_sources(reports),
        parts=parts,
        style=Markup((web / "compare.css").read_text()),
        sort_script=Markup((web / "sortable.auto.min.js").read_text()),
        plot_script=Markup("\n".join(Resources(mode="inline", components=["bokeh"]).js_raw if figures else [])),
        embed_script=Markup(script),
    )
    return write_text(path, text)


def _plots(section):
    """(title, plots, legend) of each group of plots."""
    groups = []
    for report in section.reports:
        if report.kind == AREA:
            groups.append(_bars(report))
    for network in section.networks:
        found = section.points(network)
        if found:
            groups.append(_pareto(network, *found))
    return groups


def _figure(**options):
    """A plot that takes the page's colours."""
    clear = {"background_fill_alpha": 0, "border_fill_alpha": 0, "outline_line_color": None}
    return figure(**{"height": 320, "toolbar_location": None, **clear, **options})


def _bars(report):
    """Stacked bars by block, a plot for each size."""
    blocks = list(dict.fromkeys(block for row in report.rows for block in row.blocks))
    keys = [f"block{place}" for place in range(len(blocks))]  # names in a report could hold anything
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(blocks))]
    plots = []
    for size in dict.fromkeys((row.rows, row.columns) for row in report.rows):
        rows = [row for row in report.rows if (row.rows, row.columns) == size]
        data = {key: [row.blocks.get(block, 0) / 1e6 for row in rows] for key, block in zip(keys, blocks, strict=True)}
        data |= {f"{key} name": [block] * len(rows) for key, block in zip(keys, blocks, strict=True)}
        shares = [None if row.variant == "ews" else row.vs_ews for row in rows]
        data |= {
            "name": _distinct([_bar_name(row, size) for row in rows]),
            "total": [row.total_um2 / 1e6 for row in rows],
            "share": ["" if share is None else f"{share:+.0%}" for share in shares],
        }
        source = ColumnDataSource(data)
        title = f"{size[0]} x {size[1]}"
        plot = _figure(x_range=data["name"], title=title, width=max(220, 80 + 48 * len(rows)), tools="")
        bars = plot.vbar_stack(keys, x="name", width=0.75, source=source, color=colours, line_color=None)
        for key, bar in zip(keys, bars, strict=True):
            tips = [("", "@name"), ("block", f"@{{{key} name}}"), ("area", f"@{key}{{0.0000}} mm2")]
            plot.add_tools(HoverTool(renderers=[bar], tooltips=[*tips, ("total", "@total{0.0000} mm2")]))
        labels = {"text_align": "center", "text_font_size": "11px", "text_color": _GREY, "y_offset": 3}
        plot.add_layout(LabelSet(x="name", y="total", text="share", source=source, **labels))
        plot.xaxis.major_label_orientation = 0.8
        plot.xgrid.visible = False
        plot.y_range.start = 0
        plot.y_range.range_padding = 0.15
        plots.append(plot)
    return (
        f"Area by block, mm2: {report.label}",
        plots,
        [(*pair, _SQUARE) for pair in zip(blocks, colours, strict=True)],
    )


def _bar_name(row, size):
    name = describe(row.config).replace(f"-{size[0]}x{size[1]}", "", 1)
    return f"{name}, {row.unit}" if row.unit else name


def _distinct(names):
    """``names`` with a number behind those that came before."""
    return [name + (f" ({names[: at + 1].count(name)})" if name in names[:at] else "") for at, name in enumerate(names)]


def _pareto(network, measures, designs):
    """Plots of each pair of measures; what is chosen in one of them is chosen in all."""
    signs = [-1 if measure.goal == "most" else 1 for measure in measures]
    points = [tuple(s * design.values[m] for s, m in zip(signs, measures, strict=True)) for design in designs]
    best = set(front(points))
    data = {
        "name": [design.name for design in designs],
        "variant": [design.variant for design in designs],
        "front": ["yes" if place in best else "no" for place in range(len(designs))],
        "size": [13 if place in best else 8 for place in range(len(designs))],
        "alpha": [1.0 if place in best else 0.45 for place in range(len(designs))],
    }
    headings, tips = [], [("", "@name")]
    for place, measure in enumerate(measures):
        heading, data[f"axis{place}"] = scaled(measure.name, [design.values[measure] for design in designs])
        data[f"text{place}"] = [format(design.values[measure], measure.form) for design in designs]
        headings.append(heading)
        tips.append((measure.name, f"@text{place}"))
    source = ColumnDataSource(data)
    styles = {variant: style for variant, style in STYLES.items() if variant in data["variant"]}
    colours, _, markers, letters = zip(*styles.values(), strict=True)
    plots = []
    for x in range(len(measures)):
        for y in range(x + 1, len(measures)):
            scales = {name: "log" if is_wide(data[f"axis{at}"]) else "linear" for name, at in (("x", x), ("y", y))}
            plot = _figure(
                width=375,
                x_axis_label=headings[x],
                y_axis_label=headings[y],
                tools="pan,box_zoom,wheel_zoom,box_select,tap,reset",
                toolbar_location="above",
                **{f"{name}_axis_type": scale for name, scale in scales.items()},
            )
            plot.scatter(
                f"axis{x}",
                f"axis{y}",
                source=source,
                size="size",
                alpha="alpha",
                color=factor_cmap("variant", colours, list(styles)),
                marker=factor_mark("variant", markers, list(styles)),
                nonselection_alpha=0.1,
            )
            plot.add_tools(HoverTool(tooltips=[*tips, ("on the front", "@front")]))
            plot.toolbar.logo = None
            for axis, scale in ((plot.xaxis[0], scales["x"]), (plot.yaxis[0], scales["y"])):
                axis.formatter = BasicTickFormatter(use_scientific=False)
                if scale == "log":
                    axis.ticker = FixedTicker(ticks=[m * 10.0**e for e in range(-6, 16) for m in (1, 2, 5)])
            plots.append(plot)
    names = ", ".join(measure.name.split(",")[0] for measure in measures)
    title = f"{network}: {names} (large: no other design is as good in all of them)"
    return title, plots, list(zip(styles, colours, letters, strict=True))
