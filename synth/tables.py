"""Area reports as tables on the screen."""

from rich import box
from rich.table import Table

__all__ = ["area_table"]


#: block -> heading, where the name is too long for a column of numbers.
_HEADINGS = {
    "codebook": "CRF",
    "decoding and loading": "decode,\nload",
    "requantisation": "re-\nquant",
    "prf/arf": "PRF/\nARF",
    "feature maps": "feature\nmaps",
}


def _area(value):
    return f"{value:,.0f}"


def _thousands(value):
    return f"{value / 1000:,.0f}" if value >= 100_000 else f"{value / 1000:.2f}"


def _percent(value):
    return "" if value is None else f"{value:+.1%}"


def _conditions(report):
    liberty, policy = report["liberty"], report["policy"]
    return (
        f"{liberty['name']} ({liberty['corner']}), pyosys {report['tools']['pyosys']}; {policy['hierarchy']}; "
        f"register files {policy['register_files']}{_memories(report)}; 1 GE = {liberty['nand2_um2']:g} um2"
    )


def _memories(report):
    """What the memories of a report are, as a part of its conditions."""
    memories = report.get("memories")  # reports of earlier versions say nothing: they had registers only
    if not memories:
        return ""
    srams = f" ({', '.join(memories['srams'])})" if memories["srams"] else ""
    codebook = f"; codebook in {' and '.join(memories['codebook'])}" if memories["codebook"] else ""
    others = f"; other memories in {memories['others']}" if memories["others"] else ""
    return f"{codebook}{others}{srams}"


def area_table(report):
    """Table of one report, a row for each configuration; its ``rows`` alone are enough."""
    blocks = list(dict.fromkeys(block for row in report["rows"] for block in row["blocks"]))
    sizes = list(dict.fromkeys(f"{row['rows']}x{row['columns']}" for row in report["rows"]))
    table = Table(
        title="Area in um2" + (f" at {sizes[0]}" if len(sizes) == 1 else ""),
        caption=_conditions(report) if "liberty" in report else None,
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        min_width=79,
    )
    headings = ["variant", *(["size"] if len(sizes) > 1 else []), *(_HEADINGS.get(block, block) for block in blocks)]
    for name in (*headings, "total", "kGE", "FF", "vs\nEWS"):
        table.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for row in report["rows"]:
        table.add_row(
            row["variant"],
            *([f"{row['rows']}x{row['columns']}"] if len(sizes) > 1 else []),
            *(_area(row["blocks"].get(block, 0)) for block in blocks),
            _area(row["total_um2"]),
            _thousands(row["gate_equivalents"]),
            f"{row['sequential_share']:.0%}",
            _percent(row["vs_ews"]),
        )
    return table
