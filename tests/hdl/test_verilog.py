"""Generated Verilog: deterministic, each module once, and accepted by Verilator and Icarus."""

import functools
import json
import re
import subprocess

import pytest

from cocotb_tests.simulators import find_icarus, find_verilator
from hdl.accelerator_config import load_accelerator_config
from hdl.config import VARIANTS, preset
from hdl.verilog import generate

#: What `verilator --lint-only -Wall` may say about text that Amaranth's back-end writes: registers with initial values,
#: wide intermediate sums whose carries are dropped, named wires that nobody reads, and several modules in a file.
WAIVED = ("CASEINCOMPLETE", "DECLFILENAME", "PROCASSINIT", "UNUSEDSIGNAL", "WIDTHEXPAND", "WIDTHTRUNC")


@functools.cache
def design_of(variant, size=16):
    return generate(preset(variant, size))


def check_tools_accept(design, folder):
    """No warning of Verilator but the waived ones, and no error of Icarus."""
    path = folder / "design.v"
    path.write_text(design.text)
    waivers = [f"-Wno-{name}" for name in WAIVED]
    command = ["verilator", "--lint-only", "-Wall", *waivers, "--top-module", design.top, path]
    lint = subprocess.run(command, capture_output=True, text=True, env=find_verilator(), check=False)
    assert (lint.returncode, lint.stderr) == (0, "")
    compiled = folder / "design.vvp"
    command = [find_icarus(), "-g2005", "-Wall", "-Wno-timescale", "-s", design.top, "-o", compiled, path]
    icarus = subprocess.run(command, capture_output=True, text=True, check=False)
    assert icarus.returncode == 0, icarus.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_tools_accept_the_core(tmp_path, variant):
    check_tools_accept(design_of(variant), tmp_path)


@pytest.mark.parametrize("name", ["ews-cms-16x16", "ws-16x16"])
def test_tools_accept_the_accelerator(tmp_path, name):
    design = generate(load_accelerator_config(name), "accelerator")
    assert design.top == "mvq_accelerator"
    check_tools_accept(design, tmp_path)


@pytest.mark.parametrize("variant", ["ews-cms", "ws"])
def test_two_runs_are_byte_identical(variant):
    again = generate(preset(variant, 16))
    assert again.text == design_of(variant).text
    assert again.sidecar_text() == design_of(variant).sidecar_text()


@pytest.mark.parametrize(("variant", "size"), [*((variant, 16) for variant in VARIANTS), ("ews-cms", 32)])
def test_each_module_stands_once_and_tiles_are_placed(variant, size):
    design, config = design_of(variant, size), preset(variant, size)
    modules = re.findall(r"^module (\S+?)\(", design.text, flags=re.MULTILINE)
    assert sorted(modules) == sorted(set(modules)) == sorted(design.modules)
    assert not [name for name in modules if "." in name or "\\" in name]
    rows, columns = config.tile_grid
    tiles = re.findall(rf"^  {config.tile}_tile tile_\d+_\d+ \(", design.text, flags=re.MULTILINE)
    assert len(tiles) == rows * columns


def test_header_and_sidecar_say_where_it_comes_from():
    design, config = design_of("ews-cms"), preset("ews-cms", 16)
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


def test_style_changes_only_how_it_is_written():
    structural, behavioural = generate(preset("ews-cms", 16, style="structural")), design_of("ews-cms")
    more = {name for name in set(structural.modules) - set(behavioural.modules) if not name.startswith("mvq_and_or_")}
    codebook = {"crf_bank_64x123", "crf_ascending_5x512", "crf_threshold_9", "threshold_1x10", "scales_8x64"}
    assert more == {*codebook, "mrf_16x14", "mvq_full_adder", "mvq_half_adder"}  # offsets in pairs
    assert set(behavioural.modules) - set(structural.modules) == {"crf_512x128", "mrf_16x16"}
    assert structural.sidecar["ports"] == behavioural.sidecar["ports"]
    latencies = [design.sidecar["latency"]["modules"] for design in (structural, behavioural)]
    assert all(latencies[0][name] == latencies[1][name] for name in latencies[0].keys() & latencies[1].keys())
