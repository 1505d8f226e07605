"""High bits of numbers that ascend with their index: where they change is all that has to be stored."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..register_file import RegisterFile
from ..verilog import place

__all__ = ["AscendingBits", "bits_worth_leaving_out"]


def bits_worth_leaving_out(codewords):
    """High bits for which thresholds take less area than as many bits of each codeword: 5 of 512 codewords."""
    return min(8, (codewords // 32).bit_length())


class _Threshold(wiring.Component):
    """One threshold, and for each read port whether the index has reached it."""

    def __init__(self, index_width, style, ports):
        self.index_width, self.style, self.ports = index_width, style, ports
        self.module_name = f"crf_threshold_{index_width}"
        super().__init__(
            {
                "write": In(1),
                "data": In(index_width + 1),
                "indices": In(index_width).array(ports),
                "reached": Out(1).array(ports),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.index_width + 1
        name = f"threshold_1x{width}"
        file = RegisterFile(1, width, style=self.style, module_name=name, read_during_write=False)
        place(m, platform, "file", file)
        m.d.comb += [file.write.eq(self.write), file.data.eq(self.data)]
        m.d.comb += [hit.eq(index >= file.value[0]) for hit, index in zip(self.reached, self.indices, strict=True)]
        return m


class AscendingBits(wiring.Component):
    """``width`` bits of each of 2**index_width numbers that do not descend with their index.

    For each value v > 0 it holds how many of the numbers are below v; a number is at least v if its index has reached
    that. Numbers are written in the order of their indices, from index 0 on; index 0 forgets those before.

    Latency: as a :class:`~hdl.register_file.RegisterFile`; reads are combinational.

    Parameters
    ----------
    width, index_width : bits of a number and of an index. ``ports`` : read ports. ``style`` : of the register files.

    Members
    -------
    write : In(1), ``write_index`` : In(index_width), ``number`` : In(width).
    indices : In(index_width) for each port. ``numbers`` : Out(width) for each of them.
    """

    latency = 1

    def __init__(self, width, index_width, ports, style):
        self.width, self.index_width, self.ports, self.style = width, index_width, ports, style
        self.module_name = f"crf_ascending_{width}x{1 << index_width}"
        super().__init__(
            {
                "write": In(1),
                "write_index": In(index_width),
                "number": In(width),
                "indices": In(index_width).array(ports),
                "numbers": Out(width).array(ports),
            }
        )

    def elaborate(self, platform):
        m = Module()
        top = 1 << self.width
        following, first = Signal(self.index_width + 1), Signal()
        m.d.comb += [following.eq(self.write_index + 1), first.eq(self.write_index == 0)]
        reached = [[1] for _ in range(self.ports)]
        for value in range(1, top):
            below = Signal(name=f"below_{value}")
            threshold = place(m, platform, f"threshold_{value}", _Threshold(self.index_width, self.style, self.ports))
            m.d.comb += [
                below.eq(self.number < value),
                threshold.write.eq(self.write & (below | first)),
                # the first number sets them all, to 1 or to 0
                threshold.data.eq(Cat(following[0] & below, following[1:])),
            ]
            for port in range(self.ports):
                m.d.comb += threshold.indices[port].eq(self.indices[port])
                reached[port].append(threshold.reached[port])
        for port, lines in enumerate(reached):
            for bit in range(self.width):
                step = 1 << bit
                ranges = [
                    lines[start] & ~lines[start + step] if start + step < top else lines[start]
                    for start in range(step, top, 2 * step)
                ]
                value = ranges[0]
                for part in ranges[1:]:
                    value = value | part
                m.d.comb += self.numbers[port][bit].eq(value)
        return m
