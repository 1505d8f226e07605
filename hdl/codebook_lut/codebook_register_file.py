"""Codebook register file (CRF): one codebook, several read ports (paper section 5.2)."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..latch import stores_in_latches
from ..register_file import RegisterFile, any_of, one_hot
from ..verilog import place
from .ascending_bits import AscendingBits, bits_worth_leaving_out

__all__ = ["CodebookRegisterFile"]

#: codewords in one bank; a bank is one module that is placed k / 64 times.
_BANK = 64


class CodebookRegisterFile(wiring.Component):
    """k codewords of d weights. A written codeword can be read in the next cycle (``latency`` = 1), or one later where
    it is kept in latches; reads are combinational.

    Codewords come in ascending order of their first weight, from index 0 on, as a packed image has them. The structural
    style makes use of it: of that weight's high bits it stores only where they change
    (:class:`~hdl.codebook_lut.ascending_bits.AscendingBits`).

    With ``codebook_memory`` = ``sram`` it is a memory for each read port, and a codeword comes in the cycle after its
    index. A memory is never read and written in one cycle, so one with a single port will do.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig` with a codebook.

    Members
    -------
    write : In(1), ``write_index``, ``codeword`` : In(d*8). Codeword to write, first weight in the low bits.
    indices : In(index_width) for each of the ``crf_read_ports``.
    codewords : Out(d*8) for each of them.
    read : In(1). Read ``indices`` (``sram`` only).
    """

    module_name = "codebook_register_file"
    latency = 1

    def __init__(self, config):
        self.config = config
        width = config.vector_length * 8
        read = {"read": In(1)} if config.codebook_memory == "sram" else {}
        super().__init__(
            {
                **read,
                "write": In(1),
                "write_index": In(config.index_width),
                "codeword": In(width),
                "indices": In(config.index_width).array(config.crf_read_ports),
                "codewords": Out(width).array(config.crf_read_ports),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self.config.codebook_memory == "sram":
            self._srams(m)
        elif self.config.style == "structural":
            self._banks(m, platform)
        else:
            self._memory(m, platform)
        return m

    def _file(self, depth, width, name):
        return RegisterFile(
            depth,
            width,
            style=self.config.style,
            read_ports=self.config.crf_read_ports,
            module_name=f"{name}_{depth}x{width}",
            read_during_write=False,
        )

    def _memory(self, m, platform):
        crf = place(m, platform, "file", self._file(self.config.codewords, len(self.codeword), "crf"))
        m.d.comb += [crf.write.eq(crf.words.gate(self.write_index, self.write)), crf.data.eq(self.codeword)]
        for port in range(self.config.crf_read_ports):
            m.d.comb += [crf.select[port].eq(self.indices[port]), self.codewords[port].eq(crf.value[port])]

    def _srams(self, m):
        for port in range(self.config.crf_read_ports):
            memory = Memory(shape=len(self.codeword), depth=self.config.codewords, init=[])
            m.submodules[f"copy_{port}"] = memory
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(self.write),
                write.addr.eq(self.write_index),
                write.data.eq(self.codeword),
                read.en.eq(self.read),
                read.addr.eq(self.indices[port]),
                self.codewords[port].eq(read.data),
            ]

    def _banks(self, m, platform):
        config = self.config
        width, ports = config.vector_length * 8, config.crf_read_ports
        low_width = min(config.index_width, (_BANK - 1).bit_length())
        write, write_index, codeword = self.write, self.write_index, self.codeword
        if stores_in_latches(platform):  # they want what they take from registers
            write = Signal()
            write_index, codeword = Signal.like(self.write_index), Signal(width, reset_less=True)
            m.d.sync += [write.eq(self.write), write_index.eq(self.write_index), codeword.eq(self.codeword)]

        def decode(name, index):
            """One-hot word lines inside a bank, and one-hot bank lines."""
            words = one_hot(m, f"{name}_word", index[:low_width], 1 << low_width)
            high = index[low_width:]
            return words, [high == bank if len(high) else 1 for bank in range(1 << len(high))]

        left_out = bits_worth_leaving_out(config.codewords)
        kept = 8 - left_out
        stored = Cat(codeword[:kept], codeword[8:])
        written, write_banks = decode("write", write_index)
        reads = [decode(f"read_{port}", self.indices[port]) for port in range(ports)]
        values = [[] for _ in range(ports)]
        for bank, start in enumerate(range(0, config.codewords, _BANK)):
            depth = min(_BANK, config.codewords - start)
            crf = place(m, platform, f"bank_{bank}", self._file(depth, width - left_out, "crf_bank"))
            enable = Signal(name=f"write_bank_{bank}")
            m.d.comb += [
                enable.eq(write & write_banks[bank]),
                crf.write.eq(written[:depth] & enable.replicate(depth)),
                crf.data.eq(stored),
            ]
            for port, (words, banks) in enumerate(reads):
                hit = Signal(name=f"read_{port}_bank_{bank}")
                m.d.comb += [hit.eq(banks[bank]), crf.select[port].eq(words[:depth] & hit.replicate(depth))]
                values[port].append(
                    crf.value[port] & hit.replicate(width - left_out) if depth == 1 else crf.value[port]
                )
        high_bits = [Const(0, 0)] * ports
        if left_out:
            ascending = AscendingBits(left_out, config.index_width, ports, config.style)
            place(m, platform, "ascending", ascending)
            offset_binary = 1 << (left_out - 1)
            m.d.comb += [
                ascending.write.eq(write),
                ascending.write_index.eq(write_index),
                ascending.number.eq(codeword[kept:8] ^ offset_binary),
                *(to.eq(index) for to, index in zip(ascending.indices, self.indices, strict=True)),
            ]
            high_bits = [number ^ offset_binary for number in ascending.numbers]
        for port in range(ports):
            word = any_of(values[port])
            m.d.comb += self.codewords[port].eq(Cat(word[:kept], high_bits[port], word[kept:]))
