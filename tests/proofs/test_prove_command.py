"""mvq prove: tables, files, exit codes."""

import json
import subprocess
import sys

import pytest

from mvq import cli
from proofs.tables import verdict

TILE = "rows = 1\ncolumns = 2\nvector_length = 2\nn = 1\nm = 2\ncodewords = 4\nwrf_depth = 2\n"


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "tile.toml"
    file.write_text(TILE)
    return file


def prove(*arguments):
    command = [sys.executable, "-m", "mvq", "prove", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_netlists(nangate45, config, tmp_path):
    result = prove(config, "--unit", "mask_encoder", "--unit", "mask_decoder", "--json", tmp_path / "proofs.json")
    assert result.returncode == 0, result.stderr
    assert "mask_decoder_1_2" in result.stdout
    netlists = json.loads((tmp_path / "proofs.json").read_text())["netlists"]
    assert [(report["unit"], report["status"]) for report in netlists] == [
        ("mask_encoder", "proven"),
        ("mask_decoder", "proven"),
    ]


def test_tiles(config):
    result = prove(config, "--tiles", "induction")
    assert result.returncode == 0, result.stderr
    assert "1 x 2, 1:2, 2 words" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tiles", "guess"), "method = 'guess': must be one of bounded, induction"),
        (("--unit", "tensor_core"), "unit = 'tensor_core': must be one of core, "),
        (("--register-files", "latches"), "register_files = 'latches': must be one of "),
        (("--liberty", "nothing.lib"), "there is no library 'nothing.lib'"),
    ],
)
def test_errors(nangate45, config, arguments, message):
    result = prove(config, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def _netlist(status, detail):
    return {"unit": "sparse_tile", "modules": [{"module": "sparse_row", "status": status, "detail": detail}]}


def test_verdict():
    proven = _netlist("proven", "")
    tile = {"method": "bounded", "status": "unproven", "cycles": 5}
    assert verdict([proven], [{**tile, "status": "proven"}]) is None
    assert verdict([proven, _netlist("differs", "y is 1, in the netlist 0; with a = 3")], []) == (
        "the netlist of sparse_row in sparse_tile differs from its RTL: y is 1, in the netlist 0; with a = 3"
    )
    assert verdict([_netlist("unproven", "no result within 9 s")], [tile]) == (
        "unproven: sparse_row in sparse_tile (no result within 9 s); "
        "the tiles by bounded (time ran out, proven for 5 cycles)"
    )
    different = {**tile, "status": "differs", "example": {"summary": "row 0 adds 3 to column 1"}}
    assert verdict([], [different]) == "the sparse tile differs from the dense one: row 0 adds 3 to column 1"


def test_what_is_not_proven_is_an_error(nangate45, config, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mvq", "prove", str(config), "--unit", "mask_encoder", "--timeout", "1"])
    monkeypatch.setattr("synth.equivalence.prove_units", lambda *arguments, **options: [_unproven()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert "unproven" in captured.out
    assert "error: unproven: sparse_row in sparse_tile (no result within 1 s)" in captured.err


def _unproven():
    proof = {"module": "sparse_row", "status": "unproven", "detail": "no result within 1 s"}
    proof |= {"cells": 5, "points": 3, "method": "miter", "seconds": 1.0}
    policy = {"style": "structural", "register_files": "clock_gated"}
    return {"unit": "sparse_tile", "modules": [proof], "policy": policy, "liberty": {"name": "l"}, "pyosys": "0"}
