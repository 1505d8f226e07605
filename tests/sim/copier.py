"""A small design for the compiled bench: copies bursts through the memory bus, and breaks rules on request."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Out

from hdl.bus.axi import axi4_lite_slave, axi4_master, fixed_address_fields

__all__ = ["BEATS", "BURSTS", "DESTINATION", "SOURCE", "START", "STATUS", "UNANSWERED", "Copier", "Fault"]

#: beats of a burst.
BEATS = 4

SOURCE, DESTINATION, BURSTS, START, STATUS, UNANSWERED = 0x0, 0x4, 0x8, 0xC, 0x10, 0x14


class Fault(enum.Enum, shape=3):
    """What the copier does wrong."""

    NONE = 0
    DROPS_VALID = 1
    CHANGES_ADDRESS = 2
    EARLY_LAST = 3
    WRONG_SIZE = 4
    WRAPPING_BURST = 5
    DROPS_ANSWER = 6


class Copier(wiring.Component):
    """Reads ``BURSTS`` bursts from ``SOURCE``, adds 1 to each byte, writes them to ``DESTINATION``.

    ``START`` holds the :class:`Fault`. ``STATUS``: bit 0 done, bits 2 and 1 the worst response of a read, 4 and 3 of a
    write. Latency: a burst takes 5 + 2 * BEATS cycles and the memory's two latencies.

    Members
    -------
    s_axi_..., m_axi_... : buses. ``irq`` : Out(1). Done.
    """

    module_name = "copier"

    def __init__(self, data_width=64):
        self.data_width = data_width
        super().__init__({**axi4_lite_slave(12), **axi4_master(data_width), "irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        source, destination, bursts = Signal(32), Signal(32), Signal(16)
        fault = Signal(Fault)
        status, start = Signal(5), Signal()
        m.d.comb += self.irq.eq(status[0])
        self._registers(m, source, destination, bursts, fault, status, start)

        beat = Signal(range(BEATS))
        m.submodules.buffer = buffer = Memory(shape=self.data_width, depth=BEATS, init=[])
        write, read = buffer.write_port(), buffer.read_port(domain="comb")
        m.d.comb += [write.addr.eq(beat), write.data.eq(self.m_axi_rdata), read.addr.eq(beat)]
        for byte in range(self.data_width // 8):
            m.d.comb += self.m_axi_wdata.word_select(byte, 8).eq(read.data.word_select(byte, 8) + 1)
        for channel in ("m_axi_ar", "m_axi_aw"):
            m.d.comb += fixed_address_fields(self, channel, self.data_width // 8)
            m.d.comb += getattr(self, f"{channel}len").eq(BEATS - 1)
        m.d.comb += [self.m_axi_araddr.eq(source), self.m_axi_awaddr.eq(destination)]
        m.d.comb += self.m_axi_wstrb.eq((1 << len(self.m_axi_wstrb)) - 1)
        with m.If(fault == Fault.WRONG_SIZE):
            m.d.comb += self.m_axi_arsize.eq(1)
        with m.If(fault == Fault.WRAPPING_BURST):
            m.d.comb += self.m_axi_awburst.eq(2)
        last = beat == BEATS - 1

        with m.FSM():
            with m.State("IDLE"), m.If(start):
                m.d.sync += status.eq(0)
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                asked = Signal()
                m.d.sync += asked.eq(1)
                with m.If(~((fault == Fault.DROPS_VALID) & asked)):
                    m.d.comb += self.m_axi_arvalid.eq(1)
                with m.If((fault == Fault.CHANGES_ADDRESS) & asked):
                    m.d.comb += self.m_axi_araddr[12].eq(~source[12])
                with m.If(self.m_axi_arvalid & self.m_axi_arready):
                    m.d.sync += asked.eq(0)
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.m_axi_rready.eq(1)
                with m.If(self.m_axi_rvalid):
                    m.d.comb += write.en.eq(1)
                    m.d.sync += [beat.eq(beat + 1), status[1:3].eq(status[1:3] | self.m_axi_rresp)]
                    with m.If(self.m_axi_rlast):
                        m.d.sync += beat.eq(0)
                        m.next = "WRITE_ADDRESS"
            with m.State("WRITE_ADDRESS"):
                m.d.comb += self.m_axi_awvalid.eq(1)
                with m.If(self.m_axi_awready):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += [self.m_axi_wvalid.eq(1), self.m_axi_wlast.eq(last)]
                with m.If(fault == Fault.EARLY_LAST):
                    m.d.comb += self.m_axi_wlast.eq(beat == BEATS - 2)
                with m.If(self.m_axi_wready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(last):
                        m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.m_axi_bready.eq(1)
                with m.If(self.m_axi_bvalid):
                    size = BEATS * self.data_width // 8
                    m.d.sync += [status[3:5].eq(status[3:5] | self.m_axi_bresp), bursts.eq(bursts - 1)]
                    m.d.sync += [source.eq(source + size), destination.eq(destination + size)]
                    with m.If(bursts == 1):
                        m.d.sync += status[0].eq(1)
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "ADDRESS"
        return m

    def _registers(self, m, source, destination, bursts, fault, status, start):
        """Control registers; ``ready`` follows ``valid`` in the same cycle, the answer comes in the next."""
        written, taken = Signal(), Signal()
        m.d.comb += [
            written.eq(self.s_axi_awvalid & self.s_axi_wvalid & ~self.s_axi_bvalid),
            Cat(self.s_axi_awready, self.s_axi_wready).eq(written.replicate(2)),
            taken.eq(self.s_axi_arvalid & ~self.s_axi_rvalid),
            self.s_axi_arready.eq(taken),
            start.eq(written & (self.s_axi_awaddr == START)),
        ]
        with m.If(self.s_axi_bready | (fault == Fault.DROPS_ANSWER)):
            m.d.sync += self.s_axi_bvalid.eq(0)
        with m.If(written):
            m.d.sync += self.s_axi_bvalid.eq(self.s_axi_awaddr != UNANSWERED)
            with m.Switch(self.s_axi_awaddr):
                for offset, register in (
                    (SOURCE, source),
                    (DESTINATION, destination),
                    (BURSTS, bursts),
                    (START, fault),
                ):
                    with m.Case(offset):
                        m.d.sync += register.eq(self.s_axi_wdata)
        with m.If(self.s_axi_rready):
            m.d.sync += self.s_axi_rvalid.eq(0)
        with m.If(taken):
            m.d.sync += self.s_axi_rvalid.eq(1)
            with m.Switch(self.s_axi_araddr):
                for offset, register in (
                    (SOURCE, source),
                    (DESTINATION, destination),
                    (BURSTS, bursts),
                    (STATUS, status),
                ):
                    with m.Case(offset):
                        m.d.sync += self.s_axi_rdata.eq(register)
