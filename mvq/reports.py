"""Reports of other commands, as `mvq compare` reads them: checked, and reduced to what it needs.

A report is known by its ``format``. Of the rows of `mvq timing` and `mvq power` every number counts, whatever its name,
so that a new one shows up without a change here.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from golden.traffic import COSTS
from hdl.config import ArrayConfig, ConfigError, MvqError, preset

__all__ = ["AREA", "ENERGY", "ESTIMATE", "EXPLORE", "POWER", "TIMING", "LoadedReport", "complete", "describe"]
__all__ += ["design_key", "load_report"]

AREA, TIMING, POWER, ENERGY = "mvq-area", "mvq-timing", "mvq-power", "mvq-energy"
ESTIMATE, EXPLORE = "mvq-estimate", "mvq-explore"

#: format -> (command that writes it, newest version that is read).
FORMATS = {
    AREA: ("mvq area", 1),
    TIMING: ("mvq timing", 1),
    POWER: ("mvq power", 1),
    ENERGY: ("mvq power", 1),
    ESTIMATE: ("mvq estimate", 1),
    EXPLORE: ("mvq explore", 1),
}

#: fields of a configuration by which rows of one design may differ: they change neither its results nor its cycles,
#: and its area hardly.
_NOT_DESIGN = ("style", "gating_counter")
#: and those that change area and power, but still no cycles.
_NOT_CYCLES = (*_NOT_DESIGN, "codebook_memory")

_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Row(_Model):
    variant: str
    rows: int
    columns: int
    config: dict[str, Any] | None = None
    config_hash: str | None = None
    unit: str | None = None
    network: str | None = None


class _AreaRow(_Row):
    config: dict[str, Any]
    blocks: dict[str, _Number]
    total_um2: _Number
    gate_equivalents: _Number | None = None
    sequential_share: _Number | None = None
    vs_ews: _Number | None = None


class _Run(_Model):
    """A network on a design."""

    cycles: int
    energy: _Number
    energy_on_chip: _Number


class _ExploreRow(_Row):
    blocks: dict[str, _Number] = {}
    total_um2: _Number | None = None
    networks: dict[str, _Run] = {}
    accuracy: _Number | None = None


class _Liberty(_Model):
    name: str
    sha256: str
    corner: str = ""


class _Report(_Model):
    liberty: _Liberty | None = None
    policy: dict[str, Any] = {}
    tools: dict[str, str] = {}
    rows: list[_Row]


class _AreaReport(_Report):
    liberty: _Liberty
    rows: list[_AreaRow]


class _ExploreReport(_Report):
    rows: list[_ExploreRow]


class _Power(_Model):
    """Power of one core by block, in W."""

    liberty: _Liberty
    policy: dict[str, Any] = {}
    tools: dict[str, str] = {}
    config: dict[str, Any]
    power: dict[str, _Number]
    clock_mhz: _Number


class _Estimate(_Model):
    network: str
    config: dict[str, Any]
    cycles: int
    exact: bool
    levels: dict[str, _Number]
    traffic: dict[str, Any]


_MODELS = {AREA: _AreaReport, EXPLORE: _ExploreReport, POWER: _Power, ESTIMATE: _Estimate}


@dataclasses.dataclass(frozen=True)
class LoadedReport:
    """A report.

    Attributes
    ----------
    label : short name, unique in a comparison.
    kind : its format.
    content : the file as it is, for what draws area reports.
    rows : models of the rows.
    liberty, policy, tools : as in the file; None and empty where it has none.
    """

    label: str
    kind: str
    content: dict
    rows: list
    liberty: Any = None
    policy: dict = dataclasses.field(default_factory=dict)
    tools: dict = dataclasses.field(default_factory=dict)

    @property
    def library(self):
        """The library in words, or None."""
        if self.liberty is None:
            return None
        corner = f" ({self.liberty.corner})" if self.liberty.corner else ""
        return f"{self.liberty.name}{corner}, {self.liberty.sha256[:12]}"

    @property
    def memories(self):
        """What its memories are and where their areas come from, in words, or None."""
        memories = self.content.get("memories") if self.kind == AREA else None
        if not isinstance(memories, dict):
            return None
        return ", ".join(f"{name}: {value}" for name, value in memories.items() if value)

    @property
    def command(self):
        """The command that wrote it."""
        return FORMATS[self.kind][0]


def load_report(path, label=None):
    """Read a report.

    Parameters
    ----------
    path : of the JSON file. ``label`` : of the report; the file's stem when None.

    Raises
    ------
    MvqError : the file is missing, is not a report, comes from a newer version, or is damaged; says where.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise MvqError(f"the report {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise MvqError(f"the report {path} is not JSON ({error})") from error
    kind = content.get("format") if isinstance(content, dict) else None
    if kind not in FORMATS:
        commands = ", ".join(f"`{command}`" for command, _ in FORMATS.values())
        raise MvqError(f"{path} is not a report of {commands}")
    newest, version = FORMATS[kind][1], content.get("format_version")
    if not isinstance(version, int) or version > newest:
        raise MvqError(f"{path} has format version {version}; this mvq reads up to {newest}")
    try:
        report = _MODELS.get(kind, _Report).model_validate(content)
        one_row = {ESTIMATE: _estimate_row, POWER: _power_row}.get(kind)
        rows = [one_row(report)] if one_row else report.rows
        for row in rows:
            if row.config is not None:
                design_key(row.config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise MvqError(f"the report {path} is damaged: {place}: {first['msg']}") from error
    except (KeyError, TypeError, MvqError) as error:
        raise MvqError(f"the report {path} is damaged: {error}") from error
    own = {name: getattr(report, name) for name in ("liberty", "policy", "tools")} if kind != ESTIMATE else {}
    return LoadedReport(label or Path(path).stem, kind, content, rows, **own)


def complete(reports):
    """Give rows without a configuration the one with their hash, from another report or a preset.

    Parameters
    ----------
    reports : list of :class:`LoadedReport`, whose rows change in place; returned.

    Raises
    ------
    MvqError : no report has the configuration of a row.
    """
    rows = [(report, row) for report in reports for row in report.rows]
    known = {row.config_hash or ArrayConfig(**row.config).hash: row.config for _, row in rows if row.config}
    for report, row in rows:
        if row.config is None:
            row.config = known.get(row.config_hash) or _preset(row)
            if row.config is None:
                raise MvqError(
                    f"{report.label} has a row of {row.variant}-{row.rows}x{row.columns} without its configuration "
                    f"{row.config_hash}: compare it together with a report of `mvq area` that has it"
                )
    return reports


def _preset(row):
    try:
        config = preset(row.variant, row.rows, row.columns)
    except ConfigError:
        return None
    return config.to_dict() if config.hash == row.config_hash else None


def _identity(config):
    array = ArrayConfig(**config)
    return {"variant": array.variant, "rows": array.rows, "columns": array.columns, "config": config}


def _power_row(report):
    total = sum(report.power.values())
    return _Row(**_identity(report.config), clock_mhz=report.clock_mhz, power_mw=1e3 * total)


def _estimate_row(report):
    on_chip = {level: count for level, count in report.levels.items() if level != "dram"}
    macs = report.traffic["macs"]
    run = {
        "cycles": report.cycles,
        "energy": sum(COSTS[level] * count for level, count in report.levels.items()) + macs,
        "energy_on_chip": sum(COSTS[level] * count for level, count in on_chip.items()) + macs,
    }
    return _ExploreRow(**_identity(report.config["array"]), networks={report.network: run})


def design_key(config, cycles=False):
    """Hash by which rows of several reports are joined: that of the configuration without what may differ in a design,
    or with ``cycles`` without what leaves its cycles as they are."""
    left_out = _NOT_CYCLES if cycles else _NOT_DESIGN
    plain = {name: value for name, value in ArrayConfig(**config).to_dict().items() if name not in left_out}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def describe(config):
    """Name of a configuration, with what sets it apart from its preset: ``ews-cms-32x32, codewords=64``."""
    array = ArrayConfig(**config)
    plain = preset(array.variant, 16)  # a size that every preset has; what depends on the size is derived
    changes = []
    for field in dataclasses.fields(array):
        name, value = field.name, getattr(array, field.name)
        derived = field.default is None and getattr(array.replace(**{name: None}), name) == value
        if name not in ("rows", "columns", *_NOT_DESIGN) and not derived and value != getattr(plain, name):
            changes.append(f"{name}={value}")
    return ", ".join([array.name, *changes])
