"""Arithmetic of the compiled simulation, and its order of statements, against Amaranth's simulator."""

import ctypes

import numpy as np
import pytest
from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hdl.verilog import place
from sim.cxxrtl import compile_design
from sim.partition import PartitionError, partition

WIDTHS = (1, 32, 33, 64, 130)

_HARNESS = """\
#include "design.h"
template<class T> void put(T &input, const uint64_t *&words) {{
	for (size_t i = 0; i < T::words; i++) input.set(i, *words++);
}}
template<class T> void get(const T &output, uint64_t *&words) {{
	for (size_t i = 0; i < T::words; i++) *words++ = output.at(i);
}}
extern "C" __attribute__((visibility("default"))) int run(const uint64_t *in, uint64_t *out, int cycles) {{
	Design design;
	int passes = 0;
	for (int cycle = 0; cycle < cycles; cycle++) {{
		{inputs}
		int taken = design.settle();
		passes = taken > passes ? taken : passes;
		{outputs}
		design.clock();
	}}
	return passes;
}}
"""


def words(width):
    return -(-width // 64)


class Compiled:
    """``component`` compiled; :meth:`run` feeds its inputs cycle by cycle."""

    def __init__(self, component, folder):
        self.ports = [
            (name, member.flow, len(Value.cast(getattr(component, name))))
            for name, member in component.signature.members.items()
        ]
        lines = {In: [], Out: []}
        for name, flow, _ in self.ports:
            port = "design.p_" + name.replace("_", "__")
            lines[flow].append(f"put({port}, in);" if flow == In else f"get({port}, out);")
        harness = folder / f"{component.module_name}.cc"
        harness.write_text(_HARNESS.format(inputs=" ".join(lines[In]), outputs=" ".join(lines[Out])))
        self._run = ctypes.CDLL(str(compile_design(component, harness, cache=folder))).run

    def run(self, inputs):
        """[{output: value}] of [{input: value}], and the most passes that a cycle took to settle."""
        flat = [
            cycle[name] >> 64 * word & (1 << 64) - 1
            for cycle in inputs
            for name, flow, width in self.ports
            if flow == In
            for word in range(words(width))
        ]
        count = sum(words(width) for _, flow, width in self.ports if flow == Out)
        into, out = np.array(flat, np.uint64), np.zeros((len(inputs), count), np.uint64)
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (into, out))
        passes = self._run(*pointers, len(inputs))
        results = []
        for row in out.tolist():
            result = {}
            for name, flow, width in self.ports:
                if flow == Out:
                    result[name] = sum(row.pop(0) << 64 * word for word in range(words(width)))
            results.append(result)
        return results, passes


def simulated(component, inputs):
    """What Amaranth's simulator says of the same."""
    results = []
    outputs = [name for name, member in component.signature.members.items() if member.flow == Out]

    async def bench(ctx):
        for cycle in inputs:
            for name, value in cycle.items():
                ctx.set(Value.cast(getattr(component, name)).as_unsigned(), value)
            results.append({name: ctx.get(Value.cast(getattr(component, name)).as_unsigned()) for name in outputs})
            await ctx.tick()

    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def expressions(a, b, amount, bit):
    """Name -> value, of everything that Amaranth's operators make."""
    return {
        "sum": a + b,
        "difference": a - b,
        "negative": -a,
        "inverted": ~a,
        "and": a & b,
        "or": a | b,
        "xor": a ^ b,
        "equal": a == b,
        "less": a < b,
        "at_most": a <= b,
        "all": a.all(),
        "any": a.any(),
        "odd": a.xor(),
        "left": (a << amount[:4]),
        "right": a >> amount,
        "chosen": Mux(bit, a, b),
        "joined": Cat(a, bit, b),
        "part": a.bit_select(amount, 1),
        "word": Cat(a, b).word_select(amount[:2], 5),
        "slice": Cat(b, a)[len(b) // 2 : len(b) + len(a) - len(a) // 2],
        "repeated": bit.replicate(len(a)) & a,
        "product": a * b,
    }


class Operators(wiring.Component):
    """All operators on operands of several widths, with and without sign."""

    def __init__(self, width):
        self.module_name = f"operators_{width}"
        self.operands = {
            f"{name}_{shape.width}_{'s' if shape.signed else 'u'}": shape
            for name, own in (("a", width), ("b", width), ("b", 9))
            for shape in (unsigned(own), signed(own))
        }
        members = {name: In(shape) for name, shape in self.operands.items()} | {"amount": In(8), "bit": In(1)}
        for name, value in self._results({name: Signal(member.shape) for name, member in members.items()}).items():
            members[name] = Out(Shape(len(value)))
        super().__init__(members)

    def _results(self, ports):
        found = {}
        for a in self.operands:
            for b in self.operands:
                if a[0] == "a" and b[0] == "b" and a[-1] == b[-1]:
                    results = expressions(ports[a], ports[b], ports["amount"], ports["bit"])
                    found |= {f"{a}_{b}_{name}": value for name, value in results.items()}
        return found

    def elaborate(self, platform):
        m = Module()
        ports = {name: getattr(self, name) for name in self.signature.members}
        m.d.sync += [getattr(self, name).eq(value) for name, value in self._results(ports).items()]
        return m


def stimuli(component, rng, cycles):
    """Random, small and extreme values for each input."""
    found = []
    for _ in range(cycles):
        cycle = {}
        for name, member in component.signature.members.items():
            if member.flow == In:
                width = Shape.cast(member.shape).width
                value = int.from_bytes(rng.bytes(20), "little") >> int(rng.integers(0, 160))
                value = [value, ~value, 1 << (width - 1), 0][rng.choice(4, p=[0.5, 0.3, 0.1, 0.1])]
                cycle[name] = value & ((1 << width) - 1)
        found.append(cycle)
    return found


@pytest.fixture
def folder(request):
    """Where compiled designs stay, so that an unchanged one is compiled once."""
    return request.config.cache.mkdir("cxxrtl")


@pytest.mark.parametrize("width", WIDTHS)
def test_operators(folder, width):
    component = Operators(width)
    inputs = stimuli(component, np.random.default_rng(width), 60)
    got, passes = Compiled(component, folder).run(inputs)
    assert passes == 1
    for now, (found, expected) in enumerate(zip(got, simulated(Operators(width), inputs), strict=True)):
        assert found == expected, (now, inputs[now - 1], [name for name in found if found[name] != expected[name]])


class Machine(wiring.Component):
    """Memories with every kind of port, a state machine, and wires that only look like loops."""

    module_name = "machine"

    def __init__(self):
        super().__init__(
            {
                "address": In(4),
                "data": In(72),
                "enable": In(3),
                "bits": In(4),
                "early": Out(72),
                "late": Out(72),
                "through": Out(72),
                "state": Out(2),
                "apart": Out(4),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=72, depth=13, init=[3, 0, 1 << 71])
        write = memory.write_port(granularity=24)
        early = memory.read_port(domain="comb")
        late, through = memory.read_port(), memory.read_port(transparent_for=[write])
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.data), write.en.eq(self.enable)]
        for port, out in ((early, self.early), (late, self.late), (through, self.through)):
            m.d.comb += [port.addr.eq(self.address), out.eq(port.data)]
        m.d.comb += late.en.eq(self.bits[0])
        m.d.comb += through.en.eq(1)
        with m.FSM():
            with m.State("A"):
                m.d.comb += self.state.eq(1)
                with m.If(self.bits[0]):
                    m.next = "B"
            with m.State("B"):
                m.d.comb += self.state.eq(self.bits[1:3])
                with m.Switch(self.bits):
                    with m.Case("1---", "--11"):
                        m.next = "A"
                    with m.Case("0100"):
                        m.next = "C"
            with m.State("C"):
                m.next = "A"
        x, y = Signal(2), Signal(2)
        m.d.comb += [x[0].eq(self.bits[0]), y[0].eq(x[0] ^ self.bits[1]), x[1].eq(y[0] & self.bits[2]), y[1].eq(~x[1])]
        m.d.comb += self.apart.eq(Cat(x, y))
        return m


def test_memories_states_and_false_loops(folder):
    component = Machine()
    inputs = stimuli(component, np.random.default_rng(0), 400)
    for cycle in inputs:
        cycle["address"] %= 13
    got, passes = Compiled(component, folder).run(inputs)
    assert passes > 1  # yosys takes the crossed wires for a loop
    assert got == simulated(Machine(), inputs)


class Gate(wiring.Component):
    """A module of its own, so that Amaranth does not see the loop through it."""

    module_name = "gate"
    a: In(1)
    b: In(1)
    out: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.out.eq(~(self.a & self.b))
        return m


class Ring(wiring.Component):
    module_name = "ring"
    enable: In(1)
    out: Out(1)

    def elaborate(self, platform):
        m = Module()
        gate = place(m, platform, "gate", Gate())
        m.d.comb += [gate.a.eq(self.enable), gate.b.eq(self.out), self.out.eq(gate.out)]
        return m


def test_a_true_loop_does_not_settle(folder):
    compiled = Compiled(Ring(), folder)
    assert compiled.run([{"enable": 0}])[1] <= 2
    assert compiled.run([{"enable": 1}])[1] == 1000


class TwoClocks(wiring.Component):
    module_name = "two_clocks"
    other: In(1)
    out: Out(2)

    def elaborate(self, platform):
        m = Module()
        m.domains.other = ClockDomain(reset_less=True)
        m.d.comb += ClockSignal("other").eq(self.other)
        m.d.sync += self.out[0].eq(~self.out[0])
        m.d.other += self.out[1].eq(~self.out[1])
        return m


def test_what_is_not_supported(tmp_path):
    with pytest.raises(PartitionError, match="one clock, clk"):
        compile_design(TwoClocks(), cache=tmp_path)
    with pytest.raises(PartitionError, match="wrote 0 modules"):
        partition("", 1)
