"""A network on a board: accelerator, memory, host and UART behind two pins."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..accelerator import BLOCKS as ACCELERATOR_BLOCKS
from ..accelerator import Accelerator
from ..bus.axi import axi4_lite_slave, axi4_master
from ..control.register_map import ADDRESS_WIDTH
from ..streams import forward
from ..verilog import place
from .host import BoardHost
from .memory import AxiMemory
from .uart import UartReceiver, UartTransmitter

__all__ = ["BLOCKS", "BoardDemo"]

#: instance path -> block of a report.
BLOCKS = {
    **{f"accelerator.{path}": block for path, block in ACCELERATOR_BLOCKS.items()},
    "memory": "memory",
    "host": "host",
    "uart_*": "host",
}

#: bytes of silence on the UART after which an unfinished image is forgotten.
_SILENT_BYTES = 64


class BoardDemo(wiring.Component):
    """Classifies images that arrive over a UART; :class:`~hdl.board.host.BoardHost` has the bytes of an answer.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    contents : :class:`~hdl.board.contents.BoardContents`.
    divisor : clock cycles of a bit on the UART, at least 4.

    Members
    -------
    rx : In(1), ``tx`` : Out(1). Pins of the UART. ``busy`` : Out(1). An image is being classified.
    """

    module_name = "mvq_board_demo"

    def __init__(self, config, contents, divisor):
        self.config, self.contents, self.divisor = config, contents, divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "busy": Out(1)})

    def elaborate(self, platform):
        m = Module()
        config, contents = self.config, self.contents
        width = config.array.stream_width
        accelerator = place(m, platform, "accelerator", Accelerator(config))
        words = contents.memory_bytes // config.bus_bytes
        memory = place(m, platform, "memory", AxiMemory(width, words, contents.words(width)))
        host = place(m, platform, "host", BoardHost(config, contents, patience=10 * _SILENT_BYTES * self.divisor))
        receiver = place(m, platform, "uart_receiver", UartReceiver(self.divisor))
        transmitter = place(m, platform, "uart_transmitter", UartTransmitter(self.divisor))

        _connect(m, accelerator, "m_axi_", memory, "s_axi_", axi4_master(width, ""))
        lite = axi4_lite_slave(ADDRESS_WIDTH, "")
        _connect(m, host, "m_axi_", accelerator, "s_axi_", {name: member.flip() for name, member in lite.items()})
        forward(m, host.answer, transmitter.bytes)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.busy.eq(host.busy),
            host.byte.eq(receiver.byte),
            host.valid.eq(receiver.valid),
            host.irq.eq(accelerator.irq),
            memory.host_write.eq(host.memory_write),
            memory.host_address.eq(host.memory_address),
            memory.host_byte.eq(host.memory_byte),
            memory.host_read.eq(host.memory_read),
            host.memory_word.eq(memory.host_word),
        ]
        return m


def _connect(m, master, master_prefix, slave, slave_prefix, members):
    """Connect two sides of a bus; ``members`` : of the master, without prefix."""
    for name, member in members.items():
        ours, theirs = getattr(master, master_prefix + name), getattr(slave, slave_prefix + name)
        source, sink = (ours, theirs) if member.flow == Out else (theirs, ours)
        m.d.comb += sink.eq(source)
