"""Register file with one write port: the storage of WRF, MRF, ARF, PRF and CRF."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import address_width
from .latch import latch_word, stores_in_latches

__all__ = ["RegisterFile", "WordSelect", "any_of", "one_hot", "select"]


def one_hot(m, name, binary, count, enable=None):
    """Signal of ``count`` bits with bit ``binary`` set, all clear while ``enable`` is low."""
    lines = Signal(count, name=name)
    for index in range(count):
        hit = binary == index if count > 1 else 1
        m.d.comb += lines[index].eq(hit if enable is None else hit & enable)
    return lines


def any_of(terms):
    """OR of ``terms``, as a balanced tree."""
    while len(terms) > 1:
        terms = [terms[i] | terms[i + 1] if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
    return terms[0]


def select(words, lines):
    """AND-OR of ``words`` with the one-hot ``lines``; all zeros when no line is set. It maps to less area than a binary
    multiplexer."""
    return any_of([word & line.replicate(len(word)) for word, line in zip(words, lines, strict=True)])


@dataclass(frozen=True)
class WordSelect:
    """How a word of a register file is chosen, in both styles.

    ``structural``: one-hot lines, decoded once for all files that share an address. ``behavioural``: the address
    itself.

    Attributes
    ----------
    depth : words of the file.
    style : see :class:`~hdl.config.ArrayConfig`.
    """

    depth: int
    style: str

    @property
    def width(self):
        """Bits that choose a word to read."""
        return self.depth if self.style == "structural" else address_width(self.depth)

    @property
    def write_width(self):
        """Bits that choose a word to write, or none: lines with their enable, or an enable bit below the address."""
        return self.width if self.style == "structural" else 1 + self.width

    def read(self, m, name, address):
        """Choice of the word at ``address``; signals that this needs are called ``name``."""
        return one_hot(m, name, address, self.depth) if self.style == "structural" else address

    def write(self, m, name, address, enable):
        """Choice of the word at ``address`` for writing while ``enable`` is high."""
        if self.style == "structural":
            return one_hot(m, name, address, self.depth, enable)
        return self.gate(address, enable)

    def gate(self, chosen, enable):
        """The word that ``chosen`` reads, for writing while ``enable`` is high."""
        if self.style == "structural":
            return chosen & enable.replicate(self.depth)
        return Cat(enable, chosen)


class RegisterFile(wiring.Component):
    """``depth`` words of ``width`` bits, read combinationally.

    ``structural`` is flip-flops (or latches, where the Verilog is generated with them) and AND-OR trees,
    ``behavioural`` a memory with asynchronous read ports.

    Latency: a written word is readable in the next cycle; reads take none.

    Parameters
    ----------
    depth, width : words, and bits in each.
    style : see :class:`~hdl.config.ArrayConfig`.
    read_ports : independent read ports.
    module_name : name of the module in Verilog.
    read_during_write : a word may be read in the cycle in which it is written. If not, and if ``write`` comes from
        registers, latches need no register of their own; see :mod:`hdl.latch`.

    Members
    -------
    write : In. Word to write, if any, as :class:`WordSelect` has it. ``data`` : In(width). What to write.
    select : In for each read port. Word to read, as :class:`WordSelect` has it; ignored at depth 1.
    value : Out(width) for each read port.
    """

    latency = 1

    def __init__(self, depth, width, *, style, module_name, read_ports=1, read_during_write=True):
        self.depth, self.width, self.read_ports, self.module_name = depth, width, read_ports, module_name
        self.read_during_write = read_during_write
        self.words = WordSelect(depth, style)
        super().__init__(
            {
                "write": In(self.words.write_width),
                "data": In(width),
                "select": In(self.words.width).array(read_ports),
                "value": Out(width).array(read_ports),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self.words.style == "structural" or self.depth == 1:
            self._words(m, self._latches(m) if stores_in_latches(platform) else self._flip_flops(m))
        else:
            self._memory(m)
        return m

    def _flip_flops(self, m):
        words = [Signal(self.width, name=f"word_{index}", reset_less=True) for index in range(self.depth)]
        for index, word in enumerate(words):
            with m.If(self.write[index]):
                m.d.sync += word.eq(self.data)
        return words

    def _latches(self, m):
        data = self.data
        if self.read_during_write:
            data = Signal(self.width, name="data_held", reset_less=True)
            m.d.sync += data.eq(self.data)
        return [
            latch_word(m, f"word_{index}", self.write[index], data, low=not self.read_during_write)
            for index in range(self.depth)
        ]

    def _words(self, m, words):
        for port in range(self.read_ports):
            value = words[0] if self.depth == 1 else select(words, [self.select[port][i] for i in range(self.depth)])
            m.d.comb += self.value[port].eq(value)

    def _memory(self, m):
        m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=[])
        write = memory.write_port()
        m.d.comb += [write.en.eq(self.write[0]), write.addr.eq(self.write[1:]), write.data.eq(self.data)]
        for port in range(self.read_ports):
            read = memory.read_port(domain="comb")
            m.d.comb += [read.addr.eq(self.select[port]), self.value[port].eq(read.data)]
