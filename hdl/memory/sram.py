"""Memories as SRAM macros: which ones, what they are called, and what the gateware expects of them."""

from dataclasses import dataclass

from amaranth.hdl import ClockSignal, Instance, Module, Mux, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import ConfigError, address_width

__all__ = ["BLACK_BOX_BITS", "CONTRACT", "POLICIES", "Sram", "TransparentMemory", "check_policy", "describe_memory"]

#: how memories are written into Verilog.
POLICIES = ("behavioural", "black_box")

#: bits of the smallest memory that becomes a black box, unless told otherwise.
BLACK_BOX_BITS = 4096

#: what every black box does, and all that the gateware relies on; for the sidecar and the models' file.
CONTRACT = {
    "clock_edge": "rising",
    "read_latency": 1,
    "read_while_writing_same_word": "old",
    "read_data_without_read_enable": "held",
    "initial_contents": "undefined",
    "reset": "none",
    "rules": [
        "Everything happens at the rising edge of clk.",
        "read_data is the word at read_address of the latest edge with read_enable, from that edge on.",
        "Without read_enable it keeps its value, whatever is written meanwhile, to the same word too.",
        "Where a word is read and written at one edge, the read gives the whole word as it was before.",
        "A write replaces the parts of the word whose bit of write_enable is set; bit 0 is for the lowest part.",
        "Reading and writing at one edge is legal, whatever the addresses.",
        "Words that were never written, and read_data before the first read, may be anything; there is no reset.",
    ],
}


def check_policy(memories, black_box_bits):
    """Refuse what is no policy.

    Raises
    ------
    ConfigError : names the parameter, its value and the legal ones.
    """
    if memories not in POLICIES:
        raise ConfigError("memories", memories, f"must be one of {', '.join(POLICIES)}")
    if not isinstance(black_box_bits, int) or isinstance(black_box_bits, bool) or black_box_bits < 1:
        raise ConfigError("black_box_bits", black_box_bits, "must be an integer of at least 1", 1)


def _granularity(memory, port):
    """Bits that a bit of a write port's enable stands for."""
    return Shape.cast(memory.shape).width // len(port.en)


def describe_memory(memory):
    """Depth, width, granularity and ports of an Amaranth memory, for the sidecar.

    ``during_write`` is what a read gives in the cycle of a write to the same word.
    """
    granularities = {_granularity(memory, port) for port in memory.write_ports}
    reads = [
        {
            "kind": "read",
            "latency": 0 if port.domain == "comb" else 1,
            "during_write": "new" if port.transparent_for else "old",
        }
        for port in memory.read_ports
    ]
    return {
        "depth": memory.depth,
        "width": Shape.cast(memory.shape).width,
        "write_granularity": min(granularities, default=None),
        "ports": [{"kind": "write"} for _ in memory.write_ports] + reads,
    }


@dataclass(frozen=True)
class Sram:
    """A macro with one write port and one read port; :data:`CONTRACT` says what it does.

    Attributes
    ----------
    depth, width : words, and bits in each.
    granularity : bits that are written together; ``width`` when words are written whole.
    """

    depth: int
    width: int
    granularity: int

    @classmethod
    def of(cls, memory, minimum_bits):
        """The macro for an Amaranth memory, or None: it has other ports, or contents, or less than ``minimum_bits``.

        A transparent read port makes no difference here, but the macro is not transparent: see
        :class:`TransparentMemory`.
        """
        if len(memory.write_ports) != 1 or len(memory.read_ports) != 1 or any(memory.init):
            return None
        [write], [read] = memory.write_ports, memory.read_ports
        width = Shape.cast(memory.shape).width
        if (write.domain, read.domain) != ("sync", "sync") or memory.depth < 2 or memory.depth * width < minimum_bits:
            return None
        if read.transparent_for and len(write.en) > 1:
            return None  # nothing needs it
        return cls(memory.depth, width, _granularity(memory, write))

    @property
    def parts(self):
        """Parts of a word that are written alone."""
        return self.width // self.granularity

    @property
    def name(self):
        """Name of the module: ports, depth x width, and the granularity where words are not written whole."""
        return f"mvq_sram_1r1w_{self.depth}x{self.width}" + f"_w{self.granularity}" * (self.parts > 1)

    @property
    def ports(self):
        """(name, direction, width) of every port."""
        address = address_width(self.depth)
        return [
            ("clk", "input", 1),
            ("write_enable", "input", self.parts),
            ("write_address", "input", address),
            ("write_data", "input", self.width),
            ("read_enable", "input", 1),
            ("read_address", "input", address),
            ("read_data", "output", self.width),
        ]

    def instance(self, memory):
        """An ``Instance`` in the place of ``memory``."""
        [write], [read] = memory.write_ports, memory.read_ports
        return Instance(
            self.name,
            i_clk=ClockSignal(),
            i_write_enable=write.en,
            i_write_address=write.addr,
            i_write_data=Value.cast(write.data),
            i_read_enable=read.en,
            i_read_address=read.addr,
            o_read_data=Value.cast(read.data),
        )

    def model(self):
        """Verilog of a module that does what the macro has to do."""

        def bits(width):
            return f"[{width - 1}:0] " if width > 1 else ""

        ports = []
        for name, direction, width in self.ports:
            kind = "output reg" if direction == "output" else "input"
            ports.append(f"  {kind} {bits(width)}{name}")
        writes = []
        for part in range(self.parts):
            enable = f"write_enable[{part}]" if self.parts > 1 else "write_enable"
            high, low = (part + 1) * self.granularity - 1, part * self.granularity
            place = f"[{high}:{low}]" if self.parts > 1 else ""
            writes.append(f"    if ({enable}) words[write_address]{place} <= write_data{place};")
        lines = [
            f"module {self.name} (",
            ",\n".join(ports),
            ");",
            f"  reg {bits(self.width)}words [0:{self.depth - 1}];",
            "  always @(posedge clk) begin",
            *writes,
            "    if (read_enable) read_data <= words[read_address];",
            "  end",
            "endmodule",
        ]
        return "\n".join(lines) + "\n"


class TransparentMemory(wiring.Component):
    """A memory whose read gives what is written in the same cycle, out of one whose read does not: a comparator and a
    register beside it.

    Latency: ``read_data`` is the word of the latest cycle with ``read``, from the cycle after it on.

    Parameters
    ----------
    depth, width : words, and bits in each.

    Members
    -------
    write : In(1), ``write_address`` : In, ``write_data`` : In(width).
    read : In(1), ``read_address`` : In, ``read_data`` : Out(width).
    """

    latency = 1

    def __init__(self, depth, width):
        self.depth, self.width = depth, width
        self.module_name = f"transparent_memory_{depth}x{width}"
        address = address_width(depth)
        super().__init__(
            {
                "write": In(1),
                "write_address": In(address),
                "write_data": In(width),
                "read": In(1),
                "read_address": In(address),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        # No reset, as a memory has none.
        met, written = Signal(reset_less=True), Signal(self.width, reset_less=True)
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.en.eq(self.read),
            read.addr.eq(self.read_address),
            self.read_data.eq(Mux(met, written, read.data)),
        ]
        with m.If(self.read):
            m.d.sync += met.eq(self.write & (self.write_address == self.read_address))
            m.d.sync += written.eq(self.write_data)
        return m
