"""Bit-stream unpacker: words of the weight stream to records that follow each other without gaps."""

import math

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Unpacker"]


class Unpacker(wiring.Component):
    """Cuts a section of the stream into records, first record in the low bits of the first word.

    A section begins at a word boundary. The record that is consumed while ``last`` is high ends it; what is left of its
    word is dropped, and the word after it belongs to the next section.

    Latency: while words keep coming, record i (from 0) is offered ``cycles(i)`` cycles after its section's first word
    was taken.

    Parameters
    ----------
    record_width : bits of a record.
    word_width : bits of a word.

    Members
    -------
    words : In(stream of word_width). ``enable`` : In(1). Words may be taken.
    records : Out(stream of record_width).
    last : In(1). The record that is offered, or will be next, is the last of its section.
    """

    module_name = "unpacker"

    def __init__(self, record_width, word_width=64):
        self.record_width, self.word_width = record_width, word_width
        super().__init__(
            {
                "words": In(stream.Signature(word_width)),
                "enable": In(1),
                "records": Out(stream.Signature(record_width)),
                "last": In(1),
            }
        )

    @property
    def latency(self):
        """Cycles from the first word of a section to the offer of its first record."""
        return self.cycles(0)

    def cycles(self, record):
        """Cycles from the first word to the offer of ``record``: one for each word that it needs, one for each record
        before it."""
        return max(record + 1, -(-(record + 1) * self.record_width // self.word_width))

    def elaborate(self, platform):
        m = Module()
        record, word = self.record_width, self.word_width
        unit = math.gcd(record, word)  # every fill level is a multiple of this
        capacity = record - unit + word
        bits = Signal(capacity)
        level = Signal(range(capacity // unit + 1))
        consumed, accepted, ended = Signal(), Signal(), Signal()
        level_left = Signal.like(level)
        bits_left = Signal(capacity)
        m.d.comb += [
            self.records.valid.eq(level >= record // unit),
            self.records.payload.eq(bits[:record]),
            consumed.eq(self.records.valid & self.records.ready),
            ended.eq(consumed & self.last),
            level_left.eq(level),
            bits_left.eq(bits),
            self.words.ready.eq(self.enable & ~ended & (level_left < record // unit)),
            accepted.eq(self.words.valid & self.words.ready),
        ]
        with m.If(consumed):
            m.d.comb += [level_left.eq(level - record // unit), bits_left.eq(bits >> record)]
        with m.If(ended):
            m.d.sync += [level.eq(0), bits.eq(0)]
        with m.Elif(accepted):
            m.d.sync += level.eq(level_left + word // unit)
            with m.Switch(level_left):
                for fill in range(record // unit):
                    with m.Case(fill):
                        m.d.sync += bits.eq(bits_left[: fill * unit] | (self.words.payload << (fill * unit)))
        with m.Else():
            m.d.sync += [level.eq(level_left), bits.eq(bits_left)]
        return m
