"""Libraries: where they are found, and what is read from them."""

import pytest
from tiny_library import FLIP_FLOP, NAND, write_library

from synth.liberty import LibertyError, nangate45_path, read_liberty, resolve_liberty


def test_reads_nangate45(nangate45):
    assert nangate45.name == "NangateOpenCellLibrary"
    assert nangate45.corner == "1.1 V 25 C"
    assert nangate45.nand2_area == 0.798
    assert nangate45.full_adder == ("FA_X1", ("A", "B", "CI"), "S", "CO")
    assert nangate45.half_adder == ("HA_X1", ("A", "B"), "S", "CO")
    assert "CLKGATE_X1" in nangate45.clock_gates
    assert "DFF_X1" in nangate45.flip_flops


@pytest.mark.parametrize(
    ("name", "full_adder", "nand2"),
    [("sky130A:sky130_fd_sc_hd", "sky130_fd_sc_hd__fa_1", 3.7536), ("ihp-sg13g2:sg13g2_stdcell", None, 7.2576)],
)
def test_reads_a_pdk(shared_pdk, monkeypatch, name, full_adder, nand2):
    monkeypatch.setenv("PDK_ROOT", str(shared_pdk))
    liberty = read_liberty(resolve_liberty(name))
    assert (liberty.full_adder[0] if liberty.full_adder else None) == full_adder
    assert liberty.nand2_area == nand2


def test_a_library_of_two_cells_is_enough(tmp_path):
    liberty = read_liberty(write_library(tmp_path / "tiny.lib", NAND, FLIP_FLOP))
    assert (liberty.nand2_area, liberty.flip_flops, liberty.full_adder) == (1.0, ("FF",), None)


def test_typical_room_corner_is_chosen(tmp_path, monkeypatch):
    folder = tmp_path / "p" / "libs.ref" / "cells" / "lib"
    for corner in ("ff_n40C_1v95", "tt_025C_1v80", "tt_100C_1v80"):
        write_library(folder / f"cells__{corner}.lib")
    monkeypatch.setenv("PDK_ROOT", str(tmp_path))
    assert resolve_liberty("p:cells").name == "cells__tt_025C_1v80.lib"


def test_ambiguous_corners_are_listed(tmp_path, monkeypatch):
    folder = tmp_path / "p" / "libs.ref" / "cells" / "lib"
    for corner in ("fast", "slow"):
        write_library(folder / f"{corner}.lib")
    monkeypatch.setenv("PDK_ROOT", str(tmp_path))
    with pytest.raises(LibertyError, match=r"no single typical corner.*fast\.lib.*slow\.lib"):
        resolve_liberty("p:cells")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.lib", r"there is no library 'missing.lib': pass nangate45, a .lib file, or PDK:LIBRARY"),
        ("q:cells", r"there is no PDK 'q' in .*; it holds p"),
        ("p:other", r"there is no library 'other' in p; .* holds cells"),
    ],
)
def test_missing_library_says_what_there_is(tmp_path, monkeypatch, name, message):
    (tmp_path / "p" / "libs.ref" / "cells" / "lib").mkdir(parents=True)
    monkeypatch.setenv("PDK_ROOT", str(tmp_path))
    with pytest.raises(LibertyError, match=message):
        resolve_liberty(name)


def test_pdk_root_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("PDK_ROOT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(LibertyError, match="PDK_ROOT is not set"):
        resolve_liberty("sky130A:sky130_fd_sc_hd")


def test_nangate45_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert nangate45_path().is_relative_to(tmp_path)
    with pytest.raises(LibertyError, match="`make setup` fetches it"):
        resolve_liberty("nangate45")


def test_not_a_liberty_file(tmp_path):
    (tmp_path / "picture.lib").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(LibertyError, match="is not a Liberty file"):
        read_liberty(tmp_path / "picture.lib")


def test_truncated_file(tmp_path):
    (tmp_path / "cut.lib").write_text(f"library (tiny) {{\n{NAND}\ncell (FF) {{ area :")
    with pytest.raises(LibertyError, match=r"cut\.lib cannot be read"):
        read_liberty(tmp_path / "cut.lib")


def test_unreadable_file(tmp_path):
    with pytest.raises(LibertyError, match="cannot be read"):
        read_liberty(tmp_path)


def test_without_flip_flops(tmp_path):
    with pytest.raises(LibertyError, match="has no flip-flop"):
        read_liberty(write_library(tmp_path / "gates.lib", NAND))


def test_without_nand(tmp_path):
    with pytest.raises(LibertyError, match="no two-input NAND"):
        read_liberty(write_library(tmp_path / "registers.lib", FLIP_FLOP))
