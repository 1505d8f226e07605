"""Faults of bus, program and host: a clear error, nothing written where it does not belong, and the next run works."""

import functools

import numpy as np
import pytest

from golden.program.formats import descriptor_bytes, unpack_fields
from hdl.control.register_map import ErrorCode
from mvq.driver import RunFailedError
from sim.axi_bench import DECERR, SLVERR
from tests.golden.program_networks import digits
from tests.sim.accelerators import Case

BUSY, DONE, ERROR, STOPPED, DRAINING, IGNORED_START = (1 << bit for bit in range(6))
START, STOP, SOFT_RESET = 1, 2, 4
WATCHDOG = 600
LONG = 100_000


@functools.cache
def case():
    return Case("ews-cms", digits(), keep="all", base=8192)


@pytest.fixture
def bench():
    bench = case().engine.bench
    yield bench
    bench.pause(0.0)
    bench.resume()
    bench.run(2000)
    bench.reset()


def settings():
    return {**case().driver.settings(), "watchdog": WATCHDOG}


def outside(memory):
    """Bytes that no run may change."""
    program = case().program
    start, stop = (address - program.base for address in program.output_window)
    return np.concatenate([memory[:start], memory[stop:]])


def run(memory=None, **changes):
    """Run with changed settings; returns the registers."""
    one = case()
    memory = one.driver.memory if memory is None else memory
    return one.engine.run(memory, {**settings(), **changes}, LONG, base=one.program.base)


def assert_works():
    """The next run gives the right values."""
    one = case()
    result, registers = one.driver.run(one.x)
    np.testing.assert_array_equal(result, one.values[one.program.output])
    assert registers["status"] & 0xFFFF == DONE


def failure(registers):
    """(error code, name of the layer) of a run that failed."""
    assert registers["status"] & (BUSY | DONE | ERROR | STOPPED) == ERROR
    assert registers["irq_status"] == 2
    return ErrorCode(registers["error"] & 0xFF), case().program.layer_name(registers["error"] >> 8 & 0xFFFF)


@pytest.mark.parametrize(("response", "name"), [(SLVERR, "SLVERR"), (DECERR, "DECERR")])
@pytest.mark.parametrize("direction", ["read", "write"])
@pytest.mark.parametrize("burst", [0, 1, 2, 5])
def test_bus_errors_end_the_run(bench, direction, burst, response, name):
    before = outside(case().driver.memory).copy()
    bench.refuse(direction, burst, response)
    code, _ = failure(run())
    assert code is ErrorCode[f"{direction.upper()}_{name}"]
    np.testing.assert_array_equal(outside(case().driver.memory), before)
    bench.run(200)
    assert_works()


def test_the_error_names_the_layer_and_the_driver_says_so(bench):
    names = set()
    for burst in range(0, 60, 3):
        bench.refuse("read", burst)
        with pytest.raises(RunFailedError, match="stopped with read_slverr at address 0x") as caught:
            case().driver.run(case().x)
        names.add(caught.value.layer)
        bench.run(200)
    assert len(names) > 2
    assert names <= set(case().program.layers)
    assert_works()


@pytest.mark.parametrize("direction", ["read", "write"])
@pytest.mark.parametrize("burst", [0, 3])
def test_a_memory_that_stops_answering_does_not_hang(bench, direction, burst):
    bench.stop(direction, burst)
    code, _ = failure(run())
    assert code is ErrorCode.WATCHDOG
    assert case().engine.read("status") & DRAINING
    case().engine.write("control", START)
    assert case().engine.read("status") & (BUSY | IGNORED_START) == IGNORED_START
    bench.resume()
    bench.run(500)
    assert not case().engine.read("status") & DRAINING
    assert_works()


def test_a_second_soft_reset_forgets_a_bus_that_was_reset(bench):
    bench.stop("read", 2)
    failure(run())
    assert case().engine.read("status") & DRAINING
    bench.resume(forget=True)
    bench.run(100)
    assert case().engine.read("status") & DRAINING
    case().engine.write("control", SOFT_RESET)
    bench.run(5)
    assert case().engine.read("status") & (BUSY | DRAINING) == 0
    assert_works()


def changed(index, **fields):
    """Memory with other ``fields`` in descriptor ``index``."""
    program, memory = case().program, case().driver.memory.copy()
    opcode = program.operations[index].opcode
    start = program.program_address - program.base + program.config.descriptor_bytes * index
    place = memory[start : start + program.config.descriptor_bytes]
    word = int.from_bytes(place.tobytes(), "little")
    values = unpack_fields(word, program.config.descriptor_fields[opcode]) | fields
    place[:] = np.frombuffer(descriptor_bytes(opcode, values, program.config), np.uint8)
    return memory


def index_of(opcode):
    return next(i for i, operation in enumerate(case().program.operations) if operation.opcode == opcode)


@pytest.mark.parametrize(
    ("opcode", "fields", "code"),
    [
        ("load", {"memory_address": 8193}, "MISALIGNED"),
        ("load", {"memory_stride": 4}, "MISALIGNED"),
        ("load", {"memory_address": 0}, "OUT_OF_RANGE_MEMORY"),
        ("load", {"memory_address": 0xFFFFFFF8}, "OUT_OF_RANGE_MEMORY"),
        ("load", {"chunks": 0}, "ILLEGAL_FIELD"),
        ("load", {"word_beats": 0}, "ILLEGAL_FIELD"),
        ("load", {"l1_address": 768}, "OUT_OF_RANGE_L1"),
        ("load", {"l1_address": 767, "chunk_words": 2}, "OUT_OF_RANGE_L1"),
        ("store", {"memory_address": 8192}, "OUT_OF_RANGE_MEMORY"),
        ("store", {"l1_address": 0xFFFFF}, "OUT_OF_RANGE_L1"),
        ("conv", {"weights_address": 4}, "MISALIGNED"),
        ("conv", {"weights_address": 0xF0000000}, "OUT_OF_RANGE_MEMORY"),
        ("conv", {"weight_words": 0}, "ILLEGAL_FIELD"),
        ("conv", {"pixels": 0}, "ILLEGAL_FIELD"),
        ("conv", {"stride_x": 0}, "ILLEGAL_FIELD"),
        ("conv", {"last_columns": 9}, "ILLEGAL_FIELD"),
        ("conv", {"ifmap_address": 768}, "OUT_OF_RANGE_L1"),
        ("conv", {"ofmap_address": 767}, "OUT_OF_RANGE_L1"),
        ("vector", {"kernel_rows": 0}, "ILLEGAL_FIELD"),
        ("vector", {"ifmap_plane": 700}, "OUT_OF_RANGE_L1"),
    ],
)
def test_illegal_descriptors_are_refused(bench, opcode, fields, code):
    index = index_of(opcode)
    memory = changed(index, **fields)
    before = outside(memory).copy()
    found, layer = failure(run(memory))
    assert found is ErrorCode[code]
    assert layer == case().program.layers[case().program.operations[index].layer]
    np.testing.assert_array_equal(outside(memory), before)
    bench.run(200)
    assert_works()


def test_programs_that_are_no_programs(bench):
    program = case().program
    memory = case().driver.memory.copy()
    memory[program.program_address - program.base] = 9
    assert failure(run(memory))[0] is ErrorCode.UNKNOWN_OPCODE
    assert failure(run(np.zeros_like(memory)))[0] is ErrorCode.UNKNOWN_OPCODE
    assert failure(run(program_length=program.program_length - 1))[0] is ErrorCode.TRUNCATED_LIST
    assert failure(run(program_length=0))[0] is ErrorCode.TRUNCATED_LIST
    assert failure(run(program_address=program.program_address + 8))[0] is ErrorCode.MISALIGNED
    assert failure(run(program_address=0))[0] is ErrorCode.OUT_OF_RANGE_MEMORY
    assert_works()


@pytest.mark.parametrize("cycles", [1, 40, 300, 900, 2000])
def test_soft_reset_in_the_middle_of_a_run(bench, cycles):
    one = case()
    before = outside(one.driver.memory).copy()
    one.engine.start(one.driver.memory, settings(), base=one.program.base)
    bench.run(cycles)
    one.engine.write("control", SOFT_RESET)
    bench.run(300)
    assert one.engine.read("status") & 0xFFFF == 0
    np.testing.assert_array_equal(outside(one.driver.memory), before)
    assert_works()


def test_stop_ends_the_run_after_what_was_dispatched(bench):
    one = case()
    one.engine.start(one.driver.memory, settings(), base=one.program.base)
    bench.run(300)
    one.engine.write("control", STOP)
    bench.run(LONG)
    assert one.engine.read("status") & 0xFFFF == STOPPED
    assert_works()


def test_a_start_during_a_run_does_nothing(bench):
    one = case()
    one.engine.start(one.driver.memory, settings(), base=one.program.base)
    bench.run(500)
    one.engine.write("control", START)
    one.engine.write("program_address", 0)
    assert bench.run(LONG, until_interrupt=True)
    assert one.engine.read("status") & 0xFFFF == DONE | IGNORED_START
    assert one.program.compare(one.driver.memory, one.values)
    assert_works()


@pytest.mark.parametrize("part", range(4))
def test_random_faults_leave_the_rest_of_memory_alone(bench, part):
    """50 runs each, with pauses on every channel and a fault at a random place; after each the accelerator works."""
    one = case()
    rng = np.random.default_rng(part)
    failed = 0
    for number in range(50):
        memory = one.driver.memory.copy()
        memory[slice(*(address - one.program.base for address in one.program.output_window))] = 0
        before = outside(memory).copy()
        bench.pause(float(rng.choice([0.0, 0.2, 0.6])), seed=part * 1000 + number)
        direction, burst = str(rng.choice(["read", "write"])), int(rng.integers(0, 80))
        kind = rng.choice(["slverr", "decerr", "stop", "reset"])
        if kind == "reset":
            one.engine.start(memory, {**settings(), "watchdog": 5000}, base=one.program.base)
            bench.run(int(rng.integers(1, 4000)))
            one.engine.write("control", SOFT_RESET)
        else:
            if kind == "stop":
                bench.stop(direction, burst)
            else:
                bench.refuse(direction, burst, SLVERR if kind == "slverr" else DECERR)
            registers = run(memory, watchdog=5000)
            failed += registers["status"] & ERROR != 0
            if not registers["status"] & ERROR:  # the fault lay beyond the end of the run
                assert one.program.compare(memory, one.values)
        bench.resume()
        bench.run(3000)
        np.testing.assert_array_equal(outside(memory), before)
        bench.pause(0.0)
        assert_works()
    assert failed > 10
