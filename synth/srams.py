"""SRAM macros: a small table of outlines, and the least area of macros that holds a memory.

The gateware names each memory that a macro can be (:mod:`hdl.memory.sram`); Yosys sees black boxes, and their area
comes from here. Multiplexers between macros that are stacked for depth are not counted.
"""

import fnmatch
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from hdl.config import MvqError

__all__ = ["BUILT_IN", "Macro", "SramError", "Tiling", "read_srams", "tile"]

#: the table that comes with this package.
BUILT_IN = Path(__file__).with_name("srams.toml")

#: ports -> True where a macro reads and writes in one cycle.
_PORTS = {"1rw": False, "1rw1r": True, "1r1w": True, "2rw": True}


class SramError(MvqError):
    """A table that cannot be read, or that has nothing for a library."""


@dataclass(frozen=True, kw_only=True)
class Macro:
    """One macro.

    Attributes
    ----------
    name : of the macro. ``source`` : where its area comes from.
    depth, width : words, and bits in each.
    ports : ``1rw``, or ``1rw1r``, ``1r1w``, ``2rw``, which read and write in one cycle.
    area : in um2.
    library : pattern of the names of the cell libraries beside which it can stand.
    """

    name: str
    depth: int
    width: int
    ports: str
    area: float
    source: str
    library: str = "*"

    @property
    def two_ports(self):
        """True where it reads and writes in one cycle."""
        return _PORTS[self.ports]


@dataclass(frozen=True)
class Tiling:
    """Macros in the place of one memory.

    Attributes
    ----------
    macro : :class:`Macro`. ``count`` : how many.
    doubled : the memory reads and writes in one cycle and the macro does not: counted twice, more than one of that
        size with two ports would take.
    """

    macro: Macro
    count: int
    doubled: bool

    @property
    def area(self):
        """Of all macros, in um2."""
        return self.count * self.macro.area


def _macro(path, number, entry):
    if not isinstance(entry, dict):
        raise SramError(f"{path}: macro {number} is not a table")
    name = entry.get("name", f"number {number}")
    values = dict(entry)
    if "area_um2" in values:
        area = values.pop("area_um2")
    else:
        area = values.pop("width_um", None), values.pop("height_um", None)
    sizes = [values.get("depth"), values.get("width"), *(area if isinstance(area, tuple) else (area,))]
    if any(not isinstance(size, (int, float)) or isinstance(size, bool) or not size > 0 for size in sizes):
        raise SramError(
            f"{path}: macro {name!r} needs depth, width, and area_um2 or width_um and height_um, all above 0"
        )
    if values.get("ports") not in _PORTS:
        raise SramError(
            f"{path}: macro {name!r} has ports = {values.get('ports')!r}: must be one of {', '.join(_PORTS)}"
        )
    unknown = set(values) - {"name", "depth", "width", "ports", "source", "library"}
    if unknown or not all(isinstance(values.get(key), str) for key in ("name", "source")):
        what = f"the unknown key {min(unknown)!r}" if unknown else "no name or no source"
        raise SramError(f"{path}: macro {name!r} has {what}")
    return Macro(**values, area=area[0] * area[1] if isinstance(area, tuple) else area)


def read_srams(path, library):
    """The macros of the table ``path`` (:data:`BUILT_IN` when None) for a cell library.

    Parameters
    ----------
    path : a .toml or .json file: a list ``macro`` of tables with the fields of :class:`Macro`, where ``area_um2``, or
        ``width_um`` and ``height_um``, stand for the area.
    library : name of the cell library.

    Raises
    ------
    SramError : the file cannot be read, a macro lacks something, or none is for ``library``.
    """
    path = Path(path or BUILT_IN)
    try:
        text = path.read_text()
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise SramError(f"the SRAM table {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SramError(f"the SRAM table {path} is not valid ({error})") from error
    entries = content.get("macro") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise SramError(f"the SRAM table {path} has no list of macros called 'macro'")
    macros = [_macro(path, number, entry) for number, entry in enumerate(entries)]
    fitting = [macro for macro in macros if fnmatch.fnmatchcase(library, macro.library)]
    if not fitting:
        raise SramError(f"the SRAM table {path} has no macro for the library {library}: give one with --sram-table")
    return fitting


def tile(macros, depth, width, *, two_ports):
    """The :class:`Tiling` of least area.

    Parameters
    ----------
    macros : list of :class:`Macro`. ``depth``, ``width`` : of the memory.
    two_ports : it is read and written in one cycle.
    """
    tilings = []
    for macro in macros:
        doubled = two_ports and not macro.two_ports
        count = -(-depth // macro.depth) * -(-width // macro.width) * (1 + doubled)
        tilings.append(Tiling(macro, count, doubled))
    return min(tilings, key=lambda tiling: (tiling.area, tiling.macro.name))
