"""The registers as data: from these lists come the RTL's decoder, the C header, Python constants and docs/registers.md.

Offsets, bits and error codes are what drivers are compiled against: they are only added to. ``VERSION`` counts such
additions.
"""

import enum
from dataclasses import dataclass

__all__ = [
    "ADDRESS_WIDTH",
    "IDENTITY",
    "OFFSETS",
    "REGISTERS",
    "VERSION",
    "ErrorCode",
    "Field",
    "Register",
    "register",
]

#: bits of an address on the control bus.
ADDRESS_WIDTH = 12

#: value of ``id``: "MVQ1" in ASCII, M in the high byte.
IDENTITY = int.from_bytes(b"MVQ1", "big")

#: value of ``version``.
VERSION = 1


class ErrorCode(enum.IntEnum):
    """Why a run failed, as the register ``error`` says it."""

    NONE = 0
    UNKNOWN_OPCODE = 1
    TRUNCATED_LIST = 2
    MISALIGNED = 3
    OUT_OF_RANGE_L1 = 4
    OUT_OF_RANGE_MEMORY = 5
    ILLEGAL_FIELD = 6
    READ_SLVERR = 7
    READ_DECERR = 8
    WRITE_SLVERR = 9
    WRITE_DECERR = 10
    WATCHDOG = 11


@dataclass(frozen=True)
class Field:
    """Bits ``bit`` to ``bit + width - 1`` of a register."""

    name: str
    bit: int
    width: int
    description: str


@dataclass(frozen=True)
class Register:
    """A register of 32 bits, or of 64 with the low word at ``offset`` and the high word at ``offset + 4``.

    Parameters
    ----------
    name, offset, description : offset in bytes.
    access : ``constant``; ``status`` (read only); ``command`` (a 1 does something, reads as 0); ``flags`` (a 1 clears
        the bit); ``setting`` (read and write); ``program`` (the same, but writes are ignored during a run);
        ``counter`` (read only, 64 bits).
    width : 32 or 64.
    fields : of a register that is not one number.
    """

    name: str
    offset: int
    access: str
    description: str
    width: int = 32
    fields: tuple[Field, ...] = ()


_INTERRUPTS = (
    Field("done", 0, 1, "the run came to its end without an error"),
    Field("error", 1, 1, "the run failed"),
)

REGISTERS = (
    Register("id", 0x000, "constant", f"{IDENTITY:#010x}, 'MVQ1' in ASCII"),
    Register("version", 0x004, "constant", f"{VERSION}, version of this register map"),
    Register(
        "geometry",
        0x008,
        "constant",
        "size of the array",
        fields=(
            Field("rows", 0, 8, "H, input channels in parallel"),
            Field("columns", 8, 8, "L, output channels in parallel"),
            Field("wrf_depth", 16, 16, "words in each weight register file"),
        ),
    ),
    Register("config_hash", 0x010, "constant", "which configuration this is: a program is made for one", width=64),
    Register(
        "control",
        0x020,
        "command",
        "commands; several may be given at once",
        fields=(
            Field("start", 0, 1, "run the program, unless one is running or draining; clears counters and results"),
            Field("stop", 1, 1, "end the run after the operations that have been dispatched"),
            Field(
                "soft_reset",
                2,
                1,
                "end the run at once and drain the bus; while draining: forget what the bus owes",
            ),
            Field("clear_counters", 3, 1, "set all counters to 0"),
        ),
    ),
    Register(
        "status",
        0x024,
        "status",
        "what the accelerator does; start and soft_reset clear the bits that say how the last run ended",
        fields=(
            Field("busy", 0, 1, "a program is running"),
            Field("done", 1, 1, "the run came to its end without an error"),
            Field("error", 2, 1, "the run failed: see `error`"),
            Field("stopped", 3, 1, "the run was ended by `stop`"),
            Field("draining", 4, 1, "the run is over, but the bus still owes answers"),
            Field("ignored_start", 5, 1, "a start came during a run, or while draining, and did nothing"),
            Field("layer", 16, 16, "layer whose results are being written"),
        ),
    ),
    Register("irq_enable", 0x028, "setting", "events that raise the interrupt", fields=_INTERRUPTS),
    Register("irq_status", 0x02C, "flags", "events that have happened; a 1 clears the bit", fields=_INTERRUPTS),
    Register(
        "error",
        0x030,
        "status",
        "the first error of the run",
        fields=(
            Field("code", 0, 8, "error code, 0 for none"),
            Field("layer", 8, 16, "layer of the descriptor that failed"),
        ),
    ),
    Register("error_address", 0x034, "status", "address of the descriptor or of the bus burst that failed"),
    Register("program_address", 0x040, "program", "byte address of the first descriptor"),
    Register("program_length", 0x044, "program", "descriptors in the program, `end` included"),
    Register("memory_base", 0x048, "program", "first byte that the accelerator may read"),
    Register("memory_limit", 0x04C, "program", "first byte after those that it may read"),
    Register("output_base", 0x050, "program", "first byte that it may write"),
    Register("output_limit", 0x054, "program", "first byte after those that it may write"),
    Register("watchdog", 0x058, "program", "cycles without progress after which a run fails; 0 for never"),
    Register("cycles", 0x080, "counter", "cycles of the run", width=64),
    Register("busy_cycles", 0x088, "counter", "cycles in which the array works", width=64),
    Register("weight_stalls", 0x090, "counter", "cycles in which the array waits for weights", width=64),
    Register("activation_stalls", 0x098, "counter", "cycles in which the array waits for activations", width=64),
    Register("bus_read_beats", 0x0A0, "counter", "beats read from memory", width=64),
    Register("bus_write_beats", 0x0A8, "counter", "beats written to memory", width=64),
    Register("l1_reads", 0x0B0, "counter", "words read from the activation banks", width=64),
    Register("l1_writes", 0x0B8, "counter", "words written to the activation banks", width=64),
    Register("psum_reads", 0x0C0, "counter", "vectors read from the partial-sum buffer", width=64),
    Register("psum_writes", 0x0C8, "counter", "vectors written to the partial-sum buffer", width=64),
    Register("gated_multiplications", 0x0D0, "counter", "multiplications saved because of a zero", width=64),
)

#: name -> byte offset of every 32-bit word; the high word of a 64-bit register is NAME_high.
OFFSETS = {
    name: offset
    for item in REGISTERS
    for name, offset in [(item.name, item.offset), (f"{item.name}_high", item.offset + 4)][: item.width // 32]
}


def register(name):
    """The :class:`Register` called ``name``."""
    return next(item for item in REGISTERS if item.name == name)
