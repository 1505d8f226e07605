"""Mask decoding: a code of the combinatorial number system to the positions of N ones in M bits (paper section 5.2)."""

import itertools
import math

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pe.mask_encoder import MaskEncoder
from ..verilog import place

__all__ = ["MaskDecoder"]


class MaskDecoder(wiring.Component):
    """``code`` = C(c_1, 1) + C(c_2, 2) + ... + C(c_N, N), c_1 < c_2 < ... the positions of the ones. Combinational.

    Two forms that agree on every code: ``direct`` finds c_N, c_N-1, ... by comparison and subtraction and gives the
    offsets at once; ``lut`` is the paper's table of masks, followed by the
    :class:`~hdl.pe.mask_encoder.MaskEncoder`. A code of C(M, N) or more does not occur in a packed image; what it
    decodes to is not defined.

    Parameters
    ----------
    n, m : ones in a mask, bits of a mask.
    path : ``direct`` or ``lut``.

    Members
    -------
    code : In(ceil(log2 C(M, N))).
    mask : Out(m).
    offsets : Out(width) for each one: position_i - i, lowest position first.
    """

    latency = 0

    def __init__(self, n, m, path="direct"):
        self.n, self.m, self.path = n, m, path
        self.width = max(1, (m - n).bit_length())
        self.code_width = (math.comb(m, n) - 1).bit_length()
        self.module_name = f"mask_decoder_{n}_{m}"
        super().__init__({"code": In(self.code_width), "mask": Out(m), "offsets": Out(self.width).array(n)})

    def elaborate(self, platform):
        return self._lut(platform) if self.path == "lut" else self._direct()

    def _lut(self, platform):
        m = Module()
        masks = itertools.combinations(range(self.m), self.n)
        ordered = sorted(masks, key=lambda positions: sum(math.comb(c, i + 1) for i, c in enumerate(positions)))
        with m.Switch(self.code):
            for code, positions in enumerate(ordered):
                with m.Case(code):
                    m.d.comb += self.mask.eq(sum(1 << position for position in positions))
        encoder = place(m, platform, "encoder", MaskEncoder(self.n, self.m))
        m.d.comb += encoder.mask.eq(self.mask)
        m.d.comb += [out.eq(offset) for out, offset in zip(self.offsets, encoder.offsets, strict=True)]
        return m

    def _direct(self):
        m = Module()
        reach = self.m - self.n  # largest offset
        remainder = self.code
        ones = [[] for _ in range(self.m)]
        for i in reversed(range(self.n)):
            # offset e means position i + e, worth C(i + e, i + 1)
            worth = [math.comb(i + offset, i + 1) for offset in range(reach + 1)]
            at_least = Signal(reach + 1, name=f"at_least_{i}")
            exactly = Signal(reach + 1, name=f"exactly_{i}")
            m.d.comb += [
                at_least[offset].eq(remainder >= worth[offset] if offset else 1) for offset in range(reach + 1)
            ]
            m.d.comb += exactly.eq(at_least & ~(at_least >> 1))
            taken, offset_value = 0, 0
            for offset in range(1, reach + 1):
                taken = taken | exactly[offset].replicate(worth[offset].bit_length()) & worth[offset]
                offset_value = offset_value | exactly[offset].replicate(self.width) & offset
            for offset in range(reach + 1):
                ones[i + offset].append(exactly[offset])
            m.d.comb += self.offsets[i].eq(offset_value)
            if i:
                rest = Signal((math.comb(i + reach, i) - 1).bit_length() or 1, name=f"rest_{i}")
                m.d.comb += rest.eq(remainder - taken)
                remainder = rest
        for position, lines in enumerate(ones):
            hit = lines[0]
            for line in lines[1:]:
                hit = hit | line
            m.d.comb += self.mask[position].eq(hit)
        return m
