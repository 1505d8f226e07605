"""Requantiser: partial sums to int8 by a scale and a bias for each output channel (our decision; the paper leaves it
open)."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import address_width
from ..latch import stores_in_latches
from ..register_file import RegisterFile
from ..verilog import place
from .scaling import FACTOR_LAYOUT, SCALED_WIDTH, clamped, scaled

__all__ = ["SCALE_LAYOUT", "Requantiser", "ScaleMemory"]

#: one scale word: the fields of a factor, and a bias in 1/64 of an output step.
SCALE_LAYOUT = data.StructLayout({**FACTOR_LAYOUT.members, "bias": signed(17)})


class Requantiser(wiring.Component):
    """``value = clamp((((+-psum * (256 + mantissa)) >> shift) + bias + 32) >> 6, low, high)`` for one column.
    Combinational.

    The scaled partial sum saturates at 18 bits; ``low`` is 0 with ``relu``, else -128.

    Parameters
    ----------
    psum_width : bits of ``psum``.
    style : ``behavioural`` or ``structural``, for the product.

    Members
    -------
    psum : In(signed(psum_width)). ``scale`` : In(SCALE_LAYOUT). ``relu`` : In(1). ``high`` : In(7). ``value`` :
        Out(signed(8)).
    """

    module_name = "requantiser"
    latency = 0

    def __init__(self, psum_width, style="behavioural"):
        self.psum_width, self.style = psum_width, style
        super().__init__(
            {
                "psum": In(signed(psum_width)),
                "scale": In(SCALE_LAYOUT),
                "relu": In(1),
                "high": In(7),
                "value": Out(signed(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        total = scaled(m, platform, self.psum, self.scale, self.style) + self.scale.bias
        m.d.comb += self.value.eq(clamped(m, total, SCALED_WIDTH + 1, self.relu, self.high))
        return m


class ScaleMemory(wiring.Component):
    """``scale_depth`` vectors of one scale for each column, written a stream word at a time, read into a register with
    ``step``.

    Latency: ``scales`` is the vector at ``address`` one step later.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    write : In(scale_words). Word enables; ``write_address``, ``write_data`` (``stream_width`` bits).
    step, address : In. ``scales`` : Out(columns*32).
    """

    module_name = "scale_memory"
    latency = 1

    def __init__(self, config):
        self.config = config
        address = address_width(config.scale_depth)
        super().__init__(
            {
                "write": In(config.scale_words),
                "write_address": In(address),
                "write_data": In(config.stream_width),
                "step": In(1),
                "address": In(address),
                "scales": Out(config.columns * 32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self.config.style == "structural":
            self._files(m, platform)
        else:
            self._memory(m)
        return m

    def _memory(self, m):
        words, width = self.config.scale_words, self.config.stream_width
        m.submodules.memory = memory = Memory(shape=words * width, depth=self.config.scale_depth, init=[])
        write = memory.write_port(granularity=width)
        read = memory.read_port()
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(self.write_address),
            write.data.eq(Cat(*[self.write_data] * words)),
            read.en.eq(self.step),
            read.addr.eq(self.address),
            self.scales.eq(read.data),
        ]

    def _files(self, m, platform):
        """A register file for each word of the stream. A vector is never read in the cycle in which it is written: it
        is free, or its subset is still being loaded."""
        depth, width = self.config.scale_depth, self.config.stream_width
        write, address, data = self.write, self.write_address, self.write_data
        if stores_in_latches(platform):  # they want what they take from registers
            write, address = Signal.like(self.write), Signal.like(self.write_address)
            data = Signal(width, reset_less=True)
            m.d.sync += [write.eq(self.write), address.eq(self.write_address), data.eq(self.write_data)]
        read, taken = Signal(depth), Signal(depth)
        values = []
        for index in range(self.config.scale_words):
            file = RegisterFile(
                depth, width, style="structural", module_name=f"scales_{depth}x{width}", read_during_write=False
            )
            place(m, platform, f"word_{index}", file)
            if not index:
                m.d.comb += [
                    read.eq(file.words.read(m, "select", self.address)),
                    taken.eq(file.words.read(m, "taken", address)),
                ]
            m.d.comb += [
                file.select[0].eq(read),
                file.write.eq(file.words.gate(taken, write[index])),
                file.data.eq(data),
            ]
            values.append(file.value[0])
        held = Signal(self.config.columns * 32, reset_less=True)
        with m.If(self.step):
            m.d.sync += held.eq(Cat(*values))
        m.d.comb += self.scales.eq(held)
