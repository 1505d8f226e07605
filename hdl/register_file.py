"""Register file with one write port and one-hot selects: the storage of WRF, MRF, ARF, PRF and CRF."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RegisterFile", "one_hot", "select"]


def one_hot(m, name, binary, count, enable=None):
    """Signal of ``count`` bits with bit ``binary`` set, all clear while ``enable`` is low."""
    lines = Signal(count, name=name)
    for index in range(count):
        hit = binary == index if count > 1 else 1
        m.d.comb += lines[index].eq(hit if enable is None else hit & enable)
    return lines


def select(words, lines):
    """AND-OR of ``words`` with the one-hot ``lines``; all zeros when no line is set.

    A balanced tree of two-input ORs, which maps to less area than a binary multiplexer.
    """
    terms = [word & line.replicate(len(word)) for word, line in zip(words, lines, strict=True)]
    while len(terms) > 1:
        terms = [terms[i] | terms[i + 1] if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
    return terms[0]


class RegisterFile(wiring.Component):
    """``depth`` words of ``width`` bits, written with an enable for each word, read combinationally.

    Latency: a written word is readable in the next cycle; reads take none.

    Parameters
    ----------
    depth, width : words, and bits in each.
    read_ports : independent read ports.
    module_name : name of the module in Verilog.

    Members
    -------
    write : In(depth). One-hot write enables.
    data : In(width). Word to write.
    select : In(depth) for each read port. One-hot read selects; ignored at depth 1.
    value : Out(width) for each read port.
    """

    latency = 1

    def __init__(self, depth, width, *, module_name, read_ports=1):
        self.depth, self.width, self.read_ports, self.module_name = depth, width, read_ports, module_name
        super().__init__(
            {
                "write": In(depth),
                "data": In(width),
                "select": In(depth).array(read_ports),
                "value": Out(width).array(read_ports),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words = [Signal(self.width, name=f"word_{index}", reset_less=True) for index in range(self.depth)]
        for index, word in enumerate(words):
            with m.If(self.write[index]):
                m.d.sync += word.eq(self.data)
        for port in range(self.read_ports):
            value = words[0] if self.depth == 1 else select(words, [self.select[port][i] for i in range(self.depth)])
            m.d.comb += self.value[port].eq(value)
        return m
