"""Write channels of the AXI4 master: requests and their beats to bursts."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..verilog import place
from .axi import axi4_write_master, fixed_address_fields, next_burst, request_layout
from .beat_buffer import BeatBuffer

__all__ = ["WriteMaster"]


class WriteMaster(wiring.Component):
    """Cuts requests into bursts, sends their beats, and reports when all of a request is answered.

    A burst begins when its first beat is offered; its AW and its first W appear together. Bursts end at multiples of
    ``burst_beats`` beats, or with their request. ``bready`` is always high.

    Timing, in cycles:

    * A request taken in t can begin its first burst in t+1. A burst begins in each cycle in which a beat is offered,
      all beats of the burst before have been taken from ``data``, the AW and the W register are empty or being taken,
      and fewer than ``outstanding`` bursts are under way.
    * The first beat of a burst is taken in the cycle in which it begins, the others when the W register is empty or
      being taken. A beat taken in t has ``wvalid`` high from t+1 until it is taken; so has the ``awvalid`` of a burst
      that begins in t. Beats follow each other in every cycle, across bursts and requests too.
    * The next request is taken in the cycle in which the last burst of the one before begins, or later.
    * A burst is under way from the cycle after it begins to the cycle of its answer. The last answer of a request in t
      gives ``done`` in t+1.
    * A bad response in t gives ``error`` in t+1. No burst begins and there is no ``done`` after that, until
      ``aborting`` or ``forget``: only the first error is reported.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    request : In(stream of request_layout). ``address`` is beat aligned; a request of 0 beats does nothing, and has no
        ``done``.
    data : In(stream of the bus width). The beats of all requests in order.
    done : Out(1). High for one cycle for each request whose bursts are all answered, in order.
    m_axi_aw..., m_axi_w..., m_axi_b... : AXI4, see :func:`~hdl.bus.axi.axi4_write_master`.
    error : Out(1). High for one cycle; then ``error_decode`` : Out(1) (DECERR, else SLVERR) and ``error_address`` :
        Out(32) (of the burst).
    aborting : In(1). While high no burst begins, no request and no beat is taken, and the requests are gone from the
        next cycle on. Beats that are owed to a burst are sent with ``wstrb`` = 0, and answers are dropped; what is
        already valid stays as it is until taken. To be held until ``idle``.
    idle : Out(1). No burst is under way.
    forget : In(1). The bus was reset: back to the state after reset, in the next cycle.
    """

    module_name = "write_master"
    latency = 1

    def __init__(self, config):
        self.config = config
        width = config.array.stream_width
        super().__init__(
            {
                "request": In(stream.Signature(request_layout())),
                "data": In(stream.Signature(width)),
                "done": Out(1),
                **axi4_write_master(width),
                "error": Out(1),
                "error_decode": Out(1),
                "error_address": Out(32),
                "aborting": In(1),
                "idle": Out(1),
                "forget": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        burst_layout = data.StructLayout({"address": 32, "last": 1})
        active, address, left = Signal(), Signal(32), Signal(32)
        owed = Signal(range(config.burst_beats + 1))  # beats of the burst that are not in the W register yet
        under_way = Signal(range(config.outstanding + 1))
        failed, stopping, w_free, may_begin, begin, last = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        send, blank, answered, bad = Signal(), Signal(), Signal(), Signal()
        beats = next_burst(m, config, "next", address, left)
        order = place(m, platform, "order", BeatBuffer(config.outstanding, burst_layout.size))
        issued, returning = (data.View(burst_layout, value) for value in (order.value, order.values.payload))
        m.d.comb += [
            stopping.eq(self.aborting | self.forget),
            w_free.eq(~self.m_axi_wvalid | self.m_axi_wready),
            may_begin.eq(
                active
                & ~failed
                & (owed == 0)
                & (~self.m_axi_awvalid | self.m_axi_awready)
                & (under_way != config.outstanding)
            ),
            last.eq(left == beats),
            self.request.ready.eq(~stopping & (~active | (begin & last))),
            self.data.ready.eq(~stopping & w_free & (may_begin | (owed != 0))),
            send.eq(self.data.valid & self.data.ready),
            begin.eq(send & (owed == 0)),
            blank.eq(stopping & w_free & (owed != 0)),
            *fixed_address_fields(self, "m_axi_aw", config.bus_bytes),
            self.m_axi_bready.eq(1),
            self.idle.eq((under_way == 0) & (owed == 0) & ~self.m_axi_awvalid & ~self.m_axi_wvalid),
            order.push.eq(begin),
            issued.address.eq(address),
            issued.last.eq(last),
            order.values.ready.eq(answered),
            order.clear.eq(self.forget),
            answered.eq(self.m_axi_bvalid & (under_way != 0)),
            bad.eq(answered & self.m_axi_bresp[1] & ~failed & ~stopping),
        ]

        with m.If(self.m_axi_awready):
            m.d.sync += self.m_axi_awvalid.eq(0)
        with m.If(self.m_axi_wready):
            m.d.sync += self.m_axi_wvalid.eq(0)
        with m.If(send | blank):
            m.d.sync += [
                self.m_axi_wvalid.eq(1),
                self.m_axi_wstrb.eq(send.replicate(config.bus_bytes)),
                self.m_axi_wlast.eq((owed == 1) | (begin & (beats == 1))),
                owed.eq(owed - 1),
            ]
        with m.If(send):
            m.d.sync += self.m_axi_wdata.eq(self.data.payload)
        with m.If(begin):
            m.d.sync += [
                self.m_axi_awvalid.eq(1),
                self.m_axi_awaddr.eq(address),
                self.m_axi_awlen.eq(beats - 1),
                owed.eq(beats - 1),
                address.eq(address + beats * config.bus_bytes),
                left.eq(left - beats),
                active.eq(~last),
            ]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += [
                active.eq(self.request.payload.beats != 0),
                address.eq(self.request.payload.address),
                left.eq(self.request.payload.beats),
            ]

        m.d.sync += [
            under_way.eq(under_way + begin - answered),
            self.done.eq(answered & returning.last & ~bad & ~failed & ~stopping),
            self.error.eq(bad),
        ]
        with m.If(bad):
            m.d.sync += [
                failed.eq(1),
                self.error_decode.eq(self.m_axi_bresp[0]),
                self.error_address.eq(returning.address),
            ]
        with m.If(stopping):
            m.d.sync += [active.eq(0), failed.eq(0)]
        with m.If(self.forget):
            m.d.sync += [self.m_axi_awvalid.eq(0), self.m_axi_wvalid.eq(0), owed.eq(0), under_way.eq(0)]
        return m
