"""Programs: what the accelerator would compute from the memory image alone is what the integer network says, for every
operation, variant and way to cut layers into tiles; and what cannot be planned or executed is refused."""

import dataclasses

import numpy as np
import pytest

from golden import Calibration, Graph, LoweringError, lower
from golden.executor import ExecutionError, Executor
from golden.program import MismatchError, compile_program
from golden.program.formats import descriptor_bytes, descriptor_fault, unpack_fields
from golden.program.layers import InputLayout, network_layers
from golden.program.operations import Span
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import VARIANTS, MvqError, preset
from hdl.control.register_map import ErrorCode
from tests.golden.program_networks import (
    GraphBuilder,
    digits,
    efficientnet_lite0,
    random_checkpoint,
    random_graph,
    resnet18,
    resnet20,
)


def accelerator(variant="ews-cms", rows=16, stream_width=64, changes=None, **sizes):
    changes = {"stream_width": stream_width, **(changes or {})}
    if variant == "ews-c":
        changes = {"codewords": 4096, **changes}
    return AcceleratorConfig(array=preset(variant, rows, **changes), **sizes)


def lowered(graph, config, seed=0, **options):
    array = config.array
    formats = {"d": array.vector_length, "n": array.n, "m": array.m} if array.has_masks else {"n": 16}
    return lower(*random_checkpoint(graph, np.random.default_rng(seed), **{**formats, **options}), config.array)


def image(network, seed=1):
    """int8 (C, H, W)."""
    graph = network.network.graph
    return np.random.default_rng(seed).integers(-128, 128, graph.input.attrs["shape"]).astype(np.int8)


def execute(program, x, rng=None):
    """Memory after a run."""
    memory = program.memory()
    program.write_input(memory, x)
    Executor.of(program, memory).run(program.program_address, program.program_length, rng)
    return memory


def agree(network, config, keep="all", orders=(None, 7)):
    """Compile, execute in the order of the list and in a random one that the waits allow, compare; returns Program."""
    program, x = compile_program(network, config, keep=keep), image(network)
    values = {name: value[0] for name, value in network.network.run(x[None]).items()}
    for order in orders:
        rng = None if order is None else np.random.default_rng(order)
        compared = program.compare(execute(program, x, rng), values)
        assert program.output in compared
    return program


# ---- networks
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_operation_on_every_variant(networks, variant):
    config = accelerator(variant)
    checkpoint = networks.checkpoint()
    calibration = Calibration({node.name: 4.0 for node in checkpoint.graph.nodes})
    program = agree(lower(checkpoint, calibration, config.array), config)
    # what is inside a layer has no tensor: conv2 is part of sum, crop of widen, point of late
    assert program.nodes.keys() == {node.name for node in checkpoint.graph.nodes} - {"image", "conv2", "crop", "point"}


@pytest.mark.parametrize("seed", range(16))
def test_random_networks_on_small_accelerators(seed):
    rng = np.random.default_rng(seed)
    rows, variant = int(rng.choice([4, 8, 16])), rng.choice(list(VARIANTS))
    d = int(rng.choice([size for size in (4, 8, 16) if size <= rows]))
    changes = {"vector_length": d, "codewords": 4096 if variant == "ews-c" else 16}
    if VARIANTS[variant][0] == "masked_codebook":
        m = int(rng.choice([size for size in (4, 8, 16) if size <= d]))
        changes |= {"m": m, "n": int(rng.integers(1, m))}
    config = accelerator(
        variant,
        rows,
        int(rng.choice([64, 128, 256])),
        changes,
        l1_banks=int(rng.choice([4, 6, 10])),
        l1_bank_words=int(rng.choice([64, 128])),
        psum_vectors=int(rng.choice([16, 64, 1024])),
    )
    network = lowered(random_graph(rng), config, seed)
    for keep in (None, "all"):
        agree(network, config, keep, orders=(seed,))


def test_digits_on_three_sizes():
    for rows in (8, 16, 32):
        changes = {"vector_length": 8, "m": 8, "n": 2} if rows == 8 else {}
        agree(lowered(digits(), config := accelerator(rows=rows, changes=changes)), config)


@pytest.mark.parametrize(("variant", "rows"), [("ews-cms", 16), ("ews", 16), ("ws-cms", 32), ("ews-cms", 64)])
def test_resnet20(variant, rows):
    config = accelerator(variant, rows)
    agree(lowered(resnet20(), config, compressed=1.0, codewords=512), config, orders=(None,))


def test_resnet20_stays_in_l1():
    config = accelerator()
    program = agree(lowered(resnet20(), config, compressed=1.0, codewords=512), config, keep=None)
    assert program.stored.keys() == {program.input, program.output}
    assert [operation.opcode for operation in program.operations].count("store") == 1


def test_efficientnet_lite0_in_tiles():
    config = accelerator(l1_bank_words=32, psum_vectors=64)
    program = agree(lowered(efficientnet_lite0(48, 10), config), config, keep=None, orders=(5,))
    assert sum(plan.tiles > 1 for plan in program.plans) > 20


@pytest.mark.slow
@pytest.mark.parametrize("make", [efficientnet_lite0, resnet18])
@pytest.mark.parametrize("rows", [16, 64])
def test_networks_of_imagenet(make, rows):
    config = accelerator(rows=rows)
    agree(lowered(make(), config, codewords=512, compressed=1.0), config, keep=None, orders=(None,))


# ---- what layers become
# -----------------------------------------------------------------------------------------------------


def headers(program):
    """(operation, header) of every weight subset that the program streams."""
    config, memory = program.config, program.memory()
    for operation in program.operations:
        if operation.opcode != "conv":
            continue
        array, position = config.array, operation.fields["weights_address"] - program.base
        end = position + operation.fields["weight_words"] * config.bus_bytes
        while position < end:
            size = config.subset_words * config.bus_bytes
            header = unpack_fields(
                int.from_bytes(memory[position : position + size].tobytes(), "little"), config.subset_fields
            )
            yield operation, header
            rows = header["entries"] * header["rows"]
            words = header["scales"] * array.scale_words + header.get("codewords", 0) * array.codeword_words
            if header.get("compressed"):
                words += -(-rows * array.groups * array.entry_width // array.stream_width)
            else:
                words += rows * array.groups // max(1, array.raw_vectors) * array.raw_words
            position += size + words * config.bus_bytes


def test_depthwise_takes_one_pass_on_a_sparse_tile():
    net = GraphBuilder((20, 6, 6))
    net.conv(net.conv("image", 20, groups=20), 5, 1)
    config = accelerator()
    program = agree(lowered(net.graph(), config, compressed=0.0), config)
    first = [header for operation, header in headers(program) if operation.layer == 0]
    assert {(header["diagonal"], header["passes"]) for header in first} == {(1, 1)}
    assert sum(header["entries"] for header in first) == 2 * 9
    assert any(header["passes"] > 1 for operation, header in headers(program) if operation.layer == 1)


@pytest.mark.parametrize("bank_words", [512, 32])
def test_a_shared_codebook_is_loaded_once(bank_words):
    """Also where each layer has many strips, and so one stream with codewords and another without."""
    config = accelerator(l1_bank_words=bank_words)
    network = lowered(resnet20((8, 16, 24), 1), config, compressed=1.0, shared=1.0)
    program = agree(network, config, keep=None, orders=(None,))
    assert (min(plan.tiles for plan in program.plans[:3]) > 1) == (bank_words < 512)
    assert [header["codewords"] for _, header in headers(program) if header["codewords"]] == [16]


def test_additions_and_activations_run_with_the_convolution():
    net = GraphBuilder((16, 6, 6))
    x = net.conv("image", 16)
    y = net.add(net.conv(x, 16, activation="none"), x)  # reads x twice: one bank cannot
    z = net.add(net.conv(net.conv(y, 16), 16, activation="none"), y)
    net.add_node("activation", [net.conv(z, 16, activation="none")], 16, kind="relu6")
    config = accelerator()
    program = agree(lowered(net.graph(), config), config)
    assert [operation.opcode for operation in program.operations if operation.kind == "compute"] == [
        *("conv", "conv", "vector"),
        *("conv", "conv", "conv"),
    ]
    assert [operation.fields.get("residual", 0) for operation in program.operations if operation.kind == "compute"] == [
        *(0, 0, 1),
        *(0, 1, 0),
    ]


def test_first_layer_reads_patches():
    config = accelerator()
    net = GraphBuilder((3, 9, 8))
    net.conv("image", 5, 7, 2)
    network = lowered(net.graph(), config, compressed=0.0)
    program = agree(network, config)
    layout, (layer,) = program.input_layout, network_layers(network, config).layers
    assert layout.patch_rows > 0
    assert layer.shape.in_channels == 3 * 7 * layout.patch_rows

    x, whole = image(network), dataclasses.replace(layout, patch_rows=7)
    patches = whole.arrange(x)
    assert patches.shape == (147, 5, 4)
    assert np.array_equal(patches[24 * 3 :][:3, 2, 1], x[:, 4, 2])  # centre tap of ofmap pixel (2, 1)
    halves = dataclasses.replace(layout, patch_rows=2)
    assert (halves.taps, halves.row_stride, halves.arrange(x).shape) == (4, 1, (42, 8, 4))
    assert np.array_equal(halves.arrange(x)[:, 3], whole.arrange(x)[42 : 2 * 42, 2])


@pytest.mark.parametrize(("rows", "stream_width", "beats"), [(16, 64, [1, 2]), (64, 64, [1, 3]), (64, 256, [1, 1])])
def test_memory_has_no_beats_for_channels_that_a_single_plane_lacks(rows, stream_width, beats):
    config = accelerator(rows=rows, stream_width=stream_width)
    net = GraphBuilder((3, 10, 6))
    x = net.conv(net.pool("image"), 24)  # what a pool reads lies in memory as it is, not in patches
    net.pool(x)
    program = agree(lowered(net.graph(), config), config)
    found = [program.stored[name].tensor.word_beats(config) for name in ("image", x)]
    assert found == beats
    for place in program.stored.values():
        assert place.size == place.tensor.beats(config) * config.bus_bytes


def test_linear_layers_read_images_and_kernels_up_to_any_size_read_the_input():
    net = GraphBuilder((2, 5, 4))
    net.linear(net.conv("image", 20), 11, 400)
    config = accelerator()
    program = agree(lowered(net.graph(), config), config)
    assert program.read(program.memory()).dtype == np.int32
    for shape in ((1, 8, 8), (2, 11, 9)):
        net = GraphBuilder(shape)
        net.linear("image", 13, int(np.prod(shape)))
        agree(lowered(net.graph(), config), config)
    net = GraphBuilder((1, 20, 20))
    net.conv("image", 4, 11, 4, (0, 0, 0, 0))
    agree(lowered(net.graph(), config), config)


def test_moving_channels_is_exact_and_skips_what_is_zero():
    net = GraphBuilder((64, 4, 4))
    net.add_node("pad", ["image"], 192, channels=[64, 64], spatial=[0, 0, 0, 0])
    config = accelerator()
    program = agree(lowered(net.graph(), config), config)
    assert len(list(headers(program))) <= 12  # and not 12 * 4


# ---- L1, memory and waits
# ---------------------------------------------------------------------------------------------------


def banks(span, config):
    size = config.l1_bank_words * config.word_vectors
    return set() if span is None else set(range(span.start // size, (span.end - 1) // size + 1))


def test_what_is_read_at_once_lies_in_different_banks():
    config = accelerator()
    program = compile_program(lowered(resnet20((16, 32)), config), config)
    pairs = [operation for operation in program.operations if operation.residual is not None]
    assert pairs
    assert not any(banks(operation.ifmap, config) & banks(operation.residual, config) for operation in pairs)


def test_waits_are_needed_and_few():
    """Without its waits, a program run in another order computes something else."""
    config = accelerator(l1_bank_words=32)
    network = lowered(digits(), config)
    program = agree(network, config, orders=range(5))
    for operation in program.operations:
        operation.waits = dict.fromkeys(operation.waits, 0)
    memory = program.memory()
    address = program.program_address - program.base
    for number, operation in enumerate(program.operations):
        start = address + number * config.descriptor_bytes
        memory[start : start + config.descriptor_bytes] = np.frombuffer(operation.to_bytes(config), np.uint8)
    x, wrong = image(network), 0
    golden = network.network.run(x[None], keep=False)[program.output][0]
    for seed in range(5):
        after = memory.copy()
        program.write_input(after, x)
        executor = Executor.of(program, after)
        try:
            executor.run(program.program_address, program.program_length, np.random.default_rng(seed))
        except AssertionError:  # nonsense in channels that must be zero
            wrong += 1
        wrong += not np.array_equal(program.read(after), golden)
    assert wrong


def test_spans_overlap_where_a_place_lies_in_both():
    rng = np.random.default_rng(0)
    for _ in range(500):
        spans = [Span(*(int(n) for n in rng.integers((0, 1, 1, 1), (40, 6, 12, 5)))) for _ in range(2)]
        places = [{s.start + i * s.stride + j for i in range(s.count) for j in range(s.length)} for s in spans]
        assert spans[0].overlaps(spans[1]) == bool(places[0] & places[1])


def test_memory_outside_the_output_window_stays_as_it_was():
    config = accelerator(l1_bank_words=32, l1_banks=4)
    network = lowered(digits(), config)
    program = compile_program(network, config, base=4096, keep="all")
    assert program.base == 4096 <= program.output_window[0] < program.output_window[1] <= program.weights_address
    memory = program.memory()
    program.write_input(memory, image(network))
    after = memory.copy()
    Executor.of(program, after).run(program.program_address, program.program_length)
    changed = np.flatnonzero(memory != after) + program.base
    assert program.output_window[0] <= changed.min() <= changed.max() < program.output_window[1]
    assert program.stored["conv1"].address % 64 == 0
    again = after.copy()
    Executor.of(program, again).run(program.program_address, program.program_length)
    assert np.array_equal(after, again)


def test_a_mismatch_names_layer_channel_row_and_column():
    config = accelerator()
    network = lowered(digits(), config)
    program, x = compile_program(network, config, keep="all"), image(network)
    memory = execute(program, x)
    place = program.stored["conv2"]
    values = {name: value[0] for name, value in network.network.run(x[None]).items()}
    memory[place.address + place.plane_bytes + (3 * 8 + 5) * 16 + 4] ^= 1
    with pytest.raises(
        MismatchError, match=r"layer 'conv2', channel 20, row 3, column 5: .*\(1 of 2048 values differ\)"
    ):
        program.compare(memory, values)


# ---- what is refused
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sizes", "text"),
    [
        (lambda net: net.conv(net.conv("image", 4), 4, 9), {}, "'conv2': has a kernel of 9 x 9; .* up to 7 x 7"),
        (
            lambda net: net.conv(net.conv("image", 4), 4, 3, 17),
            {},
            "'conv2': has a stride of 17 x 17; .* up to 15 x 15",
        ),
        (
            lambda net: net.linear(net.conv("image", 4), 4, 2304),
            {},
            "'linear3': has a kernel of 24 x 24; .* up to 7 x 7",
        ),
        (
            lambda net: net.conv(net.conv("image", 32), 32, 7),
            {"l1_bank_words": 16},
            "'conv2': needs [0-9]* words of L1.* L1 has 160 in 10 banks",
        ),
        (
            lambda net: net.conv(net.conv("image", 32), 32, 7),
            {"psum_vectors": 16},
            "'conv2': has 24 pixels in an ofmap row.*psum_vectors of 24",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(build, sizes, text):
    net, config = GraphBuilder((1, 24, 24)), accelerator(**sizes)
    build(net)
    with pytest.raises(LoweringError, match=text):
        compile_program(lowered(net.graph(), config), config)


def test_other_requests_that_make_no_sense_are_refused():
    config = accelerator()
    network = lowered(digits(), config)
    with pytest.raises(MvqError, match="lowered for ews-cms-16x16"):
        compile_program(network, accelerator("ews"))
    with pytest.raises(MvqError, match="base = 8 must be a multiple of 64"):
        compile_program(network, config, base=8)
    program = compile_program(network, config)
    with pytest.raises(MvqError, match="'conv1'; it stores linear9"):
        program.read(program.memory(), "conv1")
    with pytest.raises(MvqError, match=r"must be int8 \(1, 8, 8\), not float64"):
        program.write_input(program.memory(), np.zeros((1, 8, 8)))
    net = GraphBuilder((2, 3, 3))
    net.add_node("flatten", ["image"], 2)
    with pytest.raises(LoweringError, match="'flatten1': is the network's input as it is"):
        compile_program(lowered(Graph(net.nodes, "flatten1"), config), config)


_VECTOR = {
    **{
        "pixels": 6,
        "ifmap_rows": 2,
        "ifmap_columns": 3,
        "stride_y": 1,
        "stride_x": 1,
        "ofmap_rows": 2,
        "ofmap_columns": 3,
    },
    **{"kernel_rows": 1, "kernel_columns": 1, "ofmap_groups": 1, "last_columns": 16, "ofmap_address": 64},
}
_LOAD = {"memory_address": 0, "chunk_words": 4, "chunks": 2, "l1_stride": 4, "memory_stride": 64, "word_beats": 1}


@pytest.mark.parametrize(
    ("operation", "base", "changes", "code"),
    [
        ("load", _LOAD, {"chunks": 0}, "ILLEGAL_FIELD"),
        ("load", _LOAD, {"word_beats": 0}, "ILLEGAL_FIELD"),
        ("store", _LOAD, {"word_beats": 3}, "ILLEGAL_FIELD"),
        ("load", _LOAD, {"memory_address": 4}, "MISALIGNED"),
        ("load", _LOAD, {"memory_stride": 1}, "MISALIGNED"),
        ("load", _LOAD, {"l1_address": 5113}, "OUT_OF_RANGE_L1"),
        ("load", _LOAD, {"memory_address": 960}, "OUT_OF_RANGE_MEMORY"),
        ("store", _LOAD, {"memory_address": 960}, "OUT_OF_RANGE_MEMORY"),
        ("store", _LOAD, {}, "OUT_OF_RANGE_MEMORY"),
        ("vector", _VECTOR, {"last_columns": 17}, "ILLEGAL_FIELD"),
        ("vector", _VECTOR, {"kernel_rows": 0}, "ILLEGAL_FIELD"),
        ("vector", _VECTOR, {"stride_x": 0}, "ILLEGAL_FIELD"),
        ("vector", _VECTOR, {"pixels": 7}, "ILLEGAL_FIELD"),
        ("vector", _VECTOR, {"ofmap_address": 5115}, "OUT_OF_RANGE_L1"),
        ("vector", _VECTOR, {"ofmap_groups": 2, "ofmap_plane": 5100}, "OUT_OF_RANGE_L1"),
        ("vector", _VECTOR, {"residual": 1, "rescale": 1, "residual_address": 5119}, "OUT_OF_RANGE_L1"),
        ("vector", _VECTOR, {"wait_loads": 1}, "WATCHDOG"),
        ("conv", _VECTOR, {"kernel_rows": 0, "weight_words": 0}, "ILLEGAL_FIELD"),
        ("conv", _VECTOR, {"weight_words": 1, "weights_address": 4}, "MISALIGNED"),
        ("conv", _VECTOR, {"weight_words": 1000}, "OUT_OF_RANGE_MEMORY"),
    ],
)
def test_illegal_descriptors_have_the_hardwares_codes(operation, base, changes, code):
    config = accelerator()
    memory = np.zeros(1024, np.uint8)
    descriptors = descriptor_bytes(operation, {"layer": 3, **base, **changes}, config) + descriptor_bytes(
        "end", {}, config
    )
    memory[: len(descriptors)] = np.frombuffer(descriptors, np.uint8)
    with pytest.raises(ExecutionError, match=f"error {code.lower()} in layer 3") as error:
        Executor(config, memory, output_window=(512, 1024)).run(0, 2)
    assert error.value.code == ErrorCode[code]


def test_lists_without_end_and_unknown_opcodes():
    config, memory = accelerator(), np.zeros(256, np.uint8)
    executor = Executor(config, memory)
    with pytest.raises(ExecutionError, match="unknown_opcode"):
        executor.run(0, 2)
    memory[:128] = np.frombuffer(descriptor_bytes("load", _LOAD, config) * 2, np.uint8)
    with pytest.raises(ExecutionError, match="truncated_list"):
        executor.run(0, 2)
    with pytest.raises(ExecutionError, match="misaligned"):
        executor.run(32, 2)
    with pytest.raises(ExecutionError, match="out_of_range_memory"):
        executor.run(256, 2)


def test_descriptors_hold_what_was_put_in():
    config = accelerator()
    data = descriptor_bytes("vector", {**_VECTOR, "wait_computes": 200, "layer": 513}, config)
    operation, values, code = descriptor_fault(data, config)
    assert (len(data), operation, code, values["wait_computes"], values["layer"]) == (64, "vector", 0, 200, 513)
    assert {name: values[name] for name in _VECTOR} == _VECTOR
    with pytest.raises(ValueError, match="stride_x = 16 does not fit its 4 bits"):
        descriptor_bytes("vector", {**_VECTOR, "stride_x": 16}, config)
    with pytest.raises(ValueError, match="a load has no field 'pixels'"):
        descriptor_bytes("load", {"pixels": 1}, config)


def test_plain_input_layout_is_the_image():
    layout = InputLayout(shape=(2, 3, 4))
    x = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
    assert np.array_equal(layout.arrange(x), x)
    assert layout.tensor("x").pixels == 12
