"""Ring: a few registers between two streams."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..array.activation_file import successor
from ..config import address_width
from ..register_file import RegisterFile
from ..verilog import place

__all__ = ["Ring"]


class Ring(wiring.Component):
    """First in, first out. ``source.ready`` depends on registers only.

    Latency: what is taken is offered in the next cycle.

    Parameters
    ----------
    depth, width : places, and bits in each.
    style : see :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    source : In(stream of ``width`` bits). ``sink`` : Out(stream of ``width`` bits).
    """

    latency = 1

    def __init__(self, depth, width, style):
        self.depth, self.width, self.style = depth, width, style
        self.module_name = f"ring_{depth}x{width}"
        super().__init__({"source": In(stream.Signature(width)), "sink": Out(stream.Signature(width))})

    def elaborate(self, platform):
        m = Module()
        depth, width = self.depth, self.width
        head, tail = Signal(address_width(depth)), Signal(address_width(depth))
        held = Signal(range(depth + 1))
        enter, leave = Signal(), Signal()
        file = RegisterFile(depth, width, style=self.style, module_name=f"ring_file_{depth}x{width}")
        place(m, platform, "file", file)
        m.d.comb += [
            self.source.ready.eq(held != depth),
            self.sink.valid.eq(held != 0),
            enter.eq(self.source.valid & self.source.ready),
            leave.eq(self.sink.valid & self.sink.ready),
            file.write.eq(file.words.write(m, "write", head, enter)),
            file.data.eq(self.source.payload),
            file.select[0].eq(file.words.read(m, "select", tail)),
            self.sink.payload.eq(file.value[0]),
        ]
        with m.If(enter):
            m.d.sync += head.eq(successor(head, depth))
        with m.If(leave):
            m.d.sync += tail.eq(successor(tail, depth))
        m.d.sync += held.eq(held + enter - leave)
        return m
