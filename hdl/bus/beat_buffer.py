"""FIFO in a synchronous memory, which can be emptied at once."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..array.activation_file import successor
from ..config import address_width

__all__ = ["BeatBuffer"]


class BeatBuffer(wiring.Component):
    """FIFO of ``depth`` values. Whoever pushes knows that there is room: a push into a full buffer is an error.

    Latency: a value pushed in cycle t is offered in cycle t+1. One value a cycle in and out.

    Parameters
    ----------
    depth, width : values, and bits in each.

    Members
    -------
    push : In(1), ``value`` : In(width). A value enters.
    values : Out(stream of width). ``valid`` falls without a transfer when the buffer is cleared.
    clear : In(1). The buffer is empty in the next cycle; a push at the same time is lost.
    """

    latency = 1

    def __init__(self, depth, width):
        self.depth, self.width = depth, width
        self.module_name = f"beat_buffer_{depth}x{width}"
        super().__init__({"push": In(1), "value": In(width), "values": Out(stream.Signature(width)), "clear": In(1)})

    def elaborate(self, platform):
        m = Module()
        places = max(2, self.depth)  # an address of no bits is no legal Verilog
        m.submodules.memory = memory = Memory(shape=self.width, depth=places, init=[])
        write_port = memory.write_port()
        read_port = memory.read_port(transparent_for=(write_port,))
        head, tail, tail_next = (Signal(address_width(self.depth), name=name) for name in ("head", "tail", "tail_next"))
        level = Signal(range(self.depth + 1))
        popped = Signal()
        m.d.comb += [
            write_port.addr.eq(head),
            write_port.data.eq(self.value),
            write_port.en.eq(self.push),
            tail_next.eq(tail),
            read_port.addr.eq(tail_next),
            read_port.en.eq(1),
            self.values.valid.eq(level != 0),
            self.values.payload.eq(read_port.data),
            popped.eq(self.values.valid & self.values.ready),
        ]
        with m.If(popped):
            m.d.comb += tail_next.eq(successor(tail, self.depth))
        m.d.sync += [tail.eq(tail_next), level.eq(level + self.push - popped)]
        with m.If(self.push):
            m.d.sync += head.eq(successor(head, self.depth))
        with m.If(self.clear):
            m.d.sync += [head.eq(0), tail.eq(0), level.eq(0)]
        return m
