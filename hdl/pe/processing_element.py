"""One multiplier with its operand registers and the zero gate (paper section 5.3, Fig. 9)."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..verilog import place
from .arithmetic import PRODUCT_WIDTH, Multiplier

__all__ = ["ProcessingElement"]


class ProcessingElement(wiring.Component):
    """Zero-gated multiplier.

    The weight and the activation of the *next* cycle are looked at: if either is zero, the operand registers hold their
    values, so the multiplier does not toggle, and ``zero`` tells in the next cycle that the product is to be taken as
    0. The operand register is the current weight, which makes the paper's second WRF read port unnecessary.

    With a WRF of one word (weight stationary) the weight register is loaded by ``swap`` only, so that the WRF word
    behind it is free for the next weight.

    Latency: one cycle from ``weight``/``activation`` to ``product``/``zero``.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    step : In(1). Advance; everything holds while low.
    swap : In(1). First activation of a weight subset.
    weight : In(signed(8)). Weight of the next cycle.
    activation : In(signed(8)). Activation of the next cycle.
    idle : In(1). The activation is zero or there is none.
    product : Out(16). Product in offset binary, meaningless while ``zero``.
    zero : Out(1). The product is 0.
    """

    latency = 1

    def __init__(self, config):
        self.config = config
        self.module_name = "processing_element"
        super().__init__(
            {
                "step": In(1),
                "swap": In(1),
                "weight": In(signed(8)),
                "activation": In(signed(8)),
                "idle": In(1),
                "product": Out(PRODUCT_WIDTH),
                "zero": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        weight = Signal(signed(8), reset_less=True)
        activation = Signal(signed(8), reset_less=True)
        zero = Signal(reset_less=True)
        zero_next = Signal()
        if self.config.wrf_depth == 1:
            weight_is_zero = Signal(reset_less=True)
            weight_is_zero_next = Signal()
            m.d.comb += weight_is_zero_next.eq(weight_is_zero)
            with m.If(self.swap):
                m.d.comb += weight_is_zero_next.eq(self.weight == 0)
            m.d.comb += zero_next.eq(self.idle | weight_is_zero_next)
            with m.If(self.step):
                m.d.sync += weight_is_zero.eq(weight_is_zero_next)
                with m.If(self.swap):
                    m.d.sync += weight.eq(self.weight)
        else:
            m.d.comb += zero_next.eq(self.idle | (self.weight == 0))
            with m.If(self.step & ~zero_next):
                m.d.sync += weight.eq(self.weight)
        with m.If(self.step):
            m.d.sync += zero.eq(zero_next)
            with m.If(~zero_next):
                m.d.sync += activation.eq(self.activation)
        multiplier = place(m, platform, "multiplier", Multiplier(self.config.style))
        m.d.comb += [
            multiplier.a.eq(activation),
            multiplier.b.eq(weight),
            self.product.eq(multiplier.product),
            self.zero.eq(zero),
        ]
        return m
