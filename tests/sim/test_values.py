"""Arithmetic of the compiled simulation, and its order of statements, against Amaranth's simulator."""

import ctypes
import functools

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from sim.cxxrtl import compile_design
from sim.partition import PartitionError, partition

WIDTHS = (1, 7, 32, 33, 64, 65, 130)

_HARNESS = """\
#include "design.h"
template<size_t Bits> const value<Bits> &port(const value<Bits> &output) {{ return output; }}
template<size_t Bits> const value<Bits> &port(const wire<Bits> &output) {{ return output.curr; }}
template<class T> void put(T &input, const uint64_t *&words) {{
	for (size_t i = 0; i < T::words; i++) input.set(i, *words++);
}}
template<class T> void get(const T &output, uint64_t *&words) {{
	for (size_t i = 0; i < T::words; i++) *words++ = output.at(i);
}}
extern "C" __attribute__((visibility("default"))) int run(const uint64_t *in, uint64_t *out, int cycles) {{
	Design design;
	int deltas = 0;
	for (int cycle = 0; cycle < cycles; cycle++) {{
		{inputs}
		deltas = design.settle();
		{outputs}
		design.clock();
	}}
	return deltas;
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
            lines[flow].append(f"put({port}, in);" if flow == In else f"get(port({port}), out);")
        harness = folder / "harness.cc"
        harness.write_text(_HARNESS.format(inputs=" ".join(lines[In]), outputs=" ".join(lines[Out])))
        self._run = ctypes.CDLL(str(compile_design(component, harness, cache=folder))).run

    def run(self, inputs):
        """[{output: value}] of [{input: value}], and the passes of the last cycle."""
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
    found = {
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
    }
    if len(a) + len(b) <= 128:
        found["product"] = a * b
    return found


class Operators(wiring.Component):
    """All operators on operands of several widths, with and without sign."""

    module_name = "operators"

    def __init__(self, width):
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
        m.domains.sync  # noqa: B018
        ports = {name: getattr(self, name) for name in self.signature.members}
        m.d.comb += [getattr(self, name).eq(value) for name, value in self._results(ports).items()]
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
