"""Every unit of the gateware as generated Verilog, in Icarus, against numpy or golden."""

import math

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.sim import Simulator

from golden.integer import Requantisation
from golden.masks import decode_masks, encode_masks, mask_positions
from golden.packing import pack_entries
from hdl.config import ArrayConfig
from hdl.pe.offset_pairs import fold, fold_numbers, folded_width, unfold, unfold_lines
from hdl.units import build_unit

SPARSE = ArrayConfig(rows=4, columns=16, vector_length=8, n=2, m=4, codewords=40, wrf_depth=4, tile_rows=2)
DENSE = SPARSE.replace(tile="dense")
CODEBOOK = SPARSE.replace(tile="dense", weights="codebook")
MASKS = [(4, 16), (1, 2), (2, 4), (3, 5), (7, 8)]
OFFSET = 1 << 15  # products are in offset binary


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def int8(rng, shape, zeros=0.3):
    values = rng.integers(-128, 128, shape)
    values[rng.random(shape) < zeros] = 0
    return values


def random_masks(rng, shape, n, m):
    """bool (..., m) with ``n`` ones."""
    return rng.random((*shape, m)).argsort(-1) < n


def component(config, name):
    """The component of a unit, for its documented latency."""
    unit = build_unit(config, name)[0]
    unit._MustUse__used = True  # Amaranth would warn that nothing elaborates it
    return unit


def masked(n, m, **changes):
    return ArrayConfig(rows=1, columns=m, vector_length=m, n=n, m=m, codewords=4, **changes)


def stalled(rng, steps, values):
    """``step`` with pauses, and ``values`` at its ones and noise elsewhere; cycles of the ones."""
    step = rng.random(3 * steps) < 0.5
    step[-1] = True
    cycles = np.flatnonzero(step)[:steps]
    assert len(cycles) == steps
    held = {}
    for port, array in values.items():
        noise = rng.permutation(np.resize(array, (3 * steps, *array.shape[1:])))
        noise[cycles] = array
        held[port] = noise
    return {"step": step, **held}, cycles


@pytest.mark.parametrize("style", ["behavioural", "structural"])
def test_all_products(unit, style):
    config = SPARSE.replace(style=style)
    a, b = (axis.ravel() for axis in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij"))
    got = unit(config, "multiplier").play({"a": a, "b": b}, {"product": (1, 16, False)})
    np.testing.assert_array_equal(got["product"], a * b + OFFSET)


@pytest.mark.parametrize("depth", [4, 1])
def test_processing_element_gates_zeros(unit, rng, depth):
    """A zero operand holds the multiplier's inputs and marks the product as 0; nothing moves without ``step``."""
    count = 400
    weight, activation, step = int8(rng, count), int8(rng, count), rng.random(count) < 0.8
    swap = rng.random(count) < 0.3
    step[0] = swap[0] = True  # before its first weight a WS element does not know that it holds 0
    idle = (activation == 0) | (rng.random(count) < 0.1)
    config = SPARSE.replace(wrf_depth=depth, prf_depth=1, arf_depth=2)
    expected = {"multiplier.a": [], "multiplier.b": [], "zero": []}
    a = b = zero = loaded = 0
    for now in range(count):
        for port, value in zip(expected, (a, b, zero), strict=True):
            expected[port].append(value)
        if not step[now]:
            continue
        if depth > 1:
            zero = bool(idle[now] or weight[now] == 0)
            b = b if zero else weight[now]
        else:
            b = loaded = weight[now] if swap[now] else loaded
            zero = bool(idle[now] or loaded == 0)
        a = a if zero else activation[now]
    inputs = {"step": step, "swap": swap, "weight": weight, "activation": activation, "idle": idle}
    outputs = {"multiplier.a": (1, 8, True), "multiplier.b": (1, 8, True), "zero": (1, 1, False)}
    simulation = unit(config, "processing_element")
    got = simulation.play(inputs, {**outputs, "product": (1, 16, False)})
    for port, values in expected.items():
        np.testing.assert_array_equal(got[port], values, port)
    np.testing.assert_array_equal(got["product"], got["multiplier.a"] * got["multiplier.b"] + OFFSET)


@pytest.mark.parametrize("depth", [4, 1])
def test_processing_element_latency(unit, rng, depth):
    config = SPARSE.replace(wrf_depth=depth, prf_depth=1, arf_depth=2)
    latency = component(config, "processing_element").latency
    weight, activation = int8(rng, 200), int8(rng, 200)
    ones = np.ones(200, bool)
    inputs = {"step": ones, "swap": ones, "weight": weight, "activation": activation, "idle": activation == 0}
    got = unit(config, "processing_element").play(inputs, {"product": (1, 16, False), "zero": (1, 1, False)})
    products = np.where(got["zero"], 0, got["product"] - OFFSET)
    np.testing.assert_array_equal(products[latency:], (weight * activation)[:-latency])


@pytest.mark.parametrize(("n", "m"), MASKS)
def test_mask_encoder(unit, n, m):
    masks = decode_masks(np.arange(math.comb(m, n)), n, m)
    got = unit(masked(n, m), "mask_encoder").play(
        {"mask": masks @ (1 << np.arange(m))}, {"offsets": (1, (m - n).bit_length(), False)}
    )
    positions = mask_positions(np.arange(len(masks)), n, m).astype(int)
    np.testing.assert_array_equal(got["offsets"].reshape(-1, n), positions - np.arange(n))


@pytest.mark.parametrize(("reach", "width"), [(3, 3), (5, 5), (6, 5), (7, 5), (13, 7)])
def test_folded_pairs(reach, width):
    """Every ascending pair fits the width, has a code of its own, and comes back as numbers and as one-hot lines."""
    assert folded_width(reach) == width
    pairs = [(low, high) for high in range(reach) for low in range(high + 1)]
    m = Module()
    low, high = Signal(range(reach)), Signal(range(reach))
    back = [Signal(4, name=name) for name in ("low_back", "high_back")]
    lines = [Signal(reach, name=name) for name in ("low_lines", "high_lines")]
    pair = Signal(width)
    m.d.comb += pair.eq(fold(m, "fold", low, high, reach))
    m.d.comb += [to.eq(value) for to, value in zip(back, unfold(m, "numbers", pair, reach), strict=True)]
    m.d.comb += [to.eq(Cat(*value)) for to, value in zip(lines, unfold_lines(m, "lines", pair, reach), strict=True)]
    codes = []

    async def bench(ctx):
        for a, b in pairs:
            ctx.set(low, a)
            ctx.set(high, b)
            await ctx.delay(1e-9)
            codes.append(ctx.get(pair))
            assert codes[-1] == fold_numbers(a, b, reach)
            assert [ctx.get(value) for value in (*back, *lines)] == [a, b, 1 << a, 1 << b]

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(set(codes)) == len(pairs)


@pytest.mark.parametrize("reach", [2, 4, 8])
def test_pairs_that_folding_does_not_shorten(reach):
    assert folded_width(reach) is None


@pytest.mark.parametrize("path", ["direct", "lut"])
@pytest.mark.parametrize(("n", "m"), MASKS)
def test_mask_decoder(unit, n, m, path):
    codes = np.arange(math.comb(m, n))
    outputs = {"mask": (m, 1, False), "offsets": (1, (m - n).bit_length(), False)}
    got = unit(masked(n, m, mask_path=path), "mask_decoder").play({"code": codes}, outputs)
    np.testing.assert_array_equal(got["mask"], decode_masks(codes, n, m))
    positions = mask_positions(codes, n, m).astype(int)
    np.testing.assert_array_equal(got["offsets"].reshape(-1, n), positions - np.arange(n))


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize(
    "config",
    [SPARSE, ArrayConfig(columns=64), CODEBOOK],
    ids=["masked", "80bits", "codebook"],
)
def test_unpacker(unit, rng, config, stall):
    simulation = unit(config, "unpacker")
    width = simulation.widths["records__payload"]
    sections = [[rng.integers(0, 2, width) for _ in range(count)] for count in (1, 2, 37, 1, 5, 64)]
    words, records, last = [], [], []
    for section in sections:
        bits = np.concatenate(section)
        value = sum(int(bit) << place for place, bit in enumerate(bits))
        words += [(value >> at) & ((1 << 64) - 1) for at in range(0, len(bits), 64)]
        records += [sum(int(bit) << place for place, bit in enumerate(record)) for record in section]
        last += [0] * (len(section) - 1) + [1]
    beside = {"last": ("records", last), "enable": ("records", [1])}
    got = simulation.stream({"words": words}, {"records": len(records)}, beside, stall=stall)
    assert got["records"] == records
    if not stall:  # the latency that the unpacker documents, for the first section that has several records
        unpacker, first_word, first_record = component(config, "unpacker"), -(-width // 64) + -(-2 * width // 64), 3
        start = got["when.words"][first_word]
        cycles = [unpacker.cycles(record) for record in range(37)]
        np.testing.assert_array_equal(got["when.records"][first_record : first_record + 37] - start, cycles)


@pytest.mark.parametrize("style", ["behavioural", "structural"])
@pytest.mark.parametrize("ports", [1, 4])
def test_codebook_register_file(unit, rng, ports, style):
    """Codebooks of several sizes one after another, with pauses; words of the present one are read as soon as they are
    there."""
    config = SPARSE.replace(columns=32, crf_read_ports=ports, style=style, codewords=72, index_width=7)
    latency = component(config, "codebook_register_file").latency
    writes = []
    for size in (72, 5, 1, 40, 72):
        book = rng.integers(-128, 128, (size, 8))
        writes += [(index, word) for index, word in enumerate(book[np.argsort(book[:, 0])])]
    write = rng.random(2 * len(writes)) < 0.6
    assert write.sum() >= len(writes)
    write[np.flatnonzero(write)[len(writes) :]] = False
    index, codeword = rng.integers(0, 72, len(write)), rng.integers(-128, 128, (len(write), 8))
    index[write], codeword[write] = [index for index, _ in writes], [word for _, word in writes]
    reads, expected, book = [], [], np.zeros((1, 8), int)
    for now in range(len(write)):
        reads.append(rng.integers(0, len(book), ports))
        expected.append(book[reads[now]])
        if write[now]:
            book = codeword[[now]] if index[now] == 0 else np.concatenate([book, codeword[[now]]])
    inputs = {"write": write, "write_index": index, "codeword": codeword, "indices": np.array(reads)}
    got = unit(config, "codebook_register_file").play(inputs, {"codewords": (8, 8, True)})
    assert latency == 1  # the model above reads what was written in earlier cycles
    start = np.flatnonzero(write)[0] + 1
    np.testing.assert_array_equal(got["codewords"].reshape(len(write), ports, 8)[start:], expected[start:])


@pytest.mark.parametrize(
    "config",
    [SPARSE, SPARSE.replace(style="structural"), SPARSE.replace(mask_path="lut"), DENSE, CODEBOOK],
    ids=lambda config: f"{config.variant}-{config.mask_path}-{config.style}",
)
def test_vector_rebuild(unit, rng, config):
    count, groups = 200, config.mask_groups
    index, codeword = rng.integers(0, 40, count), rng.integers(-128, 128, (count, 8))
    mask = np.ones((count, 8), bool)
    entry = index
    if config.has_masks:
        grouped = random_masks(rng, (count, groups), config.n, config.m)
        codes, mask = encode_masks(grouped, config.n), grouped.reshape(count, 8)
        entry = pack_entries(index, codes, config.index_width, config.mask_code_width)
    outputs = {"index": (1, config.index_width, False), "weights": (config.multipliers_per_vector, 8, True)}
    if config.tile == "sparse":
        outputs["offsets"] = (config.multipliers_per_vector, config.offset_width, False)
    got = unit(config, "vector_rebuild").play({"entry": entry, "codeword": codeword}, outputs)
    np.testing.assert_array_equal(got["index"], index)
    if config.tile == "dense":
        np.testing.assert_array_equal(got["weights"], codeword * mask)
        return
    np.testing.assert_array_equal(got["weights"], codeword[mask].reshape(count, -1))
    positions = mask_positions(codes, config.n, config.m).astype(int)
    np.testing.assert_array_equal(got["offsets"], (positions - np.arange(config.n)).reshape(count, -1))


def tile_weights(rng, config, shape):
    """Masked weights (..., d), and what a row of ``config`` is given for them: weights, and offsets or None."""
    mask = random_masks(rng, (*shape, config.vector_length // 4), 2, 4)
    weights = int8(rng, mask.shape, 0.1) * mask
    flat = weights.reshape(*shape, -1)
    if config.tile == "dense":
        return flat, flat, None
    positions = np.argsort(~mask, axis=-1, kind="stable")[..., :2]
    kept = np.take_along_axis(weights, positions, -1).reshape(*shape, -1)
    return flat, kept, (positions - np.arange(2)).reshape(*shape, -1)


def write_rows(weights, offsets):
    """Cycles that write (entries, rows, multipliers) to a tile, one subvector in each."""
    entries, rows = weights.shape[:2]
    address, row = (axis.ravel() for axis in np.meshgrid(np.arange(entries), np.arange(rows), indexing="ij"))
    writes = {"write_address": address, "weights": weights.reshape(entries * rows, -1), "row": row}
    return writes if offsets is None else {**writes, "offsets": offsets.reshape(entries * rows, -1)}


def after(writes, inputs):
    """Inputs that are 0 during ``writes`` and then run, while the writes stay 0; all of them by port."""
    count, steps = len(next(iter(writes.values()))), len(next(iter(inputs.values())))
    zeros = lambda array, size: np.zeros((size, *array.shape[1:]), int)  # noqa: E731
    joined = {port: np.concatenate([array, zeros(array, steps)]) for port, array in writes.items()}
    return joined | {port: np.concatenate([zeros(array, count), array]) for port, array in inputs.items()}, count


@pytest.mark.parametrize("style", ["behavioural", "structural"])
@pytest.mark.parametrize("depth", [4, 1])
@pytest.mark.parametrize("tile", ["sparse", "dense"])
def test_row(unit, rng, tile, depth, style):
    """A sparse and a dense row give the same contributions for the same masked weights."""
    config = SPARSE.replace(tile=tile, wrf_depth=depth, prf_depth=1, arf_depth=2, style=style)
    full, kept, offsets = tile_weights(rng, config, (depth, 1))
    steps = 120
    address, activation, idle = rng.integers(0, depth, steps), int8(rng, steps), rng.random(steps) < 0.1
    values = {"activation": activation, "idle": idle | (activation == 0), "swap": np.ones(steps, bool)}
    inputs, cycles = stalled(rng, steps, {**values, "address": address})
    structural = style == "structural"
    select = inputs.pop("address")
    now = np.zeros_like(select)  # the address of the step before, which the tile keeps for its rows
    for cycle in range(1, len(select)):
        now[cycle] = select[cycle - 1] if inputs["step"][cycle - 1] else now[cycle - 1]
    inputs |= {"select": 1 << select, "select_now": 1 << now} if structural else {"select": select, "select_now": now}
    writes = write_rows(kept, offsets)
    written = writes.pop("write_address")
    writes["write"] = 1 << written if structural else 1 + 2 * written
    del writes["row"]
    if tile == "sparse":  # two pairs of offsets below 3
        pairs = writes.pop("offsets").reshape(len(written), -1, 2)
        if structural:
            words, width = fold_numbers(pairs[..., 0], pairs[..., 1], 3), 3
        else:
            words, width = pairs.reshape(len(written), -1), 2
        writes["positions"] = (words << width * np.arange(words.shape[1])).sum(axis=1)
    joined, start = after(writes, inputs)
    simulation = unit(config, f"{tile}_row")
    got = simulation.play(joined, {"contributions": (1, 16, False)})["contributions"] - OFFSET
    latency = component(config, f"{tile}_row").latency
    expected = full[address, 0] * (activation * ~idle)[:, None]
    np.testing.assert_array_equal(got[start + cycles[latency:]], expected[:-latency])


@pytest.mark.parametrize(("depth", "style"), [(4, "behavioural"), (1, "behavioural"), (4, "structural")])
@pytest.mark.parametrize("tile", ["sparse", "dense"])
def test_tile(unit, rng, tile, depth, style):
    config = SPARSE.replace(tile=tile, wrf_depth=depth, prf_depth=1, arf_depth=2, style=style)
    full, kept, offsets = tile_weights(rng, config, (depth, 2))
    steps = 120
    address, activation, valid = rng.integers(0, depth, steps), int8(rng, (steps, 2)), rng.random(steps) < 0.8
    psums = rng.integers(-(1 << 20), 1 << 20, (steps, 8))
    values = {"address": address, "activations": activation, "valid": valid, "swap": np.ones(steps, bool)}
    inputs, cycles = stalled(rng, steps, {**values, "psums_in": np.roll(psums, 2, axis=0)})  # needed in the third step
    writes = write_rows(kept, offsets)
    writes["write_row"] = 1 << writes.pop("row")
    joined, start = after(writes, inputs)
    outputs = {"psums_out": (1, 24, True), "activations_right": (1, 8, True)}
    got = unit(config, f"{tile}_tile").play(joined, outputs)
    expected = np.einsum("pr,prc->pc", activation * valid[:, None], full[address]) + psums + 2 * OFFSET
    tile = component(config, f"{tile}_tile")
    psums_out, right = got["psums_out"][start + cycles], got["activations_right"][start + cycles]
    np.testing.assert_array_equal(psums_out[tile.latency :], expected[: -tile.latency])
    np.testing.assert_array_equal(right[tile.latency_right :], activation[: -tile.latency_right])


@pytest.mark.parametrize("tile", ["sparse", "dense"])
def test_systolic_array(unit, rng, tile):
    """Skew in and straighten out: all columns of a vector come ``latency`` steps after it."""
    config = SPARSE.replace(tile=tile)
    full, kept, offsets = tile_weights(rng, config, (4, 4, 2))
    steps = 100
    address, activation, valid = rng.integers(0, 4, steps), int8(rng, (steps, 4)), rng.random(steps) < 0.8
    values = {"address": address, "activations": activation, "valid": valid, "swap": np.ones(steps, bool)}
    inputs, cycles = stalled(rng, steps, values)
    writes = write_rows(kept.reshape(4, 4, -1), None)  # both groups at once: two CRF ports
    writes["write_row"] = writes.pop("row")
    for name, array in (("weights", kept), ("offsets", offsets)):
        if array is not None:
            parts = array.reshape(16, 2, -1) & ((1 << (8 if name == "weights" else config.offset_width)) - 1)
            width = 8 if name == "weights" else config.offset_width
            writes[name] = (parts << (np.arange(parts.shape[2]) * width)).sum(axis=2)
    ones = np.ones(16, int)
    joined, start = after({**writes, "write": ones, "write_groups": 3 * ones}, inputs)
    got = unit(config, "systolic_array").play(joined, {"sums": (1, 24, True)})["sums"][start + cycles]
    expected = np.einsum("pr,prc->pc", activation * valid[:, None], full.reshape(4, 4, 16)[address])
    latency = component(config, "systolic_array").latency
    np.testing.assert_array_equal(got[latency:], expected[:-latency])


@pytest.mark.parametrize(("depth", "style"), [(2, "behavioural"), (3, "behavioural"), (3, "structural")])
def test_activation_file(unit, rng, depth, style):
    """Ring of vectors that are read in order, again from the oldest left after a rewind."""
    config = SPARSE.replace(arf_depth=depth, style=style)
    count = 400
    vectors, valid = rng.integers(-128, 128, (count, 4)), rng.random(count) < 0.6
    dice = rng.random((count, 3)) < (0.8, 0.5, 0.4)
    held, ahead, control, expected = [], 0, [], []
    for now in range(count):
        available, ready = ahead < len(held), len(held) < depth
        advance = bool(dice[now, 0] and available)
        # Vectors are freed from the oldest on: none, once one was kept since the last rewind.
        free = bool(dice[now, 1] and ahead == 0)
        rewind = bool(dice[now, 2])
        control.append((advance, free, rewind))
        expected.append((ready, available, *(held[ahead] if available else [0] * 4)))
        if valid[now] and ready:
            held.append(vectors[now])
        if advance:
            if free:
                held.pop(0)
            ahead = 0 if rewind else ahead + 1 - free
    advance, free, rewind = np.array(control).T
    inputs = {"ifmap__payload": vectors, "ifmap__valid": valid, "advance": advance, "free": free, "rewind": rewind}
    outputs = {"ifmap__ready": (1, 1, False), "available": (1, 1, False), "activations": (1, 8, True)}
    got = unit(config, "activation_file").play(inputs, outputs)
    expected = np.array(expected)
    np.testing.assert_array_equal(got["ifmap__ready"], expected[:, 0])
    np.testing.assert_array_equal(got["available"], expected[:, 1])
    there = expected[:, 1] == 1
    np.testing.assert_array_equal(got["activations"][there], expected[there, 2:])


@pytest.mark.parametrize(("depth", "style"), [(1, "behavioural"), (4, "behavioural"), (4, "structural")])
def test_partial_sum_file(unit, rng, depth, style):
    config = SPARSE.replace(wrf_depth=depth, prf_depth=depth, arf_depth=4, style=style)
    count = 200
    address, first = rng.integers(0, depth, count), rng.random(count) < (0.4 if depth > 1 else 1.0)
    step, valid = rng.random((2, count)) < 0.8
    sums, initial = rng.integers(-(1 << 23), 1 << 23, (2, count, 16))
    stored, expected = np.zeros((depth, 16), int), []
    for now in range(count):
        total = sums[now] + (initial[now] if first[now] else stored[address[now]])
        total = (total + (1 << 23)) % (1 << 24) - (1 << 23)
        expected.append(total)
        if step[now] and valid[now]:
            stored[address[now]] = total
    inputs = {"step": step, "valid": valid, "address": address, "first": first, "sums": sums, "initial": initial}
    got = unit(config, "partial_sum_file").play(inputs, {"totals": (1, 24, True)})
    np.testing.assert_array_equal(got["totals"], expected)


@pytest.mark.parametrize("width", [24, 32])
def test_requantiser(unit, rng, width):
    """Random and extreme scale words and partial sums; ``low`` and ``high`` of every activation."""
    count = 3000
    words = rng.integers(0, 1 << 32, count)
    words[:1000] = words[:1000] & ~(63 << 8) | (rng.integers(8, 24, 1000) << 8)  # shifts of real layers
    limit = 1 << (width - 1)
    psum = np.concatenate([rng.integers(-limit, limit, count - 4), [-limit, limit - 1, 0, -1]])
    relu, high = rng.random(count) < 0.5, np.where(rng.random(count) < 0.5, 127, rng.integers(1, 128, count))
    got = unit(SPARSE.replace(psum_width=width), "requantiser").play(
        {"psum": psum, "scale": words, "relu": relu, "high": high}, {"value": (1, 8, True)}
    )
    expected = np.zeros(count, int)
    for at, low in ((relu, 0), (~relu, -128)):
        requantisation = Requantisation.from_words(words[at].astype(np.uint32), low, 127)
        expected[at] = np.minimum(requantisation.apply(psum[at][None])[0], high[at])
    np.testing.assert_array_equal(got["value"], expected)
