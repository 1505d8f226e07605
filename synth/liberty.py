"""Standard-cell libraries: where they are, and what the area flow needs to know about their cells.

Yosys's own Liberty reader does the parsing, so detection and mapping see the same library. It is quick: SKY130's 13 MB
take 0.1 s.
"""

import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from golden.files import cache_folder
from hdl.config import MvqError
from synth.yosys import SynthesisError, quote, run_yosys

__all__ = ["NANGATE45", "Liberty", "LibertyError", "nangate45_path", "read_liberty", "resolve_liberty"]

#: the name under which the library that `make setup` fetches is chosen.
NANGATE45 = "nangate45"

#: cells that only serve low-power or test purposes in SKY130 and that its vendor asks not to use for logic.
DONT_USE = ("*__lpflow_*", "*__probe*")


class LibertyError(MvqError):
    """A library that is missing, unreadable, or that cannot hold the design."""


@dataclass(frozen=True)
class Liberty:
    """One library.

    Attributes
    ----------
    name : name inside the file.
    path : the file.
    sha256 : of the file's bytes.
    corner : nominal voltage and temperature, as far as the file says.
    areas : cell -> area in the library's unit (um2).
    flip_flops, clock_gates : names of the flip-flop and of the integrated clock-gating cells.
    nand2_area : area of the smallest two-input NAND, the gate equivalent.
    buffer : a buffer of twice the smallest drive, or the only one; None where there is none.
    full_adder, half_adder : (cell, input pins, sum pin, carry pin) of the smallest adder cells, or None.
    """

    name: str
    path: Path
    sha256: str
    corner: str
    areas: dict
    flip_flops: tuple
    clock_gates: tuple
    nand2_area: float
    buffer: str | None
    full_adder: tuple | None
    half_adder: tuple | None


def nangate45_path():
    """Where `make setup` puts NanGate45: the user's cache folder."""
    return cache_folder("nangate45") / "stdcells.lib"


def _pdk_root():
    root = os.environ.get("PDK_ROOT")
    if root:
        return Path(root)
    for folder in (".ciel", ".volare"):  # where the two PDK managers install by default
        if (Path.home() / folder).is_dir():
            return Path.home() / folder
    raise LibertyError(
        "PDK_ROOT is not set: point it at the folder that holds the PDKs, or pass the path of a .lib file"
    )


def _names(folder):
    return ", ".join(sorted(path.name for path in folder.glob("*") if path.is_dir())) or "nothing"


def _from_pdk(pdk, library):
    root = _pdk_root()
    if not root.is_dir():
        raise LibertyError(f"PDK_ROOT = {str(root)!r} is not a folder")
    if not (root / pdk).is_dir():
        raise LibertyError(f"there is no PDK {pdk!r} in {root}; it holds {_names(root)}")
    references = root / pdk / "libs.ref"
    folder = references / library / "lib"
    if not folder.is_dir():
        raise LibertyError(f"there is no library {library!r} in {pdk}; {references} holds {_names(references)}")
    files = sorted(folder.glob("*.lib"))
    if not files:
        raise LibertyError(f"{folder} holds no .lib file")
    typical = [path for path in files if re.search(r"(^|[_.-])(tt|typ|typical)([_.-]|$)", path.stem, re.IGNORECASE)]
    room = [path for path in typical if re.search(r"(^|_)n?0?25c", path.stem, re.IGNORECASE)]
    for candidates in (files, typical, room):
        if len(candidates) == 1:
            return candidates[0]
    listed = ", ".join(str(path) for path in (room or typical or files))
    raise LibertyError(f"{pdk}:{library} has no single typical corner; pass one of these files: {listed}")


def resolve_liberty(text):
    """Path of the library that ``text`` names: ``nangate45``, a ``.lib`` file, or ``PDK:LIBRARY`` below ``PDK_ROOT``.

    Raises
    ------
    LibertyError : nothing, or more than one thing, is found; the message lists what there is.
    """
    if text == NANGATE45:
        path = nangate45_path()
        if not path.is_file():
            raise LibertyError(
                f"NanGate45 is not at {path}: `make setup` fetches it, or pass another library with --liberty"
            )
        return path
    path = Path(text)
    if path.is_file():
        return path.resolve()
    if path.is_dir():
        raise LibertyError(f"{text!r} is a folder: pass a .lib file")
    match = re.fullmatch(r"([^:/]+):([^:/]+)", str(text))
    if match:
        return _from_pdk(match[1], match[2])
    raise LibertyError(f"there is no library {text!r}: pass {NANGATE45}, a .lib file, or PDK:LIBRARY with PDK_ROOT set")


_GATES = {
    "$_BUF_": lambda a: a,
    "$_NOT_": lambda a: ~a,
    "$_AND_": lambda a, b: a & b,
    "$_OR_": lambda a, b: a | b,
    "$_XOR_": lambda a, b: a ^ b,
}


def _truth_tables(module):
    """{output pin: truth table as an integer} of a combinational cell in Yosys's JSON, or None for any other cell."""
    pins = module["ports"].items()
    inputs = [pin for pin, port in pins if port["direction"] == "input"]
    if len(inputs) > 3:
        return None
    lines = 1 << len(inputs)
    every = (1 << lines) - 1
    values = {"0": 0, "1": every, "x": 0}
    for index, pin in enumerate(inputs):
        values[module["ports"][pin]["bits"][0]] = sum(1 << line for line in range(lines) if line >> index & 1)
    waiting = list(module["cells"].values())
    while waiting:
        left = []
        for gate in waiting:
            if gate["type"] not in _GATES:
                return None
            bits = [gate["connections"][port][0] for port in ("A", "B") if port in gate["connections"]]
            if all(bit in values for bit in bits):
                values[gate["connections"]["Y"][0]] = _GATES[gate["type"]](*(values[bit] for bit in bits)) & every
            else:
                left.append(gate)
        if len(left) == len(waiting):
            return None
        waiting = left
    outputs = {pin: port["bits"][0] for pin, port in pins if port["direction"] == "output"}
    return (
        {pin: values[bit] for pin, bit in outputs.items()} if all(bit in values for bit in outputs.values()) else None
    )


def _adder(modules, tables, areas, inputs, total, carry):
    """(cell, inputs, sum pin, carry pin) of the smallest cell with exactly these two functions."""
    found = []
    for cell, outputs in tables.items():
        pins = [pin for pin, port in modules[cell]["ports"].items() if port["direction"] == "input"]
        by_function = {table: pin for pin, table in outputs.items()}
        if len(pins) == inputs and len(outputs) == 2 and {total, carry} == set(by_function):
            found.append((areas[cell], cell, tuple(pins), by_function[total], by_function[carry]))
    return min(found)[1:] if found else None


def read_liberty(path):
    """Read the library at ``path`` into a :class:`Liberty`.

    Raises
    ------
    LibertyError : the file cannot be read, is not Liberty, or has no flip-flop or no two-input NAND.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LibertyError(f"the library {path} cannot be read ({error.strerror})") from error
    text = content.decode("latin-1")
    header = re.search(r'\blibrary\s*\(\s*"?([^")\s]+)', text)
    if header is None:
        raise LibertyError(f"{path} is not a Liberty file: it has no library group")
    with tempfile.TemporaryDirectory(prefix="mvq-liberty-") as folder:
        netlist = Path(folder) / "cells.json"
        commands = [f"read_liberty -ignore_miss_func {quote(path)}", f"write_json {quote(netlist)}"]
        try:
            run_yosys(f"reading {path}", commands, folder)
        except SynthesisError as error:
            reason = next((line for line in error.log_tail.splitlines() if "ERROR" in line), "Yosys refuses it")
            raise LibertyError(f"the library {path} cannot be read: {reason.strip()}") from error
        modules = json.loads(netlist.read_text())["modules"]

    areas = {cell: float(module["attributes"].get("area", 0)) for cell, module in modules.items()}
    types = {cell: {gate["type"] for gate in module["cells"].values()} for cell, module in modules.items()}
    flip_flops = tuple(
        cell for cell, kinds in types.items() if any(kind.startswith(("$_DFF", "$_SDFF")) for kind in kinds)
    )
    if not flip_flops:
        raise LibertyError(
            f"the library {path} has no flip-flop, so it cannot hold the design: choose one with sequential cells"
        )
    banned = {match[1] for match in _cells_with(text, r"dont_use\s*:\s*\"?true")}
    tables = {
        cell: outputs
        for cell, module in modules.items()
        if cell not in banned and areas[cell] > 0 and (outputs := _truth_tables(module))
    }
    nands = [
        areas[cell]
        for cell, outputs in tables.items()
        if list(outputs.values()) == [0b0111] and _inputs(modules[cell]) == 2
    ]
    if not nands:
        raise LibertyError(f"the library {path} has no two-input NAND, the unit of gate equivalents")
    voltage, temperature = (re.search(rf"\bnom_{name}\s*:\s*\"?([-\d.]+)", text) for name in ("voltage", "temperature"))
    corner = " ".join(f"{float(match[1]):g} {unit}" for match, unit in ((voltage, "V"), (temperature, "C")) if match)
    return Liberty(
        name=header[1],
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        corner=corner,
        areas=areas,
        flip_flops=flip_flops,
        clock_gates=tuple(match[1] for match in _cells_with(text, r"clock_gating_integrated_cell\s*:")),
        nand2_area=min(nands),
        buffer=_buffer(tables, areas),
        full_adder=_adder(modules, tables, areas, 3, 0b10010110, 0b11101000),
        half_adder=_adder(modules, tables, areas, 2, 0b0110, 0b1000),
    )


def _buffer(tables, areas):
    """A cell that only repeats its input, of the second smallest area, or of the smallest."""
    found = {areas[cell]: cell for cell in sorted(tables, reverse=True) if list(tables[cell].values()) == [0b10]}
    return found[sorted(found)[:2][-1]] if found else None


def _inputs(module):
    return sum(port["direction"] == "input" for port in module["ports"].values())


def _cells_with(text, attribute):
    """Match objects of the cell headers whose cell has ``attribute`` (a regular expression)."""
    headers = list(re.finditer(r'\bcell\s*\(\s*"?([^")\s]+)"?\s*\)', text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    pattern = re.compile(attribute)
    return [header for header, end in zip(headers, ends, strict=True) if pattern.search(text, header.end(), end)]
