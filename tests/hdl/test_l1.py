"""L1 and the partial-sum buffer against numpy."""

import random
import warnings

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.memory.l1 import L1Memory
from hdl.memory.psum_buffer import PsumBuffer

from .stream_bench import StreamBench, small_config


@pytest.mark.parametrize(("rows", "banks"), [(4, 3), (8, 4), (16, 1)])
def test_ports_and_priorities(rows, banks):
    """Random traffic on all ports: who is granted, what is read, what is written."""
    config = small_config(rows, l1_banks=banks, l1_bank_words=8)
    l1, dice = L1Memory(config), random.Random(rows)
    lanes, vector_bits = config.word_vectors, config.vector_bytes * 8
    bank_of = {"window": 8 * lanes, "residual": 8 * lanes, "store": 8, "storer": 8 * lanes, "load": 8}
    memory = [0] * config.l1_vectors

    def draw(ctx, name, kind):
        valid, address = dice.random() < 0.7, dice.randrange(banks * bank_of[name])
        ctx.set(getattr(l1, f"{name}_{kind}_valid"), valid)
        ctx.set(getattr(l1, f"{name}_{kind}_address"), address)
        return valid, address, address // bank_of[name]

    async def bench(ctx):
        for _ in range(600):
            window, residual, store = (draw(ctx, name, "read") for name in ("window", "residual", "store"))
            storer, load = (draw(ctx, name, "write") for name in ("storer", "load"))
            storer_data, load_data = dice.getrandbits(vector_bits), dice.getrandbits(vector_bits * lanes)
            ctx.set(l1.storer_write_data, storer_data)
            ctx.set(l1.load_write_data, load_data)

            def free(port, *above):
                return not any(valid and bank == port[2] for valid, _, bank in above)

            granted = {"window": window[0], "residual": residual[0] and free(residual, window)}
            granted["store"] = store[0] and free(store, window, residual)
            assert ctx.get(l1.residual_read_ready) == free(residual, window)
            assert ctx.get(l1.store_read_ready) == free(store, window, residual)
            assert ctx.get(l1.load_write_ready) == free(load, storer)
            expected = {"window": memory[window[1]], "residual": memory[residual[1]]}
            word = memory[store[1] * lanes : (store[1] + 1) * lanes]
            expected["store"] = sum(vector << lane * vector_bits for lane, vector in enumerate(word))
            if load[0] and free(load, storer):
                for lane in range(lanes):
                    vector = (load_data >> lane * vector_bits) & ((1 << vector_bits) - 1)
                    memory[load[1] * lanes + lane] = vector
            if storer[0]:
                memory[storer[1]] = storer_data
            await ctx.tick()
            for name, ready in granted.items():
                if ready:
                    assert ctx.get(getattr(l1, f"{name}_read_data")) == expected[name], name

    sim = Simulator(l1)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sim.run()


def psum_vectors(config, count):
    low = -(1 << (config.array.psum_width - 1))
    return np.random.default_rng(8).integers(low, -low, (count, config.array.columns)).tolist()


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_psum_buffer_keeps_order(stall):
    config = small_config(4)
    buffer, vectors = PsumBuffer(config), psum_vectors(config, 100)
    bench = StreamBench(buffer, stall)
    entered = bench.feed(buffer.vectors_in, vectors)
    got, left = bench.collect(buffer.vectors_out, len(vectors), list)
    bench.run()
    assert got == vectors
    if not stall:
        assert left == [cycle + buffer.latency for cycle in entered] == list(range(2, 102))


def test_psum_buffer_holds_what_it_promises():
    config = small_config(4)
    buffer, vectors = PsumBuffer(config), psum_vectors(config, config.psum_vectors + 1)
    bench = StreamBench(buffer)
    entered = bench.feed(buffer.vectors_in, vectors)
    bench.run()
    assert len(entered) == config.psum_vectors + 1
