"""AXI4-Lite slave in front of registers."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .axi import OKAY, SLVERR, axi4_lite_slave

__all__ = ["AxiLiteSlave"]


class AxiLiteSlave(wiring.Component):
    """Single words of 32 bits; the low two address bits are ignored. Reads and writes do not wait for each other.

    Timing, in cycles: a write happens in the first cycle in which address and data are both valid and the answer before
    is gone or being taken; its answer is valid in the next. A read happens in the cycle in which its address is taken;
    its data is valid in the next. One of each in a cycle at best.

    Parameters
    ----------
    address_width : bits of an address.

    Members
    -------
    s_axi_... : AXI4-Lite, see :func:`~hdl.bus.axi.axi4_lite_slave`.
    write : Out(1), ``write_word`` : Out(address_width - 2), ``write_data`` : Out(32), ``write_mask`` : Out(32). A
        write, with a mask bit for each data bit that is to be written. ``write_known`` : In(1), in the same cycle:
        there is a register; SLVERR otherwise.
    read : Out(1), ``read_word`` : Out(address_width - 2). A read; ``read_data`` : In(32) and ``read_known`` : In(1)
        answer it in the same cycle.
    """

    module_name = "axi_lite_slave"
    latency = 1

    def __init__(self, address_width):
        super().__init__(
            {
                **axi4_lite_slave(address_width),
                "write": Out(1),
                "write_word": Out(address_width - 2),
                "write_data": Out(32),
                "write_mask": Out(32),
                "write_known": In(1),
                "read": Out(1),
                "read_word": Out(address_width - 2),
                "read_data": In(32),
                "read_known": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.write.eq(self.s_axi_awvalid & self.s_axi_wvalid & (~self.s_axi_bvalid | self.s_axi_bready)),
            self.s_axi_awready.eq(self.write),
            self.s_axi_wready.eq(self.write),
            self.write_word.eq(self.s_axi_awaddr[2:]),
            self.write_data.eq(self.s_axi_wdata),
            self.s_axi_arready.eq(~self.s_axi_rvalid | self.s_axi_rready),
            self.read.eq(self.s_axi_arvalid & self.s_axi_arready),
            self.read_word.eq(self.s_axi_araddr[2:]),
            *(self.write_mask.word_select(i, 8).eq(self.s_axi_wstrb[i].replicate(8)) for i in range(4)),
        ]
        with m.If(self.s_axi_bready):
            m.d.sync += self.s_axi_bvalid.eq(0)
        with m.If(self.write):
            m.d.sync += [self.s_axi_bvalid.eq(1), self.s_axi_bresp.eq(OKAY)]
            with m.If(~self.write_known):
                m.d.sync += self.s_axi_bresp.eq(SLVERR)
        with m.If(self.s_axi_rready):
            m.d.sync += self.s_axi_rvalid.eq(0)
        with m.If(self.read):
            m.d.sync += [self.s_axi_rvalid.eq(1), self.s_axi_rdata.eq(self.read_data), self.s_axi_rresp.eq(OKAY)]
            with m.If(~self.read_known):
                m.d.sync += self.s_axi_rresp.eq(SLVERR)
        return m
