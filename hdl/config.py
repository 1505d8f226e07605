"""Every knob of the array, validated before anything is elaborated.

The names are the paper's (MVQ, ASPLOS 2025, section 5); see docs/architecture.md for what each one does to the
hardware.
"""

import dataclasses
import hashlib
import json
import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = [
    "VARIANTS",
    "ArrayConfig",
    "ConfigError",
    "MvqError",
    "address_width",
    "from_parameters",
    "load_config",
    "preset",
    "read_parameters",
]


class MvqError(ValueError):
    """Base of every error that is the user's to mend; its text is one sentence that names the thing."""


class ConfigError(MvqError):
    """An illegal parameter.

    Parameters
    ----------
    parameter : name of the :class:`ArrayConfig` field.
    value : the value that was given.
    reason : why it is not legal.
    nearest : the nearest legal value, or None where no single value mends it.
    """

    def __init__(self, parameter, value, reason, nearest=None):
        self.parameter, self.value, self.reason, self.nearest = parameter, value, reason, nearest
        hint = "" if nearest is None else f"; the nearest legal value is {nearest}"
        super().__init__(f"{parameter} = {value!r}: {reason}{hint}")


#: variant name -> (weights, tile, WRF depth); the six columns of the paper's comparison (Tab. 7).
VARIANTS = {
    "ws": ("int8", "dense", 1),
    "ws-cms": ("masked_codebook", "sparse", 1),
    "ews": ("int8", "dense", 16),
    "ews-c": ("codebook", "dense", 16),
    "ews-cm": ("masked_codebook", "dense", 16),
    "ews-cms": ("masked_codebook", "sparse", 16),
}


def address_width(count):
    """Bits of an address of ``count`` places; at least 1."""
    return max(1, (count - 1).bit_length())


def _divisors(number):
    return [value for value in range(1, number + 1) if number % value == 0]


def _nearest(value, legal):
    return min(legal, key=lambda candidate: (abs(candidate - value), candidate))


@dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """One array, from which all six variants of the paper elaborate.

    Parameters
    ----------
    rows : H, input channels in parallel.
    columns : L, output channels in parallel; a multiple of ``vector_length``.
    weights : how weights arrive: plain ``int8`` rows, ``codebook`` indices, or ``masked_codebook`` (index and mask
        code).
    tile : ``dense`` (a multiplier for every weight) or ``sparse`` (multipliers only for the weights that survive).
    vector_length : d, output channels in one codeword; a multiple of ``m`` when weights are masked.
    n, m : N weights of every M survive; used by ``masked_codebook`` only.
    codewords : k, entries of the codebook register file (CRF).
    index_width : bits of a codebook index; derived from ``codewords`` when None.
    wrf_depth : words in each weight register file; 1 is plain weight stationary.
    prf_depth : partial-sum vectors held below the array; bounds the output-channel repeat A.
    arf_depth : activation vectors held beside the array; bounds B*D.
    tile_rows : array rows in one combinational tile; divides ``rows``.
    psum_width : bits of a partial sum (two's complement).
    crf_read_ports : codewords rebuilt in one cycle; divides L/d; L/d when None.
    codebook_memory : the codebook in ``registers``, or in ``sram`` with a copy for each read port. Equal to the bit and
        to the cycle.
    mask_path : ``direct`` decodes a mask code straight to weight offsets; ``lut`` is the paper's ROM and leading-zero
        encoder.
    style : ``behavioural`` operators and memories, for simulation and FPGAs; or ``structural``: bit heaps of adders and
        one-hot selects, for area on standard cells. Equal to the bit and to the cycle.
    gating_counter : count the multiplications that a zero operand saves (a port of the array, a counter of the
        accelerator).
    stream_width : bits of a word of the weight stream, and of the accelerator's memory bus (paper section 7.1: 64).

    Raises
    ------
    ConfigError : names the parameter, its value and the nearest legal value.
    """

    rows: int = 16
    columns: int = 16
    weights: Literal["int8", "codebook", "masked_codebook"] = "masked_codebook"
    tile: Literal["dense", "sparse"] = "sparse"
    vector_length: int = 16
    n: int = 4
    m: int = 16
    codewords: int = 512
    index_width: int | None = None
    wrf_depth: int = 16
    prf_depth: int | None = None
    arf_depth: int | None = None
    tile_rows: int | None = None
    psum_width: int = 24
    crf_read_ports: int | None = None
    codebook_memory: Literal["registers", "sram"] = "registers"
    mask_path: Literal["direct", "lut"] = "direct"
    style: Literal["behavioural", "structural"] = "behavioural"
    stream_width: Literal[64, 128, 256] = 64
    gating_counter: bool = False

    #: bits of an activation and of a weight (paper Tab. 9: INT8).
    activation_width = 8
    weight_width = 8

    def __post_init__(self):
        def default(name, value):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, int | None) and value is not None:
                if not isinstance(value, int) or isinstance(value, bool):
                    raise ConfigError(field.name, value, "must be an integer")
                if value < 1:
                    raise ConfigError(field.name, value, "must be at least 1", 1)
        for name, legal in (
            ("weights", ("int8", "codebook", "masked_codebook")),
            ("tile", ("dense", "sparse")),
            ("codebook_memory", ("registers", "sram")),
            ("mask_path", ("direct", "lut")),
            ("style", ("behavioural", "structural")),
        ):
            if getattr(self, name) not in legal:
                raise ConfigError(name, getattr(self, name), f"must be one of {', '.join(legal)}")

        if not isinstance(self.gating_counter, bool):
            raise ConfigError("gating_counter", self.gating_counter, "must be true or false")
        if self.stream_width not in (64, 128, 256):
            nearest = _nearest(self.stream_width, (64, 128, 256)) if isinstance(self.stream_width, int) else 64
            raise ConfigError("stream_width", self.stream_width, "must be 64, 128 or 256", nearest)
        d = self.vector_length
        if self.columns % d:
            nearest = max(d, round(self.columns / d) * d)
            raise ConfigError("columns", self.columns, f"must be a multiple of vector_length = {d}", nearest)
        if self.tile == "sparse" and self.weights != "masked_codebook":
            raise ConfigError("tile", "sparse", f"needs weights = 'masked_codebook', not {self.weights!r}", "dense")
        if self.weights == "masked_codebook":
            if self.n > self.m:
                raise ConfigError("n", self.n, f"cannot keep more than m = {self.m} weights of every {self.m}", self.m)
            if self.n == self.m:
                raise ConfigError(
                    "n", self.n, f"of m = {self.m} prunes nothing: use weights = 'codebook'", self.m - 1 or None
                )
            if d % self.m:
                nearest = max(self.m, round(d / self.m) * self.m)
                raise ConfigError("vector_length", d, f"must be a multiple of m = {self.m}", nearest)
        default("index_width", address_width(self.codewords))
        if self.codewords > 1 << self.index_width:
            raise ConfigError(
                "codewords",
                self.codewords,
                f"does not fit index_width = {self.index_width} bits",
                1 << self.index_width,
            )
        default("prf_depth", min(8, self.wrf_depth))
        default("arf_depth", max(2, self.wrf_depth))
        if self.arf_depth < 2:
            raise ConfigError("arf_depth", self.arf_depth, "one vector is read while the next is written", 2)
        if self.prf_depth > self.wrf_depth:
            raise ConfigError(
                "prf_depth", self.prf_depth, f"A cannot exceed wrf_depth = {self.wrf_depth}", self.wrf_depth
            )
        default("tile_rows", max(value for value in _divisors(self.rows) if value <= 16))
        if self.rows % self.tile_rows:
            raise ConfigError(
                "tile_rows",
                self.tile_rows,
                f"must divide rows = {self.rows}",
                _nearest(self.tile_rows, _divisors(self.rows)),
            )
        groups = self.groups
        default("crf_read_ports", groups)
        if groups % self.crf_read_ports:
            raise ConfigError(
                "crf_read_ports",
                self.crf_read_ports,
                f"must divide columns / vector_length = {groups}",
                _nearest(self.crf_read_ports, _divisors(groups)),
            )
        least = self.activation_width + self.weight_width + math.ceil(math.log2(self.rows)) if self.rows > 1 else 16
        if not least <= self.psum_width <= 32:
            raise ConfigError(
                "psum_width",
                self.psum_width,
                f"must hold the sum of {self.rows} products ({least} bits) and at most 32 bits",
                min(max(self.psum_width, least), 32),
            )

    # ---- derived sizes
    # ------------------------------------------------------------------------------------------------

    @property
    def groups(self):
        """L/d: subvectors in one array row."""
        return self.columns // self.vector_length

    @property
    def has_codebook(self):
        """True when weights arrive as codebook indices."""
        return self.weights != "int8"

    @property
    def has_masks(self):
        """True when a mask code follows each index."""
        return self.weights == "masked_codebook"

    @property
    def multipliers_per_vector(self):
        """Q: multipliers for d columns (N/M*d in a sparse tile, d in a dense one)."""
        return self.vector_length * self.n // self.m if self.tile == "sparse" else self.vector_length

    @property
    def multipliers(self):
        """Multipliers of the whole array."""
        return self.rows * self.groups * self.multipliers_per_vector

    @property
    def mask_groups(self):
        """Mask codes in one entry: d/M, or 0 without masks."""
        return self.vector_length // self.m if self.has_masks else 0

    @property
    def mask_code_width(self):
        """Bits of one mask code: ceil(log2 C(M, N)) (paper section 5)."""
        return (math.comb(self.m, self.n) - 1).bit_length() if self.has_masks else 0

    @property
    def entry_width(self):
        """Bits of one packed entry {index, mask codes}; 20 for k=512, 4:16, d=16."""
        return self.index_width + self.mask_groups * self.mask_code_width if self.has_codebook else 0

    @property
    def dense_passes(self):
        """ceil(M/N): passes with disjoint masks in which a sparse tile runs a dense layer; 1 on dense tiles."""
        return -(-self.m // self.n) if self.tile == "sparse" else 1

    @property
    def tile_grid(self):
        """(tile rows, tile columns) of the array."""
        return self.rows // self.tile_rows, self.groups

    @property
    def offset_width(self):
        """Bits of a stored weight offset e_q = position_q - q inside its group of M (0..M-N)."""
        return max(1, (self.m - self.n).bit_length()) if self.tile == "sparse" else 0

    @property
    def entry_address_width(self):
        """Bits of a WRF address."""
        return address_width(self.wrf_depth)

    @property
    def scale_depth(self):
        """Scale vectors held for requantisation: A of the running subset and, where they fit, A of the next."""
        return max(2, self.prf_depth)

    @property
    def scale_words(self):
        """Words of the weight stream in one scale vector: 32 bits for each column."""
        return -(-self.columns * 32 // self.stream_width)

    @property
    def codeword_words(self):
        """Words of the weight stream in one codeword."""
        return -(-self.vector_length * self.weight_width // self.stream_width)

    @property
    def raw_vectors(self):
        """Uncompressed subvectors that one stream word carries (all of one array row); 0 where a subvector needs
        several words."""
        fitting = self.stream_width // (self.multipliers_per_vector * self.weight_width)
        return max((value for value in _divisors(self.crf_read_ports) if value <= fitting), default=0)

    @property
    def raw_words(self):
        """Words of the weight stream in one turn of uncompressed subvectors."""
        return -(-self.multipliers_per_vector * self.weight_width // self.stream_width)

    @property
    def latency(self):
        """Cycles from the issue of an activation vector to its column sums below the array: one register for each tile
        on the way down and across, and one for the operands."""
        return sum(self.tile_grid) + 1

    @property
    def command_fields(self):
        """(name, width) of every field of a command, least significant first; see docs/core.md for their meaning."""

        def bits(value):
            return max(1, value.bit_length())

        fields = [("codewords", bits(self.codewords))] if self.has_codebook else []
        fields += [("compressed", 1)] if self.has_codebook else []
        fields += [("pass_offset", self.offset_width), ("diagonal", 1)] if self.tile == "sparse" else []
        return [
            *fields,
            ("scales", bits(self.scale_depth)),
            ("rows", bits(self.rows)),
            ("entries", bits(self.wrf_depth)),
            ("out_channel_repeat", bits(self.prf_depth)),
            ("passes", bits(self.dense_passes)),
            ("vectors", bits(self.arf_depth)),
            ("fresh", bits(self.arf_depth)),
            ("row_pixels", 16),
            ("pixels", 24),
            ("accumulate", 1),
            ("final", 1),
            ("raw", 1),
            ("relu", 1),
            ("high", 7),
        ]

    @property
    def variant(self):
        """Name of the paper's variant this configuration belongs to."""
        base = "ws" if self.wrf_depth == 1 else "ews"
        suffix = {"int8": "", "codebook": "-c", "masked_codebook": "-cms" if self.tile == "sparse" else "-cm"}
        return base + suffix[self.weights]

    @property
    def name(self):
        """``variant-rowsxcolumns``."""
        return f"{self.variant}-{self.rows}x{self.columns}"

    def check_repeats(self, a, b, d, passes=1):
        """Raise :class:`ConfigError` unless the A, B, D loops (and dense passes) fit the register files."""
        for name, value in (("out_channel_repeat", a), ("in_channel_repeat", b), ("tap_repeat", d)):
            if value < 1:
                raise ConfigError(name, value, "must be at least 1", 1)
        total = a * b * d * passes
        if total > self.wrf_depth:
            raise ConfigError("A*B*D", total, "needs more words than the WRF has", self.wrf_depth)
        if a > self.prf_depth:
            raise ConfigError("out_channel_repeat", a, f"exceeds prf_depth = {self.prf_depth}", self.prf_depth)
        if b * d > self.arf_depth:
            raise ConfigError("B*D", b * d, f"exceeds arf_depth = {self.arf_depth}", self.arf_depth)

    # ---- files
    # ----------------------------------------------------------------------------------------------------------

    def to_dict(self):
        """Plain dictionary of every field."""
        return dataclasses.asdict(self)

    @property
    def hash(self):
        """First 16 hex digits of the SHA-256 of the canonical JSON form."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def replace(self, **changes):
        """A copy with ``changes``; sizes that were derived from a changed field must be given again."""
        return dataclasses.replace(self, **changes)


def preset(variant, rows, columns=None, **changes):
    """The paper's configuration of ``variant`` (section 7.1): k=1024, d=8 for EWS-C, else k=512, d=16, 4:16.

    Raises :class:`ConfigError` for an unknown variant.
    """
    if variant not in VARIANTS:
        raise ConfigError("variant", variant, f"must be one of {', '.join(VARIANTS)}")
    weights, tile, depth = VARIANTS[variant]
    codebook = {"vector_length": 8, "codewords": 1024} if weights == "codebook" else {}
    fields = {
        "rows": rows,
        "columns": columns or rows,
        "weights": weights,
        "tile": tile,
        "wrf_depth": depth,
        **codebook,
    }
    return ArrayConfig(**{**fields, **changes})


def _preset_name(text):
    """(variant, rows, columns) of a preset's name, or None."""
    match = re.fullmatch(r"([a-z-]+)-(\d+)x(\d+)", str(text))
    return match and (match[1], int(match[2]), int(match[3]))


def read_parameters(source, parameters):
    """The parameters of a preset name (``ews-cms-16x16``), or of a TOML or JSON file.

    Parameters
    ----------
    source : name or path. ``parameters`` : names that a file may hold, beside ``preset``.

    Returns
    -------
    (preset, values) : (variant, rows, columns) or None, and the file's other parameters.

    Raises
    ------
    ConfigError : unknown preset or parameter, or a file that cannot be read.
    """
    text = str(source)
    if name := _preset_name(text):
        return name, {}
    path = Path(text)
    if path.suffix not in (".toml", ".json"):
        raise ConfigError("config", text, "is neither a preset such as 'ews-cms-16x16' nor a .toml or .json file")
    try:
        content = path.read_text()
        values = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
    except OSError as error:
        raise ConfigError("config", text, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError("config", text, f"is not valid {path.suffix[1:].upper()} ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError("config", text, "must hold a table of parameters")
    base = values.pop("preset", None)
    for key in values:
        if key not in parameters:
            raise ConfigError(
                key, values[key], f"is not a parameter; the parameters are {', '.join(sorted(parameters))}"
            )
    name = None if base is None else _preset_name(base)
    if base is not None and name is None:
        raise ConfigError("preset", base, "is not a preset such as 'ews-cms-16x16'")
    return name, values


def from_parameters(name, values):
    """:class:`ArrayConfig` of what :func:`read_parameters` gives."""
    if name is None:
        return ArrayConfig(**values)
    variant, rows, columns = name
    values = {"rows": rows, "columns": columns, **values}
    return preset(variant, values.pop("rows"), values.pop("columns"), **values)


def load_config(source):
    """Read an array's configuration from a preset name, or from a TOML or JSON file of :class:`ArrayConfig` fields; its
    key ``preset`` names a preset that the other keys override.

    Raises
    ------
    ConfigError : unknown preset or key, or an illegal value, or a file that cannot be read.
    """
    return from_parameters(*read_parameters(source, {field.name for field in dataclasses.fields(ArrayConfig)}))
