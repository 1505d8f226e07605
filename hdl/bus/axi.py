"""Ports of AXI4 and AXI4-Lite under the flat names that other tools expect, and what the bus masters share."""

from amaranth.hdl import Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

__all__ = [
    "OKAY",
    "SLVERR",
    "axi4_lite_slave",
    "axi4_master",
    "axi4_read_master",
    "axi4_write_master",
    "expose",
    "fixed_address_fields",
    "next_burst",
    "request_layout",
]

#: responses (AMBA AXI, A3.4.4); SLVERR = 2 and DECERR = 3 share bit 1.
OKAY = 0
SLVERR = 2

_INCREMENTING = 1  # AxBURST
_NORMAL_BUFFERABLE = 3  # AxCACHE: normal memory, non-cacheable, bufferable


def request_layout():
    """A run of beats in memory: byte ``address``, which is beat aligned, and number of ``beats``."""
    return data.StructLayout({"address": 32, "beats": 32})


def _address_channel(prefix):
    widths = {"id": 1, "addr": 32, "len": 8, "size": 3, "burst": 2, "lock": 1, "cache": 4, "prot": 3, "qos": 4}
    outputs = {f"{prefix}{name}": Out(width) for name, width in widths.items()}
    return {**outputs, f"{prefix}valid": Out(1), f"{prefix}ready": In(1)}


def axi4_read_master(data_width, prefix="m_axi_"):
    """Members of an AXI4 master's AR and R channels."""
    beat = {"id": In(1), "data": In(data_width), "resp": In(2), "last": In(1), "valid": In(1), "ready": Out(1)}
    return {**_address_channel(f"{prefix}ar"), **{f"{prefix}r{name}": flow for name, flow in beat.items()}}


def axi4_write_master(data_width, prefix="m_axi_"):
    """Members of an AXI4 master's AW, W and B channels."""
    beat = {"data": Out(data_width), "strb": Out(data_width // 8), "last": Out(1), "valid": Out(1), "ready": In(1)}
    answer = {"id": In(1), "resp": In(2), "valid": In(1), "ready": Out(1)}
    return {
        **_address_channel(f"{prefix}aw"),
        **{f"{prefix}w{name}": flow for name, flow in beat.items()},
        **{f"{prefix}b{name}": flow for name, flow in answer.items()},
    }


def axi4_master(data_width, prefix="m_axi_"):
    """Members of an AXI4 master with 32-bit addresses and one ID bit, which is always 0."""
    return {**axi4_write_master(data_width, prefix), **axi4_read_master(data_width, prefix)}


def axi4_lite_slave(address_width, prefix="s_axi_"):
    """Members of an AXI4-Lite slave with 32-bit data."""
    members = {
        **{f"aw{name}": flow for name, flow in {"addr": In(address_width), "prot": In(3)}.items()},
        **{"awvalid": In(1), "awready": Out(1)},
        **{"wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1)},
        **{"bresp": Out(2), "bvalid": Out(1), "bready": In(1)},
        **{f"ar{name}": flow for name, flow in {"addr": In(address_width), "prot": In(3)}.items()},
        **{"arvalid": In(1), "arready": Out(1)},
        **{"rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1)},
    }
    return {prefix + name: flow for name, flow in members.items()}


def expose(m, outer, inner, prefix):
    """Connect each port of ``inner`` that begins with ``prefix`` to the port of the same name of ``outer``."""
    for name, member in inner.signature.members.items():
        if name.startswith(prefix):
            source, sink = (outer, inner) if member.flow == In else (inner, outer)
            m.d.comb += getattr(sink, name).eq(getattr(source, name))


def fixed_address_fields(component, prefix, bus_bytes):
    """Statements that drive those outputs of an address channel that never change."""
    values = {"id": 0, "size": exact_log2(bus_bytes), "burst": _INCREMENTING, "lock": 0}
    values |= {"cache": _NORMAL_BUFFERABLE, "prot": 0, "qos": 0}
    return [getattr(component, prefix + name).eq(value) for name, value in values.items()]


def next_burst(m, config, name, address, left):
    """Beats of the burst at ``address`` when ``left`` (at least 1) are wanted: it ends at a multiple of the longest
    burst's size, and so never crosses 4 KB."""
    longest, shift = config.burst_beats, exact_log2(config.bus_bytes)
    to_boundary = Signal(range(longest + 1), name=f"{name}_to_boundary")
    beats = Signal(range(longest + 1), name=f"{name}_burst")
    m.d.comb += [
        to_boundary.eq(longest - address[shift : shift + exact_log2(longest)]),
        beats.eq(Mux(left < to_boundary, left, to_boundary)),
    ]
    return beats
