"""The compiled bench: a copier's bytes and cycles, faults of the memory, rules of AXI; and what g++ does."""

import numpy as np
import pytest
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from golden.files import cache_folder
from hdl.config import MvqError
from sim.axi_bench import CHANNELS, DECERR, SLVERR, AxiBench, BenchError
from sim.cxxrtl import CompileError, compile_design
from tests.sim.copier import BEATS, BURSTS, DESTINATION, SOURCE, START, STATUS, UNANSWERED, Copier, Fault

BASE, SIZE, BURST = 0x10000, 0x4000, BEATS * 8


@pytest.fixture
def bench():
    memory = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    return AxiBench(Copier(), memory, base=BASE, read_latency=3, write_latency=2)


def start(bench, source=0, destination=0x2000, bursts=5, fault=Fault.NONE):
    for offset, value in ((SOURCE, BASE + source), (DESTINATION, BASE + destination), (BURSTS, bursts)):
        bench.write_register(offset, value)
    bench.write_register(START, fault.value)


def copied(memory, source=0, destination=0x2000, bursts=5):
    expected = memory.copy()
    expected[destination : destination + bursts * BURST] = memory[source : source + bursts * BURST] + 1
    return expected


def test_copies_in_the_cycles_that_the_latencies_ask_for(bench):
    for read_latency, write_latency in ((1, 1), (3, 2), (40, 7)):
        bench.set_timing(read_latency, write_latency)
        expected, before = copied(bench.memory), bench.counts
        start(bench)
        first = bench.counts.cycles
        assert bench.run(10_000, until_interrupt=True)
        np.testing.assert_array_equal(bench.memory, expected)
        assert bench.read_register(STATUS) == 1
        counts = bench.counts
        assert counts.read_bursts - before.read_bursts == counts.write_bursts - before.write_bursts == 5
        assert counts.read_beats - before.read_beats == counts.write_beats - before.write_beats == 5 * BEATS
        # a cycle for AR and AW, the latencies without the cycles of the last beats, BEATS beats each
        took = 5 * (1 + read_latency + (BEATS - 1) + 1 + BEATS + write_latency)
        bench.reset()
        start(bench)
        first = bench.counts.cycles
        assert not bench.run(took - 1, until_interrupt=True)
        assert bench.run(1, until_interrupt=True)
        assert bench.counts.cycles == first + took


@pytest.mark.parametrize("width", [128, 256])
def test_wider_buses(width):
    memory = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    bench = AxiBench(Copier(width), memory)
    expected = memory.copy()
    expected[0x2000 : 0x2000 + 2 * BEATS * width // 8] = memory[: 2 * BEATS * width // 8] + 1
    for offset, value in ((DESTINATION, 0x2000), (BURSTS, 2), (START, 0)):
        bench.write_register(offset, value)
    assert bench.run(1000, until_interrupt=True)
    np.testing.assert_array_equal(memory, expected)


@pytest.mark.parametrize("channel", [*CHANNELS, None])
def test_pauses_change_cycles_only(bench, channel):
    cycles = []
    for chances in (0.0, {channel: 0.7} if channel else 0.7):
        bench.reset()
        expected, first = copied(bench.memory), bench.counts.cycles
        bench.pause(chances, seed=3)
        start(bench)
        assert bench.run(10_000, until_interrupt=True)
        assert [bench.read_register(STATUS) for _ in range(8)] == [1] * 8
        np.testing.assert_array_equal(bench.memory, expected)
        cycles.append(bench.counts.cycles - first)
    assert cycles[1] > cycles[0]


@pytest.mark.parametrize("response", [SLVERR, DECERR])
@pytest.mark.parametrize("direction", ["read", "write"])
def test_refused_bursts(bench, direction, response):
    expected = copied(bench.memory)
    third = slice(0x2000 + 2 * BURST, 0x2000 + 3 * BURST)
    expected[third] = bench.memory[third] if direction == "write" else expected[third]
    bench.refuse(direction, 2, response)
    start(bench)
    assert bench.run(1000, until_interrupt=True)
    assert bench.read_register(STATUS) == 1 | response << (1 if direction == "read" else 3)
    np.testing.assert_array_equal(bench.memory, expected)


@pytest.mark.parametrize(("source", "destination", "status"), [(-BURST, 0x2000, 0b00111), (0, SIZE - 8, 0b11001)])
def test_outside_the_memory_there_is_no_slave(bench, source, destination, status):
    before = bench.memory.copy()
    start(bench, source, destination - destination % BURST + BURST * (source == 0), bursts=1)
    assert bench.run(1000, until_interrupt=True)
    assert bench.read_register(STATUS) == status
    before[0x2000 : 0x2000 + BURST] = 1 if source else before[0x2000 : 0x2000 + BURST]
    np.testing.assert_array_equal(bench.memory, before)


@pytest.mark.parametrize("direction", ["read", "write"])
def test_a_memory_that_stops_and_goes_on(bench, direction):
    expected = copied(bench.memory)
    bench.stop(direction, 2)
    start(bench)
    assert not bench.run(1000, until_interrupt=True)
    assert (bench.memory[0x2000 : 0x2000 + 2 * BURST] == expected[0x2000 : 0x2000 + 2 * BURST]).all()
    assert bench.read_register(BURSTS) == 3
    bench.resume()
    assert bench.run(1000, until_interrupt=True)
    np.testing.assert_array_equal(bench.memory[:0x2000], expected[:0x2000])
    assert bench.read_register(STATUS) == 1


def test_a_reset_forgets_what_is_under_way(bench):
    bench.stop("read")
    start(bench)
    assert not bench.run(100)
    bench.resume(forget=True)
    assert not bench.run(100, until_interrupt=True)  # the answer never comes
    bench.reset()
    expected = copied(bench.memory)
    start(bench)
    assert bench.run(1000, until_interrupt=True)
    np.testing.assert_array_equal(bench.memory, expected)


@pytest.mark.parametrize(
    ("fault", "source", "text"),
    [
        (Fault.DROPS_VALID, 0, "m_axi_arvalid fell before m_axi_arready"),
        (Fault.CHANGES_ADDRESS, 0, "m_axi_ar changed while it waited"),
        (Fault.EARLY_LAST, 0, "m_axi_wlast is 1 in beat 3 of a burst of 4"),
        (Fault.WRONG_SIZE, 0, "m_axi_arsize is 1, but a beat has 8 bytes"),
        (Fault.WRAPPING_BURST, 0, "m_axi_awburst is 2: only incrementing"),
        (Fault.NONE, 0x1000 - 16, "4 beats at m_axi_araddr 0x10ff0 crosses a 4 KB boundary"),
        (Fault.NONE, 4, "m_axi_araddr 0x10004 is not a multiple of a beat"),
    ],
)
def test_broken_rules_are_named(bench, fault, source, text):
    bench.pause({"ar": 0.9}, seed=1)
    start(bench, source, fault=fault)
    with pytest.raises(BenchError, match=rf"^cycle \d+: .*{text}"):
        bench.run(1000, until_interrupt=True)


def test_registers_that_do_not_answer_or_forget_to(bench):
    start(bench, fault=Fault.DROPS_ANSWER)
    bench.pause({"host_b": 0.9}, seed=1)
    with pytest.raises(BenchError, match="s_axi_bvalid fell before s_axi_bready was high"):
        bench.write_register(SOURCE, 0)
    bench = AxiBench(Copier(), bench.memory)
    with pytest.raises(BenchError, match="no answer on s_axi to the write of register 0x14"):
        bench.write_register(UNANSWERED, 0)


def unused(component):
    """``component``, which is never elaborated: Amaranth would warn of it."""
    component._MustUse__used = True
    return component


def test_what_cannot_run_in_the_bench():
    class Lamp(wiring.Component):
        module_name = "lamp"
        irq: Out(1)

    memory = np.zeros(64, np.uint8)
    with pytest.raises(MvqError, match=r"lamp cannot run in this bench.*s_axi_awaddr"):
        AxiBench(unused(Lamp()), memory)
    with pytest.raises(MvqError, match="contiguous numpy array of uint8"):
        AxiBench(unused(Copier()), memory[::2])
    with pytest.raises(MvqError, match="read_latency = 0: must be at least 1"):
        AxiBench(unused(Copier()), memory, read_latency=0)


def test_a_design_is_compiled_once(tmp_path, monkeypatch):
    lines = []
    first = compile_design(Copier(), cache=tmp_path, progress=lines.append)
    assert "compiling copier to C++" in lines[0]
    assert str(first) in lines[-1]
    again = compile_design(Copier(), cache=tmp_path, progress=pytest.fail)
    assert again == first
    assert [*tmp_path.glob("*.so")] == [first]
    named = compile_design(Copier(), identity="copier", cache=tmp_path)
    assert named == first
    monkeypatch.setattr(Copier, "elaborate", None)  # is not needed again
    assert compile_design(Copier(), identity="copier", cache=tmp_path).resolve() == first
    assert cache_folder("cxxrtl").name == "cxxrtl"


def test_a_compiler_that_is_missing_or_fails(tmp_path, monkeypatch):
    harness = tmp_path / "harness.cc"
    harness.write_text('#include "design.h"\nint wrong = "text";\n')
    cache = tmp_path / "cache"
    with pytest.raises(CompileError, match=r"g\+\+ fails \(1\):\n.*harness.cc:2.*error"):
        compile_design(Copier(), harness, cache=cache)
    assert not [*cache.glob("*.so")]
    with pytest.raises(CompileError, match=r"cannot be kept in .*harness.cc.*: Not a directory"):
        compile_design(Copier(), cache=harness / "below")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match=r"g\+\+ is not installed.*apt-get install g\+\+"):
        compile_design(unused(Copier()), cache=cache)
