"""Load and store engines: blocks of L1 words between memory and L1 (paper section 7.1: DMA)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..bus.axi import request_layout
from .operations import transfer_layout

__all__ = ["LoadEngine", "StoreEngine"]


class _TransferEngine(wiring.Component):
    """What both engines share: the operation under way, and a request to the bus for each of its chunks."""

    def __init__(self, config, ports):
        self.config = config
        super().__init__(
            {
                "op": In(stream.Signature(transfer_layout(config))),
                "request": Out(stream.Signature(request_layout())),
                "done": Out(1),
                "layer": Out(16),
                **ports,
            }
        )

    def _requests(self, m):
        """The operation in registers, and its requests; returns (operation, active)."""
        op = Signal(transfer_layout(self.config))
        active, left, address = Signal(), Signal(16), Signal(32)
        m.d.comb += [
            self.op.ready.eq(~active),
            self.layer.eq(op.layer),
            self.request.valid.eq(left != 0),
            self.request.payload.address.eq(address),
            self.request.payload.beats.eq(op.chunk_words * op.word_beats),
        ]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += [left.eq(left - 1), address.eq(address + op.memory_stride)]
        with m.If(self.op.valid & self.op.ready):
            taken = self.op.payload
            m.d.sync += [op.eq(taken), active.eq(1), left.eq(taken.chunks), address.eq(taken.memory_address)]
        with m.If(self.done):
            m.d.sync += active.eq(0)
        return op, active

    def _words(self, m, op, start, advance):
        """Addresses of the operation's L1 words, one further with ``advance``; returns (address, last)."""
        word, row = Signal(20), Signal(20)
        words_left, chunks_left = Signal(20), Signal(16)
        last = Signal()
        m.d.comb += last.eq((words_left == 1) & (chunks_left == 1))
        with m.If(advance):
            m.d.sync += [word.eq(word + 1), words_left.eq(words_left - 1)]
            with m.If(words_left == 1):
                m.d.sync += [
                    word.eq(row + op.l1_stride),
                    row.eq(row + op.l1_stride),
                    words_left.eq(op.chunk_words),
                    chunks_left.eq(chunks_left - 1),
                ]
        with m.If(start):
            taken = self.op.payload
            m.d.sync += [word.eq(taken.l1_address), row.eq(taken.l1_address)]
            m.d.sync += [words_left.eq(taken.chunk_words), chunks_left.eq(taken.chunks)]
        return word, last


class LoadEngine(_TransferEngine):
    """Memory to L1. One word in ``word_beats`` cycles (of the operation) while beats come and its bank is free; the
    beats of the word that memory does not have are zero.

    Latency: the first request follows the operation by one cycle; a word is written in the cycle of its last beat;
    ``done`` is high in the cycle in which the last word is written, and the next operation is taken two cycles later.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    op : In(stream of transfer_layout). ``done`` : Out(1). ``layer`` : Out(16). That of the operation.
    request : Out(stream of request_layout), ``beats`` : In(stream of the bus width). To and from the bus.
    write_valid, write_address, write_data : Out; ``write_ready`` : In(1). L1's write port, addressed by word.
    """

    module_name = "load_engine"

    def __init__(self, config):
        ports = {
            "beats": In(stream.Signature(config.array.stream_width)),
            "write_valid": Out(1),
            "write_address": Out(20),
            "write_data": Out(config.word_bytes * 8),
            "write_ready": In(1),
        }
        super().__init__(config, ports)

    def elaborate(self, platform):
        m = Module()
        config, width = self.config, self.config.array.stream_width
        op, active = self._requests(m)
        earlier = [Signal(width, name=f"beat_{i}", reset_less=True) for i in range(config.word_beats - 1)]
        beat = Signal(range(max(2, config.word_beats)))
        complete, moved = Signal(), Signal()
        parts = [
            Mux(beat == index, self.beats.payload, Mux(beat > index, register, 0))
            for index, register in enumerate(earlier)
        ]
        whole = config.word_beats == 1  # nothing is left out
        parts.append(self.beats.payload if whole else Mux(beat == len(earlier), self.beats.payload, 0))
        m.d.comb += [
            complete.eq(beat == op.word_beats - 1),
            self.write_data.eq(Cat(*parts)),
            self.write_valid.eq(active & self.beats.valid & complete),
            self.beats.ready.eq(active & (~complete | self.write_ready)),
            moved.eq(self.write_valid & self.write_ready),
        ]
        with m.If(active & self.beats.valid & self.beats.ready):
            m.d.sync += beat.eq(beat + 1)
            with m.If(complete):
                m.d.sync += beat.eq(0)
            for index, register in enumerate(earlier):
                with m.If(beat == index):
                    m.d.sync += register.eq(self.beats.payload)
        address, last = self._words(m, op, self.op.valid & self.op.ready, moved)
        m.d.comb += [self.write_address.eq(address), self.done.eq(moved & last)]
        return m


class StoreEngine(_TransferEngine):
    """L1 to memory. The first ``word_beats`` beats (of the operation) of a word, one a cycle while the bus takes them
    and the word's bank is free.

    Latency: the first word is read in the cycle after the operation was taken, and its first beat is offered two cycles
    later; ``done`` is high in the cycle in which the bus reports the last chunk written.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    op : In(stream of transfer_layout). ``done`` : Out(1). ``layer`` : Out(16). That of the operation.
    request : Out(stream of request_layout), ``beats`` : Out(stream of the bus width). To the bus.
    answered : In(1). The bus has written a whole request.
    read_valid, read_address : Out; ``read_ready`` : In(1), ``read_data`` : In. L1's read port, addressed by word; the
        data comes one cycle after a granted read.
    """

    module_name = "store_engine"
    #: words between L1 and the bus.
    depth = 4

    def __init__(self, config):
        ports = {
            "beats": Out(stream.Signature(config.array.stream_width)),
            "answered": In(1),
            "read_valid": Out(1),
            "read_address": Out(20),
            "read_ready": In(1),
            "read_data": In(config.word_bytes * 8),
        }
        super().__init__(config, ports)

    def elaborate(self, platform):
        m = Module()
        config, width = self.config, self.config.array.stream_width
        op, active = self._requests(m)
        reading, answers_left = Signal(), Signal(16)
        reserved = Signal(range(self.depth + 1))
        arriving, read, popped = Signal(), Signal(), Signal()
        m.submodules.words = words = SyncFIFO(width=config.word_bytes * 8, depth=self.depth)

        started = Signal()
        m.d.comb += started.eq(self.op.valid & self.op.ready)
        address, last = self._words(m, op, started, read)
        m.d.comb += [
            self.read_valid.eq(reading & (reserved != self.depth)),
            self.read_address.eq(address),
            read.eq(self.read_valid & self.read_ready),
            words.w_en.eq(arriving),
            words.w_data.eq(self.read_data),
        ]
        m.d.sync += [arriving.eq(read), reserved.eq(reserved + read - popped)]
        with m.If(read & last):
            m.d.sync += reading.eq(0)
        with m.If(started):
            m.d.sync += [reading.eq(1), answers_left.eq(self.op.payload.chunks)]

        beat = Signal(range(max(2, config.word_beats)))
        sent = Signal()
        m.d.comb += [
            self.beats.valid.eq(words.r_rdy),
            self.beats.payload.eq(words.r_data.word_select(beat, width)),
            sent.eq(self.beats.valid & self.beats.ready),
            popped.eq(sent & (beat == op.word_beats - 1)),
            words.r_en.eq(popped),
        ]
        with m.If(sent):
            m.d.sync += beat.eq(beat + 1)
            with m.If(popped):
                m.d.sync += beat.eq(0)

        m.d.comb += self.done.eq(active & self.answered & (answers_left == 1))
        with m.If(self.answered):
            m.d.sync += answers_left.eq(answers_left - 1)
        return m
