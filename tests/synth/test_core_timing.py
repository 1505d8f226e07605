"""Static timing: what OpenSTA says, and what happens when it does not say it."""

import shutil
from collections import Counter

import pytest
import small_core

from hdl.config import MvqError
from synth import timing
from synth.cells import read_cells
from synth.netlist import FAN_OUT, flatten
from synth.sta import StaError, find_sta, run_sta
from synth.timing import TimingError, check_clock, timing_report, unmet

needs_sta = pytest.mark.skipif(shutil.which("sta") is None, reason="needs OpenSTA: apt-get install opensta")


def fake_sta(folder, monkeypatch, output, code=0):
    program = folder / "sta"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_missing_sta_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StaError, match="apt-get install opensta"):
        find_sta()
    with pytest.raises(StaError, match="not installed"):
        timing_report([small_core.CONFIG], 100)


@pytest.mark.parametrize(
    "output",
    [
        "Error: netlist.v, line 7 syntax error, unexpected '{'\n@slack 1.0\nfinished",
        "Warning: netlist.v module FA_X9 not found. Creating black box for u1\n@slack 1.0\nfinished",
        "@slack 1.0",
    ],
)
def test_nothing_is_read_after_a_complaint(tmp_path, monkeypatch, output):
    fake_sta(tmp_path, monkeypatch, output)
    with pytest.raises(StaError, match=r"timing of it failed.*sta\.log"):
        run_sta("timing of it", ["puts 1"], tmp_path / "run")


def test_an_early_end_is_an_error(tmp_path, monkeypatch):
    fake_sta(tmp_path, monkeypatch, "finished", code=3)
    with pytest.raises(StaError, match="exit code 3"):
        run_sta("timing of it", [], tmp_path / "run")


@pytest.mark.parametrize("clock", [0, -5, float("nan"), 1e6])
def test_clock_out_of_range(clock):
    with pytest.raises(TimingError, match="from 1 to 20000"):
        check_clock(clock)


@needs_sta
def test_small_core(nangate45):
    report = timing_report([small_core.CONFIG], 1e6 / small_core.CLOCK_PS, jobs=1)
    [row] = report["rows"]
    assert row["met"]
    assert unmet(report) is None
    assert row["fmax_mhz"] > report["clock_mhz"]
    assert row["limited_by"] == min(row["paths"], key=lambda block: row["paths"][block]["slack_ns"])
    assert {"array edges", "codebook", "decoding and loading", "prf/arf"} <= set(row["paths"])
    for path in row["paths"].values():
        assert sum(path["delay_by_block_ns"].values()) == pytest.approx(path["delay_ns"], abs=2e-3)


def test_no_net_drives_too_many_gates(nangate45):
    """In the whole core, clocks aside. A net that leaves a module is counted on both sides, so twice as many can be."""
    design = small_core.mapped(nangate45)
    cells = read_cells(nangate45).cells
    kinds = {kind for module in design.modules.values() for kind, _ in module["cells"].values()} - set(design.modules)
    pins = {kind: list(cells[kind]["pins"]) for kind in kinds}
    flat = flatten(design.modules, design.top, pins)
    loads, clocks = Counter(), set(flat.ports["clk"][1].tolist())
    for kind, rows in flat.gates.items():
        state = cells[kind]["flip_flop"] or cells[kind]["clock_gate"] or {}
        for column, pin in enumerate(pins[kind]):
            if pin == state.get("clock"):
                clocks.update(rows[:, column].tolist())
            elif cells[kind]["pins"][pin] == "input":
                loads.update(rows[:, column].tolist())
    most = max(count for net, count in loads.items() if net > 1 and net not in clocks)
    assert FAN_OUT / 2 < most <= 2 * FAN_OUT


@needs_sta
def test_tiles_without_insides_change_nothing(nangate45, tmp_path, monkeypatch):
    """Worst slack and paths of the core with all four tiles, and with two of them reduced to their edges."""
    design = small_core.mapped(nangate45)
    reduced = timing._verilog(design)
    assert reduced.count("sparse_tile_edges tile_") == 2
    found = [timing._row(design, 300, tmp_path)]
    monkeypatch.setattr(timing, "_verilog", lambda design: (design.folder / "netlist.v").read_text())
    found.append(timing._row(design, 300, tmp_path))
    assert found[0]["slack_ns"] == pytest.approx(found[1]["slack_ns"], abs=0.002)
    assert found[0]["fmax_mhz"] == pytest.approx(found[1]["fmax_mhz"], rel=0.005)
    for block, path in found[1]["paths"].items():
        # a tile may hang on another branch of a buffer tree than the two whole ones
        assert found[0]["paths"][block]["slack_ns"] == pytest.approx(path["slack_ns"], abs=0.05), block


@needs_sta
def test_a_clock_that_is_not_met_reports_the_best(nangate45, monkeypatch):
    # the netlist of a slow clock, asked for a fast one
    monkeypatch.setattr(timing, "map_designs", lambda configs, library, *_, **__: [small_core.mapped(library)])
    report = timing_report([small_core.CONFIG], 3000, jobs=1)
    [row] = report["rows"]
    assert not row["met"]
    assert row["slack_ns"] < 0
    assert f"reaches {row['fmax_mhz']:g} MHz" in unmet(report)
    assert 100 < row["fmax_mhz"] < 3000


def test_command_fails_where_the_clock_is_not_met(monkeypatch, capsys):
    from mvq import cli

    row = {"name": "ews-16x16", "met": False, "fmax_mhz": 312.5, "limited_by": "array adders"}
    report = {"clock_mhz": 900.0, "rows": [row]}
    monkeypatch.setattr(timing, "timing_report", lambda *_, **__: report)
    monkeypatch.setattr(timing, "timing_table", lambda report: "the table")
    monkeypatch.setattr("sys.argv", ["mvq", "timing", "ews-16x16", "--clock-mhz", "900"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert "the table" in shown.out
    assert "900 MHz is not met: ews-16x16 reaches 312.5 MHz (array adders)" in shown.err


def test_error_is_one_of_the_users(nangate45):
    assert issubclass(StaError, MvqError)
    assert issubclass(TimingError, MvqError)
