"""The cycle model alone: against the closed recurrence, against sums over a program, and what it is monotone in."""

import functools
import itertools

import numba
import numpy as np
import pytest

from cocotb_tests.accelerator_simulation import AXI_RAM
from golden import lower
from golden.program import compile_program
from golden.program.formats import unpack_fields
from golden.schedule import LayerShape, choose_repeats, cycles, raw_row_words, schedule
from golden.timing import COUNTERS, MemoryTiming, decode, machine, predict, simulate
from golden.timing.records import dtype_of
from golden.timing.tables import CONV, END, OperationRow, SubsetRow
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import MvqError, preset
from tests.golden.program_networks import random_checkpoint, random_graph
from tests.sim.accelerators import CONFIGS

IDEAL = MemoryTiming(read_latency=1, write_latency=1)
#: cycles of a program of one ``conv`` beside :func:`golden.schedule.cycles`, those in which words arrive excepted: an
#: address to the memory, descriptor and first header on their way through buffers and queues, a result on its way to
#: L1.
FIXED_CYCLES = 19


@functools.cache
def random_program(name, seed):
    """Program of a small random network, keeping every result where ``seed`` is even."""
    config, rng = CONFIGS[name], np.random.default_rng(seed)
    array = config.array
    form = {"d": array.vector_length, "n": array.n, "m": array.m} if array.has_codebook else {}
    compressed = 0.6 if array.has_codebook else 0.0
    checkpoint, calibration = random_checkpoint(random_graph(rng), rng, **form, compressed=compressed)
    lowered = lower(checkpoint, calibration, array)
    return compile_program(lowered, config, keep=["all", None][seed % 2], base=4096 * (seed % 3))


programs = pytest.mark.parametrize(("name", "seed"), list(itertools.product(CONFIGS, range(3))))


# ---- one layer, nothing else


def subset_row(subset, array, last):
    """:class:`SubsetRow` of a :class:`golden.schedule.Subset` without padding."""
    turns = subset.entries * subset.rows * (array.groups // array.crf_read_ports)
    bits = turns * array.crf_read_ports * array.entry_width
    raw_words = subset.entries * subset.rows * raw_row_words(array)
    return SubsetRow(
        codebook_words=subset.codewords * array.codeword_words,
        scale_words=subset.scales * array.scale_words,
        weight_words=-(-bits // array.stream_width) if subset.compressed else raw_words,
        records=turns if subset.compressed else 0,
        compressed=subset.compressed,
        entries=subset.entries,
        scales=subset.scales,
        groups=len(subset.out_groups),
        passes=len(subset.dense_passes),
        vectors=subset.vectors,
        fresh=subset.fresh,
        row_pixels=subset.row_pixels,
        pixels=subset.pixels,
        walk=subset.ifmap_vectors,
        reads=subset.ifmap_vectors,
        accumulate=subset.accumulate,
        complete=subset.final,
        last=last,
    )


def one_layer(shape, config, *, compressed):
    """(subsets, operations, rows of the subsets) of a program of one ``conv`` whose ifmap is in L1."""
    array = config.array
    codewords = array.codewords if compressed else 0
    repeats = choose_repeats(shape, array, compressed=compressed, psum_vectors=config.psum_vectors)
    subsets = schedule(shape, array, repeats, compressed=compressed, codewords=codewords).subsets
    rows = [subset_row(subset, array, subset is subsets[-1]) for subset in subsets]
    words = sum(row.codebook_words + row.scale_words + row.weight_words + config.subset_words for row in rows)
    results = -(-shape.out_channels // array.columns) * shape.ofmap_pixels
    conv = OperationRow(CONV, weight_beats=words, results=results, pixels=shape.ofmap_pixels)
    operations = np.array([conv, OperationRow(END)], dtype_of(OperationRow))
    return subsets, operations, np.array(rows, dtype_of(SubsetRow))


@pytest.mark.parametrize("variant", ["ws", "ews", "ews-cm", "ews-cms"])
@pytest.mark.parametrize("pixels", [(4, 4), (8, 30), (16, 16)])
def test_one_layer_takes_the_cycles_of_its_schedule(variant, pixels):
    """Its stream is behind by nothing but headers: where a subset waits for its weights, it waits for all of its header
    but the word that passes during the hand-over."""
    config = AcceleratorConfig(array=preset(variant, 16))
    words = config.subset_words
    kinds = {False, config.array.has_codebook}
    for inputs, outputs, kernel, compressed in itertools.product((16, 64), (16, 80), (1, 3), kinds):
        shape = LayerShape(
            name="conv", out_channels=outputs, in_channels=inputs, kernel=(kernel, kernel), pixels=pixels
        )
        subsets, *tables = one_layer(shape, config, compressed=compressed)
        timing = simulate(*tables, 0, config, IDEAL)
        assert timing.counters["activation_stalls"] == 0
        late = timing.completed[0] - cycles(subsets, config.array)
        late -= FIXED_CYCLES + words + config.descriptor_bytes // config.bus_bytes
        waits = (len(subsets) - 1) * (words - 1) if pixels == (4, 4) else 0
        assert 0 <= late <= waits


def test_a_slow_memory_is_waited_for():
    shape = LayerShape(name="conv", out_channels=16, in_channels=64, pixels=(2, 2))
    config = AcceleratorConfig(array=preset("ews", 16))
    _, *tables = one_layer(shape, config, compressed=False)
    fast, slow = (simulate(*tables, 0, config, MemoryTiming(read_latency=latency)) for latency in (1, 101))
    assert slow.cycles == fast.cycles + 200  # descriptor, then weights; what else is read is under way by then
    assert slow.counters["busy_cycles"] == fast.counters["busy_cycles"]


# ---- the memory


@programs
def test_more_latency_takes_no_less(name, seed):
    program = random_program(name, seed)
    reads = [predict(program, MemoryTiming(read_latency=latency)).cycles for latency in (1, 2, 5, 20, 60, 200)]
    writes = [predict(program, MemoryTiming(write_latency=latency)).cycles for latency in (1, 20, 200)]
    for found in (reads, writes):
        assert found == sorted(found)
        assert found[0] < found[-1]


@programs
def test_a_memory_that_takes_few_addresses(name, seed):
    """Slower the fewer it takes; as any other where it takes all that are outstanding. AxiRam is one of them."""
    program = random_program(name, seed)

    def timed(addresses, beats=2):
        memory = MemoryTiming(read_latency=2, write_latency=2, read_addresses=addresses, read_beats=beats)
        return predict(program, memory)

    few, some, many = (timed(addresses) for addresses in (1, AXI_RAM.read_addresses, CONFIGS[name].outstanding + 1))
    assert predict(program, AXI_RAM).completed.tolist() == some.completed.tolist()
    assert few.cycles >= some.cycles >= many.cycles
    assert timed(1, 1).cycles >= few.cycles
    free = timed(0)
    assert many.completed.tolist() == free.completed.tolist()
    assert few.counters["bus_read_beats"] == free.counters["bus_read_beats"]


# ---- counters


def walk_reads(fields, groups, rows, columns, first_row, first_column, fresh):
    """L1 reads of a walk, pixel by pixel: the window's columns that the pixel before did not have."""
    reads = 0
    for y, x in itertools.product(range(fields["ofmap_rows"]), range(fields["ofmap_columns"])):
        new = range(columns) if x == 0 else range(columns - fresh, columns)
        for row, column in itertools.product(range(rows), new):
            at_row = y * fields["stride_y"] - fields["pad_top"] + first_row + row
            at_column = x * fields["stride_x"] - fields["pad_left"] + first_column + column
            reads += 0 <= at_row < fields["ifmap_rows"] and 0 <= at_column < fields["ifmap_columns"]
    return groups * reads


def headers(program, fields):
    """The subset headers in the weight stream of a ``conv``."""
    config, memory = program.config, program.memory()
    array, size = config.array, config.subset_words * config.bus_bytes
    at = fields["weights_address"] - program.base
    last = 0
    while not last:
        header = unpack_fields(int.from_bytes(memory[at : at + size].tobytes(), "little"), config.subset_fields)
        yield header
        rows = header["entries"] * header["rows"]
        words = rows * raw_row_words(array)
        if header.get("compressed"):
            words = -(-rows * array.groups * array.entry_width // array.stream_width)
        words += header.get("codewords", 0) * array.codeword_words + header["scales"] * array.scale_words
        at, last = at + size + words * config.bus_bytes, header["last"]
    assert at == fields["weights_address"] - program.base + fields["weight_words"] * config.bus_bytes


def sums(program):
    """The counters of a run but for the stalls, operation by operation."""
    config, found = program.config, dict.fromkeys(COUNTERS, 0)
    found["bus_read_beats"] = program.program_length * config.descriptor_bytes // config.bus_bytes
    for operation in program.operations:
        fields = operation.fields
        if operation.opcode in ("load", "store"):
            words, load = fields["chunks"] * fields["chunk_words"], operation.opcode == "load"
            found["bus_read_beats" if load else "bus_write_beats"] += words * fields["word_beats"]
            found["l1_writes" if load else "l1_reads"] += words
            continue
        pixels = fields["pixels"]
        results = fields["ofmap_groups"] * pixels
        found["l1_writes"] += results * (4 if fields.get("raw") else 1)
        found["l1_reads"] += results * fields.get("residual", 0)
        if operation.opcode == "vector":
            rows, columns = fields["kernel_rows"], fields["kernel_columns"]
            found["l1_reads"] += walk_reads(fields, fields["ofmap_groups"], rows, columns, 0, 0, columns)
            continue
        found["bus_read_beats"] += fields["weight_words"]
        for header in headers(program, fields):
            columns = header["tap_columns"]
            fresh = min(columns, fields["stride_x"])
            place = (header["tap_rows"], columns, header["tap_row"], header["tap_column"], fresh)
            found["l1_reads"] += walk_reads(fields, header["in_groups"], *place)
            found["busy_cycles"] += pixels * header["entries"]
            sent = pixels * header["out_channel_repeat"]
            found["psum_reads"] += sent * header["accumulate"]
            found["psum_writes"] += sent * (not (header["final"] or header["raw"]))
    return found


@programs
def test_counters_are_the_sums_over_the_program(name, seed):
    program = random_program(name, seed)
    timing, expected = predict(program), sums(program)
    stalls = {key: timing.counters[key] for key in ("weight_stalls", "activation_stalls")}
    assert timing.counters == {**expected, **stalls}
    assert timing.counters["busy_cycles"] + sum(stalls.values()) <= timing.cycles


@programs
def test_completion_is_in_order_and_after_what_is_waited_for(name, seed):
    program = random_program(name, seed)
    timing = predict(program)
    assert timing.completed[-1] == -1
    assert not timing.counted[-1].any()
    done = {"load": [], "store": [], "compute": []}
    for operation, cycle, counted in zip(program.operations, timing.completed, timing.counted, strict=False):
        for kind, count in operation.waits.items():
            assert all(cycle > before for before, _ in done[kind][:count])
        done[operation.kind].append((cycle, counted))
    for kind, found in done.items():
        assert [cycle for cycle, _ in found] == sorted({cycle for cycle, _ in found}), kind
        assert (np.diff([counted for _, counted in found], axis=0) >= 0).all()
    assert timing.completed.max() < timing.cycles


# ---- what is reported, and what is kept


def test_a_program_that_does_not_end_is_reported():
    shape = LayerShape(name="conv", out_channels=16, in_channels=16, pixels=(2, 2))
    config = AcceleratorConfig(array=preset("ews", 16))
    _, operations, subsets = one_layer(shape, config, compressed=False)
    operations["wait_stores"][0] = 1  # of which there is none
    with pytest.raises(MvqError, match="does not end within 5000 cycles"):
        simulate(operations, subsets, 0, config, limit=5000)


def test_limit_is_the_last_cycle_that_may_be():
    program = random_program("ws", 0)
    tables = decode(program.memory(), program.program_address, program.config, program.base)
    last = predict(program).cycles
    assert simulate(*tables, program.program_address, program.config, limit=last).cycles == last
    with pytest.raises(MvqError, match=f"within {last - 1} cycles"):
        simulate(*tables, program.program_address, program.config, limit=last - 1)


def test_an_illegal_descriptor_is_named():
    program = random_program("ws", 0)
    memory, address = program.memory(), program.program_address
    memory[address - program.base] = 99
    with pytest.raises(MvqError, match=f"descriptor at {address:#x}: unknown_opcode"):
        decode(memory, address, program.config, program.base)


def test_compiled_loop_is_kept_where_there_is_a_folder_for_it(monkeypatch, tmp_path):
    """NUMBA_CACHE_DIR, or the package's folder, or the user's cache; without any of them it is compiled each time."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert str(tmp_path) in machine._loop(b"").stats.cache_path
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/dev/null/none")
    assert "none" not in machine._loop(b"").stats.cache_path
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    assert machine._loop(b"").stats.cache_path is None


def test_compiled_loop_depends_on_all_files_of_the_package():
    """Numba's own key has the file of the loop alone, and the values in its closure."""
    codegen = numba.core.registry.cpu_target.target_context.codegen()
    keys = [machine._loop(sources)._cache._index_key((), codegen) for sources in (b"one", b"other", b"one")]
    assert keys[0] == keys[2] != keys[1]
