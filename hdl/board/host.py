"""The host of the accelerator on a board: images in, classes out."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..bus.axi import axi4_lite_slave
from ..config import address_width
from ..control.register_map import ADDRESS_WIDTH, OFFSETS
from .contents import MULTIPLIER_WIDTH, OFFSET_WIDTH

__all__ = ["ANSWER_BYTES", "NO_CLASS", "BoardHost"]

#: bytes of an answer: class, error code, and four of the cycles.
ANSWER_BYTES = 6

#: class in the answer to a run that failed.
NO_CLASS = 0xFF

_START = 1  # of the register ``control``


class BoardHost(wiring.Component):
    """Takes the bytes of an image, puts them into memory, runs the program, and answers with the class of the highest
    score (the first of those that are equal), the error code and the cycles of the run (32 bits, low byte first).

    Bytes that come during a run or an answer are dropped, and so is the beginning of an image when no byte follows
    within ``patience`` cycles: after that pause the next byte is the first of an image.

    Latency: 3 cycles for each byte of the network's input, 2 for each register, the run, and 4 for each class.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    contents : :class:`~hdl.board.contents.BoardContents`.
    patience : cycles.

    Members
    -------
    byte : In(8), ``valid`` : In(1). What the UART received. ``answer`` : Out(stream of 8). What it is to send.
    m_axi_... : the other side of :func:`~hdl.bus.axi.axi4_lite_slave`. ``irq`` : In(1).
    memory_write, memory_address, memory_byte, memory_read : Out, ``memory_word`` : In. See
        :class:`~hdl.board.memory.AxiMemory`.
    busy : Out(1). From the last byte of an image to the last one of the answer.
    """

    module_name = "board_host"

    def __init__(self, config, contents, patience):
        self.config, self.contents, self.patience = config, contents, patience
        lite = axi4_lite_slave(ADDRESS_WIDTH, "m_axi_")
        super().__init__(
            {
                "byte": In(8),
                "valid": In(1),
                "answer": Out(stream.Signature(8)),
                **{name: member.flip() for name, member in lite.items()},
                "irq": In(1),
                "memory_write": Out(1),
                "memory_address": Out(exact_log2(contents.memory_bytes)),
                "memory_byte": Out(8),
                "memory_read": Out(1),
                "memory_word": In(config.array.stream_width),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        contents = self.contents
        step = Signal(range(max(len(contents.placement), len(contents.classes), len(contents.settings) + 2)))
        best, answer = Signal(8), Signal(8 * ANSWER_BYTES)

        def finish(last, then):
            """Count ``step`` up to ``last``; then start from 0 in the state ``then``."""
            with m.If(step == last):
                m.d.sync += step.eq(0)
                m.next = then
            with m.Else():
                m.d.sync += step.eq(step + 1)

        # The image, and where its bytes go.
        m.submodules.image = image = Memory(shape=8, depth=max(2, contents.image_bytes), init=[])
        image_write, image_read = image.write_port(), image.read_port()
        place = data.StructLayout({"used": 1, "source": address_width(max(2, contents.image_bytes))})
        table = [{"used": 0, "source": 0} if at is None else {"used": 1, "source": at} for at in contents.placement]
        m.submodules.placement = placement = Memory(shape=place, depth=max(2, len(table)), init=table)
        placed = placement.read_port()
        received, silence = Signal(range(max(2, contents.image_bytes))), Signal(range(self.patience + 1))
        m.d.comb += [
            image_write.addr.eq(received),
            image_write.data.eq(self.byte),
            placed.addr.eq(step),
            image_read.addr.eq(placed.data.source),
            self.memory_byte.eq(image_read.data),
        ]

        # Registers to write, the start behind them.
        offset, value = Signal(ADDRESS_WIDTH), Signal(32)
        writes = [(OFFSETS["irq_status"], 3), *contents.settings, (OFFSETS["control"], _START)]
        with m.Switch(step):
            for index, (register, content) in enumerate(writes):
                with m.Case(index):
                    m.d.comb += [offset.eq(register), value.eq(content)]
        m.d.comb += [
            self.m_axi_awaddr.eq(offset),
            self.m_axi_wdata.eq(value),
            self.m_axi_wstrb.eq(0b1111),
            self.m_axi_bready.eq(1),
            self.m_axi_rready.eq(1),
        ]

        # Scores.
        lane_bits = exact_log2(self.config.bus_bytes // 4)
        negative = any(item.multiplier < 0 for item in contents.classes)
        factor = signed(MULTIPLIER_WIDTH + 1) if negative else MULTIPLIER_WIDTH
        word, multiplier = Signal(len(self.memory_address) - 2), Signal(factor)
        class_offset, psum = Signal(signed(OFFSET_WIDTH)), Signal(signed(self.config.array.psum_width))
        product = Signal(signed(self.config.array.psum_width + MULTIPLIER_WIDTH + 1))
        score = Signal(signed(max(len(product), OFFSET_WIDTH) + 1))
        highest = Signal.like(score)
        with m.Switch(step):
            for index, item in enumerate(contents.classes):
                with m.Case(index):
                    m.d.comb += [
                        word.eq(item.word),
                        multiplier.eq(Const(item.multiplier, factor)),
                        class_offset.eq(Const(item.offset, signed(OFFSET_WIDTH))),
                    ]
        m.d.comb += score.eq(product + class_offset)

        m.d.comb += [self.answer.payload.eq(answer[:8]), self.busy.eq(1)]
        with m.FSM():
            with m.State("RECEIVE"):
                m.d.comb += [self.busy.eq(0), image_write.en.eq(self.valid)]
                m.d.sync += silence.eq(silence + 1)
                with m.If(self.valid):
                    m.d.sync += [silence.eq(0), received.eq(received + 1)]
                    with m.If(received == contents.image_bytes - 1):
                        m.d.sync += received.eq(0)
                        m.next = "LOOK UP"
                with m.Elif(silence == self.patience):
                    m.d.sync += [silence.eq(0), received.eq(0)]
            with m.State("LOOK UP"):  # the place of this step's byte
                m.next = "FETCH"
            with m.State("FETCH"):  # the image's byte
                m.next = "PUT"
            with m.State("PUT"):
                m.d.comb += [
                    self.memory_address.eq(contents.placement_address + step),
                    self.memory_write.eq(placed.data.used),
                ]
                m.next = "LOOK UP"
                finish(len(contents.placement) - 1, "SET")
            with m.State("SET"):
                m.d.comb += [self.m_axi_awvalid.eq(1), self.m_axi_wvalid.eq(1)]
                with m.If(self.m_axi_awready):  # address and data are taken together
                    m.next = "ANSWERED"
            with m.State("ANSWERED"):
                with m.If(self.m_axi_bvalid):
                    m.next = "SET"
                    finish(len(writes) - 1, "RUN")
            with m.State("RUN"):
                with m.If(self.irq):
                    m.next = "READ ERROR"
            for register, then, bits in (("error", "READ CYCLES", 8), ("cycles", "SUM", 32)):
                with m.State(f"READ {register.upper()}"):
                    m.d.comb += [self.m_axi_araddr.eq(OFFSETS[register]), self.m_axi_arvalid.eq(1)]
                    with m.If(self.m_axi_arready):
                        m.next = f"TAKE {register.upper()}"
                with m.State(f"TAKE {register.upper()}"):
                    with m.If(self.m_axi_rvalid):
                        place_of = slice(8, 16) if register == "error" else slice(16, 48)
                        m.d.sync += answer[place_of].eq(self.m_axi_rdata[:bits])
                        m.next = then
            with m.State("SUM"):
                m.d.comb += [self.memory_address.eq(word << 2), self.memory_read.eq(1)]
                m.next = "SCALE"
            with m.State("SCALE"):
                m.d.sync += psum.eq(self.memory_word.word_select(word[:lane_bits], 32))
                m.next = "SCORE"
            with m.State("SCORE"):
                m.d.sync += product.eq(psum * multiplier)
                m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.If((step == 0) | (score > highest)):
                    m.d.sync += [highest.eq(score), best.eq(step)]
                m.next = "SUM"
                finish(len(contents.classes) - 1, "CLASS")
            with m.State("CLASS"):
                m.d.sync += answer[:8].eq(Mux(answer[8:16] == 0, best, NO_CLASS))
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.answer.valid.eq(1)
                with m.If(self.answer.ready):
                    m.d.sync += answer.eq(Cat(answer[8:], Const(0, 8)))
                    finish(ANSWER_BYTES - 1, "RECEIVE")
        return m
