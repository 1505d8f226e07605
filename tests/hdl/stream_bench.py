"""Runs one component in Amaranth's simulator: streams with random stalls, and an L1 made of a numpy array."""

import random
import warnings

import numpy as np
from amaranth.sim import Simulator

from hdl.accelerator_config import AcceleratorConfig
from hdl.config import ArrayConfig


def small_config(rows, l1_banks=4, l1_bank_words=256, **array):
    """A small accelerator: ``rows`` rows and columns, short register files."""
    length = min(rows, 8)
    array = {"vector_length": length, "m": length, "n": 2, "codewords": 16, **array}
    return AcceleratorConfig(
        array=ArrayConfig(rows=rows, columns=rows, **array),
        l1_banks=l1_banks,
        l1_bank_words=l1_bank_words,
        psum_vectors=16,
    )


def planes(x, vector):
    """int8 (C, Y, X) as L1 holds it: (groups, Y, X, vector), zeros beyond C."""
    groups = -(-x.shape[0] // vector)
    padded = np.zeros((groups * vector, *x.shape[1:]), np.int8)
    padded[: x.shape[0]] = x
    return padded.reshape(groups, vector, *x.shape[1:]).transpose(0, 2, 3, 1)


class StreamBench:
    """Testbench of ``component``; cycles count from 0, and end with a clock edge.

    Parameters
    ----------
    stall : chance that a stream, or a grant of L1, waits in a cycle.
    """

    def __init__(self, component, stall=0.0, seed=0):
        self.component, self.stall = component, stall
        self.dice = random.Random(seed)
        self.sim = Simulator(component)
        self.sim.add_clock(1e-6)
        self.cycle = -1  # that has ended last
        self.open = 0  # streams that are not through
        self.sim.add_testbench(self._clock, background=True)

    async def _clock(self, ctx):
        while True:
            await ctx.tick()
            self.cycle += 1

    def stalls(self):
        """True in a cycle in which a stream is to wait."""
        return self.dice.random() < self.stall

    def feed(self, port, payloads, start=()):
        """Offer ``payloads``, each from cycle ``start[index]`` on; returns the list, filled while it runs, of the
        cycles in which they are taken."""
        taken = []
        self.open += 1

        async def bench(ctx):
            for index, payload in enumerate(payloads):
                while self.stalls() or (index < len(start) and self.cycle + 1 < start[index]):
                    await ctx.tick()
                ctx.set(port.payload, payload)
                ctx.set(port.valid, 1)
                await ctx.tick().until(port.ready)
                taken.append(self.cycle)
                ctx.set(port.valid, 0)
            self.open -= 1

        self.sim.add_testbench(bench)
        return taken

    def collect(self, port, count, read):
        """Take ``count`` payloads; returns the lists of ``read(payload)`` and of the cycles."""
        payloads, taken = [], []
        self.open += 1

        async def bench(ctx):
            for _ in range(count):
                while self.stalls():
                    await ctx.tick()
                ctx.set(port.ready, 1)
                (payload,) = await ctx.tick().sample(port.payload).until(port.valid)
                payloads.append(read(payload))
                taken.append(self.cycle)
                ctx.set(port.ready, 0)
            self.open -= 1

        self.sim.add_testbench(bench)
        return payloads, taken

    def reads(self, memory, ready=None):
        """L1 behind the component's read port; ``ready`` is the grant, if there is one. Returns the list of (cycle,
        address) of each read; the data are there for one cycle."""
        component, log = self.component, []
        noise = random.Random(1)

        async def bench(ctx):
            granted = True
            while True:
                if ready is not None:
                    granted = not self.stalls()
                    ctx.set(ready, granted)
                _, _, valid, address = await ctx.tick().sample(component.read_valid, component.read_address)
                data = noise.getrandbits(8 * memory.shape[1])
                if valid and granted:
                    log.append((self.cycle, address))
                    data = int.from_bytes(memory[address].tobytes(), "little")
                ctx.set(component.read_data, data)

        self.sim.add_testbench(bench, background=True)
        return log

    def writes(self, memory):
        """L1 behind the component's write port; returns the list of (cycle, address, done) of each write."""
        component, log = self.component, []
        ports = (component.write_valid, component.write_address, component.write_data, component.done)

        async def bench(ctx):
            while True:
                _, _, valid, address, data, done = await ctx.tick().sample(*ports)
                assert valid or not done
                if valid:
                    log.append((self.cycle, address, done))
                    memory[address] = np.frombuffer(data.to_bytes(memory.shape[1], "little"), np.int8)

        self.sim.add_testbench(bench, background=True)
        return log

    def run(self, drain=8):
        """Run until every stream is through, and ``drain`` cycles more."""

        async def bench(ctx):
            while self.open:
                await ctx.tick()
            await ctx.tick().repeat(drain)

        self.sim.add_testbench(bench)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.sim.run()
