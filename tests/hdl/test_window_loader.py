"""The window loader against golden.stream, and its cycles against what it promises."""

import numpy as np
import pytest

from golden.integer import pad
from golden.schedule import LayerShape, Repeats, schedule
from golden.stream import gather_ifmap
from hdl.control.window_loader import WindowLoader

from .stream_bench import StreamBench, planes, small_config


def window_vectors(x, kernel, stride, padding, fill, vector):
    """Vectors of the windows of ``x`` (C, Y, X) in order, int8 (groups, pixels, kx * ky, vector)."""
    spread = planes(pad(x[None], padding, value=fill)[0], vector)
    rows, columns = ((extent - k) // s + 1 for extent, k, s in zip(spread.shape[1:3], kernel, stride, strict=True))
    taps = [
        spread[:, ky : ky + (rows - 1) * stride[0] + 1 : stride[0], kx : kx + (columns - 1) * stride[1] + 1 : stride[1]]
        for kx in range(kernel[1])
        for ky in range(kernel[0])
    ]
    return np.stack(taps, 3).reshape(len(spread), -1, len(taps), vector)


class Operations:
    """Random operations on tensors in an L1 of noise, and what the loader is to make of them.

    Attributes
    ----------
    ops, subsets : fields of each. ``walks`` : for each walk, (number of its operation, of its subset or None).
    outputs : for each vector, (vector operation, int8 (V,), first, last); ``walk_of`` : its walk.
    """

    def __init__(self, config, seed):
        self.config, self.rng = config, np.random.default_rng(seed)
        self.vector = config.vector_bytes
        self.memory = self.rng.integers(-128, 128, (config.l1_vectors, self.vector)).astype(np.int8)
        self.ops, self.subsets, self.walks, self.outputs, self.walk_of = [], [], [], [], []

    def _tensor(self, groups, kernel, stride, outs, padding):
        """A tensor somewhere in L1, int8 (C, Y, X), and the fields of an operation on it."""
        size = [
            max(1, (count - 1) * s + k - before - after)
            for count, s, k, before, after in zip(outs, stride, kernel, padding[::2], padding[1::2], strict=True)
        ]
        outs = [
            (extent + before + after - k) // s + 1
            for extent, s, k, before, after in zip(size, stride, kernel, padding[::2], padding[1::2], strict=True)
        ]
        plane = size[0] * size[1] + int(self.rng.integers(0, 3))
        address = int(self.rng.integers(0, self.config.l1_vectors - plane * groups + 1))
        where = address + plane * np.arange(groups)[:, None] + np.arange(size[0] * size[1])
        x = self.memory[where].transpose(0, 2, 1).reshape(-1, *size)
        fields = {"ifmap_address": address, "ifmap_plane": plane, "ifmap_rows": size[0], "ifmap_columns": size[1]}
        fields |= {"pad_top": padding[0], "pad_left": padding[2], "stride_y": stride[0], "stride_x": stride[1]}
        return x, fields | {"ofmap_rows": outs[0], "ofmap_columns": outs[1]}

    def _padding(self, kernel):
        return [int(self.rng.integers(0, k)) for k in kernel for _ in range(2)]

    def conv(self, groups, kernel, stride, outs, repeats, padding=None):
        """A convolution whose subsets are those of golden.schedule."""
        padding = self._padding(kernel) if padding is None else padding
        x, op = self._tensor(groups, kernel, stride, outs, padding)
        array = self.config.array
        shape = LayerShape(
            name="conv",
            out_channels=array.columns * 2,
            in_channels=len(x),
            kernel=kernel,
            stride=stride,
            pixels=(op["ofmap_rows"], op["ofmap_columns"]),
        )
        subsets = schedule(shape, array, repeats, compressed=True).subsets
        for index, subset in enumerate(subsets):
            self.walks.append((len(self.ops), len(self.subsets)))
            self.subsets.append(
                {
                    "in_group": subset.in_groups.start,
                    "in_groups": len(subset.in_groups),
                    "tap_row": subset.taps[0][0],
                    "tap_column": subset.taps[0][1],
                    "tap_rows": len({ky for ky, _ in subset.taps}),
                    "tap_columns": len({kx for _, kx in subset.taps}),
                    "last": index == len(subsets) - 1,
                }
            )
            vectors = gather_ifmap(x[None], subset, shape, padding, array)
            self.outputs += [(0, vector.tolist(), 0, 0) for vector in vectors]
            self.walk_of += [len(self.walks) - 1] * len(vectors)
        # Fields that a convolution does not have hold noise.
        self.ops.append({**op, "vector": 0, "groups": 5, "kernel_rows": 9, "kernel_columns": 3, "maximum": 1})

    def pool(self, groups, kernel, stride, outs, maximum, padding=None):
        """A vector operation."""
        padding = self._padding(kernel) if padding is None else padding
        x, op = self._tensor(groups, kernel, stride, outs, padding)
        self.walks.append((len(self.ops), None))
        windows = window_vectors(x, kernel, stride, padding, -128 if maximum else 0, self.vector)
        taps = windows.shape[2]
        for window in windows.reshape(-1, taps, self.vector):
            self.outputs += [(1, values.tolist(), i == 0, i == taps - 1) for i, values in enumerate(window)]
        self.walk_of += [len(self.walks) - 1] * (len(self.outputs) - len(self.walk_of))
        kernel_fields = {"kernel_rows": kernel[0], "kernel_columns": kernel[1], "maximum": maximum}
        self.ops.append({**op, **kernel_fields, "vector": 1, "groups": groups})

    def random(self, padding=None):
        """One operation of random shape."""
        kernel, stride = (tuple(int(v) for v in self.rng.integers(1, high, 2)) for high in (8, 4))
        outs = [int(v) for v in self.rng.integers(1, 5, 2)]
        groups = int(self.rng.integers(1, 4))
        if self.rng.random() < 0.4:
            return self.pool(groups, kernel, stride, outs, int(self.rng.integers(0, 2)), padding)
        rows, columns = (
            int(self.rng.integers(1, min(kernel[0], 3) + 1)),
            int(self.rng.integers(1, min(kernel[1], 4) + 1)),
        )
        most = self.config.array.arf_depth // (rows * columns)
        repeats = Repeats(
            in_channel_repeat=int(self.rng.integers(1, min(groups, most) + 1)), tap_rows=rows, tap_columns=columns
        )
        return self.conv(groups, kernel, stride, outs, repeats, padding)


def play(operations, stall=0.0, start=((), ()), seed=0):
    """Run the loader; returns (outputs, cycles): for each vector as in ``operations.outputs``, and the cycles in which
    operations and subsets are taken, vectors read and taken."""
    loader = WindowLoader(operations.config)
    bench = StreamBench(loader, stall, seed)
    ops = bench.feed(loader.op, operations.ops, start[0])
    subsets = bench.feed(loader.subset, operations.subsets, start[1])
    reads = bench.reads(operations.memory)
    to_vectors = sum(output[0] for output in operations.outputs)
    ifmap, ifmap_cycles = bench.collect(
        loader.ifmap, len(operations.outputs) - to_vectors, lambda payload: (0, list(payload), 0, 0)
    )
    vectors, vector_cycles = bench.collect(
        loader.vectors, to_vectors, lambda payload: (1, list(payload.values), payload.first, payload.last)
    )
    bench.run()
    merged = sorted(zip(ifmap_cycles + vector_cycles, ifmap + vectors, strict=True), key=lambda pair: pair[0])
    outputs, taken = [output for _, output in merged], [cycle for cycle, _ in merged]
    return outputs, {"ops": ops, "subsets": subsets, "reads": reads, "taken": taken}


@pytest.mark.parametrize(("rows", "stall"), [(4, 0.0), (4, 0.4), (8, 0.4), (16, 0.0)])  # 4: two vectors in an L1 word
def test_random_operations(rows, stall):
    operations = Operations(small_config(rows, wrf_depth=24), seed=rows)
    for _ in range(8):
        operations.random()
    outputs, cycles = play(operations, stall, seed=rows)
    assert outputs == operations.outputs
    if not stall:
        assert np.diff(cycles["taken"]).tolist() == [1] * (len(outputs) - 1)
        assert cycles["taken"][0] == max(cycles["ops"][0], cycles["subsets"][0]) + WindowLoader.latency


def test_reads_only_what_lies_inside():
    operations = Operations(small_config(8), seed=3)
    operations.pool(2, (3, 3), (1, 1), (4, 5), maximum=1, padding=[1, 1, 1, 1])
    outputs, cycles = play(operations)
    assert outputs == operations.outputs
    assert len(cycles["reads"]) == 2 * (3 * 4 - 2) * (3 * 5 - 2)
    assert len(outputs) == 2 * 4 * 5 * 9


def test_a_window_of_255_pixels():
    operations = Operations(small_config(4), seed=4)
    operations.pool(1, (1, 255), (1, 1), (1, 1), maximum=0, padding=[0] * 4)
    operations.pool(1, (255, 1), (3, 3), (1, 1), maximum=1, padding=[9, 200, 0, 0])
    assert play(operations)[0] == operations.outputs


@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_cycles_are_those_promised(stall):
    """Without padding every vector is read, and every cycle follows from when operations, subsets and vectors are
    taken."""
    operations = Operations(small_config(8, wrf_depth=24), seed=5)
    for _ in range(8):
        operations.random(padding=[0] * 4)
    operations.conv(1, (1, 1), (1, 1), (1, 1), Repeats(), padding=[0] * 4)  # walks of one vector
    operations.conv(1, (1, 3), (1, 1), (1, 1), Repeats(), padding=[0] * 4)
    walks = operations.walks
    gaps = np.random.default_rng(6).integers(0, 60, (2, len(walks))).cumsum(1).tolist()
    outputs, cycles = play(operations, stall, start=gaps, seed=5)
    assert outputs == operations.outputs
    reads, taken = [], cycles["taken"]
    for index, walk in enumerate(operations.walk_of):
        read = reads[-1] + 1 if reads else 0
        if not index or operations.walk_of[index - 1] != walk:
            op, subset = walks[walk]
            begun = cycles["ops"][op] if subset is None else max(cycles["ops"][op], cycles["subsets"][subset])
            read = max(read, begun + 2)
        if index >= WindowLoader.depth:
            read = max(read, taken[index - WindowLoader.depth] + 1)
        reads.append(read)
    assert [cycle for cycle, _ in cycles["reads"]] == reads
    if not stall:
        assert taken == [read + 2 for read in reads]
