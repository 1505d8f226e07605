"""Area reports as tables: on the screen, as CSV and as Markdown."""

import csv
import io

from rich import box
from rich.table import Table

__all__ = ["area_table", "compare_table", "comparison", "to_csv", "to_markdown"]


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


def comparison(reports):
    """Reports side by side.

    Parameters
    ----------
    reports : list of (label, report).

    Returns
    -------
    header : column names.
    rows : lists of text, one for each (variant, rows, columns, unit).
    notes : what makes the reports differ besides the designs.
    """
    first = reports[0][0]
    header = ["variant", "rows", "columns", "unit"]
    for label, _ in reports:
        header += [f"{label} um2", f"{label} vs EWS", *([f"{label} vs {first}"] if label != first else [])]
    keys = list(dict.fromkeys(_key(row) for _, report in reports for row in report["rows"]))
    found = [{_key(row): row for row in report["rows"]} for _, report in reports]
    rows = []
    for key in keys:
        line = [key[0], str(key[1]), str(key[2]), key[3] or "core"]
        base = found[0].get(key)
        for (label, _), by_key in zip(reports, found, strict=True):
            row = by_key.get(key)
            line += [_area(row["total_um2"]) if row else "", _percent(row and row["vs_ews"])]
            if label != first:
                line.append(_percent(row["total_um2"] / base["total_um2"] - 1) if row and base else "")
        rows.append(line)
    notes = []
    for what, get in (
        ("libraries", lambda report: f"{report['liberty']['name']} {report['liberty']['sha256'][:12]}"),
        ("memories", lambda report: _memories(report).removeprefix("; ") or "registers"),
        ("policies", lambda report: ", ".join(f"{key} = {value}" for key, value in report["policy"].items())),
        ("tools", lambda report: ", ".join(f"{key} {value}" for key, value in report["tools"].items())),
    ):
        values = [get(report) for _, report in reports]
        if len(set(values)) > 1:
            listed = "; ".join(f"{label}: {value}" for (label, _), value in zip(reports, values, strict=True))
            notes.append(f"the reports have different {what}: {listed}")
    return header, rows, notes


def _key(row):
    return row["variant"], row["rows"], row["columns"], row["unit"]


def compare_table(header, rows):
    """Screen form of :func:`comparison`."""
    table = Table(title="Area side by side")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index in (0, 3) else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    return table


def to_csv(header, rows):
    """CSV form of :func:`comparison`, numbers without thousands separators."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([cell.replace(",", "") for cell in row] for row in rows)
    return text.getvalue()


def to_markdown(header, rows):
    """Markdown form of :func:`comparison`."""
    right = [index not in (0, 3) for index in range(len(header))]
    lines = [header, ["---:" if flag else "---" for flag in right], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
