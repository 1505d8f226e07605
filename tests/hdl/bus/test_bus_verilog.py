"""Bus masters and registers as Verilog: accepted by the tools, each module once."""

import subprocess

import pytest

from cocotb_tests.simulators import find_icarus, find_verilator
from hdl.bus.read_master import ReadMaster
from hdl.bus.write_master import WriteMaster
from hdl.control.registers import Registers
from hdl.verilog import ModuleLibrary

from ..test_verilog import WAIVED
from .bench import configuration

COMPONENTS = {
    "read_master": lambda config: ReadMaster(config, [("descriptors", 16), ("weights", 128), ("loads", 64)]),
    "write_master": WriteMaster,
    "registers": Registers,
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [*((name, (64, 16, 8)) for name in COMPONENTS), ("read_master", (256, 4, 1)), ("write_master", (128, 1, 2))],
)
def test_tools_accept_the_verilog(tmp_path, name, shape):
    component = COMPONENTS[name](configuration(*shape))
    library = ModuleLibrary()
    library.add(component)
    path = tmp_path / f"{name}.v"
    path.write_text(library.to_verilog(name))
    waivers = [f"-Wno-{waived}" for waived in WAIVED]
    command = ["verilator", "--lint-only", "-Wall", *waivers, "--top-module", name, path]
    lint = subprocess.run(command, capture_output=True, text=True, env=find_verilator(), check=False)
    assert (lint.returncode, lint.stderr) == (0, "")
    command = [find_icarus(), "-g2005", "-Wall", "-Wno-timescale", "-s", name, "-o", tmp_path / "out.vvp", path]
    icarus = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (icarus.returncode, icarus.stderr) == (0, "")
