"""The ofmap storer against golden.integer, its cycles against what it promises, and vector operations through the
window loader and a real L1."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from golden import integer
from hdl.control.ofmap_storer import OfmapStorer
from hdl.control.window_loader import WindowLoader
from hdl.memory.l1 import L1Memory

from .stream_bench import StreamBench, planes, small_config
from .test_window_loader import window_vectors


def factor(rng, low=0, high=127, large=False):
    """A random factor without a bias, near 1; or ``large``, so that results saturate."""
    shift = int(rng.integers(0, 3) if large else rng.integers(1, 8))
    fields = (int(rng.integers(0, 256)), shift, int(rng.integers(0, 2)), 0)
    return integer.Requantisation(*(np.array([value]) for value in fields), low=low, high=high)


def factor_word(requantisation):
    """The 15 bits that a descriptor has."""
    return int(requantisation.words()[0]) & 0x7FFF


class Operations:
    """Random operations with results and residuals in one L1, and what they leave there.

    Attributes
    ----------
    ops, blocks, core, vectors : what the streams carry. ``memory`` : L1 before; ``expected`` : after.
    places : for each operation, (the address of its writes in order, vectors that each takes).
    """

    def __init__(self, config, seed):
        self.config, self.rng = config, np.random.default_rng(seed)
        self.vector = config.vector_bytes
        self.memory = self.rng.integers(-128, 128, (config.l1_vectors, self.vector)).astype(np.int8)
        self.expected = self.memory.copy()
        self.ops, self.blocks, self.core, self.vectors, self.places = [], [], [], [], []
        self.free = 0

    def _region(self, groups, pixels):
        """(address, plane) of a tensor that overlaps no other."""
        plane = pixels + int(self.rng.integers(0, 3))
        address, self.free = self.free, self.free + plane * groups
        assert self.free <= len(self.memory)
        return address, plane

    def _int8(self, *shape):
        return self.rng.integers(-128, 128, shape).astype(np.int8)

    def _add_op(self, groups, pixels, order, takes, **fields):
        """Record an operation; returns (its results' place, (groups, pixels))."""
        raw = fields.get("raw", 0)
        address, plane = self._region(groups, pixels * (4 if raw else 1))
        defaults = {"vector": 0, "raw": 0, "rescale": 0, "residual": 0, "maximum": 0}
        defaults |= {"residual_address": 0, "residual_plane": 0, "scale": 0, "residual_scale": 0}
        defaults |= {"rescale_relu": 0, "rescale_high": 127, "pixels": pixels, "ofmap_groups": groups}
        self.ops.append({**defaults, "ofmap_address": address, "ofmap_plane": plane, **fields})
        where = address + plane * np.arange(groups)[:, None] + np.arange(pixels) * (4 if raw else 1)
        writes = [int(where[group, pixel]) + part for group, pixel in order for part in range(4 if raw else 1)]
        self.places.append((writes, takes))
        return where

    def _scaling(self, scale, residual, x, large=False):
        """Fields of a rescaling of ``x`` (groups, pixels, V) by ``scale``, or a random one, and its result."""
        low, high = (0, int(self.rng.integers(40, 128))) if self.rng.random() < 0.5 else (-128, 127)
        scale = scale or factor(self.rng, low, high, large)
        second = factor(self.rng)
        t = scale.scaled(x)
        fields = {"rescale": 1, "rescale_relu": int(scale.low == 0), "rescale_high": scale.high}
        fields["scale"] = factor_word(scale)
        if not residual:
            return fields, scale._round(t)
        address, plane = self._region(*x.shape[:2])
        other = self.memory[address + plane * np.arange(len(x))[:, None] + np.arange(x.shape[1])]
        fields |= {"residual": 1, "residual_address": address, "residual_plane": plane}
        fields["residual_scale"] = factor_word(second)
        return fields, integer.add(x, other, scale, second)

    def conv(self, groups, pixels, rescale=False, residual=False, large=False):
        """The core's int8 values in random blocks."""
        values = self._int8(groups, pixels, self.vector)
        columns = int(self.rng.integers(1, self.vector + 1))
        fields, results = self._scaling(None, residual, values, large) if rescale else ({}, values.copy())
        results[-1, :, columns:] = 0
        order, psums = self._blocks(groups, pixels), self._psums(groups, pixels)
        where = self._add_op(groups, pixels, order, [1] * len(order), last_columns=columns, **fields)
        self.expected[where] = results
        self._core(order, values, psums, final=1, raw=0)

    def raw(self, groups, pixels):
        """The core's partial sums."""
        psums, columns = self._psums(groups, pixels), int(self.rng.integers(1, self.vector + 1))
        results = psums.astype("<i4")
        results[-1, :, columns:] = 0
        order = self._blocks(groups, pixels)
        where = self._add_op(groups, pixels, order, [1] * len(order), raw=1, last_columns=columns)
        self.expected[where[..., None] + np.arange(4)] = results.view(np.int8).reshape(groups, pixels, 4, self.vector)
        self._core(order, self._int8(groups, pixels, self.vector), psums, final=0, raw=1)

    def _psums(self, groups, pixels):
        low = -(1 << (self.config.array.psum_width - 1))
        return self.rng.integers(low, -low, (groups, pixels, self.vector))

    def _blocks(self, groups, pixels):
        """Random blocks; the order (group, pixel) in which the core's vectors come."""
        order, first = [], 0
        while first < groups:
            block = int(self.rng.integers(1, min(groups - first, self.config.array.prf_depth) + 1))
            self.blocks.append(block)
            order += [(first + group, pixel) for pixel in range(pixels) for group in range(block)]
            first += block
        return order

    def _core(self, order, values, psums, **flags):
        self.core += [{"values": values[at].tolist(), "psums": psums[at].tolist(), **flags} for at in order]

    def pool(self, groups, kernel, stride, outs, kind, padding=(0, 0, 0, 0), residual=False):
        """``max``, ``avg`` or ``global``; a window of one pixel is a copy, or with a residual a sum of tensors."""
        size = [(count - 1) * s + k for count, k, s in zip(outs, kernel, stride, strict=True)]
        size = [
            extent - before - after for extent, before, after in zip(size, padding[::2], padding[1::2], strict=True)
        ]
        x = self._int8(groups * self.vector, *size)
        windows = window_vectors(x, kernel, stride, padding, -128 if kind == "max" else 0, self.vector)
        pixels, columns = windows.shape[1], int(self.rng.integers(1, self.vector + 1))
        if kind == "max":
            image, fields = integer.max_pool(x[None], kernel, stride, padding), {}
        else:
            scale = integer.Requantisation.from_real(1 / (kernel[0] * kernel[1]), 0.0, "none", 1.1)
            image = (
                integer.global_avg_pool(x[None], scale)
                if kind == "global"
                else integer.avg_pool(x[None], kernel, stride, scale)
            )
        results = planes(image[0], self.vector).reshape(groups, pixels, self.vector)
        if kind != "max" or residual:
            sums = results if kind == "max" else windows.sum(axis=2, dtype=np.int64)
            fields, scaled = self._scaling(None if kind == "max" else scale, residual, sums)
            if not residual:
                np.testing.assert_array_equal(scaled, results)
            results = scaled
        results = results.copy()
        results[-1, :, columns:] = 0
        order = [(group, pixel) for group in range(groups) for pixel in range(pixels)]
        taps = windows.shape[2]
        fields |= {"maximum": int(kind == "max"), "last_columns": columns, "vector": 1}
        self.expected[self._add_op(groups, pixels, order, [taps] * len(order), **fields)] = results
        for window in windows.reshape(-1, taps, self.vector):
            self.vectors += [
                {"values": values.tolist(), "first": i == 0, "last": i == taps - 1} for i, values in enumerate(window)
            ]

    def random(self):
        """One operation of random kind and shape."""
        kind, groups = self.rng.choice(["conv", "raw", "max", "avg", "add", "global"]), int(self.rng.integers(1, 6))
        pixels, flags = int(self.rng.integers(1, 7)), [bool(flag) for flag in self.rng.integers(0, 2, 3)]
        if kind == "conv":
            self.conv(groups, pixels, flags[0], flags[0] and flags[1], flags[2])
        elif kind == "raw":
            self.raw(min(groups, 3), pixels)
        elif kind == "add":
            self.pool(groups, (1, 1), (1, 1), (2, pixels), "max", residual=True)
        else:
            kernel, stride = ([int(v) for v in self.rng.integers(1, 4, 2)] for _ in range(2))
            outs = (1, 1) if kind == "global" else (2, int(self.rng.integers(1, 4)))
            self.pool(groups % 3 + 1, kernel, stride, outs, kind, residual=kind == "avg" and flags[0])


def play(operations, stall=0.0, seed=0, start=()):
    """Run the storer; returns (L1 afterwards, cycles) with the cycles in which each stream's payloads are taken,
    residuals read and vectors written."""
    storer = OfmapStorer(operations.config)
    bench = StreamBench(storer, stall, seed)
    after = operations.memory.copy()
    cycles = {
        name: bench.feed(getattr(storer, name), getattr(operations, name)) for name in ("blocks", "core", "vectors")
    }
    cycles["ops"] = bench.feed(storer.op, operations.ops, start)
    cycles["reads"] = bench.reads(operations.memory, storer.read_ready)
    cycles["writes"] = bench.writes(after)
    bench.run()
    return after, cycles


def check(operations, after, cycles):
    """Every vector in its place, in order; ``done`` with the last write of each operation."""
    np.testing.assert_array_equal(after, operations.expected)
    places = [
        (place, index == len(writes) - 1) for writes, _ in operations.places for index, place in enumerate(writes)
    ]
    assert [(place, bool(done)) for _, place, done in cycles["writes"]] == places


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("rows", [4, 8])
def test_random_operations(rows, stall):
    operations = Operations(small_config(rows), seed=rows)
    for _ in range(16):
        operations.random()
    after, cycles = play(operations, stall, seed=rows)
    check(operations, after, cycles)


def test_structural_style_computes_the_same():
    operations = Operations(small_config(4, style="structural"), seed=10)
    operations.conv(2, 6, rescale=True, residual=True)
    operations.pool(1, (2, 2), (1, 1), (2, 3), "avg")
    check(operations, *play(operations))


@pytest.mark.parametrize("residual", [False, True])
def test_one_vector_a_cycle(residual):
    """Across blocks and operations; each written two cycles after it is taken."""
    operations = Operations(small_config(8), seed=11)
    for groups, pixels in ((3, 5), (1, 2 if residual else 1), (5, 4), (1, 2), (2, 1)):
        operations.conv(groups, pixels, rescale=True, residual=residual)
    after, cycles = play(operations)
    check(operations, after, cycles)
    first = cycles["ops"][0] + (3 if residual else 2)
    assert cycles["core"] == list(range(first, first + len(operations.core)))
    assert [cycle for cycle, _, _ in cycles["writes"]] == [cycle + OfmapStorer.latency for cycle in cycles["core"]]


def test_cycles_of_raw_vectors_and_windows():
    """A raw vector takes four cycles, a window as many as it has vectors."""
    operations = Operations(small_config(8), seed=12)
    operations.raw(2, 3)
    operations.pool(2, (2, 3), (1, 1), (2, 2), "max")
    operations.conv(2, 2)
    after, cycles = play(operations)
    check(operations, after, cycles)
    first = cycles["ops"][0] + 2
    taken = [first + 4 * index + 3 for index in range(6)]
    windows = list(range(taken[-1] + 1, taken[-1] + 1 + 8 * 6))
    assert cycles["core"] == taken + [windows[-1] + 1 + index for index in range(4)]
    assert cycles["vectors"] == windows
    writes = [first + 2 + index for index in range(24)] + [cycle + 2 for cycle in windows[5::6]]
    assert [cycle for cycle, _, _ in cycles["writes"]][:-4] == writes


def test_operations_that_come_late():
    """When an operation, its places and its residuals are there; the next operation is taken as soon as promised."""
    operations, ahead = Operations(small_config(4), seed=13), OfmapStorer.ahead
    sizes = [(int(groups), int(pixels)) for groups, pixels in operations.rng.integers(1, 4, (14, 2))]
    for index, (groups, pixels) in enumerate(sizes):
        operations.conv(groups, pixels, rescale=True, residual=index % 3 == 0)
    start = np.random.default_rng(14).integers(0, 12, len(sizes)).cumsum().tolist()
    after, cycles = play(operations, start=start)
    check(operations, after, cycles)
    taken, found, number, free, current = [], [], 0, 0, 0
    for index, (groups, pixels) in enumerate(sizes):
        op = max(start[index], free)
        assert cycles["ops"][index] == op
        current = max(op + 2, taken[-1] + 1) if taken else op + 2
        for vector in range(groups * pixels):
            place = max(op + 1 if not vector else 0, found[-1] + 1 if found else 0)
            place = max(place, taken[number - ahead] + 1) if number >= ahead else place
            found.append(place)
            there = place + (2 if index % 3 == 0 else 1)
            taken.append(max(there, current, taken[-1] + 1 if taken else 0))
            number += 1
        free = max(found[-1], current - 1)
    assert cycles["core"] == taken


#: operations of :class:`VectorPath` -> the unit that takes them.
_UNITS = {"windows": "loader", "results": "storer"}


class VectorPath(wiring.Component):
    """Window loader, storer and L1 as the accelerator connects them; L1's other ports are outside."""

    def __init__(self, config):
        self.l1, self.loader, self.storer = L1Memory(config), WindowLoader(config), OfmapStorer(config)
        ports = {name: port for name, port in self.l1.signature.members.items() if name.startswith(("load", "store_"))}
        ops = {name: In(getattr(self, unit).op.signature.flip()) for name, unit in _UNITS.items()}
        super().__init__({**ports, **ops, "done": Out(1)})
        self.outer = list(ports)

    def elaborate(self, platform):
        m = Module()
        l1, loader, storer = self.l1, self.loader, self.storer
        m.submodules += [l1, loader, storer]
        for name in self.outer:
            inner, port = getattr(l1, name), getattr(self, name)
            into = self.signature.members[name].flow == In
            m.d.comb += inner.eq(port) if into else port.eq(inner)
        connect(m, flipped(self.windows), loader.op)
        connect(m, flipped(self.results), storer.op)
        connect(m, loader.vectors, storer.vectors)
        m.d.comb += [
            l1.window_read_valid.eq(loader.read_valid),
            l1.window_read_address.eq(loader.read_address),
            loader.read_data.eq(l1.window_read_data),
            l1.residual_read_valid.eq(storer.read_valid),
            l1.residual_read_address.eq(storer.read_address),
            storer.read_ready.eq(l1.residual_read_ready),
            storer.read_data.eq(l1.residual_read_data),
            l1.storer_write_valid.eq(storer.write_valid),
            l1.storer_write_address.eq(storer.write_address),
            l1.storer_write_data.eq(storer.write_data),
            self.done.eq(storer.done),
        ]
        return m


@pytest.mark.parametrize("rows", [4, 8])
def test_tensors_in_a_real_l1(rows):
    """Two tensors come through the load port, are added, pooled and averaged, and leave through the store port."""
    config = small_config(rows, l1_banks=5, l1_bank_words=128)
    rng, path = np.random.default_rng(rows), VectorPath(config)
    bench = StreamBench(path)
    lanes, width = config.word_vectors, config.word_bytes
    x, y = rng.integers(-128, 128, (2, rows + 3, 6, 8)).astype(np.int8)
    bank = 128 * lanes
    at = {"x": 0, "y": bank, "sum": 2 * bank, "pool": 3 * bank, "mean": 4 * bank}
    scale, second = (factor(rng) for _ in range(2))
    mean = integer.Requantisation.from_real(1 / 12, 0.0, "relu", 0.9)
    total = integer.add(x, y, scale, second)
    pool = integer.max_pool(total[None], (3, 3), (2, 2), (1, 0, 1, 0))
    results = {"sum": total, "pool": pool[0], "mean": integer.global_avg_pool(pool, mean)[0]}

    def operations(source, size, result, kernel, stride, padding, maximum, requantisation=None):
        """Fields of both units."""
        outs = results[result].shape[1:]
        window = {"vector": 1, "ifmap_address": at[source], "ifmap_plane": size[0] * size[1]}
        window |= {"ifmap_rows": size[0], "ifmap_columns": size[1], "pad_top": padding[0], "pad_left": padding[1]}
        window |= {"stride_y": stride, "stride_x": stride, "ofmap_rows": outs[0], "ofmap_columns": outs[1], "groups": 2}
        window |= {"kernel_rows": kernel[0], "kernel_columns": kernel[1], "maximum": maximum}
        store = {"vector": 1, "pixels": outs[0] * outs[1], "ofmap_address": at[result], "ofmap_groups": 2}
        store |= {"ofmap_plane": outs[0] * outs[1], "last_columns": 3, "maximum": maximum, "rescale_high": 127}
        if requantisation is not None:
            store |= {"rescale": 1, "scale": factor_word(requantisation), "rescale_relu": int(requantisation.low == 0)}
        return window, store

    adding = operations("x", (6, 8), "sum", (1, 1), 1, (0, 0), 0, scale)
    adding[1].update(residual=1, residual_address=at["y"], residual_plane=48, residual_scale=factor_word(second))
    steps = [
        adding,
        operations("sum", (6, 8), "pool", (3, 3), 2, (1, 1), 1),
        operations("pool", pool.shape[2:], "mean", pool.shape[2:], 1, (0, 0), 0, mean),
    ]
    got = {}

    async def host(ctx):
        for name, tensor in (("x", x), ("y", y)):
            stored = planes(tensor, rows).tobytes()
            ctx.set(path.load_write_valid, 1)
            for index in range(0, len(stored), width):
                ctx.set(path.load_write_address, at[name] // lanes + index // width)
                ctx.set(path.load_write_data, int.from_bytes(stored[index : index + width], "little"))
                await ctx.tick().until(path.load_write_ready)
            ctx.set(path.load_write_valid, 0)
        for step in steps:
            for name, fields in zip(_UNITS, step, strict=True):
                ctx.set(getattr(path, name).payload, fields)
                ctx.set(getattr(path, name).valid, 1)
            await ctx.tick()
            for name in _UNITS:
                ctx.set(getattr(path, name).valid, 0)
            await ctx.tick().until(path.done)
        for name, tensor in results.items():
            size, words = 2 * rows * tensor[0].size, []
            ctx.set(path.store_read_valid, 1)
            for index in range(-(-size // width)):
                ctx.set(path.store_read_address, at[name] // lanes + index)
                await ctx.tick().until(path.store_read_ready)
                words.append(ctx.get(path.store_read_data).to_bytes(width, "little"))
            got[name] = np.frombuffer(b"".join(words)[:size], np.int8)

    bench.sim.add_testbench(host)
    bench.run()
    for name, tensor in results.items():
        np.testing.assert_array_equal(got[name], planes(tensor, rows).reshape(-1), name)
