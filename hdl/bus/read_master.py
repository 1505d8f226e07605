"""Read channels of the AXI4 master: requests of several clients to bursts, and the beats back to the clients."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ConfigError, address_width
from ..verilog import place
from .axi import axi4_read_master, fixed_address_fields, next_burst, request_layout
from .beat_buffer import BeatBuffer

__all__ = ["ReadMaster"]


class ReadMaster(wiring.Component):
    """Cuts requests into bursts and delivers their beats to a buffer for each client.

    A burst is issued only when its client's buffer has room for all of it beside what is already on its way, so
    ``rready`` is always high. Bursts end at multiples of ``burst_beats`` beats, or with their request. Of the clients
    that can issue, the first in the order of ``clients`` does; one without room holds nobody up.

    Timing, in cycles:

    * A request taken in t can issue its first burst in t+1; a burst issued in t has ``arvalid`` high from t+1 until it
      is taken. One burst is issued in each cycle in which the AR register is empty or being taken, fewer than
      ``outstanding`` bursts are under way and a client has room.
    * A client's next request is taken in the cycle in which the last burst of the one before is issued, or later.
    * A beat with ``rvalid`` in t is offered to its client in t+1. A beat that a client takes in t is room in t+1. A
      burst is under way from the cycle after its issue to the cycle of its last beat.
    * A bad response in t gives ``error`` in t+1. That beat and all later ones are dropped and no burst is issued,
      until ``aborting`` or ``forget``: only the first error is reported.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    clients : (name, beats of its buffer) in order of priority.

    Raises
    ------
    ConfigError : a buffer has no room for the longest burst.

    Members
    -------
    NAME_request : In(stream of request_layout), for each client. ``address`` is beat aligned; a request of 0 beats does
        nothing. ``NAME_data`` : Out(stream of the bus width). Its beats in order.
    m_axi_ar..., m_axi_r... : AXI4, see :func:`~hdl.bus.axi.axi4_read_master`.
    error : Out(1). High for one cycle; then ``error_decode`` : Out(1) (DECERR, else SLVERR), ``error_client`` : Out
        (index in ``clients``) and ``error_address`` : Out(32) (of the burst).
    aborting : In(1). While high no burst is issued and no request taken, beats that return are dropped, requests and
        buffers are empty from the next cycle on; an ``arvalid`` that is high stays until taken. To be held until
        ``idle``. ``idle`` : Out(1). No burst is under way.
    forget : In(1). The bus was reset: back to the state after reset, in the next cycle.
    """

    module_name = "read_master"
    latency = 1

    def __init__(self, config, clients):
        self.config, self.clients = config, tuple(clients)
        for name, depth in self.clients:
            if depth < config.burst_beats:
                raise ConfigError(f"{name} buffer", depth, "must hold the longest burst", config.burst_beats)
        width = config.array.stream_width
        ports = {}
        for name, _ in self.clients:
            ports[f"{name}_request"] = In(stream.Signature(request_layout()))
            ports[f"{name}_data"] = Out(stream.Signature(width))
        super().__init__(
            {
                **ports,
                **axi4_read_master(width),
                "error": Out(1),
                "error_decode": Out(1),
                "error_client": Out(address_width(len(self.clients))),
                "error_address": Out(32),
                "aborting": In(1),
                "idle": Out(1),
                "forget": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, width = self.config, self.config.array.stream_width
        burst_layout = data.StructLayout({"address": 32, "client": len(self.error_client)})
        under_way = Signal(range(config.outstanding + 1))
        failed, stopping, may_issue, issue = Signal(), Signal(), Signal(), Signal()
        bad, delivered, ended = Signal(), Signal(), Signal()
        burst = Signal(burst_layout)  # to issue
        burst_beats = Signal(range(config.burst_beats + 1))
        order = place(m, platform, "order", BeatBuffer(config.outstanding, burst_layout.size))
        returning = data.View(burst_layout, order.values.payload)
        m.d.comb += [
            stopping.eq(self.aborting | self.forget),
            may_issue.eq(
                ~stopping & ~failed & (~self.m_axi_arvalid | self.m_axi_arready) & (under_way != config.outstanding)
            ),
            *fixed_address_fields(self, "m_axi_ar", config.bus_bytes),
            self.m_axi_rready.eq(1),
            self.idle.eq(under_way == 0),
            order.push.eq(issue),
            order.value.eq(burst),
            order.values.ready.eq(ended),
            order.clear.eq(self.forget),
            ended.eq(self.m_axi_rvalid & self.m_axi_rlast & ~self.idle),
            bad.eq(self.m_axi_rvalid & self.m_axi_rresp[1] & ~self.idle & ~failed & ~stopping),
            delivered.eq(self.m_axi_rvalid & ~self.m_axi_rresp[1] & ~self.idle & ~failed & ~stopping),
        ]

        m.d.sync += [self.error.eq(bad), under_way.eq(under_way + issue - ended)]
        with m.If(bad):
            m.d.sync += [
                failed.eq(1),
                self.error_decode.eq(self.m_axi_rresp[0]),
                self.error_client.eq(returning.client),
                self.error_address.eq(returning.address),
            ]
        with m.If(self.m_axi_arready):
            m.d.sync += self.m_axi_arvalid.eq(0)
        with m.If(issue):
            m.d.sync += [
                self.m_axi_arvalid.eq(1),
                self.m_axi_araddr.eq(burst.address),
                self.m_axi_arlen.eq(burst_beats - 1),
            ]

        above = 0  # a client of higher priority can issue
        for index, (name, depth) in enumerate(self.clients):
            request, beats = getattr(self, f"{name}_request"), getattr(self, f"{name}_data")
            buffer = place(m, platform, f"{name}_buffer", BeatBuffer(depth, width))
            active, can_issue, issued, last = (
                Signal(name=f"{name}_{part}") for part in ("active", "can_issue", "issued", "last")
            )
            address, left = Signal(32, name=f"{name}_address"), Signal(32, name=f"{name}_left")
            room = Signal(range(depth + 1), name=f"{name}_room", init=depth)
            next_beats = next_burst(m, config, name, address, left)
            m.d.comb += [
                can_issue.eq(active & (next_beats <= room)),
                issued.eq(can_issue & ~above & may_issue),
                last.eq(left == next_beats),
                request.ready.eq(~stopping & (~active | (issued & last))),
                buffer.push.eq(delivered & (returning.client == index)),
                buffer.value.eq(self.m_axi_rdata),
                buffer.clear.eq(stopping),
                beats.valid.eq(buffer.values.valid),
                beats.payload.eq(buffer.values.payload),
                buffer.values.ready.eq(beats.ready),
            ]
            m.d.sync += room.eq(room - Mux(issued, next_beats, 0) + (beats.valid & beats.ready))
            with m.If(issued):
                m.d.comb += [issue.eq(1), burst.address.eq(address), burst.client.eq(index), burst_beats.eq(next_beats)]
                m.d.sync += [address.eq(address + next_beats * config.bus_bytes), left.eq(left - next_beats)]
                m.d.sync += active.eq(~last)
            with m.If(request.valid & request.ready):
                m.d.sync += [
                    active.eq(request.payload.beats != 0),
                    address.eq(request.payload.address),
                    left.eq(request.payload.beats),
                ]
            with m.If(stopping):
                m.d.sync += [active.eq(0), room.eq(depth)]
            above = above | can_issue

        with m.If(stopping):
            m.d.sync += failed.eq(0)
        with m.If(self.forget):
            m.d.sync += [self.m_axi_arvalid.eq(0), under_way.eq(0)]
        return m
