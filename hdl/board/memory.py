"""Memory on an AXI4 bus, made of an FPGA's block RAM."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..bus.axi import OKAY, axi4_master
from ..config import ConfigError, address_width

__all__ = ["AxiMemory"]


class AxiMemory(wiring.Component):
    """AXI4 slave of whole-beat incrementing bursts, the kind that the accelerator's masters send, and a second user.

    Addresses wrap at the size of the memory. One read and one write burst at a time.

    Timing, in cycles: the first beat of a burst whose address is taken in t has ``rvalid`` in t + 2, then a beat a
    cycle; the next address is taken with the read of the last beat. The answer to a write is there in the cycle after
    its last beat.

    Parameters
    ----------
    data_width : bits of a beat. ``words`` : beats that it holds, a power of two.
    init : integers, the first words at power-up; the others are 0.

    Raises
    ------
    ConfigError : ``words`` is no power of two, or less than ``init`` holds.

    Members
    -------
    s_axi_... : the other side of :func:`~hdl.bus.axi.axi4_master`.
    host_write : In(1), ``host_address`` : In (bytes), ``host_byte`` : In(8). Write a byte.
    host_read : In(1). Read the word of the byte ``host_address``; ``host_word`` : Out(data_width) has it from the next
        cycle on, until the next read. Both only while no burst is under way.
    """

    module_name = "axi_memory"
    latency = 2

    def __init__(self, data_width, words, init=()):
        if words < max(2, len(init)) or words & (words - 1):
            least = 1 << address_width(max(2, len(init)))
            raise ConfigError("words", words, f"must be a power of two that holds {len(init)} words", least)
        self.data_width, self.words, self.init = data_width, words, list(init)
        self.byte_bits = exact_log2(data_width // 8)
        master = axi4_master(data_width, "s_axi_")
        super().__init__(
            {
                **{name: member.flip() for name, member in master.items()},
                "host_write": In(1),
                "host_address": In(address_width(words) + self.byte_bits),
                "host_byte": In(8),
                "host_read": In(1),
                "host_word": Out(data_width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.data_width, depth=self.words, init=self.init)
        write, read = memory.write_port(granularity=8), memory.read_port()
        low, high = self.byte_bits, self.byte_bits + address_width(self.words)
        host_word = self.host_address[low:]

        # Reads.
        reading, beats, address = Signal(), Signal(8), Signal(high - low)
        issue = Signal()
        m.d.comb += [
            issue.eq(reading & (~self.s_axi_rvalid | self.s_axi_rready)),
            self.s_axi_arready.eq(~reading | (issue & (beats == 0))),
            read.en.eq(issue | self.host_read),
            read.addr.eq(Mux(self.host_read, host_word, address)),
            self.host_word.eq(read.data),
            self.s_axi_rdata.eq(read.data),
            self.s_axi_rresp.eq(OKAY),
        ]
        with m.If(self.s_axi_rready):
            m.d.sync += self.s_axi_rvalid.eq(0)
        with m.If(issue):
            m.d.sync += [
                self.s_axi_rvalid.eq(1),
                self.s_axi_rlast.eq(beats == 0),
                address.eq(address + 1),
                beats.eq(beats - 1),
                reading.eq(beats != 0),
            ]
        with m.If(self.s_axi_arvalid & self.s_axi_arready):
            m.d.sync += [reading.eq(1), address.eq(self.s_axi_araddr[low:high]), beats.eq(self.s_axi_arlen)]

        # Writes.
        writing, write_address, taken = Signal(), Signal(high - low), Signal()
        m.d.comb += [
            self.s_axi_awready.eq(~writing & ~self.s_axi_bvalid),
            self.s_axi_wready.eq(writing),
            self.s_axi_bresp.eq(OKAY),
            taken.eq(self.s_axi_wvalid & self.s_axi_wready),
            write.addr.eq(Mux(self.host_write, host_word, write_address)),
            write.data.eq(Mux(self.host_write, self.host_byte.replicate(self.data_width // 8), self.s_axi_wdata)),
        ]
        lane = Cat(self.host_address[:low] == index for index in range(self.data_width // 8))
        with m.If(self.host_write):
            m.d.comb += write.en.eq(lane)
        with m.Elif(taken):
            m.d.comb += write.en.eq(self.s_axi_wstrb)
        with m.If(self.s_axi_bready):
            m.d.sync += self.s_axi_bvalid.eq(0)
        with m.If(taken):
            m.d.sync += write_address.eq(write_address + 1)
            with m.If(self.s_axi_wlast):
                m.d.sync += [writing.eq(0), self.s_axi_bvalid.eq(1)]
        with m.If(self.s_axi_awvalid & self.s_axi_awready):
            m.d.sync += [writing.eq(1), write_address.eq(self.s_axi_awaddr[low:high])]
        return m
