"""Weight loader and sequencer alone, as Verilog in Icarus."""

import numpy as np
import pytest

from golden.stream import command_fields, pack_command
from tests.hdl.test_core import random_layer, small_array


def words_by_cycle(subset, words, config, cycles):
    """Word on offer in each cycle after the command's: one is taken a cycle, but for what the unpacker cannot hold."""
    offered, at, level, turns = [], 0, 0, 0
    record = config.crf_read_ports * config.entry_width
    direct = len(words) if not subset.compressed else 0
    if subset.compressed:
        bits = subset.entries * subset.rows * config.groups * config.entry_width
        direct = len(words) - -(-bits // config.stream_width)
        turns = subset.entries * subset.rows * config.groups // config.crf_read_ports
    for _ in range(cycles):
        offered.append(int(words[min(at, len(words) - 1)]))
        if at < direct:
            at += 1
            continue
        if level >= record:
            level, turns = level - record, turns - 1
        if turns and level < record and at < len(words):
            at, level = at + 1, level + config.stream_width
    return offered


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("variant", ["ews-cms", "ews-cm", "ews"])
def test_weight_loader_writes_every_weight_once(unit, variant, compressed):
    """Each WRF word of each row gets the weights of the subset, and none is written twice."""
    config, rng = small_array(variant), np.random.default_rng(11)
    layer, _ = random_layer(config, rng, (8, 24), 2, 2, compressed=compressed)
    subset = layer.schedule().subsets[0]
    words = layer.image.words(subset)
    cycles = subset.load_cycles(config) + 6
    command = pack_command(command_fields(subset, config, layer.image.requantisation), config)
    idle = np.zeros(cycles, int)
    inputs = {
        "command__valid": np.arange(cycles) == 0,
        "command__payload": [command] * cycles,
        "words__valid": np.ones(cycles, int),
        "words__payload": [0, *words_by_cycle(subset, words, config, cycles - 1)],
        "subset__ready": idle,
        "entries_freed": idle,
        "scales_freed": idle,
    }
    lanes, ports = config.multipliers_per_vector, config.crf_read_ports
    outputs = {name: (1, width, False) for name, width in (("write", 1), ("subset__valid", 1))}
    outputs |= {"write_groups": (config.groups, 1, False), "write_row": (1, 2, False), "write_address": (1, 4, False)}
    outputs["weights"] = (lanes, 8, True)
    if config.tile == "sparse":
        outputs["offsets"] = (lanes, config.offset_width, False)
    got = unit(config, "weight_loader").play(inputs, outputs)
    assert list(got["subset__valid"]).index(1) == 1 + subset.load_cycles(config)

    loaded = np.zeros((subset.entries, config.rows, config.columns), int)
    written = np.zeros((subset.entries, config.rows, config.groups), int)
    for now in np.flatnonzero(got["write"]):
        place = got["write_address"][now], got["write_row"][now]
        for group in np.flatnonzero(got["write_groups"][now]):
            written[(*place, group)] += 1
            start = group % ports * lanes
            weights = got["weights"][now, start : start + lanes]
            positions = np.arange(lanes)
            if config.tile == "sparse":
                positions = positions // config.n * config.m + positions % config.n
                positions = positions + got["offsets"][now, start : start + lanes]
            loaded[place][group * config.vector_length + positions] = weights
    assert (written[:, : subset.rows] == 1).all()
    assert not written[:, subset.rows :].any()
    block = layer.image.block(subset).reshape(subset.entries, config.rows, config.columns)
    np.testing.assert_array_equal(loaded[:, : subset.rows], block[:, : subset.rows])


@pytest.mark.parametrize("step_chance", [1.0, 0.6])
def test_sequencer_runs_the_loops(unit, step_chance):
    """Pixels, vectors, dense passes and output groups in order, a WRF word a step; windows free what they leave."""
    config, rng = small_array("ews-cms"), np.random.default_rng(12)
    a, passes, vectors, fresh, row_pixels, pixels, base = 2, 2, 3, 1, 2, 4, 9
    steps = a * passes * vectors * pixels
    cycles = 6 * steps + 10
    widths = dict(config.command_fields)
    values = {"address": base, "scale_address": 3, "entries": a * passes * vectors, "scales": a}
    values |= {"out_channel_repeat": a, "passes": passes, "vectors": vectors, "fresh": fresh}
    values |= {"row_pixels": row_pixels, "pixels": pixels, "accumulate": 0, "final": 1, "relu": 1, "high": 99}
    layout = {"address": config.entry_address_width, "scale_address": (config.scale_depth - 1).bit_length()}
    layout |= {name: widths[name] for name in values if name not in layout}
    payload, position = 0, 0
    for name, width in layout.items():
        payload, position = payload | values[name] << position, position + width
    step, available = rng.random(cycles) < step_chance, rng.random(cycles) < step_chance
    inputs = {"subset__valid": np.arange(cycles) == 0, "subset__payload": [payload] * cycles}
    inputs |= {"step": step, "available": available}
    names = ("issue", "swap", "advance", "free", "rewind")
    outputs = dict.fromkeys(names, (1, 1, False)) | {"address": (1, 4, False)}
    got = unit(config, "sequencer").play(inputs, outputs)
    going = np.flatnonzero(got["issue"] & step)
    assert len(going) == steps
    assert going[0] == next(now for now in range(1, cycles) if step[now] and available[now])
    expected = []
    for pixel in range(pixels):
        for vector in range(vectors):
            for turn in range(passes * a):
                row_ends = pixel % row_pixels == row_pixels - 1
                done = turn == passes * a - 1
                address = (base + vector * passes * a + turn) % config.wrf_depth
                expected.append((address, not expected, done, row_ends or vector < fresh, vector == vectors - 1))
    seen = [(got["address"][now], *(got[n][now] for n in ("swap", "advance", "free", "rewind"))) for now in going]
    np.testing.assert_array_equal(np.array(seen, int), np.array(expected, int))
