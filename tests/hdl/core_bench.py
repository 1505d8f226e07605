"""Runs a core in Amaranth's simulator on the runs of a lowered layer."""

import random
import warnings

import numpy as np
from amaranth.sim import Simulator

from hdl.core import Core


def simulate(config, runs, stall=0.0, seed=0):
    """Feed ``runs`` (a list of SubsetRun) to a core; returns (outputs, cycles).

    ``outputs`` is a list of (psums, values) arrays, int64 (pixels, A, L); ``cycles`` counts from the first command
    taken to the last ofmap vector taken. ``stall`` is the chance that a stream waits in a cycle.
    """
    core = Core(config)
    sim = Simulator(core)
    sim.add_clock(1e-6)
    dice = random.Random(seed)

    def stalls():
        return dice.random() < stall

    span = {}

    async def feed(ctx, port, payloads):
        for payload in payloads:
            while stalls():
                await ctx.tick()
            ctx.set(port.payload, payload)
            ctx.set(port.valid, 1)
            await ctx.tick().until(port.ready)
            ctx.set(port.valid, 0)

    def driver(port, payloads):
        async def bench(ctx):
            await feed(ctx, port, payloads)

        return bench

    count = 0

    async def clock(ctx):
        nonlocal count
        while True:
            await ctx.tick()
            count += 1

    async def commands(ctx):
        for index, run in enumerate(runs):
            ctx.set(core.command.payload.as_value(), run.command)
            ctx.set(core.command.valid, 1)
            await ctx.tick().until(core.command.ready)
            if not index:
                span["start"] = count
        ctx.set(core.command.valid, 0)

    outputs = []

    async def collect(ctx):
        for run in runs:
            psums = np.zeros(run.psums.shape, np.int64)
            values = np.zeros(run.psums.shape, np.int64)
            for pixel in range(psums.shape[0]):
                for group in range(psums.shape[1]):
                    while stalls():
                        ctx.set(core.ofmap.ready, 0)
                        await ctx.tick()
                    ctx.set(core.ofmap.ready, 1)
                    (payload,) = await ctx.tick().sample(core.ofmap.payload).until(core.ofmap.valid)
                    psums[pixel, group] = [payload.psums[i] for i in range(config.columns)]
                    values[pixel, group] = [payload.values[i] for i in range(config.columns)]
                    assert payload.final == run.subset.final
            outputs.append((psums, values))
        span["end"] = count
        ctx.set(core.ofmap.ready, 0)
        await ctx.tick().repeat(3)
        assert not ctx.get(core.busy)

    sim.add_testbench(clock, background=True)
    sim.add_testbench(commands)
    sim.add_testbench(driver(core.weights, [int(word) for run in runs for word in run.words]))
    sim.add_testbench(driver(core.ifmap, [[int(v) for v in vector] for run in runs for vector in run.ifmap]))
    vectors = [vector for run in runs if run.psum_in is not None for vector in run.psum_in.reshape(-1, config.columns)]
    sim.add_testbench(driver(core.psum_in, [[int(v) for v in vector] for vector in vectors]))
    sim.add_testbench(collect)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sim.run()
    return outputs, span["end"] - span["start"] + 1
