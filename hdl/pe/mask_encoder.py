"""Mask encoder: a mask with N ones in M bits to the offsets of its ones (paper section 5.3, Tab. 2)."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["MaskEncoder"]


class MaskEncoder(wiring.Component):
    """Q cascaded zero counters: each finds the lowest one of the mask and clears it for the next. Combinational.

    What is given is the offset ``e_i = position_i - i`` (0..M-N), which is all that a sparse row needs: the i-th of N
    sorted positions cannot be below i nor above M-N+i.

    Parameters
    ----------
    n, m : ones in a mask, bits of a mask.

    Members
    -------
    mask : In(m). Exactly ``n`` ones.
    offsets : Out(width) for each of the ``n`` ones, lowest position first.
    """

    latency = 0

    def __init__(self, n, m):
        self.n, self.m = n, m
        self.width = max(1, (m - n).bit_length())
        self.module_name = f"mask_encoder_{n}_{m}"
        super().__init__({"mask": In(m), "offsets": Out(self.width).array(n)})

    def elaborate(self, platform):
        m = Module()
        remaining = self.mask
        for i in range(self.n):
            lowest = Signal(self.m, name=f"lowest_{i}")
            m.d.comb += lowest.eq(remaining & (~remaining + 1)[: self.m])
            for offset in range(1, self.m - self.n + 1):
                with m.If(lowest[offset + i]):
                    m.d.comb += self.offsets[i].eq(offset)
            rest = Signal(self.m, name=f"rest_{i}")
            m.d.comb += rest.eq(remaining ^ lowest)
            remaining = rest
        return m
