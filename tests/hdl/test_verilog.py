"""Generated Verilog: deterministic, each module once, and accepted by Verilator and Icarus."""

import json
import re
import subprocess

import pytest

from cocotb_tests.simulators import find_icarus, find_verilator
from hdl.config import VARIANTS, preset
from hdl.verilog import generate

#: What `verilator --lint-only -Wall` may say about text that Amaranth's back-end writes: registers with initial values,
#: wide intermediate sums whose carries are dropped, named wires that nobody reads, and several modules in a file.
WAIVED = ("CASEINCOMPLETE", "DECLFILENAME", "PROCASSINIT", "UNUSEDSIGNAL", "WIDTHEXPAND", "WIDTHTRUNC")


@pytest.fixture(scope="module")
def designs():
    return {variant: generate(preset(variant, 32)) for variant in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_tools_accept_the_verilog(tmp_path, designs, variant):
    path = tmp_path / "core.v"
    path.write_text(designs[variant].text)
    waivers = [f"-Wno-{name}" for name in WAIVED]
    command = ["verilator", "--lint-only", "-Wall", *waivers, "--top-module", "mvq_core", path]
    lint = subprocess.run(command, capture_output=True, text=True, env=find_verilator(), check=False)
    assert (lint.returncode, lint.stderr) == (0, "")
    command = [find_icarus(), "-g2005", "-Wall", "-Wno-timescale", "-s", "mvq_core", "-o", tmp_path / "core.vvp", path]
    icarus = subprocess.run(command, capture_output=True, text=True, check=False)
    assert icarus.returncode == 0, icarus.stderr


@pytest.mark.parametrize("variant", ["ews-cms", "ws"])
def test_two_runs_are_byte_identical(designs, variant):
    again = generate(preset(variant, 32))
    assert again.text == designs[variant].text
    assert again.sidecar_text() == designs[variant].sidecar_text()


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_module_stands_once_and_tiles_are_placed(designs, variant):
    design = designs[variant]
    modules = re.findall(r"^module (\S+?)\(", design.text, flags=re.MULTILINE)
    assert sorted(modules) == sorted(set(modules)) == sorted(design.modules)
    assert not [name for name in modules if "." in name or "\\" in name]
    tile = f"{preset(variant, 32).tile}_tile"
    rows, columns = preset(variant, 32).tile_grid
    assert len(re.findall(rf"^  {tile} tile_\d+_\d+ \(", design.text, flags=re.MULTILINE)) == rows * columns


def test_header_and_sidecar_say_where_it_comes_from(designs):
    design, config = designs["ews-cms"], preset("ews-cms", 32)
    sidecar = json.loads(design.sidecar_text())
    header = design.text.splitlines()[:3]
    assert all(line.startswith("// ") for line in header)
    assert config.hash in header[1]
    assert sidecar["config"] == config.to_dict()
    assert sidecar["config_hash"] == config.hash
    assert sidecar["latency"]["array"] == config.latency
    assert [field["field"] for field in sidecar["command"]] == [name for name, _ in config.command_fields]
    ports = {port["name"]: port for port in sidecar["ports"]}
    assert ports["weights__payload"]["width"] == 64
    assert ports["command__payload"]["width"] == sum(width for _, width in config.command_fields)


def test_arithmetic_changes_only_how_sums_are_written(designs):
    heap = generate(preset("ews-cms", 32, arithmetic="bit_heap"))
    assert set(heap.modules) - set(designs["ews-cms"].modules) == {"mvq_full_adder", "mvq_half_adder"}
