"""Register file with one write port: the storage of WRF, MRF, ARF, PRF and CRF."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import address_width
from .latch import latch_word, stores_in_latches
from .verilog import place

__all__ = ["AndOr", "RegisterFile", "WordSelect", "any_of", "one_hot", "select", "selected"]


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


class AndOr(wiring.Component):
    """``none = ~((word_0 & line_0) | (word_1 & line_1) | ...)``, which synthesis maps to AND-OR-INVERT cells, where the
    library has one of that size. Combinational.

    Parameters
    ----------
    count, width : words, and bits of each.

    Members
    -------
    words : In(width) for each word; ``lines`` : In(count). ``none`` : Out(width).
    """

    latency = 0

    def __init__(self, count, width):
        self.count, self.width = count, width
        self.module_name = f"mvq_and_or_{count}x{width}"
        super().__init__({"words": In(width).array(count), "lines": In(count), "none": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.none.eq(~select([*self.words], [*self.lines]))
        return m


def selected(m, platform, name, words, lines):
    """:func:`select` from AND-OR-INVERT cells, which take less than gates: of three words where there are many, of two
    where that leaves fewer to join."""
    size = 3 if len(words) > 16 else 2
    unselected = []
    for start in range(0, len(words), size):
        own, chosen = words[start : start + size], lines[start : start + size]
        if len(own) == 1:
            unselected.append(~select(own, chosen))
            continue
        part = place(m, platform, f"{name}_{start}", AndOr(len(own), len(own[0])))
        m.d.comb += [to.eq(word) for to, word in zip(part.words, own, strict=True)]
        m.d.comb += part.lines.eq(Cat(*chosen))
        unselected.append(part.none)
    return any_of([~value for value in unselected])


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
            words = self._latches(m) if stores_in_latches(platform) else self._flip_flops(m)
            self._read(m, platform, words)
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

    def _read(self, m, platform, words):
        for port, (chosen, value) in enumerate(zip(self.select, self.value, strict=True)):
            if self.depth == 1:
                m.d.comb += value.eq(words[0])
            else:
                m.d.comb += value.eq(selected(m, platform, f"read_{port}", words, [*chosen]))

    def _memory(self, m):
        m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=[])
        write = memory.write_port()
        m.d.comb += [write.en.eq(self.write[0]), write.addr.eq(self.write[1:]), write.data.eq(self.data)]
        for port in range(self.read_ports):
            read = memory.read_port(domain="comb")
            m.d.comb += [read.addr.eq(self.select[port]), self.value[port].eq(read.data)]
