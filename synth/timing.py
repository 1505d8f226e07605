"""Static timing of whole cores with OpenSTA.

All blocks are timed together, so a path that crosses them is one path. What repeats is not timed again: of the array's
tiles two are whole, at two opposite corners, and the others keep only their edges (the gates at their inputs, and the
registers behind their outputs with what lies between). So every net has its load, and every kind of neighbour that a
tile can have (array edge or tile, on each side) is there once with all of its paths. The clock is ideal and wires have
no capacitance: this is before layout.
"""

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hdl.config import MvqError
from synth import cache
from synth.cells import read_cells
from synth.flow import block_of
from synth.liberty import read_liberty, resolve_liberty
from synth.netlist import BLOCKS, flatten, map_designs, to_verilog
from synth.sta import find_sta, run_sta
from synth.yosys import quote

__all__ = ["EDGE_SHARE", "TimingError", "check_clock", "timing_report", "timing_table", "unmet"]

#: part of a period that the logic around the core takes before its inputs and after its outputs.
EDGE_SHARE = 0.1
#: load of an output, in fF.
OUTPUT_LOAD = 10
#: the shortest period is known to so many ps.
RESOLUTION_PS = 5

_FORMAT = 2
_TILES = ("dense_tile", "sparse_tile")


class TimingError(MvqError):
    """A clock that is not met."""


def _edges(modules, tile, cells):
    """Verilog of a module with the ports of ``tile`` and only the gates at its edges."""
    pins = {
        kind: list(cells.cells[kind]["pins"])
        for module in modules.values()
        for kind, _ in module["cells"].values()
        if kind not in modules
    }
    flat = flatten(modules, tile, pins)
    clocks = set(flat.ports["clk"][1].tolist())
    kept = {net for name, (way, nets) in flat.ports.items() if way == "input" for net in nets.tolist()} - clocks
    drivers, ways = {}, {kind: cells.cells[kind]["pins"] for kind in pins}
    for kind, rows in flat.gates.items():
        for column, pin in enumerate(pins[kind]):
            if ways[kind][pin] == "output":
                drivers.update((net, (kind, row)) for row, net in enumerate(rows[:, column].tolist()))
    waiting = [net for way, nets in flat.ports.values() if way == "output" for net in nets.tolist()]
    while waiting:
        net = waiting.pop()
        if net in kept or net < 2:
            continue
        kept.add(net)
        kind, row = drivers[net]
        if cells.cells[kind]["functions"]:  # a register ends the way back
            waiting += [
                source
                for pin, source in zip(pins[kind], flat.gates[kind][row].tolist(), strict=True)
                if ways[kind][pin] == "input"
            ]
    kept -= {0, 1}

    def bit(net):
        return net if net > 1 else str(net)

    places = {}
    for kind, rows in flat.gates.items():
        cell = cells.cells[kind]
        clock = (cell["flip_flop"] or cell["clock_gate"] or {}).get("clock")
        for row in rows.tolist():
            if kept.isdisjoint(row):
                continue
            ports = {pin: [net] for pin, net in zip(pins[kind], row, strict=True) if net in kept}
            if clock:
                ports[clock] = list(clocks)
            places[f"g{len(places)}"] = [kind, ports]
    ports = {name: [way, [bit(net) for net in nets.tolist()]] for name, (way, nets) in flat.ports.items()}
    return to_verilog({f"{tile}_edges": {"ports": ports, "cells": places}})


def _verilog(design):
    """Netlist of a core, all tiles but two reduced to their edges."""
    text = (design.folder / "netlist.v").read_text()
    rows, columns = design.config.tile_grid
    tile = next((name for name in _TILES if name in design.modules), None)
    if tile is None or rows * columns <= 2:
        return text
    whole = {(0, 0), (rows - 1, columns - 1)}

    def name(match):
        return match[0] if (int(match[2]), int(match[3])) in whole else f"{tile}_edges {match[1]}"

    text = re.sub(rf"\b{tile} (tile_(\d+)_(\d+))\b", name, text)
    return text + "\n" + _edges(design.modules, tile, read_cells(design.liberty))


def _script(design, verilog, period):
    """Tcl: worst slack at the period asked for, the shortest period, and the worst path into every block.

    Slack is nearly linear in the period (only the edges' shares move), so the period is moved by the slack until a
    bracket of :data:`RESOLUTION_PS` holds the shortest: two or three rounds, where halving takes nine.
    """
    endpoints = verilog.with_suffix(".endpoints")
    deepest_first = sorted(BLOCKS.items(), key=lambda item: -item[0].count("."))
    patterns = [("^" + glob.replace(".", "/").replace("*", "[^/]*") + "/", block) for glob, block in deepest_first]
    listed = " ".join(
        f"{{{pattern}}} {{{block}}}" for pattern, block in [*patterns, (".*/", "control"), (".*", "ports")]
    )
    return rf"""
read_liberty {quote(design.liberty.path)}
read_verilog {quote(verilog)}
link_design {design.top}
set_cmd_units -capacitance fF -time ns
set_driving_cell -lib_cell {design.liberty.buffer} [all_inputs]
set_load {OUTPUT_LOAD} [all_outputs]
proc slack {{period}} {{
  create_clock -name clk -period $period [get_ports clk]
  set_input_delay [expr {EDGE_SHARE} * $period] -clock clk [all_inputs]
  set_output_delay [expr {EDGE_SHARE} * $period] -clock clk [all_outputs]
  return [expr 1e9 * [sta::worst_slack_cmd max]]
}}
set asked {period}
set slack [slack $asked]
puts "@slack $slack"
set middle [expr $asked - $slack]
for {{set round 0}} {{$round < 8}} {{incr round}} {{
  set low [expr $middle - {RESOLUTION_PS * 5e-4}]
  set high [expr $middle + {RESOLUTION_PS * 5e-4}]
  set slack [slack $high]
  if {{$slack >= 0 && $slack <= $high - $low}} break
  set middle [expr $middle - $slack + {RESOLUTION_PS * 2.5e-4}]
}}
if {{$slack < 0 || $slack > $high - $low}} {{ error "no shortest clock found near $middle ns" }}
puts "@shortest $high"
report_checks -path_delay max -format end -group_count 10000000 -digits 4 > {quote(endpoints)}
set blocks [list {listed}]
set stream [open {quote(endpoints)}]
while {{[gets $stream line] >= 0}} {{
  if {{![regexp {{^(\S+) .*\s(-?[0-9.]+) \((MET|VIOLATED)\)}} $line -> end slack]}} continue
  foreach {{pattern block}} $blocks {{ if {{[regexp $pattern $end]}} break }}
  if {{![info exists worst($block)] || $slack < [lindex $worst($block) 1]}} {{ set worst($block) [list $end $slack] }}
}}
close $stream
foreach block [array names worst] {{
  lassign $worst($block) end slack
  puts "@block $block"
  puts "@end $end $slack"
  if {{$block == "ports"}} {{ set pins [get_ports $end] }} else {{ set pins [get_pins $end] }}
  report_checks -path_delay max -format full -digits 4 -to $pins
}}
puts "@done"
""".strip().splitlines()


def _block(pin):
    """Block of a pin's instance; ports and the core's own gates belong to ``control``."""
    path = pin.split("/")[:-1]
    for length in range(len(path), 0, -1):
        found = block_of(path[:length], BLOCKS)
        if found:
            return found
    return "control"


def _paths(text):
    """Block -> its worst path: start, end, slack (ns), delay (ns), number of gates, and delay by block."""
    found = {}
    for part in text.split("@done")[0].split("@block ")[1:]:
        block, rest = part.split("\n", 1)
        end, slack = re.search(r"^@end (\S+) (\S+)$", rest, flags=re.MULTILINE).groups()
        steps = re.findall(r"^\s*(-?[\d.]+)\s+(-?[\d.]+) [v^] (\S+) \(\S+\)$", rest, flags=re.MULTILINE)
        start = re.search(r"^Startpoint: (\S+)", rest, flags=re.MULTILINE)[1]
        if not steps:
            raise MvqError(f"OpenSTA reported no path to {end}")
        shares = {}
        for delay, _, pin in steps:
            shares[_block(pin)] = shares.get(_block(pin), 0.0) + float(delay)
        outside = float(steps[-1][1]) - sum(shares.values())
        if outside > 1e-3:
            shares = {"before the input": outside, **shares}
        found[block] = {
            "start": start,
            "end": end,
            "slack_ns": float(slack),
            "delay_ns": float(steps[-1][1]),
            "gates": len(steps) - 2,
            "delay_by_block_ns": {name: round(delay, 4) for name, delay in shares.items()},
        }
    return dict(sorted(found.items(), key=lambda item: item[1]["slack_ns"]))


def _row(design, clock_mhz, folder):
    verilog = folder / f"{design.config.name}.v"
    verilog.write_text(_verilog(design))
    period = 1e3 / clock_mhz
    text = run_sta(f"timing of {design.config.name}", _script(design, verilog, period), folder / design.config.name)
    slack, shortest = (
        float(re.search(rf"^@{name} (\S+)$", text, flags=re.MULTILINE)[1]) for name in ("slack", "shortest")
    )
    paths = _paths(text)
    limit = next(iter(paths))
    return {
        "name": design.config.name,
        "variant": design.config.variant,
        "rows": design.config.rows,
        "columns": design.config.columns,
        "tile_rows": design.config.tile_rows,
        "clock_mhz": clock_mhz,
        "slack_ns": round(slack, 4),
        "met": slack >= 0,
        "fmax_mhz": round(1e3 / shortest, 1),
        "limited_by": limit,
        "paths": paths,
        "area_um2": round(sum(design.area.values()), 1),
        "config_hash": design.config.hash,
    }


def timing_report(configs, clock_mhz, liberty="nangate45", policy=None, *, jobs=2, progress=None):
    """Time ``configs`` and return the report as a JSON-ready dictionary.

    Parameters
    ----------
    configs : list of :class:`hdl.config.ArrayConfig`.
    clock_mhz : the clock that gates are sized for, and that slacks are about.
    liberty : see :func:`synth.liberty.resolve_liberty`. ``policy`` : :class:`synth.flow.Policy`.
    jobs : synthesis processes at a time.
    progress : called as ``progress(stage, done, total)`` with stage ``generate``, ``synthesise`` or ``time``.

    Raises
    ------
    MvqError : whatever fails; nothing is reported then.
    """
    find_sta()
    check_clock(clock_mhz)
    library = read_liberty(resolve_liberty(liberty))
    designs = map_designs(configs, library, round(1e6 / clock_mhz), policy=policy, jobs=jobs, progress=progress)

    def kept_row(design):
        script = "\n".join(_script(design, Path("netlist.v"), 1e3 / clock_mhz))
        key = cache.content_key(_FORMAT, design.key, script)
        row = cache.load("timing", key)
        if row is None:
            with tempfile.TemporaryDirectory(prefix="mvq-timing-") as folder:
                row = _row(design, clock_mhz, Path(folder))
            cache.store("timing", key, row)
        return row

    rows = []
    with ThreadPoolExecutor(jobs) as pool:
        for done, row in enumerate(pool.map(kept_row, designs), 1):
            rows.append(row)
            if progress:
                progress("time", done, len(designs))
    return {
        "format": "mvq-timing",
        "format_version": 1,
        "liberty": {"name": library.name, "corner": library.corner, "sha256": library.sha256},
        "policy": designs[0].policy.to_dict(),
        "edge_share": EDGE_SHARE,
        "clock_mhz": clock_mhz,
        "rows": rows,
    }


def check_clock(clock_mhz):
    """Raise :class:`TimingError` unless ``clock_mhz`` is a clock that gates can be sized for."""
    if not 1 <= clock_mhz <= 20_000:
        nearest = min(max(clock_mhz, 1), 20_000)
        raise TimingError(
            f"--clock-mhz = {clock_mhz:g}: must be from 1 to 20000; the nearest legal value is {nearest:g}"
        )


def unmet(report):
    """One sentence on the clocks that are not met, or None."""
    late = [row for row in report["rows"] if not row["met"]]
    if not late:
        return None
    listed = ", ".join(f"{row['name']} reaches {row['fmax_mhz']:g} MHz ({row['limited_by']})" for row in late)
    return f"{report['clock_mhz']:g} MHz is not met: {listed}"


def timing_table(report):
    """rich table of a report: a row for each configuration, and for a single one its blocks."""
    from rich import box
    from rich.table import Table

    liberty = report["liberty"]
    table = Table(
        title=f"Timing at {report['clock_mhz']:g} MHz",
        caption=f"{liberty['name']} ({liberty['corner']}), before layout, ideal clock; inputs and outputs take "
        f"{report['edge_share']:.0%} of the period. Delay by block: of the worst path, from its start.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    single = len(report["rows"]) == 1
    for heading in ("worst path into" if single else "configuration", "slack, ns", "Fmax, MHz", "delay, ns", "gates"):
        table.add_column(heading, justify="right" if heading[-1] in "szn" and "path" not in heading else "left")
    table.add_column("limited by" if not single else "from")
    table.add_column("delay by block, ns")
    for row in report["rows"]:
        for block, path in row["paths"].items() if single else [(row["limited_by"], row["paths"][row["limited_by"]])]:
            shares = ", ".join(f"{name} {delay:.2f}" for name, delay in path["delay_by_block_ns"].items())
            shortest = 1e3 / row["fmax_mhz"] - path["slack_ns"]
            slack = 1e3 / row["clock_mhz"] - shortest
            table.add_row(
                block if single else row["name"],
                f"{slack:+.3f}",
                f"{1e3 / shortest:.0f}",
                f"{path['delay_ns']:.3f}",
                str(path["gates"]),
                path["start"] if single else block,
                shares,
            )
    return table
