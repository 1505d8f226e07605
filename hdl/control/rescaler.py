"""Rescaler: one lane of the ofmap storer, which pools, adds a second tensor and brings both to output steps."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..verilog import place
from .scaling import FACTOR_LAYOUT, SCALED_WIDTH, Scaler, clamped

__all__ = ["Rescaler"]


class Rescaler(wiring.Component):
    """Sum or maximum of the values of a window, then with ``rescale``
    ``result = clamp((scaled(sum) + scaled(residual) + 32) >> 6, relu ? 0 : -128, high)``, else the low 8 bits of the
    sum.

    Latency: ``result`` is that of the values up to the one of cycle t (with ``step``) in cycle t + 2, if ``emit`` was
    high in cycle t + 1; it holds until the next ``emit``.

    Parameters
    ----------
    style : see :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    step : In(1). There is a value; ``value``, ``residual`` : In(signed(8)). The residual of the last step counts.
    first : In(1). The value starts a window; ``maximum`` : In(1). Largest value instead of the sum.
    emit : In(1). The window ended with the step before. With it: ``rescale``, ``relu`` : In(1), ``high`` : In(7),
        ``factor``, ``residual_factor`` : In(FACTOR_LAYOUT).
    result : Out(signed(8)).
    """

    module_name = "rescaler"
    latency = 2
    #: bits of the sum of a window.
    sum_width = 24

    def __init__(self, style):
        self.style = style
        super().__init__(
            {
                "step": In(1),
                "value": In(signed(8)),
                "residual": In(signed(8)),
                "first": In(1),
                "maximum": In(1),
                "emit": In(1),
                "rescale": In(1),
                "relu": In(1),
                "high": In(7),
                "factor": In(FACTOR_LAYOUT),
                "residual_factor": In(FACTOR_LAYOUT),
                "result": Out(signed(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        total, residual = Signal(signed(self.sum_width)), Signal(signed(8))
        with m.If(self.step):
            m.d.sync += residual.eq(self.residual)
            with m.If(self.first):
                m.d.sync += total.eq(self.value)
            with m.Elif(~self.maximum):
                m.d.sync += total.eq(total + self.value)
            with m.Elif(self.value > total):
                m.d.sync += total.eq(self.value)
        main = place(m, platform, "scaler", Scaler(self.sum_width, self.style))
        second = place(m, platform, "residual_scaler", Scaler(8, self.style))
        m.d.comb += [
            main.value.eq(total),
            main.factor.eq(self.factor),
            second.value.eq(residual),
            second.factor.eq(self.residual_factor),
        ]
        # The two terms and the half that rounds fit two bits more than one term.
        rounded = clamped(m, main.scaled + second.scaled, SCALED_WIDTH + 2, self.relu, self.high)
        with m.If(self.emit):
            m.d.sync += self.result.eq(Mux(self.rescale, rounded, total))
        return m
