"""Simulators: found with the environment they need, or missed with the way to install them."""

import subprocess

import pytest

from cocotb_tests import simulators
from cocotb_tests.simulators import ToolMissingError, find_icarus, find_verilator, icarus_version, verilator_version


def test_versions():
    assert verilator_version().startswith("5.")
    assert float(icarus_version().split(".")[0]) >= 10


def test_verilator_builds_and_runs(tmp_path):
    (tmp_path / "top.v").write_text('module top; initial begin $display("hello"); $finish; end endmodule\n')
    subprocess.run(
        ["verilator", "--binary", "-Wno-fatal", "top.v"],
        cwd=tmp_path,
        env=find_verilator(),
        check=True,
        capture_output=True,
    )
    output = subprocess.run([tmp_path / "obj_dir" / "Vtop"], check=True, capture_output=True, text=True).stdout
    assert output.startswith("hello")


def test_icarus_is_a_program():
    assert find_icarus().is_file()


def test_missing_icarus(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match="Icarus Verilog is not installed: `apt-get install iverilog`"):
        find_icarus()


def test_missing_verilator(monkeypatch):
    monkeypatch.setattr(simulators, "_package_folder", lambda name: None)
    with pytest.raises(ToolMissingError, match="Verilator is not installed: `make setup` installs it"):
        find_verilator()


def test_missing_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match=r"g\+\+ is not installed: Verilator calls it"):
        find_verilator()
