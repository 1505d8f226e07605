"""Reports side by side: rows of the same configuration are joined, and the paper's numbers stand beside them.

A comparison has a section for each library and policy; more than one only where the user asks for it, because areas of
two libraries are not comparable. Reports without a library (`mvq estimate`) belong to every section.
"""

import csv
import io
from dataclasses import dataclass, field

from rich import box
from rich.markup import escape
from rich.table import Table as ScreenTable

from hdl.config import VARIANTS, MvqError, preset
from mvq.paper import FIG19, FIG20, FIG20_VARIANTS, SIZES, TAB7, TITLES
from mvq.pareto import draw_pareto
from mvq.reports import AREA, ESTIMATE, EXPLORE, complete, describe, design_key, load_report

__all__ = ["Column", "Design", "Measure", "Section", "Table", "compare", "draw", "load_reports", "screen_table"]
__all__ += ["to_csv", "to_markdown"]


# ---- tables
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """``form`` : how its numbers are written; None for text."""

    heading: str
    form: str | None = None


@dataclass(frozen=True)
class Table:
    """``rows`` : lists of values, None where there is none."""

    title: str
    columns: list
    rows: list
    note: str = ""

    def texts(self):
        """Rows of text."""
        return [
            ["" if value is None else format(value, column.form or "") for column, value in self.cells(row)]
            for row in self.rows
        ]

    def cells(self, row):
        """(column, value) of a row."""
        return zip(self.columns, row, strict=True)


def screen_table(table):
    """rich form of a :class:`Table`."""
    found = ScreenTable(
        title=escape(table.title), caption=escape(table.note) or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in table.columns:
        number = bool(column.form)
        found.add_column(escape(column.heading), justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in table.texts():
        found.add_row(*map(escape, row))
    return found


def to_csv(table):
    """CSV of a table, numbers as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.heading for column in table.columns])
    writer.writerows(table.rows)
    return text.getvalue()


def to_markdown(table):
    """Markdown form of a :class:`Table`."""
    lines = [[column.heading for column in table.columns], ["---:" if c.form else "---" for c in table.columns]]
    lines += table.texts()
    return f"## {table.title}\n\n" + "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


# ---- joining
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A number that designs have.

    Parameters
    ----------
    name : what it is. ``form`` : how it is written.
    network, report : of which it is, where that matters.
    goal : ``least`` or ``most`` is best; None where neither is.
    """

    name: str
    form: str = field(default=",.4g", compare=False)
    network: str | None = None
    report: str | None = None
    goal: str | None = field(default=None, compare=False)

    @property
    def heading(self):
        """Heading of its column."""
        return " ".join(filter(None, (self.report, self.network, self.name)))


AREA_NAME, SHARE_NAME = "area, um2", "vs EWS"
CYCLES, ENERGY_NAME, ON_CHIP = "cycles", "energy, M", "on chip, M"
EFFICIENCY = "TOPS/W"

#: text in a row of `mvq timing` -> name.
_TEXTS = {"limited_by": "limited by"}

#: number in a row of `mvq timing` or `mvq power` -> (name, form, goal); others keep their own names.
_NUMBERS = {
    "clock_mhz": ("clock, MHz", ",.0f", None),
    "slack_ns": ("slack, ns", "+.3f", "most"),
    "fmax_mhz": ("Fmax, MHz", ",.0f", "most"),
    "area_um2": ("sized for the clock, um2", ",.0f", "least"),
    "power_mw": ("power, mW", ",.2f", "least"),
    "energy_uj": ("energy, uJ", ",.2f", "least"),
    "tops_per_watt": (EFFICIENCY, ".2f", "most"),
}


#: units that run networks.
_WHOLE = (None, "accelerator")

#: what a design must share with its preset to stand beside the paper's.
_PAPERS = ("n", "m", "codewords", "vector_length", "wrf_depth")


@dataclass
class Design:
    """A configuration, or a unit of it, with what the reports say about it."""

    config: dict
    unit: str | None
    variant: str
    rows: int
    columns: int
    values: dict = field(default_factory=dict)
    sources: dict = field(default_factory=dict)

    @property
    def name(self):
        """Configuration and unit in words."""
        return describe(self.config) + (f", {self.unit}" if self.unit else "")

    @property
    def size(self):
        """Rows of a core that stands beside the paper's: with as many columns, and with the masks, codebook and WRF of
        its preset; else None."""
        if self.unit is not None or self.rows != self.columns:
            return None
        plain = preset(self.variant, self.rows).to_dict()
        return self.rows if all(self.config[name] == plain[name] for name in _PAPERS) else None

    def add(self, measure, value, report):
        """Record a number; raises MvqError where another report says another."""
        if value is None:
            return
        if self.values.get(measure, value) != value:
            raise MvqError(
                f"{self.sources[measure]} and {report.label} both have {measure.heading} of {self.name} and differ: "
                f"compare them one at a time"
            )
        self.values[measure], self.sources[measure] = value, report.label


@dataclass
class Section:
    """Designs under one library and one policy.

    Attributes
    ----------
    title : the library in words, with what sets the policy apart from those of others; None where no report has one.
    library, policy : in words.
    reports : that are in it. ``designs`` : in the order of the reports. ``notes`` : what else differs.
    """

    title: str | None
    library: str | None
    policy: str
    reports: list
    designs: list
    notes: list

    @property
    def measures(self):
        """All measures of its designs: areas, then what else there is, network by network."""
        found = dict.fromkeys(measure for design in self.designs for measure in design.values)
        return sorted(found, key=lambda measure: measure.network or "")  # stable

    @property
    def networks(self):
        """Networks that its designs were measured with, without doubles."""
        return list(dict.fromkeys(measure.network for measure in self.measures if measure.network))

    def objectives(self, network):
        """Measures that a Pareto plot of ``network`` shows: area, cycles, energy."""
        areas = [measure for measure in self.measures if measure.name == AREA_NAME]
        own = [measure for measure in self.measures if measure.network == network]
        energies = [m for m in own if m.name == "energy, uJ"] or [m for m in own if m.name == ENERGY_NAME]
        return [*areas[:1], *[m for m in own if m.name == CYCLES], *energies[:1]]

    def points(self, network):
        """(measures, designs that have all of them) of the Pareto plot, or None where there is nothing to plot."""
        measures = self.objectives(network)
        designs = [design for design in self.designs if all(measure in design.values for measure in measures)]
        return (measures, designs) if len(measures) > 1 and len(designs) > 1 else None


def load_reports(paths):
    """:class:`mvq.reports.LoadedReport` of each path, each with a label of its own."""
    for label in (lambda path: path.stem, lambda path: f"{path.parent.name}/{path.stem}", str):
        labels = [label(path) for path in paths]
        if len(set(labels)) == len(labels):
            break
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise MvqError(f"the report {twice} is given twice")
    return complete([load_report(path, label) for path, label in zip(paths, labels, strict=True)])


def compare(reports, separate=False):
    """Sections of a comparison.

    Parameters
    ----------
    reports : list of :class:`mvq.reports.LoadedReport`.
    separate : a section for each library and policy; else more than one is an error.

    Returns
    -------
    list of :class:`Section`

    Raises
    ------
    MvqError : the reports have different libraries or policies, or contradict each other.
    """
    libraries = dict.fromkeys(report.library for report in reports if report.library)
    if len(libraries) > 1 and not separate:
        raise MvqError(_differ("libraries", reports, [report.library for report in reports]))
    policies = {}
    for report in reports:
        if report.library:
            policies.setdefault((report.library, _family(report)), []).append(report)
    for same in policies.values():
        texts = _differences(same)
        if len(set(texts)) > 1 and not separate:
            raise MvqError(_differ("policies", same, texts))
    leaders = [report for report in reports if _family(report) == AREA and report.library]
    leaders = leaders or [report for report in reports if report.library]
    if not leaders:
        return [_section(None, None, "", reports)]
    sections = {}
    for report, text in zip(leaders, _differences(leaders), strict=True):
        sections.setdefault((report.library, text), []).append(report)
    for report in reports:
        if report not in leaders:
            for (library, _), members in sections.items():
                if report.library in (None, library):
                    members.append(report)
    lost = [report for report in reports if not any(report in members for members in sections.values())]
    for report in lost:
        sections.setdefault((report.library, ""), []).append(report)
    found = []
    for (library, text), members in sections.items():
        members.sort(key=reports.index)
        policy = _policy(next(report for report in members if report.library))
        title = f"{library}; {text}" if text else library
        found.append(_section(title, library, policy, members))
    return found


def _family(report):
    """Reports whose policies must agree: those of an exploration with those of `mvq area`."""
    return AREA if report.kind == EXPLORE else report.kind


def _policy(report):
    return ", ".join(f"{key} = {value}" for key, value in report.policy.items())


def _differences(reports):
    """Of each report the parts of its policy in which the reports differ, as text."""
    keys = dict.fromkeys(key for report in reports for key in report.policy)
    differing = [key for key in keys if len({repr(report.policy.get(key)) for report in reports}) > 1]
    return [", ".join(f"{key} = {report.policy.get(key)}" for key in differing) for report in reports]


def _differ(what, reports, texts):
    listed = "; ".join(
        f"{report.label}: {text}" for report, text in zip(reports, texts, strict=True) if text is not None
    )
    return f"the reports have different {what} ({listed}); give --separate for a section each"


def _section(title, library, policy, reports):
    designs = {}
    areas = [report for report in reports if any(getattr(row, "total_um2", None) is not None for row in report.rows)]
    notes = []
    for what, texts in (
        ("tools", [", ".join(f"{key} {value}" for key, value in report.tools.items()) for report in areas]),
        ("memories", [report.memories for report in areas]),
    ):
        if len(set(texts)) > 1:
            listed = "; ".join(f"{report.label}: {text}" for report, text in zip(areas, texts, strict=True))
            notes.append(f"the reports have different {what}: {listed}")
    for report in sorted(reports, key=lambda report: report.kind == ESTIMATE):
        label = report.label if len(areas) > 1 else None
        for row in report.rows:
            for design in _designs(designs, report, row):
                for measure, value in _values(report, row, label):
                    design.add(measure, value, report)
    return Section(title, library, policy, reports, list(designs.values()), notes)


def _designs(designs, report, row):
    """The designs that a row is about, of ``designs``, to which a new one is added: of `mvq estimate` all cores with
    the same cycles, of others the one with the same configuration."""
    if report.kind == ESTIMATE:
        key = design_key(row.config, cycles=True)
        found = [one for one in designs.values() if one.unit in _WHOLE and design_key(one.config, cycles=True) == key]
        if found:
            return found
    key = design_key(row.config), row.unit
    if key not in designs:
        designs[key] = Design(row.config, row.unit, row.variant, row.rows, row.columns)
    return [designs[key]]


def _values(report, row, label):
    """(measure, value) of every number of a row."""
    if report.kind not in (AREA, EXPLORE) and not getattr(row, "networks", None):
        for name, value in row.model_extra.items():
            if name in _TEXTS:
                yield Measure(_TEXTS[name], "", row.network), value
            elif isinstance(value, int | float) and not isinstance(value, bool) and name not in row.config:
                heading, form, goal = _NUMBERS.get(name, (name.replace("_", " "), ",.4g", None))
                yield Measure(heading, form, row.network, goal=goal), value
        return
    yield Measure(AREA_NAME, ",.0f", report=label, goal="least"), getattr(row, "total_um2", None)
    yield Measure(SHARE_NAME, "+.1%", report=label), getattr(row, "vs_ews", None)
    for network, run in getattr(row, "networks", {}).items():
        yield Measure(CYCLES, ",.0f", network, goal="least"), run.cycles
        yield Measure(ENERGY_NAME, ",.1f", network, goal="least"), run.energy / 1e6
        yield Measure(ON_CHIP, ",.1f", network, goal="least"), run.energy_on_chip / 1e6
    yield Measure("accuracy", ".2%", goal="most"), getattr(row, "accuracy", None)


# ---- what a section shows
# --------------------------------------------------------------------------------------------


def designs_table(section):
    """A row for each design, a column for each measure."""
    measures = section.measures
    columns, areas = [], [measure for measure in measures if measure.name == AREA_NAME]
    for measure in measures:
        columns.append((measure.heading, measure.form, lambda design, measure=measure: design.values.get(measure)))
        if measure.name == SHARE_NAME and measure.report and measure.report != areas[0].report:
            first, own = areas[0], next(area for area in areas if area.report == measure.report)
            heading = f"{measure.report} vs {first.report}"
            columns.append((heading, "+.1%", lambda design, own=own, first=first: _change(design, own, first)))
    rows = [[design.name, *(value(design) for _, _, value in columns)] for design in section.designs]
    note = ""
    if any(measure.name == ENERGY_NAME for measure in measures):
        note = "energy: of accesses (paper's Tab. 8) and multiplications, in millions of multiplications"
    columns = [Column("design"), *(Column(heading, form or None) for heading, form, _ in columns)]
    return Table("Designs", columns, rows, note)


def _change(design, own, first):
    if own in design.values and first in design.values:
        return design.values[own] / design.values[first] - 1
    return None


def blocks_tables(section):
    """Area by block, a table for each report that has blocks of whole rows (`mvq area`)."""
    tables = []
    for report in section.reports:
        if report.kind != AREA:
            continue
        blocks = list(dict.fromkeys(block for row in report.rows for block in row.blocks))
        columns = [Column("design"), *(Column(block, ",.0f") for block in blocks)]
        columns += [Column("total", ",.0f"), Column("kGE", ",.1f"), Column("flip-flops", ".0%")]
        rows = [
            [
                describe(row.config) + (f", {row.unit}" if row.unit else ""),
                *(row.blocks.get(block) for block in blocks),
                row.total_um2,
                None if row.gate_equivalents is None else row.gate_equivalents / 1000,
                row.sequential_share,
            ]
            for row in report.rows
        ]
        tables.append(Table(f"Area by block, um2: {report.label}", columns, rows))
    return tables


def area_beside_paper(section):
    """The paper's Tab. 7 beside ours, or None where no design is in it."""
    rows, base = [], TAB7["ews"]
    for area in [measure for measure in section.measures if measure.name == AREA_NAME]:
        for design in section.designs:
            if design.variant not in TAB7 or area not in design.values or design.size not in SIZES:
                continue
            place = SIZES.index(design.size)
            paper, ours = TAB7[design.variant][place], design.values[area] / 1e6
            share = design.values.get(Measure(SHARE_NAME, report=area.report))
            name = " ".join(filter(None, (area.report, design.name)))
            rows.append([name, paper, ours, ours / paper, paper / base[place] - 1, share])
    if not rows:
        return None
    columns = [Column("design"), Column("paper, mm2", ".3f"), Column("ours, mm2", ".3f"), Column("ours / paper", ".2f")]
    columns += [Column("paper vs EWS", "+.1%"), Column("ours vs EWS", "+.1%")]
    note = "paper: 40 nm, array with codebook, without memories; vs EWS: of the same size, in the same report"
    return Table("Tab. 7: area", columns, rows, note)


def efficiency_beside_paper(section):
    """The paper's Fig. 19 and Fig. 20 beside ours: list of tables, of those networks that the section has."""
    tables = []
    networks = [network for network in section.networks if network in FIG19]
    if networks:
        columns = [Column("network"), Column("design"), Column("paper, TOPS/W", ".1f"), Column("ours, TOPS/W", ".2f")]
        columns += [Column("paper, over EWS", ".2f"), Column("ours, over EWS", ".2f")]
        columns += [Column("ours, over EWS, by accesses", ".2f")]
        rows = []
        for network in networks:
            for design, place, figure in _in_figure(section, network, FIG19[network], list(VARIANTS)):
                own = figure[place]
                over = own / figure[list(VARIANTS).index("ews")]
                ours = design.values.get(Measure(EFFICIENCY, network=network))
                rows.append([TITLES[network], design.name, own, ours, over, *_over(section, design, network, "ews")])
        if rows:
            tables.append(_without_empty("Fig. 19: energy efficiency", columns, rows))
    networks = [network for network in section.networks if network in FIG20]
    if networks:
        columns = [Column("network"), Column("design"), Column("paper, over WS", ".2f"), Column("ours, over WS", ".2f")]
        columns += [Column("ours, over WS, by accesses", ".2f")]
        rows = []
        for network in networks:
            for design, place, figure in _in_figure(section, network, FIG20[network], list(FIG20_VARIANTS)):
                rows.append(
                    [TITLES[network], design.name, figure[place], *_over(section, design, network, "ws")],
                )
        if rows:
            tables.append(_without_empty("Fig. 20: energy efficiency", columns, rows))
    return tables


def _without_empty(title, columns, rows):
    """A table of the columns that have a number."""
    kept = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    note = "without DRAM; by accesses: energy by the paper's costs of an access (Tab. 8), the baseline's over its own"
    return Table(title, [columns[place] for place in kept], [[row[place] for place in kept] for row in rows], note)


def _in_figure(section, network, figure, variants):
    """(design, place of its variant, numbers of its size) of the designs that a figure has and that were measured."""
    for design in section.designs:
        measured = any(measure.network == network for measure in design.values)
        if measured and design.variant in variants and design.size in figure:
            yield design, variants.index(design.variant), figure[design.size]


def _over(section, design, network, baseline):
    """(by power, by accesses) of a design over the plain ``baseline`` of its size; None where it is not known."""
    plain = [one for one in section.designs if one.variant == baseline and one.size == design.size]
    plain = [one for one in plain if "," not in one.name] or plain
    found = []
    for measure in (Measure(EFFICIENCY, network=network), Measure(ON_CHIP, network=network)):
        base = next((one.values[measure] for one in plain if measure in one.values), None)
        own = design.values.get(measure)
        if base is None or own is None:
            found.append(None)
        else:
            found.append(own / base if measure.name == EFFICIENCY else base / own)
    return found


def section_tables(section):
    """Every table of a section, the designs first."""
    beside = [area_beside_paper(section), *efficiency_beside_paper(section)]
    return [designs_table(section), *blocks_tables(section), *(table for table in beside if table)]


def csv_table(sections):
    """The designs of all sections in one table, with library, policy and configuration of each."""
    measures = list(dict.fromkeys(measure for section in sections for measure in section.measures))
    columns = [Column(name) for name in ("library", "policy", "design", "variant", "rows", "columns", "unit")]
    columns += [Column(measure.heading, measure.form) for measure in measures]
    rows = [
        [section.library, section.policy, design.name, design.variant, design.rows, design.columns, design.unit]
        + [design.values.get(measure) for measure in measures]
        for section in sections
        for design in section.designs
    ]
    return Table("Comparison", columns, rows)


def draw(sections, folder):
    """PNGs of all sections in ``folder``: bars by block, and a Pareto plot for each network; returns their paths."""
    from synth.plots import draw_areas

    paths = []
    for number, section in enumerate(sections, 1):
        prefix = f"section{number}-" if len(sections) > 1 else ""
        areas = [report for report in section.reports if report.kind == AREA]
        if areas:
            paths.append(folder / f"{prefix}area.png")
            draw_areas([report.content for report in areas], paths[-1], [report.label for report in areas])
        for network in section.networks:
            found = section.points(network)
            if found is None:
                continue
            measures, designs = found
            name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in network)
            paths.append(folder / f"{prefix}pareto-{name}.png")
            draw_pareto(
                paths[-1],
                [tuple(design.values[measure] for measure in measures) for design in designs],
                [design.variant for design in designs],
                [(measure.heading, measure.goal == "most") for measure in measures],
                ", ".join(filter(None, (network, section.title))),
            )
    return paths
