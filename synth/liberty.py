"""Standard-cell libraries: where they are, and what the area flow needs to know about their cells.

Yosys's own Liberty reader does the parsing, so detection and mapping see the same library. It is quick: SKY130's 13 MB
take 0.1 s.
"""

import fnmatch
import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass, field
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
    flip_flops, latches, clock_gates : names of the flip-flop, latch and integrated clock-gating cells.
    latch : (cell, enable pin, data pin, output pin, {reset pin: level that does not reset}) of the smallest latch that
        is open while its enable is high, or None.
    nand2_area : area of the smallest two-input NAND, the gate equivalent.
    buffer : a buffer of twice the smallest drive, or the only one; None where there is none.
    full_adder, half_adder : (cell, input pins, sum pin, carry pin) of the smallest adder cells, or None.
    nor2, and2 : (cell, input pins, output pin) of the smallest such gates, or None.
    and_or : number of products -> (cell, pairs of input pins, output pin) of the smallest AND-OR-INVERT cell of so many
        products of two.
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
    latches: tuple = ()
    latch: tuple | None = None
    nor2: tuple | None = None
    and2: tuple | None = None
    and_or: dict = field(default_factory=dict)


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
    if len(inputs) > 6:
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


def _gate(modules, tables, areas, table):
    """(cell, inputs, output pin) of the smallest gate of two inputs with this function."""
    found = [
        (areas[cell], cell, tuple(pin for pin, port in modules[cell]["ports"].items() if port["direction"] == "input"))
        for cell, outputs in tables.items()
        if list(outputs.values()) == [table] and _inputs(modules[cell]) == 2
    ]
    return (*min(found)[1:], *tables[min(found)[1]]) if found else None


def _pairings(pins):
    """Every way to put ``pins`` into pairs."""
    if not pins:
        yield ()
        return
    first, *others = pins
    for partner in others:
        for rest in _pairings([pin for pin in others if pin != partner]):
            yield ((first, partner), *rest)


def _and_or(modules, tables, areas, products):
    """(cell, pairs of inputs, output pin) of the smallest AND-OR-INVERT cell of ``products`` pairs, or None."""
    lines = range(1 << 2 * products)
    found = []
    for cell, outputs in tables.items():
        pins = [pin for pin, port in modules[cell]["ports"].items() if port["direction"] == "input"]
        if len(pins) != 2 * products or len(outputs) != 1:
            continue
        [(output, table)] = outputs.items()
        place = {pin: index for index, pin in enumerate(pins)}
        for pairs in _pairings(pins):
            ands = [sum(1 << place[pin] for pin in pair) for pair in pairs]
            if table == sum(1 << line for line in lines if all(line & both != both for both in ands)):
                found.append((areas[cell], cell, pairs, output))
                break
    return min(found)[1:] if found else None


def _latch(modules, areas, banned):
    """The smallest latch, as in :class:`Liberty`."""
    found = []
    for cell, module in modules.items():
        if cell in banned or not areas[cell]:
            continue
        ports = {port["bits"][0]: pin for pin, port in module["ports"].items()}
        inputs = {pin for pin, port in module["ports"].items() if port["direction"] == "input"}
        inverted = {
            gate["connections"]["Y"][0]: gate["connections"]["A"][0]
            for gate in module["cells"].values()
            if gate["type"] == "$_NOT_"
        }
        for gate in module["cells"].values():
            if gate["type"] not in ("$_DLATCH_P_", "$_DLATCH_PP0_", "$_DLATCH_PN0_"):
                continue
            bits = {name: connection[0] for name, connection in gate["connections"].items()}
            enable, data, output = (ports.get(bits[name]) for name in "EDQ")
            tied = {}
            if "R" in bits:  # a reset that never comes
                level = gate["type"] == "$_DLATCH_PN0_"
                source = bits["R"] if bits["R"] in ports else inverted.get(bits["R"])
                tied = {ports.get(source): int(level if source == bits["R"] else not level)}
            if output and {enable, data, *tied} == inputs:
                found.append((areas[cell], cell, enable, data, output, tied))
    return min(found, key=lambda latch: latch[:2])[1:] if found else None


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
    banned |= {cell for cell in modules for pattern in DONT_USE if fnmatch.fnmatchcase(cell, pattern)}
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
    gates = _cells_with(text, r"clock_gating_integrated_cell\s*:")
    for gate in gates:  # Yosys leaves out cells whose function the library does not give as a formula
        areas[gate[1]] = float(re.compile(r"\barea\s*:\s*\"?([-+.\deE]+)").search(text, gate.end())[1])
    voltage, temperature = (re.search(rf"\bnom_{name}\s*:\s*\"?([-\d.]+)", text) for name in ("voltage", "temperature"))
    corner = " ".join(f"{float(match[1]):g} {unit}" for match, unit in ((voltage, "V"), (temperature, "C")) if match)
    return Liberty(
        name=header[1],
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        corner=corner,
        areas=areas,
        flip_flops=flip_flops,
        clock_gates=tuple(gate[1] for gate in gates),
        nand2_area=min(nands),
        buffer=_buffer(tables, areas),
        full_adder=_adder(modules, tables, areas, 3, 0b10010110, 0b11101000),
        half_adder=_adder(modules, tables, areas, 2, 0b0110, 0b1000),
        latches=tuple(cell for cell, kinds in types.items() if any(kind.startswith("$_DLATCH") for kind in kinds)),
        latch=_latch(modules, areas, banned),
        nor2=_gate(modules, tables, areas, 0b0001),
        and2=_gate(modules, tables, areas, 0b1000),
        and_or={
            products: cell for products in (2, 3) if (cell := _and_or(modules, tables, areas, products)) is not None
        },
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
