"""Request guard: keeps bus requests inside a window of memory."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import request_layout

__all__ = ["RequestGuard"]


class RequestGuard(wiring.Component):
    """Passes a request on if every byte of it lies in ``base`` <= address < ``limit``; otherwise holds it back and
    raises ``refused``. Combinational.

    Parameters
    ----------
    bus_bytes : bytes of a beat.

    Members
    -------
    base, limit : In(32). The window; ``limit`` is the first byte beyond.
    request : In(stream of request_layout), ``passed`` : Out(the same).
    refused : Out(1). The request that is offered leaves the window; its address is in its payload.
    """

    module_name = "request_guard"
    latency = 0

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "base": In(32),
                "limit": In(32),
                "request": In(stream.Signature(request_layout())),
                "passed": Out(stream.Signature(request_layout())),
                "refused": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        payload = self.request.payload
        end, inside = Signal(41), Signal()
        m.d.comb += [
            end.eq(payload.address + payload.beats * self.bus_bytes),
            inside.eq((payload.address >= self.base) & (end <= self.limit)),
            self.passed.payload.eq(payload),
            self.passed.valid.eq(self.request.valid & inside),
            self.request.ready.eq(self.passed.ready & inside),
            self.refused.eq(self.request.valid & ~inside),
        ]
        return m
