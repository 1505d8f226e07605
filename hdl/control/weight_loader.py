"""Weight loader: codebook, scales and weights of the next subset, while the array works on the present one (paper
section 5.2)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..array.activation_file import successor
from ..codebook_lut.codebook_register_file import CodebookRegisterFile
from ..codebook_lut.unpacker import Unpacker
from ..codebook_lut.vector_rebuild import VectorRebuild
from ..config import address_width
from ..verilog import place
from .command import command_layout

__all__ = ["WeightLoader", "subset_layout"]

#: command fields that the sequencer needs, in the order of the subset layout.
_PASSED_ON = ("entries", "scales", "out_channel_repeat", "passes", "vectors", "fresh", "row_pixels", "pixels")
_PASSED_ON += ("accumulate", "final", "raw", "relu", "high")


def subset_layout(config):
    """Layout of a loaded weight subset: where its weights and scales lie, and how to run it."""
    widths = dict(config.command_fields)
    scale_width = address_width(config.scale_depth)
    fields = {"address": config.entry_address_width, "scale_address": scale_width}
    return data.StructLayout({**fields, **{name: widths[name] for name in _PASSED_ON}})


class _State(enum.Enum, shape=3):
    IDLE = 0
    CODEBOOK = 1
    SCALES = 2
    COMPRESSED = 3
    RAW = 4
    LOADED = 5


class WeightLoader(wiring.Component):
    """Takes a command, then its part of the weight stream, and hands a loaded subset to the sequencer.

    A subset's part of the stream is, in this order and each from a word boundary: ``codewords`` codewords, ``scales``
    vectors of one 32-bit scale for each column, and for each of ``entries`` WRF words ``rows`` array rows from the top.
    A row is L/d packed entries without gaps (compressed), or its weights as int8: as many whole subvectors as fit a
    word, or a subvector in several words. With ``diagonal`` a row of a sparse tile has a single weight, on the array's
    diagonal, and row h gets the offset min(h mod m, m - n) that reaches it.

    WRF words and scale words are rings: a subset starts where the one before it ended, and waits until enough words are
    free.

    Latency: a weight is in the WRF two cycles after the word that completes it (one more in compressed mode, for the
    unpacker).

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    command : In(stream of command_layout). ``words`` : In(stream of 64 bits).
    subset : Out(stream of subset_layout).
    entries_freed, scales_freed : In. Words that the array no longer needs, in the cycle in which that becomes true.
    write, write_groups, write_row, write_address, weights, offsets : to the array.
    loading : Out(1). The words of a command are being taken.
    scale_write : In(1) for each scale word; scale_address, scale_data : to the scale memory.
    """

    module_name = "weight_loader"
    latency = 2

    def __init__(self, config):
        self.config = config
        widths = dict(config.command_fields)
        ports = {
            "command": In(stream.Signature(command_layout(config))),
            "words": In(stream.Signature(config.stream_width)),
            "subset": Out(stream.Signature(subset_layout(config))),
            "entries_freed": In(widths["entries"]),
            "scales_freed": In(widths["scales"]),
            "write": Out(1),
            "write_groups": Out(config.groups),
            "write_row": Out(address_width(config.rows)),
            "write_address": Out(config.entry_address_width),
            "weights": Out(config.multipliers_per_vector * 8).array(config.crf_read_ports),
            "scale_write": Out(config.scale_words),
            "scale_address": Out(address_width(config.scale_depth)),
            "scale_data": Out(config.stream_width),
            "loading": Out(1),
        }
        if config.tile == "sparse":
            ports["offsets"] = Out(config.multipliers_per_vector * config.offset_width).array(config.crf_read_ports)
        super().__init__(ports)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        ports, word_width = config.crf_read_ports, config.stream_width
        sparse = config.tile == "sparse"
        command = Signal(command_layout(config))
        state = Signal(_State)
        after = Signal(_State)  # the state that the command asks for next
        words, weights_state = self.words, _State.RAW
        word_taken = Signal()
        m.d.comb += word_taken.eq(words.valid & words.ready)

        # Rings of WRF words and scale words.
        entries_used, scales_used = Signal(range(config.wrf_depth + 1)), Signal(range(config.scale_depth + 1))
        address, first_address = Signal(config.entry_address_width), Signal(config.entry_address_width)
        scale_address, first_scale = Signal.like(self.scale_address), Signal.like(self.scale_address)
        fits = Signal()
        accepted = Signal()
        m.d.comb += [
            fits.eq(
                (entries_used + self.command.payload.entries <= config.wrf_depth)
                & (scales_used + self.command.payload.scales <= config.scale_depth)
            ),
            self.command.ready.eq((state == _State.IDLE) & fits),
            accepted.eq(self.command.valid & self.command.ready),
        ]
        m.d.sync += [
            entries_used.eq(entries_used + Mux(accepted, self.command.payload.entries, 0) - self.entries_freed),
            scales_used.eq(scales_used + Mux(accepted, self.command.payload.scales, 0) - self.scales_freed),
        ]

        # Words that make up one codeword or one raw subvector: the earlier ones wait in registers.
        waiting = [
            Signal(word_width, name=f"waiting_{i}") for i in range(max(config.codeword_words, config.raw_words) - 1)
        ]
        part = Signal(range(len(waiting) + 2))

        def assembled(count, width):
            return Cat(*waiting[: count - 1], words.payload)[:width]

        def collect(count, done):
            """Collect ``count`` words; add the statements of ``done`` in the cycle of the last."""
            for index, register in enumerate(waiting[: count - 1]):
                with m.If(part == index):
                    m.d.sync += register.eq(words.payload)
            with m.If(part == count - 1):
                m.d.sync += part.eq(0)
                done()
            with m.Else():
                m.d.sync += part.eq(part + 1)

        # Place of the next turn of weights: turn within a row, row, WRF word.
        turn = Signal(range(max(2, config.groups)))
        row = Signal(range(max(2, config.rows)))
        entries_left = Signal.like(command.entries)
        repeat, pass_offset = Signal.like(command.out_channel_repeat), Signal(max(1, config.offset_width))
        pass_left = Signal.like(command.passes)
        last_row, last_entry = Signal(), Signal()
        diagonal = Signal(range(max(2, config.m)))  # row modulo m
        m.d.comb += [last_row.eq(row == command.rows - 1), last_entry.eq(entries_left == 1)]
        wrote_turn, last_turn = Signal(), Signal()

        with m.If(wrote_turn):
            m.d.sync += turn.eq(turn + 1)
            with m.If(last_turn):
                m.d.sync += [turn.eq(0), row.eq(row + 1)]
                if sparse:
                    m.d.sync += diagonal.eq(Mux(last_row, 0, successor(diagonal, config.m)))
                with m.If(last_row):
                    m.d.sync += [
                        row.eq(0),
                        entries_left.eq(entries_left - 1),
                        address.eq(successor(address, config.wrf_depth)),
                    ]
                    with m.If(last_entry):
                        m.d.sync += state.eq(_State.LOADED)
                    m.d.sync += repeat.eq(repeat - 1)
                    with m.If(repeat == 1):
                        m.d.sync += [repeat.eq(command.out_channel_repeat), pass_left.eq(pass_left - 1)]
                        m.d.sync += pass_offset.eq(
                            Mux(
                                pass_offset + config.n > config.m - config.n,
                                config.m - config.n,
                                pass_offset + config.n,
                            )
                        )
                        with m.If(pass_left == 1):
                            m.d.sync += pass_left.eq(command.passes)
                            if sparse:
                                m.d.sync += pass_offset.eq(command.pass_offset)

        # The register that drives the array.
        groups_next = Signal(config.groups)
        weights_next = [Signal.like(self.weights[port], name=f"weights_next_{port}") for port in range(ports)]
        # With the codebook in SRAM its weights come from there in the cycle in which the register holds the others.
        late = config.has_codebook and config.codebook_memory == "sram"
        weights_register = [
            Signal.like(out, name=f"weights_{i}") if late else out for i, out in enumerate(self.weights)
        ]
        if sparse:
            offsets_register = [
                Signal.like(out, name=f"offsets_{i}") if late else out for i, out in enumerate(self.offsets)
            ]
        m.d.sync += self.write.eq(wrote_turn)
        with m.If(wrote_turn):
            m.d.sync += [self.write_groups.eq(groups_next), self.write_row.eq(row), self.write_address.eq(address)]
            m.d.sync += [to.eq(value) for to, value in zip(weights_register, weights_next, strict=True)]

        # Raw rows: one word holds ``raw_vectors`` subvectors, or a subvector takes ``raw_words`` words.
        per_turn = max(1, config.raw_vectors)
        raw_groups = Signal(config.groups)
        m.d.comb += [raw_groups[group].eq(turn == group // per_turn) for group in range(config.groups)]
        width = config.multipliers_per_vector * 8
        raw = assembled(config.raw_words, per_turn * width)
        raw_vectors = [raw[(port % per_turn) * width :][:width] for port in range(ports)]
        with m.If(state == _State.RAW):
            m.d.comb += [groups_next.eq(raw_groups), last_turn.eq(turn == config.groups // per_turn - 1)]
            m.d.comb += [target.eq(value) for target, value in zip(weights_next, raw_vectors, strict=True)]
            m.d.comb += words.ready.eq(1)
            with m.If(words.valid):
                collect(config.raw_words, lambda: m.d.comb.__iadd__(wrote_turn.eq(1)))
        if sparse:
            positions, most = config.multipliers_per_vector, config.m - config.n
            offset = Signal(config.offset_width)
            m.d.comb += offset.eq(Mux(command.diagonal, Mux(diagonal > most, most, diagonal), pass_offset))
            with m.If(wrote_turn & (state == _State.RAW)):
                m.d.sync += [to.eq(Cat(*[offset] * positions)) for to in offsets_register]

        # Compressed rows and the codebook.
        if config.has_codebook:
            crf = place(m, platform, "crf", CodebookRegisterFile(config))
            index = Signal(range(max(2, config.codewords)))
            left = Signal.like(command.codewords)
            m.d.comb += [
                crf.write_index.eq(index),
                crf.codeword.eq(assembled(config.codeword_words, len(crf.codeword))),
            ]
            with m.If(state == _State.CODEBOOK):
                m.d.comb += words.ready.eq(1)
                with m.If(words.valid):

                    def store():
                        m.d.comb += crf.write.eq(1)
                        m.d.sync += [index.eq(index + 1), left.eq(left - 1)]
                        with m.If(left == 1):
                            m.d.sync += state.eq(after)

                    collect(config.codeword_words, store)

            unpacker = place(m, platform, "unpacker", Unpacker(ports * config.entry_width, word_width))
            turns = config.groups // ports
            compressed_groups = Signal(config.groups)
            m.d.comb += [compressed_groups[group].eq(turn == group // ports) for group in range(config.groups)]
            rebuilt = [place(m, platform, f"rebuild_{port}", VectorRebuild(config)) for port in range(ports)]
            entries = [unpacker.records.payload.word_select(port, config.entry_width) for port in range(ports)]
            if late:
                compressed = Signal()
                taken_entries = [Signal(config.entry_width, name=f"entry_{port}") for port in range(ports)]
                m.d.comb += crf.read.eq(wrote_turn & (state == _State.COMPRESSED))
                with m.If(wrote_turn):
                    m.d.sync += compressed.eq(state == _State.COMPRESSED)
                    m.d.sync += [to.eq(entry) for to, entry in zip(taken_entries, entries, strict=True)]
            for port, vector in enumerate(rebuilt):
                m.d.comb += [
                    vector.entry.eq(taken_entries[port] if late else entries[port]),
                    crf.indices[port].eq(entries[port][: config.index_width] if late else vector.index),
                    vector.codeword.eq(crf.codewords[port]),
                ]
                if late:
                    m.d.comb += self.weights[port].eq(Mux(compressed, vector.weights, weights_register[port]))
                if late and sparse:
                    m.d.comb += self.offsets[port].eq(Mux(compressed, vector.offsets, offsets_register[port]))
            m.d.comb += [
                unpacker.enable.eq(state == _State.COMPRESSED),
                unpacker.words.valid.eq(words.valid),
                unpacker.words.payload.eq(words.payload),
                unpacker.records.ready.eq(1),
                unpacker.last.eq(last_entry & last_row & (turn == turns - 1)),
            ]
            with m.If(state == _State.COMPRESSED):
                m.d.comb += [words.ready.eq(unpacker.words.ready), wrote_turn.eq(unpacker.records.valid)]
                m.d.comb += [groups_next.eq(compressed_groups), last_turn.eq(turn == turns - 1)]
                if not late:
                    m.d.comb += [to.eq(vector.weights) for to, vector in zip(weights_next, rebuilt, strict=True)]
                if sparse and not late:
                    with m.If(wrote_turn):
                        m.d.sync += [to.eq(vector.offsets) for to, vector in zip(self.offsets, rebuilt, strict=True)]
            weights_state = Mux(command.compressed, _State.COMPRESSED, _State.RAW)

        # Scales.
        scale_word = Signal(range(max(2, config.scale_words)))
        scales_left = Signal.like(command.scales)
        m.d.comb += [self.scale_address.eq(scale_address), self.scale_data.eq(words.payload)]
        with m.If(state == _State.SCALES):
            m.d.comb += words.ready.eq(1)
            with m.If(words.valid):
                m.d.comb += self.scale_write.eq(1 << scale_word)
                m.d.sync += scale_word.eq(scale_word + 1)
                with m.If(scale_word == config.scale_words - 1):
                    m.d.sync += [scale_word.eq(0), scales_left.eq(scales_left - 1)]
                    m.d.sync += scale_address.eq(successor(scale_address, config.scale_depth))
                    with m.If(scales_left == 1):
                        m.d.sync += state.eq(weights_state)

        # From one state to the next.
        with m.If(command.scales != 0):
            m.d.comb += after.eq(_State.SCALES)
        with m.Else():
            m.d.comb += after.eq(weights_state)
        taken = self.command.payload
        with m.If(accepted):
            m.d.sync += [
                command.eq(taken),
                entries_left.eq(taken.entries),
                scales_left.eq(taken.scales),
                repeat.eq(taken.out_channel_repeat),
                pass_left.eq(taken.passes),
                first_address.eq(address),
                first_scale.eq(scale_address),
            ]
            if sparse:
                m.d.sync += pass_offset.eq(taken.pass_offset)
            start = _State.RAW
            if config.has_codebook:
                m.d.sync += [index.eq(0), left.eq(taken.codewords)]
                start = Mux(taken.compressed, _State.COMPRESSED, _State.RAW)
            start = Mux(taken.scales != 0, _State.SCALES, start)
            m.d.sync += state.eq(Mux(taken.codewords != 0, _State.CODEBOOK, start) if config.has_codebook else start)

        m.d.comb += [
            self.subset.valid.eq(state == _State.LOADED),
            self.loading.eq((state != _State.LOADED) & (state != _State.IDLE)),
            self.subset.payload.address.eq(first_address),
            self.subset.payload.scale_address.eq(first_scale),
            *(getattr(self.subset.payload, name).eq(getattr(command, name)) for name in _PASSED_ON),
        ]
        with m.If(self.subset.valid & self.subset.ready):
            m.d.sync += state.eq(_State.IDLE)
        return m
