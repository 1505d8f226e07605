"""cocotb testbench of the core: drives the jobs of a file and writes down what comes out.

It runs in the simulator's process. One loop makes the clock and serves all streams, without a coroutine for each: a
cycle is two waits, and only handshake lines are touched in every one of them.
"""

import itertools
import json
import os
import random
import time
from pathlib import Path

import cocotb
import numpy as np
from cocotb.triggers import Timer

from cocotb_tests.streams import HIGH, LOW, StreamDriver, StreamMonitor

_INPUTS = ("command", "weights", "ifmap", "psum_in")


class Progress:
    """Tells the waiting process, about once a second, how far the simulation is."""

    def __init__(self, path):
        self.path, self.next = Path(path), 0.0

    def tell(self, job, vectors, cycles):
        """``vectors`` ofmap vectors of job number ``job`` were taken until now, and ``cycles`` have passed in all."""
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + 0.5
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps([job, vectors, cycles]))
        os.replace(temporary, self.path)


@cocotb.test()
async def run_jobs(dut):
    """Drive every job of ``+jobs=FILE`` and write ``+results=FILE``."""
    arguments = cocotb.plusargs
    jobs = np.load(arguments["jobs"])
    options = json.loads(str(jobs["options"]))
    dice = random.Random(options["seed"]).random
    progress = Progress(arguments["progress"])
    clk, busy, half = dut.clk, dut.busy, Timer(1, "ns")
    await half  # in Icarus, what is written at time 0 does not reach every process of the design
    drivers = [StreamDriver(dut, name, dice) for name in _INPUTS]
    monitor = StreamMonitor(dut, "ofmap", dice)
    command = drivers[0]
    watchdog = options["watchdog"]
    results, cycle = {}, 0

    dut.rst.value = HIGH
    for level in (LOW, HIGH) * 2:
        clk.value = level
        await half
    dut.rst.value = LOW

    for number, (expected, stall) in enumerate(zip(options["vectors"], options["stalls"], strict=True)):
        for driver in drivers:
            driver.load(jobs[f"{number}.{driver.name}"], stall)
        monitor.expect(stall)
        first, last, alive = None, None, cycle
        commands_left = command.left
        for cycle in itertools.count(alive):
            for driver in drivers:
                driver.drive()
            monitor.drive()
            clk.value = LOW
            await half
            moved = False
            for driver in drivers:
                moved |= driver.sample()
            if first is None and command.left < commands_left:
                first = cycle
            if monitor.sample():
                moved, last = True, cycle
                assert len(monitor.taken) <= expected, f"job {number}: more than {expected} ofmap vectors"
            idle = len(monitor.taken) == expected and last != cycle and busy.value == 0
            clk.value = HIGH
            await half
            if idle:
                break
            if moved:
                alive = cycle
            elif cycle - alive > watchdog:
                left = ", ".join(f"{driver.name} {driver.left}" for driver in drivers)
                raise AssertionError(
                    f"job {number}: no stream moved for {watchdog} cycles; ofmap vectors taken: "
                    f"{len(monitor.taken)} of {expected}; payloads left: {left}"
                )
            if not cycle % 64:
                progress.tell(number, len(monitor.taken), cycle)
        cycle += 1
        for driver in drivers:
            assert not driver.left, f"job {number}: {driver.left} payloads of stream {driver.name} were never taken"
        results[f"{number}.ofmap"] = monitor.packed()
        results[f"{number}.cycles"] = np.array(last - first + 1)
    np.savez(arguments["results"], total_cycles=np.array(cycle), **results)
