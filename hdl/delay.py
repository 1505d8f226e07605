"""Shift registers that hold while ``step`` is low."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Delay"]


class Delay(wiring.Component):
    """``value_out`` is ``value_in`` of ``steps`` steps ago.

    Latency: ``latency`` = ``steps`` cycles in which ``step`` is high.

    Parameters
    ----------
    width, steps : bits, and registers in the chain (at least 1).
    reset : clear the chain at reset (for control bits); plain data needs no reset.
    """

    def __init__(self, width, steps, *, reset=False):
        self.width, self.steps, self.reset = width, steps, reset
        self.module_name = f"delay_{width}x{steps}" + ("_reset" if reset else "")
        super().__init__({"step": In(1), "value_in": In(width), "value_out": Out(width)})

    @property
    def latency(self):
        """Steps from ``value_in`` to ``value_out``."""
        return self.steps

    def elaborate(self, platform):
        m = Module()
        value = self.value_in
        for index in range(self.steps):
            register = Signal(self.width, name=f"stage_{index}", reset_less=not self.reset)
            with m.If(self.step):
                m.d.sync += register.eq(value)
            value = register
        m.d.comb += self.value_out.eq(value)
        return m
