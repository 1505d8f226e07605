"""Arithmetic that requantiser and rescaler share: values brought to output steps, and rounded to int8."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..pe.arithmetic import reduce_heap

__all__ = ["FACTOR_LAYOUT", "FRACTION", "SCALED_WIDTH", "Scaler", "clamped", "scaled"]

#: a factor: its magnitude is (256 + mantissa) / 2**(shift + 6).
FACTOR_LAYOUT = data.StructLayout({"mantissa": 8, "shift": 6, "negative": 1})
#: fractional bits of a scaled value.
FRACTION = 6
#: bits of a scaled value after saturation.
SCALED_WIDTH = 18


def scaled(m, platform, value, factor, style):
    """``(+-value * (256 + mantissa)) >> shift``, saturated to :data:`SCALED_WIDTH` bits.

    Parameters
    ----------
    value : signed. ``factor`` : with the fields of :data:`FACTOR_LAYOUT`.
    style : see :class:`~hdl.config.ArrayConfig`.
    """
    product = Signal(signed(len(value) + 10), name="product")
    shifted = Signal.like(product, name="shifted")
    result = Signal(signed(SCALED_WIDTH), name="scaled")
    limit = 1 << (SCALED_WIDTH - 1)
    m.d.comb += [
        product.eq(_product(m, platform, value, factor, style)),
        shifted.eq(product >> factor.shift),
        result.eq(Mux(shifted >= limit, limit - 1, Mux(shifted < -limit, -limit, shifted))),
    ]
    return result


def _product(m, platform, value, factor, style):
    """``+-value * (256 + mantissa)``."""
    multiplier = Cat(factor.mantissa, Const(1, 1))
    if style == "behavioural":
        magnitude = Signal(signed(len(value) + 1), name="magnitude")
        m.d.comb += magnitude.eq(Mux(factor.negative, -value, value))
        return magnitude * multiplier
    # -value = ~value + 1, so the negative product is ~value * multiplier + multiplier. The sign bit of each row counts
    # negative: it enters inverted, and the constants that this asks for add up to one.
    width, top = len(value) + 10, len(value) - 1
    chosen = Signal(len(value), name="chosen")
    m.d.comb += chosen.eq(value ^ factor.negative.replicate(len(value)))
    heap = [[] for _ in range(width)]
    constant = 0
    for row, bit in enumerate(multiplier):
        heap[row].append(bit & factor.negative)
        for column in range(top):
            heap[row + column].append(bit & chosen[column])
        heap[row + top].append(~(bit & chosen[top]))
        constant -= 1 << (row + top)
    for position in range(width):
        if constant >> position & 1:
            heap[position].append(1)
    return reduce_heap(m, platform, heap, width, ripple=False).as_signed()


def clamped(m, total, width, relu, high):
    """int8 of ``total``, which fits ``width`` bits: ``clamp((total + 32) >> 6, relu ? 0 : -128, high)``."""
    rounded = Signal(signed(width - FRACTION), name="rounded")
    low, highest = Signal(signed(8), name="low"), Signal(signed(8), name="high")
    m.d.comb += [
        rounded.eq((total + (1 << (FRACTION - 1))) >> FRACTION),
        low.eq(Mux(relu, 0, -128)),
        highest.eq(high),
    ]
    return Mux(rounded > highest, highest, Mux(rounded < low, low, rounded))


class Scaler(wiring.Component):
    """:func:`scaled` as a module. Combinational.

    Parameters
    ----------
    width : bits of ``value``.
    style : see :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    value : In(signed(width)). ``factor`` : In(FACTOR_LAYOUT). ``scaled`` : Out(signed(18)).
    """

    latency = 0

    def __init__(self, width, style):
        self.style = style
        self.module_name = f"scaler_{width}"
        super().__init__({"value": In(signed(width)), "factor": In(FACTOR_LAYOUT), "scaled": Out(signed(SCALED_WIDTH))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.scaled.eq(scaled(m, platform, self.value, self.factor, self.style))
        return m
