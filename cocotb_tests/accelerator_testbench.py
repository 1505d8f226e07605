"""cocotb testbench of the accelerator: cocotbext-axi's AxiRam is its memory, its AxiLiteMaster the host.

It runs in the simulator's process. The clock is made by cocotb's compiled code, and cocotbext-axi sleeps on channels
without transfers, so that cycles in which the bus is still cost no Python.
"""

import itertools
import json
import logging
import mmap
import random
import time
import warnings
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.handle import Immediate
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer
from cocotb.utils import get_sim_time

from hdl.control.register_map import OFFSETS

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

_PERIOD = 2  # ns
_TELL = 2000  # cycles from one sign of life to the next


class _Memory:
    """A file as the bytes from address ``base`` on; AxiRam answers SLVERR to what lies outside."""

    def __init__(self, path, base):
        with open(path, "r+b") as file:
            self.bytes = mmap.mmap(file.fileno(), 0)
        self.base, self.size = base, len(self.bytes)

    def __len__(self):
        return 1 << 32

    def _inside(self, place):
        start, stop = place.start - self.base, place.stop - self.base
        if start < 0 or stop > self.size:
            raise IndexError(f"address {place.start:#x} is outside the memory")
        return slice(start, stop)

    def __getitem__(self, place):
        return self.bytes[self._inside(place)]

    def __setitem__(self, place, values):
        self.bytes[self._inside(place)] = values


def _pauses(stall, seed):
    """Endless: True with the chance ``stall``."""
    dice = random.Random(seed).random
    return (dice() < stall for _ in itertools.count())


async def _ends(dut, limit, progress):
    """Wait for the interrupt: False when it does not come within ``limit`` cycles."""
    rises, passed = RisingEdge(dut.irq), 0
    while not dut.irq.value:
        if passed >= limit:
            return False
        cycles = min(_TELL, limit - passed)
        await First(rises, Timer(cycles * _PERIOD, "ns"))
        passed += cycles
        progress.write_text(str(passed))
    return True


@cocotb.test()
async def run_program(dut):
    """Run what ``+settings=FILE`` says on ``+memory=FILE``, and write ``+results=FILE``."""
    arguments = cocotb.plusargs
    options = json.loads(Path(arguments["settings"]).read_text())
    logging.getLogger("cocotb.bench").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="cocotb")
    started = time.monotonic()
    dut.clk.value = dut.rst.value = Immediate(0)
    await Timer(_PERIOD, "ns")  # in Icarus, what is written at time 0 does not reach every process of the design
    dut.rst.value = Immediate(1)
    Clock(dut.clk, _PERIOD, "ns", impl="gpi", set_action=Immediate).start(start_high=False)
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, mem=_Memory(arguments["memory"], options["base"]))
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk)
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 0
    if options["stall"]:
        for number, (port, channel) in enumerate(itertools.product((ram, host), ("aw", "w", "b", "ar", "r"))):
            side = port.read_if if channel in ("ar", "r") else port.write_if
            pauses = _pauses(options["stall"], options["seed"] * 10 + number)
            getattr(side, f"{channel}_channel").set_pause_generator(pauses)

    for name, value in options["settings"].items():
        await host.write_dword(OFFSETS[name], value)
    await host.write_dword(OFFSETS["control"], 1)
    ended = await _ends(dut, options["limit"], Path(arguments["progress"]))
    registers = {name: await host.read_dword(offset) for name, offset in OFFSETS.items()}
    ram.write_if.mem.bytes.flush()
    cycles = int(get_sim_time("ns")) // _PERIOD
    results = {"ended": ended, "registers": registers, "cycles": cycles, "seconds": time.monotonic() - started}
    Path(arguments["results"]).write_text(json.dumps(results))
