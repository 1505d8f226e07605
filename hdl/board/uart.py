"""UART: bytes of eight bits, least significant first, with one start bit and one stop bit, no parity."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from ..config import ConfigError

__all__ = ["UartReceiver", "UartTransmitter"]


def _check_divisor(divisor):
    if divisor < 4:
        raise ConfigError("divisor", divisor, "clock cycles of a bit of the UART", 4)


class UartReceiver(wiring.Component):
    """Samples each bit in its middle. A byte without its stop bit is dropped.

    Latency: ``valid`` is high for one cycle, in the middle of the stop bit, three cycles after the pin showed it.

    Parameters
    ----------
    divisor : clock cycles of a bit, at least 4.

    Raises
    ------
    ConfigError : ``divisor`` is too small.

    Members
    -------
    rx : In(1). The pin, not synchronised; high when idle.
    byte : Out(8), ``valid`` : Out(1).
    """

    module_name = "uart_receiver"

    def __init__(self, divisor):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"rx": In(1, init=1), "byte": Out(8), "valid": Out(1)})

    def elaborate(self, platform):
        m = Module()
        rx = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, rx, init=1)
        wait = Signal(range(self.divisor))
        bits = Signal(range(10))  # still to come, stop bit included; 0 while idle
        start = Signal()
        m.d.comb += self.valid.eq((bits == 1) & (wait == 0) & rx & ~start)
        with m.If(bits == 0):
            with m.If(~rx):
                m.d.sync += [bits.eq(9), start.eq(1), wait.eq((self.divisor - 1) // 2)]
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Elif(start):
            m.d.sync += [start.eq(0), wait.eq(self.divisor - 1)]
            with m.If(rx):  # a glitch
                m.d.sync += bits.eq(0)
        with m.Else():
            m.d.sync += [bits.eq(bits - 1), wait.eq(self.divisor - 1)]
            with m.If(bits != 1):
                m.d.sync += self.byte.eq(Cat(self.byte[1:], rx))
        return m


class UartTransmitter(wiring.Component):
    """Sends the bytes of a stream.

    Latency: a byte that is taken in cycle t shows its start bit from t + 1 on; 10 bits later the next can be taken.

    Parameters
    ----------
    divisor : clock cycles of a bit, at least 4.

    Raises
    ------
    ConfigError : ``divisor`` is too small.

    Members
    -------
    bytes : In(stream of 8). ``tx`` : Out(1). The pin.
    """

    module_name = "uart_transmitter"

    def __init__(self, divisor):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"bytes": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        wait, bits = Signal(range(self.divisor)), Signal(range(11))
        rest = Signal(9, init=0x1FF)
        m.d.comb += self.bytes.ready.eq(bits == 0)
        with m.If(bits == 0):
            with m.If(self.bytes.valid):
                m.d.sync += [
                    self.tx.eq(0),
                    rest.eq(Cat(self.bytes.payload, Const(1, 1))),
                    bits.eq(10),
                    wait.eq(self.divisor - 1),
                ]
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Else():
            m.d.sync += [
                self.tx.eq(rest[0]),
                rest.eq(Cat(rest[1:], Const(1, 1))),
                bits.eq(bits - 1),
                wait.eq(self.divisor - 1),
            ]
        return m
