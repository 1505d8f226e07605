"""Buffered and sized netlists of cores, kept in the user's cache, and their gates as arrays.

The netlist is that of the area report (module boundaries kept, each distinct module synthesised once), with gates
buffered and sized inside each module for the clock. On a 16 x 16 sparse tile that gives the delay of a tile that is
flattened first (2.61 against 2.59 ns), with 0.8 % more area, in 2 s instead of 58 s.
"""

import json
import re
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from golden.files import cache_folder, write_text
from hdl.config import MvqError
from synth import cache
from synth.area import gateware_sources, generate_all
from synth.cells import read_cells
from synth.flow import Netlist, Policy, block_of, split_modules, synthesise_all
from synth.liberty import Liberty
from synth.yosys import quote, run_yosys

__all__ = ["BLOCKS", "Design", "Flat", "buffer_nets", "flatten", "map_designs", "to_verilog"]

#: instance path below the core -> block of timing and power; the area report's blocks, with the array in its parts.
BLOCKS = {
    "array": "array edges",
    "array.tile_*.row_*": "array steering",
    "array.tile_*.row_*.pe_*": "array multipliers",
    "array.tile_*.row_*.wrf": "array WRF/MRF",
    "array.tile_*.row_*.mrf": "array WRF/MRF",
    "array.tile_*.column_*": "array adders",
    "loader": "decoding and loading",
    "loader.crf": "codebook",
    "prf": "prf/arf",
    "arf": "prf/arf",
    "scale_memory": "requantisation",
    "requantiser_*": "requantisation",
    "sequencer": "control",
    "control_delay": "control",
}

#: gates that a net drives at most, where it leaves its module.
FAN_OUT = 16

_FORMAT = 3  # of what is kept
_FILES = ("netlist.v", "netlist.json", "area.json")


@dataclass(frozen=True)
class Design:
    """A mapped core.

    Attributes
    ----------
    config : :class:`hdl.config.ArrayConfig`. ``liberty`` : :class:`synth.liberty.Liberty`. ``policy`` :
        :class:`synth.flow.Policy`.
    folder : of ``netlist.v``, ``netlist.json`` and ``area.json``.
    key : changes when netlist or library do.
    """

    config: object
    liberty: Liberty
    policy: Policy
    folder: Path
    key: str

    top = "mvq_core"

    @cached_property
    def modules(self):
        """Yosys's JSON of the modules, by name."""
        return json.loads((self.folder / "netlist.json").read_text())["modules"]

    @property
    def area(self):
        """Area by block of the area report, in um2."""
        return json.loads((self.folder / "area.json").read_text())


def map_designs(configs, liberty, clock_ps, *, policy=None, jobs=2, progress=None):
    """Mapped cores of ``configs``: those in the cache, and the others synthesised together.

    Parameters
    ----------
    configs : list of :class:`hdl.config.ArrayConfig`. ``liberty`` : :class:`synth.liberty.Liberty`.
    clock_ps : clock period that gates are sized for.
    policy : :class:`synth.flow.Policy`; its ``clock_ps`` is replaced.
    jobs, progress : see :func:`synth.area.area_report`.

    Returns
    -------
    list of :class:`Design`, in the order of ``configs``.

    Raises
    ------
    MvqError : the library has no buffer; whatever synthesis raises.
    """
    policy = Policy(**{**(policy.__dict__ if policy else {}), "clock_ps": clock_ps})
    if liberty.buffer is None:
        raise MvqError(f"the library {liberty.path} has no buffer, so gates cannot be sized for a clock")
    sources = _sources()
    designs = []
    for config in configs:
        key = cache.content_key(config.hash, liberty.sha256, policy.to_dict(), sources)[:20]
        designs.append(Design(config, liberty, policy, cache_folder("netlists") / f"{config.name}-{key}", key))
    missing = {
        design.folder: design for design in designs if not all((design.folder / name).is_file() for name in _FILES)
    }
    if missing:
        configs = [design.config for design in missing.values()]
        generated = generate_all(configs, None, policy, "registers", jobs, progress)
        work = Path(tempfile.mkdtemp(prefix="mvq-netlist-"))
        netlists = synthesise_all(
            [
                (design.config.name, one["text"], one["top"])
                for design, one in zip(missing.values(), generated, strict=True)
            ],
            liberty,
            policy,
            jobs=jobs,
            progress=progress and (lambda done, total: progress("synthesise", done, total)),
            folder=work,
        )
        for design, netlist, one in zip(missing.values(), netlists, generated, strict=True):
            _keep(design, netlist, one["blocks"], work)
        shutil.rmtree(work)
    return designs


def _sources():
    """What changes whenever a netlist may: the gateware, the flow, the tools' versions."""
    return [gateware_sources(), Path(__file__).with_name("flow.py").read_text(), version("pyosys"), _FORMAT]


def _keep(design, netlist, patterns, work):
    """Put a synthesised design into the cache."""
    texts = {}
    parts = []
    for name, module in netlist.modules.items():
        if module.verilog not in texts:
            texts[module.verilog] = split_modules(module.verilog.read_text())
        parts.append(texts[module.verilog][name])
    source, path = (work / f"{design.folder.name}{end}" for end in (".v", ".json"))
    source.write_text("\n".join(parts))
    run_yosys(
        f"the netlist of {design.config.name}",
        [
            f"read_liberty -lib -ignore_miss_func {quote(design.liberty.path)}",
            f"read_verilog {quote(source)}",
            f"hierarchy -check -top {netlist.top}",
            f"write_json {quote(path)}",
        ],
        work / "json",
    )
    modules = json.loads(path.read_text())["modules"]
    kept = {name: _essentials(module) for name, module in modules.items() if not _is_cell(module)}
    added = buffer_nets(kept, read_cells(design.liberty), design.liberty.buffer)
    size = design.liberty.areas[design.liberty.buffer]
    areas = {
        name: replace(module, area=module.area + added.get(name, 0) * size) for name, module in netlist.modules.items()
    }
    write_text(design.folder / "netlist.v", to_verilog(kept))
    write_text(design.folder / "netlist.json", json.dumps({"modules": kept}))
    write_text(design.folder / "area.json", json.dumps(Netlist(netlist.top, areas).blocks(patterns)))


def _is_cell(module):
    return int(module.get("attributes", {}).get("blackbox", "0"), 2) == 1


def _essentials(module):
    return {
        "ports": {name: [port["direction"], port["bits"]] for name, port in module["ports"].items()},
        "cells": {name: [cell["type"], cell["connections"]] for name, cell in module["cells"].items()},
    }


def _clock_pins(cell):
    """Pins at which a cell sees a clock, or all inputs of a latch."""
    if cell["latch"]:
        return set(cell["pins"])
    state = cell["flip_flop"] or cell["clock_gate"]
    return {state["clock"]} if state else set()


def buffer_nets(modules, library, buffer):
    """Give nets trees of buffers: none drives more than :data:`FAN_OUT` gates, in its module and behind the ports of
    others. Those are the nets whose loads abc does not see, in other modules or at cells placed by the gateware.
    Clocks, and what opens latches, stay as they are.

    Parameters
    ----------
    modules : as :attr:`Design.modules` has them; changed in place. ``library`` : :class:`synth.cells.CellLibrary`.
    buffer : name of a cell.

    Returns
    -------
    {module: number of buffers that it got}
    """
    [(output, (pins, _))] = library.cells[buffer]["functions"].items()
    timed = {kind: _clock_pins(cell) for kind, cell in library.cells.items()}
    added, weights = {}, {}

    def visit(name):
        if name in weights:
            return
        module = modules[name]
        sinks = {}  # net -> [(gates, connection, index)]
        clocks = set(module["ports"].get("clk", ["", []])[1])
        for kind, connections in module["cells"].values():
            inner = modules.get(kind)
            if inner:
                visit(kind)
            for port, bits in connections.items():
                way = inner["ports"][port][0] if inner else library.cells[kind]["pins"].get(port)
                if way != "input":
                    continue
                for index, bit in enumerate(bits):
                    count = weights[kind].get((port, index), 0) if inner else 1
                    sinks.setdefault(bit, []).append((count, bits, index))
                    if not inner and port in timed[kind]:
                        clocks.add(bit)
        last = max((bit for bit in sinks if isinstance(bit, int)), default=1)
        last = max([last, *(bit for _, bits in module["ports"].values() for bit in bits if isinstance(bit, int))])
        fresh = last + 1_000_000  # beyond the numbers of outputs, too
        for net in sorted(sinks.keys() - clocks - {"0", "1", "x"}):
            waiting = sinks[net]
            while sum(count for count, _, _ in waiting) > FAN_OUT and len(waiting) > 1:
                groups, load = [[]], 0
                for sink in sorted(waiting, key=lambda sink: sink[0]):
                    if load + sink[0] > FAN_OUT and groups[-1]:
                        groups.append([])
                        load = 0
                    groups[-1].append(sink)
                    load += sink[0]
                waiting = []
                for group in groups:
                    number = added[name] = added.get(name, 0) + 1
                    fresh += 1
                    for _, bits, index in group:
                        bits[index] = fresh
                    source = [net]
                    module["cells"][f"fan_{number}"] = [buffer, {pins[0]: source, output: [fresh]}]
                    waiting.append((1, source, 0))
            sinks[net] = waiting
        weights[name] = {
            (port, index): sum(count for count, _, _ in sinks.get(bit, ()))
            for port, (way, bits) in module["ports"].items()
            if way == "input"
            for index, bit in enumerate(bits)
        }

    for name in modules:
        visit(name)
    return added


def _name(text):
    return text if re.fullmatch(r"[A-Za-z_]\w*", text) else f"\\{text} "


def to_verilog(modules):
    """Structural Verilog of ``modules``, in the subset that OpenSTA 2.0.17 reads."""
    lines = []
    for name, module in modules.items():
        known = {"0": "1'b0", "1": "1'b1", "x": "1'b0"}
        header, aliases = [], []
        for port, (way, bits) in module["ports"].items():
            header.append(f"  {way} {f'[{len(bits) - 1}:0] ' if len(bits) > 1 else ''}{_name(port)};")
            for index, bit in enumerate(bits):
                text = f"{_name(port)}[{index}]" if len(bits) > 1 else _name(port)
                if known.setdefault(bit, text) != text:
                    aliases.append(f"  assign {text} = {known[bit]};")
        places = []
        for instance, (kind, connections) in module["cells"].items():
            ports = []
            for port, bits in connections.items():
                texts = [known.setdefault(bit, f"n{bit}") for bit in bits]
                if texts:
                    ports.append(
                        f".{_name(port)}({texts[0] if len(texts) == 1 else '{' + ', '.join(texts[::-1]) + '}'})"
                    )
            places.append(f"  {_name(kind)} {_name(instance)} ({', '.join(ports)});")
        wires = [f"  wire {text};" for bit, text in known.items() if text == f"n{bit}"]
        names = ", ".join(map(_name, module["ports"]))
        lines += [f"module {_name(name)} ({names});", *header, *wires, *aliases, *places, "endmodule", ""]
    return "\n".join(lines)


# ---- gates as arrays
# -------------------------------------------------------------------------------------------


@dataclass
class Flat:
    """Gates of a module with everything below it. Nets 0 and 1 are the constants.

    Attributes
    ----------
    ports : name -> (direction, array of net numbers, least significant bit first).
    nets : number of nets.
    pins : cell -> names of its pins, the columns of ``gates``.
    gates : cell -> int32 (count, pins): the net at each pin of each gate; 0 where a pin is open.
    blocks : cell -> int8 (count,): index into ``names`` of each gate's block.
    names : the blocks.
    """

    ports: dict
    nets: int
    pins: dict
    gates: dict
    blocks: dict
    names: list = field(default_factory=list)


def flatten(modules, top, pins, patterns=None, default="control"):
    """Flatten ``modules`` below ``top``.

    Parameters
    ----------
    modules : as :attr:`Design.modules` has them.
    pins : cell -> names of its pins.
    patterns : instance path below the top -> block, as :meth:`synth.flow.Netlist.blocks` has them.
    default : block of what no pattern matches.

    Returns
    -------
    :class:`Flat`
    """
    patterns = patterns or {}
    deepest = max((pattern.count(".") + 1 for pattern in patterns), default=0)
    names = list(dict.fromkeys([*patterns.values(), default]))
    known = {}

    def visit(name, path, block):
        fixed = len(path) >= deepest  # from here on all gates belong to one block
        if fixed and name in known:
            flat = known[name]
        else:
            flat = one_module(name, path, block)
            if fixed:
                known[name] = flat
        if fixed:
            blocks = {cell: np.full(len(rows), names.index(block), np.int8) for cell, rows in flat.gates.items()}
            return Flat(flat.ports, flat.nets, pins, flat.gates, blocks, names)
        return flat

    def one_module(name, path, block):
        module = modules[name]
        numbers = {"0": 0, "1": 1, "x": 0, "z": 0}

        def net(bit):
            return numbers.setdefault(bit, len(numbers) - 2)  # four texts, two nets

        ports = {
            port: (way, np.array([net(bit) for bit in bits], np.int32)) for port, (way, bits) in module["ports"].items()
        }
        rows, children, same = {}, [], []
        for instance, (kind, connections) in module["cells"].items():
            if kind in modules:
                children.append(
                    (instance, kind, {port: [net(bit) for bit in bits] for port, bits in connections.items()})
                )
            else:
                rows.setdefault(kind, []).append(
                    [net(connections[pin][0]) if connections.get(pin) else 0 for pin in pins[kind]]
                )
        nets = len(numbers) - 2
        gates = {kind: [np.array(found, np.int32)] for kind, found in rows.items()}
        blocks = {kind: [np.full(len(found), names.index(block), np.int8)] for kind, found in rows.items()}
        for instance, kind, connections in children:
            inside = [*path, re.sub(r"\$\d+$", "", instance)]
            child = visit(kind, inside, block_of(inside, patterns) or block)
            mapping = np.arange(nets - 2, nets - 2 + child.nets, dtype=np.int32)
            mapping[:2] = 0, 1
            nets += child.nets - 2
            outside = {0: 0, 1: 1}
            for port, (_, inner) in child.ports.items():
                for number, outer in zip(inner, connections.get(port, ()), strict=False):
                    if outside.setdefault(number, outer) != outer:  # an output that is an input, or a constant
                        same.append((outside[number], outer))
            mapping[list(outside)] = list(outside.values())
            for cell, found in child.gates.items():
                gates.setdefault(cell, []).append(mapping[found])
                blocks.setdefault(cell, []).append(child.blocks[cell])
        gates = {kind: np.concatenate(found) for kind, found in gates.items()}
        blocks = {kind: np.concatenate(found) for kind, found in blocks.items()}
        if same:
            merged = _merged(nets, same)
            gates = {kind: merged[found] for kind, found in gates.items()}
            ports = {port: (way, merged[found]) for port, (way, found) in ports.items()}
        return Flat(ports, nets, pins, gates, blocks, names)

    return visit(top, [], default)


def _merged(nets, same):
    """For each net, the lowest number of those that ``same`` (pairs) makes one net."""
    merged = np.arange(nets, dtype=np.int32)
    for one, other in same:
        low, high = sorted((merged[one], merged[other]))
        merged[merged == high] = low
    return merged
