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
from cocotb.handle import Immediate
from cocotb.triggers import Timer

_INPUTS = ("command", "weights", "ifmap", "psum_in")
_CHUNK = 4096  # payloads that are unpacked at a time
_LOW, _HIGH = Immediate(0), Immediate(1)


def _binary(packed, width):
    """Binary strings of ``width`` digits from rows of packed bits, most significant first."""
    for start in range(0, len(packed), _CHUNK):
        digits = np.unpackbits(packed[start : start + _CHUNK], axis=1, count=width) + ord("0")
        text = digits.tobytes().decode()
        yield from (Immediate(text[at : at + width]) for at in range(0, len(text), width))


class StreamDriver:
    """Offers payloads on an input stream, each after a random pause when ``stall`` is not 0."""

    def __init__(self, dut, name, stall, dice):
        self.name, self.stall, self.dice = name, stall, dice
        self.valid, self.ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self.payload = getattr(dut, f"{name}__payload")
        self.valid.value = _LOW
        self.high = self.offering = False
        self.left, self.payloads = 0, iter(())

    def load(self, packed):
        """Payloads to offer next."""
        self.left, self.payloads = len(packed), _binary(packed, len(self.payload))

    def drive(self):
        """At the beginning of a cycle: offer a payload, unless one is on offer."""
        if self.offering:
            return
        if not self.left or (self.stall and self.dice() < self.stall):
            if self.high:
                self.valid.value, self.high = _LOW, False
            return
        self.payload.value = next(self.payloads)
        if not self.high:
            self.valid.value, self.high = _HIGH, True
        self.offering = True

    def sample(self):
        """At the end of a cycle: True when the payload was taken."""
        if not self.offering or self.ready.value != 1:
            return False
        self.left -= 1
        self.offering = False
        return True


class StreamMonitor:
    """Takes payloads of an output stream, with random pauses when ``stall`` is not 0, and keeps them as binary text."""

    def __init__(self, dut, name, stall, dice):
        self.stall, self.dice = stall, dice
        self.valid, self.ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self.payload = getattr(dut, f"{name}__payload")
        self.ready.value = _HIGH
        self.willing, self.taken = True, []

    def drive(self):
        """At the beginning of a cycle: be ready or not."""
        if self.stall:
            self.willing = self.dice() >= self.stall
            self.ready.value = _HIGH if self.willing else _LOW

    def sample(self):
        """At the end of a cycle: True when a payload was taken."""
        if not self.willing or self.valid.value != 1:
            return False
        self.taken.append(str(self.payload.value))
        return True

    def packed(self):
        """Payloads as rows of packed bits, most significant first; AssertionError where a bit is undefined."""
        width = len(self.payload)
        digits = np.frombuffer("".join(self.taken).encode(), np.uint8).reshape(len(self.taken), width)
        undefined = np.argwhere(digits >> 1 != ord("0") >> 1)
        assert not len(undefined), f"bit {width - 1 - undefined[0][1]} of ofmap vector {undefined[0][0]} is undefined"
        return np.packbits(digits - ord("0"), axis=1)


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
    await half  # what is written before the initial values of Verilog takes no effect in Icarus
    drivers = [StreamDriver(dut, name, options["stall"], dice) for name in _INPUTS]
    monitor = StreamMonitor(dut, "ofmap", options["stall"], dice)
    command = drivers[0]
    watchdog = options["watchdog"]
    results, cycle = {}, 0

    dut.rst.value = _HIGH
    for level in (_LOW, _HIGH) * 2:
        clk.value = level
        await half
    dut.rst.value = _LOW

    for number, expected in enumerate(options["vectors"]):
        for driver in drivers:
            driver.load(jobs[f"{number}.{driver.name}"])
        monitor.taken, first, last, alive = [], None, None, cycle
        commands_left = command.left
        for cycle in itertools.count(alive):
            for driver in drivers:
                driver.drive()
            monitor.drive()
            clk.value = _LOW
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
            clk.value = _HIGH
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
