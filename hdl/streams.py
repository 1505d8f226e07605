"""Wiring of streams."""

from amaranth.hdl import Value

__all__ = ["forward"]


def forward(m, source, sink):
    """Connect stream ``source`` to stream ``sink``. Their payloads have the same fields in the same order, but need not
    be of the same type; either may be a port of the component itself."""
    m.d.comb += [
        sink.valid.eq(source.valid),
        Value.cast(sink.payload).eq(Value.cast(source.payload)),
        source.ready.eq(sink.ready),
    ]
