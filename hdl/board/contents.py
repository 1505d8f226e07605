"""What a board holds beside the gateware: a network's program, and how to bring it images and read its classes."""

from dataclasses import dataclass

from ..config import ConfigError

__all__ = ["MULTIPLIER_WIDTH", "OFFSET_WIDTH", "BoardContents", "ClassScore"]

#: bits of the magnitude of a class's multiplier, and of its offset with the sign.
MULTIPLIER_WIDTH = 18
OFFSET_WIDTH = 48


@dataclass(frozen=True)
class ClassScore:
    """Score of a class: sum * ``multiplier`` + ``offset``, all integers; the sum is the 32-bit word ``word`` of the
    memory.

    Raises
    ------
    ConfigError : a number does not fit its width.
    """

    word: int
    multiplier: int
    offset: int

    def __post_init__(self):
        for name, bits in (("multiplier", MULTIPLIER_WIDTH), ("offset", OFFSET_WIDTH - 1)):
            value, most = getattr(self, name), (1 << bits) - 1
            if abs(value) > most:
                raise ConfigError(name, value, f"must be from -{most} to {most}", most if value > 0 else -most)


@dataclass(frozen=True, kw_only=True)
class BoardContents:
    """A network on a board.

    Parameters
    ----------
    memory : bytes that the memory holds at power-up, from address 0 on. ``memory_bytes`` : its size, a power of two.
    settings : (offset, value) of the registers to write before each start.
    image_bytes : bytes of an image, as they come over the UART.
    placement_address : first byte of the network's input in memory. ``placement`` : for each byte from there on the
        index of the image's byte that belongs there, or None for a byte that is always 0.
    classes : :class:`ClassScore` of each class.
    """

    memory: bytes
    memory_bytes: int
    settings: tuple[tuple[int, int], ...]
    image_bytes: int
    placement_address: int
    placement: tuple[int | None, ...]
    classes: tuple[ClassScore, ...]

    def words(self, width):
        """The memory's content in words of ``width`` bits, low byte first."""
        size = width // 8
        padded = self.memory + bytes(-len(self.memory) % size)
        return [int.from_bytes(padded[start : start + size], "little") for start in range(0, len(padded), size)]
