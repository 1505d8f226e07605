"""Activation file (ARF) at the left edge of the array: keeps the vectors that overlapping pixels share (paper section
5.1)."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import address_width
from ..register_file import RegisterFile
from ..verilog import place

__all__ = ["ActivationFile", "successor"]


def successor(pointer, count):
    """``pointer`` + 1 modulo ``count``."""
    if count == 1 << len(pointer):
        return (pointer + 1)[: len(pointer)]
    return (pointer + 1)[: len(pointer)] & (pointer != count - 1).replicate(len(pointer))


class ActivationFile(wiring.Component):
    """Ring of ``arf_depth`` vectors that are read in order, again for the next pixel, and freed one by one.

    A pixel reads the B*D vectors from the oldest one on. Those that the next pixel no longer needs are freed as they
    are read; the next pixel starts at the oldest that is left, so vectors shared by neighbouring pixels of a row enter
    once. Vectors of the next pixel, or of the next weight subset, enter while room is left.

    Latency: a vector that enters can be read in the next cycle; reads are combinational.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    ifmap : In(stream of ``rows`` signed(8)).
    activations : Out(signed(8)) for each row, valid while ``available``.
    advance : In(1). Done with this vector. ``free`` : In(1), with ``advance``: for good. ``rewind`` : In(1), with
        ``advance``: it was the last of the pixel.
    """

    module_name = "activation_file"
    latency = 1

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "ifmap": In(stream.Signature(data.ArrayLayout(signed(8), config.rows))),
                "activations": Out(signed(8)).array(config.rows),
                "available": Out(1),
                "advance": In(1),
                "free": In(1),
                "rewind": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth, width = self.config.arf_depth, self.config.rows * 8
        pointer_width = address_width(depth)
        head = Signal(pointer_width)  # next vector to enter
        tail = Signal(pointer_width)  # oldest vector still needed
        cursor = Signal(pointer_width)  # vector being read
        held = Signal(range(depth + 1))  # vectors between tail and head
        ahead = Signal(range(depth + 1))  # vectors between tail and cursor

        arf = place(
            m, platform, "arf", RegisterFile(depth, width, style=self.config.style, module_name=f"arf_{depth}x{width}")
        )
        enter, leave = Signal(), Signal()
        m.d.comb += [
            self.ifmap.ready.eq(held != depth),
            enter.eq(self.ifmap.valid & self.ifmap.ready),
            leave.eq(self.advance & self.free),
            self.available.eq(ahead != held),
            arf.write.eq(arf.words.write(m, "write", head, enter)),
            arf.data.eq(self.ifmap.payload.as_value()),
            arf.select[0].eq(arf.words.read(m, "select", cursor)),
            Cat(*self.activations).eq(arf.value[0]),
        ]
        tail_next = Signal(pointer_width)
        m.d.comb += tail_next.eq(tail)
        with m.If(leave):
            m.d.comb += tail_next.eq(successor(tail, depth))
        m.d.sync += tail.eq(tail_next)
        with m.If(enter):
            m.d.sync += head.eq(successor(head, depth))
        m.d.sync += held.eq(held + enter - leave)
        with m.If(self.advance):
            with m.If(self.rewind):
                m.d.sync += [cursor.eq(tail_next), ahead.eq(0)]
            with m.Else():
                m.d.sync += [cursor.eq(successor(cursor, depth)), ahead.eq(ahead + 1 - leave)]
        return m
