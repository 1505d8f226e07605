"""cocotb testbench of a unit: plays vectors cycle by cycle, or feeds its streams, and writes down what comes out."""

import json
import random

import cocotb
import numpy as np
from cocotb.handle import Immediate
from cocotb.triggers import Timer

from cocotb_tests.bits import binary_text, rows_of_text
from cocotb_tests.streams import HIGH, LOW, StreamDriver, StreamMonitor


def _below(handle, path):
    for name in path.split("."):
        handle = getattr(handle, name)
    return handle


class _Clock:
    """The clock, where the unit has one."""

    def __init__(self, dut, clocked):
        self.clk, self.rst, self.half = (dut.clk if clocked else None), getattr(dut, "rst", None), Timer(1, "ns")

    async def settle(self):
        """Low half of a cycle: inputs settle."""
        if self.clk is not None:
            self.clk.value = LOW
        await self.half

    async def rise(self):
        """High half of a cycle."""
        if self.clk is not None:
            self.clk.value = HIGH
            await self.half

    async def reset(self):
        """Two cycles of reset."""
        if self.rst is not None:
            self.rst.value = HIGH
        for _ in range(2):
            await self.settle()
            await self.rise()
        if self.rst is not None:
            self.rst.value = LOW


async def _play(dut, unit, file, options, clock):
    """Write the inputs of every cycle, read the outputs before the clock rises."""
    inputs = []
    for name in options["inputs"]:
        handle = getattr(dut, name)
        handle.value = LOW
        inputs.append([handle, binary_text(file[f"input.{name}"], len(handle)), None])
    outputs = [(name, _below(unit if "." in name else dut, name), []) for name in options["outputs"]]
    await clock.reset()
    for _ in range(options["cycles"]):
        for entry in inputs:
            text = next(entry[1])
            if text != entry[2]:
                entry[0].value, entry[2] = Immediate(text), text
        await clock.settle()
        for _, handle, values in outputs:
            values.append(str(handle.value))
        await clock.rise()
    return {name: rows_of_text("".join(values), len(handle)) for name, handle, values in outputs}


async def _stream(dut, file, options, clock):
    """Feed the input streams and take what the output streams give; returns payloads and the cycles they came in."""
    dice = random.Random(options["seed"]).random
    drivers = [StreamDriver(dut, name, dice) for name in options["inputs"]]
    monitors = [StreamMonitor(dut, name, dice) for name in options["outputs"]]
    for driver in drivers:
        driver.load(file[f"input.{driver.name}"], options["stall"])
    for monitor in monitors:
        monitor.expect(options["stall"])
    beside = [(getattr(dut, name), file[f"beside.{name}"], by) for name, by in options["beside"].items()]
    for handle, _, _ in beside:
        handle.value = LOW
    await clock.reset()
    taken = {monitor.name: monitor.taken for monitor in monitors}
    when = {end.name: [] for end in drivers + monitors}
    alive = 0
    for cycle in range(1 << 62):
        for handle, values, by in beside:
            handle.value = Immediate(int(values[min(len(taken[by]), len(values) - 1)]))
        for end in drivers + monitors:
            end.drive()
        await clock.settle()
        for end in drivers + monitors:
            if end.sample():
                alive = cycle
                when[end.name].append(cycle)
        await clock.rise()
        if all(len(taken[name]) >= count for name, count in options["outputs"].items()):
            break
        assert cycle - alive < options["watchdog"], f"no stream moved for {options['watchdog']} cycles"
    results = {monitor.name: monitor.packed() for monitor in monitors}
    return results | {f"when.{name}": np.array(cycles) for name, cycles in when.items()}


@cocotb.test()
async def run_vectors(dut):
    """Do what ``+jobs=FILE`` asks for and write ``+results=FILE``."""
    file = np.load(cocotb.plusargs["jobs"])
    options = json.loads(str(file["options"]))
    clock = _Clock(dut, options["clocked"])
    await clock.half  # in Icarus, what is written at time 0 does not reach every process of the design
    if options["streams"]:
        results = await _stream(dut, file, options, clock)
    else:
        results = await _play(dut, getattr(dut, options["unit"]), file, options, clock)
    np.savez(cocotb.plusargs["results"], **results)
