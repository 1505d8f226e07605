"""Requantiser: partial sums to int8 by a scale and a bias for each output channel (our decision; the paper leaves it
open)."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..pe.arithmetic import reduce_heap

__all__ = ["SCALE_LAYOUT", "Requantiser", "ScaleMemory"]

#: one scale word: |scale| = (256 + mantissa) / 2**(shift + 6), bias in 1/64 of an output step.
SCALE_LAYOUT = data.StructLayout({"mantissa": 8, "shift": 6, "negative": 1, "bias": signed(17)})

_FRACTION = 6  # fractional bits kept until the bias is added
_WIDTH = 18  # bits of the scaled partial sum after saturation


class Requantiser(wiring.Component):
    """``value = clamp((((+-psum * (256 + mantissa)) >> shift) + bias + 32) >> 6, low, high)`` for one column.
    Combinational.

    The scaled partial sum saturates at 18 bits; ``low`` is 0 with ``relu``, else -128.

    Parameters
    ----------
    psum_width : bits of ``psum``.
    arithmetic : ``behavioural`` or ``bit_heap``, for the product.

    Members
    -------
    psum : In(signed(psum_width)). ``scale`` : In(SCALE_LAYOUT). ``relu`` : In(1). ``high`` : In(7). ``value`` :
        Out(signed(8)).
    """

    module_name = "requantiser"
    latency = 0

    def __init__(self, psum_width, arithmetic="behavioural"):
        self.psum_width, self.arithmetic = psum_width, arithmetic
        super().__init__(
            {
                "psum": In(signed(psum_width)),
                "scale": In(SCALE_LAYOUT),
                "relu": In(1),
                "high": In(7),
                "value": Out(signed(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        product = Signal(signed(self.psum_width + 10))
        shifted = Signal.like(product)
        scaled = Signal(signed(_WIDTH))
        limit = 1 << (_WIDTH - 1)
        rounded = Signal(signed(_WIDTH + 1 - _FRACTION))
        low, high = Signal(signed(8)), Signal(signed(8))
        m.d.comb += [
            product.eq(self._product(m, platform)),
            shifted.eq(product >> self.scale.shift),
            scaled.eq(Mux(shifted >= limit, limit - 1, Mux(shifted < -limit, -limit, shifted))),
            rounded.eq((scaled + self.scale.bias + (1 << (_FRACTION - 1))) >> _FRACTION),
            low.eq(Mux(self.relu, 0, -128)),
            high.eq(self.high),
            self.value.eq(Mux(rounded > high, high, Mux(rounded < low, low, rounded))),
        ]
        return m

    def _product(self, m, platform):
        """``+-psum * (256 + mantissa)``."""
        multiplier = Cat(self.scale.mantissa, Const(1, 1))
        if self.arithmetic == "behavioural":
            magnitude = Signal(signed(self.psum_width + 1))
            m.d.comb += magnitude.eq(Mux(self.scale.negative, -self.psum, self.psum))
            return magnitude * multiplier
        # -psum = ~psum + 1, so the negative product is ~psum * multiplier + multiplier. The sign bit of each row counts
        # negative: it enters inverted, and the constants that this asks for add up to one.
        width, top = self.psum_width + 10, self.psum_width - 1
        chosen = Signal(self.psum_width)
        m.d.comb += chosen.eq(self.psum ^ self.scale.negative.replicate(self.psum_width))
        heap = [[] for _ in range(width)]
        constant = 0
        for row, bit in enumerate(multiplier):
            heap[row].append(bit & self.scale.negative)
            for column in range(top):
                heap[row + column].append(bit & chosen[column])
            heap[row + top].append(~(bit & chosen[top]))
            constant -= 1 << (row + top)
        for position in range(width):
            if constant >> position & 1:
                heap[position].append(1)
        return reduce_heap(m, platform, heap, width).as_signed()


class ScaleMemory(wiring.Component):
    """``scale_depth`` vectors of one scale for each column, written a stream word at a time, read into a register with
    ``step``.

    Latency: ``scales`` is the vector at ``address`` one step later.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    write : In(words). Word enables; ``write_address``, ``write_data`` (64 bits).
    step, address : In. ``scales`` : Out(columns*32).
    """

    module_name = "scale_memory"
    latency = 1

    def __init__(self, config):
        self.config = config
        self.words = -(-config.columns * 32 // config.stream_width)
        address = max(1, (config.scale_depth - 1).bit_length())
        super().__init__(
            {
                "write": In(self.words),
                "write_address": In(address),
                "write_data": In(config.stream_width),
                "step": In(1),
                "address": In(address),
                "scales": Out(config.columns * 32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.words * self.config.stream_width
        m.submodules.memory = memory = Memory(shape=width, depth=self.config.scale_depth, init=[])
        write = memory.write_port(granularity=self.config.stream_width)
        read = memory.read_port()
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(self.write_address),
            write.data.eq(Cat(*[self.write_data] * self.words)),
            read.en.eq(self.step),
            read.addr.eq(self.address),
            self.scales.eq(read.data),
        ]
        return m
