"""The search space of `mvq explore`: values of each knob, and the configuration that a point of it stands for."""

import dataclasses
import itertools
import typing

from hdl.config import VARIANTS, ArrayConfig, ConfigError, preset

__all__ = ["ALL_PORTS", "DEFAULTS", "Space", "configuration"]

#: of ``crf_read_ports``: as many as an array row has codewords.
ALL_PORTS = "all"

#: knob -> values that are tried unless the user gives others; columns follow rows, the others their presets. All of
#: these go with each other.
DEFAULTS = {
    "variant": tuple(VARIANTS),
    "rows": (16, 32, 64),
    "n:m": ("4:16", "2:8", "1:4"),
    "codewords": (64, 128, 256, 512),
    "wrf_depth": (8, 16),
    "tile_rows": (4, 8, 16),
    "crf_read_ports": (ALL_PORTS, 1),
    "mask_path": ("direct", "lut"),
}

#: parameters that are no knobs: the variant says what they are, or they change neither area nor cycles of note.
_NOT_KNOBS = ("weights", "tile", "n", "m", "index_width", "style", "gating_counter")

#: other knobs, which keep their presets' values.
_OTHERS = tuple(field.name for field in dataclasses.fields(ArrayConfig) if field.name not in (*DEFAULTS, *_NOT_KNOBS))

#: knob -> words that it may be.
_WORDS = {
    field.name: typing.get_args(field.type)
    for field in dataclasses.fields(ArrayConfig)
    if all(isinstance(word, str) for word in typing.get_args(field.type)) and typing.get_args(field.type)
}
_WORDS["variant"] = tuple(VARIANTS)

_CODEBOOK = ("codewords", "crf_read_ports", "codebook_memory")
_MASKS = ("n:m", "mask_path")
_DEPTHS = ("wrf_depth", "prf_depth", "arf_depth")


def _value(knob, text):
    """The value of ``knob`` that ``text`` stands for."""
    if knob in _WORDS:
        if text not in _WORDS[knob]:
            raise ConfigError(knob, text, f"must be one of {', '.join(_WORDS[knob])}")
        return text
    if knob == "crf_read_ports" and text == ALL_PORTS:
        return text
    try:
        if knob == "n:m":
            n, m = map(int, text.split(":"))
            return f"{n}:{m}"
        return int(text)
    except ValueError:
        example = "4:16" if knob == "n:m" else "16"
        raise ConfigError(knob, text, f"must be a number such as {example}") from None


@dataclasses.dataclass(frozen=True)
class Space:
    """Knob -> values; one value is fixed."""

    values: dict

    @classmethod
    def parse(cls, texts):
        """The default space with changes.

        Parameters
        ----------
        texts : such as ``codewords=64,128`` or ``variant=ews-cms``.

        Raises
        ------
        ConfigError : an unknown knob, or a value that it cannot have.
        """
        values = dict(DEFAULTS)
        for text in texts:
            knob, equals, listed = text.partition("=")
            knob = knob.strip()
            known = (*DEFAULTS, *_OTHERS)
            if knob not in known or not equals:
                raise ConfigError("--set", text, f"must be KNOB=VALUE,VALUE with a knob of {', '.join(known)}")
            values[knob] = tuple(dict.fromkeys(_value(knob, part.strip()) for part in listed.split(",")))
        return cls(values)

    def points(self):
        """Every point, knobs in order."""
        for combination in itertools.product(*self.values.values()):
            yield dict(zip(self.values, combination, strict=True))

    @property
    def size(self):
        """Number of points."""
        size = 1
        for values in self.values.values():
            size *= len(values)
        return size


def configuration(point):
    """:class:`hdl.config.ArrayConfig` of a point. Knobs that its variant lacks count for nothing.

    Parameters
    ----------
    point : knob -> value.

    Raises
    ------
    ConfigError : the values do not go together.
    """
    fields = dict(point)
    variant, rows = fields.pop("variant"), fields.pop("rows")
    weights, _, depth = VARIANTS[variant]
    absent = (_CODEBOOK if weights == "int8" else ()) + (_MASKS if weights != "masked_codebook" else ())
    absent += _DEPTHS if depth == 1 else ()
    for knob in absent:
        fields.pop(knob, None)
    if fields.get("crf_read_ports") == ALL_PORTS:
        del fields["crf_read_ports"]
    if "n:m" in fields:
        fields["n"], fields["m"] = map(int, fields.pop("n:m").split(":"))
    return preset(variant, rows, fields.pop("columns", rows), **fields)
