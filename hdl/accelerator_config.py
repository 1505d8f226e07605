"""Every knob of the whole accelerator: the array, its memories and its bus; and the formats that its program has in
memory.

Formats are lists of (field, width), least significant first. The same lists build the RTL's decoders and pack programs
in golden.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from .config import ArrayConfig, ConfigError, address_width, from_parameters, read_parameters

__all__ = ["OPCODES", "AcceleratorConfig", "load_accelerator_config"]

#: operation of a descriptor -> its code. Zero is none of them, so that empty memory is no program.
OPCODES = {"conv": 1, "vector": 2, "load": 3, "store": 4, "end": 15}

#: least values other than 1: a memory of one word has no address.
_LEAST = {"l1_bank_words": 2, "psum_vectors": 2}


def _is_power_of_two(value):
    return value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """The accelerator around one array.

    Parameters
    ----------
    array : :class:`~hdl.config.ArrayConfig`; as many rows as columns, a power of two from 4 to 128. Its
        ``stream_width`` is the width of the memory bus.
    l1_banks, l1_bank_words : activation banks of L1, and words of :attr:`word_bytes` in each (a power of two, at least
        2).
    psum_vectors : partial-sum vectors that L1 holds between subsets: the largest pixels * A of a layer that is
        accumulated over several subsets; a power of two, at least 2.

        The defaults give the paper's L1 (section 7.1): 128 KB up to 16x16, 256 KB for larger arrays. Those have more of
        it for activations, and smaller banks: then ResNet-18's tensors of 100 KB find room two by two, in banks of
        their own.
    burst_beats : beats of the longest burst on the memory bus; a power of two up to 256 and at most 4 KB.
    outstanding : bursts that may be under way; ``burst_beats * outstanding`` words of the weight stream are buffered.

    Raises
    ------
    ConfigError : names the parameter, its value and the nearest legal value.
    """

    array: ArrayConfig = dataclasses.field(default_factory=ArrayConfig)
    l1_banks: int | None = None
    l1_bank_words: int | None = None
    psum_vectors: int | None = None
    burst_beats: int = 16
    outstanding: int = 8

    #: bits of a memory address; bytes of a descriptor.
    memory_address_width = 32
    descriptor_bytes = 64

    def __post_init__(self):
        array = self.array
        if array.columns != array.rows:
            raise ConfigError("columns", array.columns, f"must equal rows = {array.rows} in an accelerator", array.rows)
        if not (4 <= array.rows <= 128 and _is_power_of_two(array.rows)):
            nearest = min((4, 8, 16, 32, 64, 128), key=lambda value: abs(value - array.rows))
            raise ConfigError("rows", array.rows, "must be a power of two from 4 to 128 in an accelerator", nearest)
        small = array.rows <= 16
        for name, value in (
            ("l1_banks", 10 if small else 26),
            ("l1_bank_words", 512 if small else 8192 // array.rows),
            ("psum_vectors", 1024 if small else 16384 // array.rows),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), _LEAST.get(field.name, 1)
            if field.name != "array" and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise ConfigError(field.name, value, f"must be an integer of at least {least}", least)
        for name, largest in (
            ("l1_bank_words", 1 << 16),
            ("burst_beats", min(256, 4096 * 8 // array.stream_width)),
            ("outstanding", 64),
            ("psum_vectors", 1 << 16),
        ):
            value = getattr(self, name)
            if not _is_power_of_two(value) or value > largest:
                nearest = min(1 << (value.bit_length() - 1), largest)
                raise ConfigError(name, value, f"must be a power of two up to {largest}", nearest)
        if self.l1_vectors > 1 << 20:
            raise ConfigError(
                "l1_banks",
                self.l1_banks,
                "L1 holds more than 2**20 vectors",
                (1 << 20) // (self.l1_vectors // self.l1_banks),
            )

    # ---- derived sizes
    # ------------------------------------------------------------------------------------------------

    @property
    def vector_bytes(self):
        """Bytes of an activation vector: one for each array row."""
        return self.array.rows

    @property
    def bus_bytes(self):
        """Bytes of a beat on the memory bus."""
        return self.array.stream_width // 8

    @property
    def word_bytes(self):
        """Bytes of an L1 word: a vector, or a beat where that is more."""
        return max(self.vector_bytes, self.bus_bytes)

    @property
    def word_vectors(self):
        """Activation vectors in an L1 word."""
        return self.word_bytes // self.vector_bytes

    @property
    def word_beats(self):
        """Beats of the memory bus in a whole L1 word."""
        return self.word_bytes // self.bus_bytes

    @property
    def l1_words(self):
        """Words of all activation banks."""
        return self.l1_banks * self.l1_bank_words

    @property
    def l1_vectors(self):
        """Activation vectors that L1 holds."""
        return self.l1_words * self.word_vectors

    @property
    def l1_bytes(self):
        """Bytes of L1: activation banks and partial-sum buffer."""
        return self.l1_words * self.word_bytes + self.psum_vectors * self.array.columns * self.array.psum_width // 8

    @property
    def vector_address_width(self):
        """Bits of the address of a vector in L1."""
        return address_width(self.l1_vectors)

    @property
    def word_address_width(self):
        """Bits of the address of a word in L1."""
        return address_width(self.l1_words)

    @property
    def read_buffers(self):
        """(client, beats of its buffer) of those who read from the bus, the most urgent first."""
        descriptor = self.descriptor_bytes // self.bus_bytes
        return (
            ("descriptors", max(descriptor, self.burst_beats)),
            ("weights", self.burst_beats * self.outstanding),
            ("loads", self.burst_beats * 4),
        )

    @property
    def name(self):
        """Name of the array."""
        return self.array.name

    @property
    def hash(self):
        """First 16 hex digits of the SHA-256 of the canonical JSON form."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self):
        """Plain dictionary of every field, those of the array inside ``array``."""
        return dataclasses.asdict(self)

    # ---- formats
    # ------------------------------------------------------------------------------------------------------

    @property
    def subset_fields(self):
        """(field, width) of a subset header, which precedes each weight subset in memory.

        First the fields of the core's command that differ between the subsets of a layer (docs/core.md), then the
        window that the ifmap loader walks: ``in_group`` (first group of H input channels), ``in_groups`` (B), the first
        tap and the number of tap rows and columns; ``last`` marks the last subset of its layer.
        """
        shared = ("row_pixels", "pixels", "relu", "high")
        return [
            *((name, width) for name, width in self.array.command_fields if name not in shared),
            ("in_group", 12),
            ("in_groups", self.array.arf_depth.bit_length()),
            ("tap_row", 3),
            ("tap_column", 3),
            ("tap_rows", 3),
            ("tap_columns", 3),
            ("last", 1),
        ]

    @property
    def subset_words(self):
        """Words of the weight stream in a subset header."""
        return -(-sum(width for _, width in self.subset_fields) // self.array.stream_width)

    @property
    def header_fields(self):
        """(field, width) at the start of every descriptor.

        ``layer`` is reported with an error. ``wait_loads``, ``wait_stores``, ``wait_computes``: how many operations of
        each kind since the start must be complete before this one may begin (modulo 256; at most 127 ahead).
        """
        return [("opcode", 8), ("layer", 16), ("wait_loads", 8), ("wait_stores", 8), ("wait_computes", 8)]

    @property
    def transfer_fields(self):
        """(field, width) of a ``load`` or ``store`` descriptor: ``chunks`` runs of ``chunk_words`` L1 words.

        ``memory_address`` and ``memory_stride`` are in bytes, ``l1_address`` and ``l1_stride`` in L1 words. In memory
        a word has only its first ``word_beats`` beats; the others are zero in L1.
        """
        return [
            *self.header_fields,
            ("memory_address", 32),
            ("memory_stride", 32),
            ("l1_address", 20),
            ("l1_stride", 20),
            ("chunk_words", 20),
            ("chunks", 16),
            ("word_beats", self.word_beats.bit_length()),
        ]

    @property
    def compute_fields(self):
        """(field, width) of a ``conv`` or ``vector`` descriptor; meaning in docs/accelerator.md."""
        return [
            *self.header_fields,
            # conv only
            ("weights_address", 32),
            ("weight_words", 32),
            ("pixels", 24),
            ("relu", 1),
            ("high", 7),
            ("raw", 1),
            # ifmap
            ("ifmap_address", 20),
            ("ifmap_plane", 20),
            ("ifmap_rows", 12),
            ("ifmap_columns", 12),
            ("pad_top", 12),
            ("pad_left", 8),
            ("stride_y", 4),
            ("stride_x", 4),
            ("ofmap_rows", 12),
            ("ofmap_columns", 12),
            # vector only
            ("kernel_rows", 8),
            ("kernel_columns", 8),
            ("maximum", 1),
            # ofmap
            ("ofmap_address", 20),
            ("ofmap_plane", 20),
            ("ofmap_groups", 12),
            ("last_columns", 8),
            # rescaling and the second tensor
            ("rescale", 1),
            ("residual", 1),
            ("residual_address", 20),
            ("residual_plane", 20),
            ("scale", 15),
            ("residual_scale", 15),
            ("rescale_relu", 1),
            ("rescale_high", 7),
        ]

    @property
    def descriptor_fields(self):
        """Operation -> (field, width) of its descriptor."""
        return {
            "conv": self.compute_fields,
            "vector": self.compute_fields,
            "load": self.transfer_fields,
            "store": self.transfer_fields,
            "end": self.header_fields,
        }


def load_accelerator_config(source):
    """Read an accelerator's configuration: as :func:`~hdl.config.load_config`, and the file may hold the parameters of
    :class:`AcceleratorConfig` too. The array has its ``gating_counter`` unless the file says otherwise.

    Raises
    ------
    ConfigError : unknown preset or key, or an illegal value, or a file that cannot be read.
    """
    own = {field.name for field in dataclasses.fields(AcceleratorConfig)} - {"array"}
    name, values = read_parameters(source, own | {field.name for field in dataclasses.fields(ArrayConfig)})
    mine = {key: values.pop(key) for key in own & values.keys()}
    return AcceleratorConfig(array=from_parameters(name, {"gating_counter": True, **values}), **mine)
