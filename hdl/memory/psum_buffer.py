"""Partial-sum buffer: holds the sums of a weight subset until the next one adds to them (paper section 5.1: spill to
L1)."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import address_width

__all__ = ["PsumBuffer"]


class PsumBuffer(wiring.Component):
    """First in, first out; a memory of ``psum_vectors`` words with one write and one read port, and a register behind
    it, so that it holds ``psum_vectors`` + 1 vectors.

    Latency: a vector that is taken in cycle t is offered from cycle t + 2 on, if those before it have left by then. It
    takes one vector a cycle while it has room, and gives one a cycle while it has any.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    vectors_in : In(stream of ``columns`` signed(psum_width)). ``vectors_out`` : Out(the same).
    """

    module_name = "psum_buffer"
    latency = 2

    def __init__(self, config):
        self.config = config
        layout = data.ArrayLayout(signed(config.array.psum_width), config.array.columns)
        self.width = layout.size
        super().__init__({"vectors_in": In(stream.Signature(layout)), "vectors_out": Out(stream.Signature(layout))})

    def elaborate(self, platform):
        m = Module()
        depth = self.config.psum_vectors
        m.submodules.memory = memory = Memory(shape=self.width, depth=depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        head, tail = Signal(address_width(depth)), Signal(address_width(depth))  # they wrap: a power of two
        stored = Signal(range(depth + 1))
        offered = Signal()
        m.d.comb += [
            self.vectors_in.ready.eq(stored != depth),
            write.en.eq(self.vectors_in.valid & self.vectors_in.ready),
            write.addr.eq(head),
            write.data.eq(self.vectors_in.payload.as_value()),
            read.en.eq((stored != 0) & (~offered | self.vectors_out.ready)),
            read.addr.eq(tail),
            self.vectors_out.valid.eq(offered),
            self.vectors_out.payload.as_value().eq(read.data),
        ]
        with m.If(write.en):
            m.d.sync += head.eq(head + 1)
        with m.If(read.en):
            m.d.sync += [tail.eq(tail + 1), offered.eq(1)]
        with m.Elif(self.vectors_out.ready):
            m.d.sync += offered.eq(0)
        m.d.sync += stored.eq(stored + write.en - read.en)
        return m
