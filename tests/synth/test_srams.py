"""SRAM macros: the table, the choice of macros, and reports with them."""

import json

import pytest

from hdl.config import preset
from synth.area import area_report, in_memory
from synth.srams import BUILT_IN, SramError, read_srams, tile

NANGATE45 = "NangateOpenCellLibrary"


def test_the_built_in_table_has_macros_for_each_open_library():
    names = {"NangateOpenCellLibrary", "sky130_fd_sc_hd__tt_025C_1v80", "sg13g2_stdcell_typ_1p20V_25C"}
    for name in names:
        assert all(macro.source and macro.area > 0 for macro in read_srams(None, name))
    [first, *_] = read_srams(BUILT_IN, NANGATE45)
    assert (first.name, first.area) == ("fakeram45_512x64", pytest.approx(17_301.4, abs=0.1))


@pytest.mark.parametrize(
    ("depth", "width", "two_ports", "name", "count"),
    [
        (512, 128, False, "fakeram45_512x64", 2),
        (128, 128, False, "fakeram45_128x256", 1),
        (512, 128, True, "fakeram45_512x64", 4),
    ],
)
def test_the_smallest_tiling(depth, width, two_ports, name, count):
    tiling = tile(read_srams(None, NANGATE45), depth, width, two_ports=two_ports)
    assert (tiling.macro.name, tiling.count, tiling.doubled) == (name, count, two_ports)
    assert tiling.area == pytest.approx(count * tiling.macro.area)


def test_macros_with_two_ports_are_not_doubled():
    tiling = tile(read_srams(None, "sky130_fd_sc_hd__tt_025C_1v80"), 512, 32, two_ports=True)
    assert (tiling.count, tiling.doubled) == (1, False)


def table(folder, **changes):
    entry = {"name": "m", "depth": 16, "width": 8, "ports": "1rw", "area_um2": 100.0, "source": "me", **changes}
    path = folder / "srams.json"
    path.write_text(json.dumps({"macro": [{key: value for key, value in entry.items() if value is not None}]}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"library": "other*"}, "has no macro for the library Nangate.*: give one with --sram-table"),
        ({"depth": 0}, "macro 'm' needs depth, width, and area_um2"),
        ({"area_um2": None, "width_um": 3}, "macro 'm' needs depth, width, and area_um2"),
        ({"ports": "2r"}, "macro 'm' has ports = '2r': must be one of 1rw, 1rw1r, 1r1w, 2rw"),
        ({"source": None}, "macro 'm' has no name or no source"),
        ({"colour": "red"}, "macro 'm' has the unknown key 'colour'"),
    ],
)
def test_a_table_without_a_fitting_macro(tmp_path, changes, message):
    with pytest.raises(SramError, match=message):
        read_srams(table(tmp_path, **changes), NANGATE45)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("[", "is not valid"), ("[]", "has no list")]
)
def test_a_file_that_is_no_table(tmp_path, content, message):
    path = tmp_path / "t.json"
    if content:
        path.write_text(content)
    with pytest.raises(SramError, match=message):
        read_srams(path, NANGATE45)


def test_report_with_the_codebook_in_srams(nangate45, tmp_path):
    """A copy for each read port, from the table of the user, named in the report."""
    configs = in_memory([preset("ews-cms", 16), preset("ews-cms", 16, 64)], "sram")
    path = table(tmp_path, depth=256, width=64)
    found = area_report(configs, str(nangate45.path), "codebook_register_file", sram_table=path)
    for row, copies in zip(found["rows"], (1, 4), strict=True):
        [memory] = row["memories"]
        assert (memory["macro"], memory["macros"], memory["instances"]) == ("m", 4, copies)
        assert not memory["doubled"]  # a codebook is never read while it is written
        assert memory["area_um2"] == 400.0 * copies
        assert 0 <= row["total_um2"] - memory["area_um2"] < 200  # next to nothing beside the macros
    assert found["memories"]["codebook"] == ["sram"]
    assert found["memories"]["srams"] == {"m": "me"}


def test_a_bad_table_is_an_error_even_where_nothing_needs_it(nangate45, tmp_path):
    path = table(tmp_path, ports="none")
    with pytest.raises(SramError, match="has ports = 'none'"):
        area_report([preset("ews", 16)], str(nangate45.path), "multiplier", sram_table=path)
