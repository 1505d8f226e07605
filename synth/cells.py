"""What timing and power need to know of a library's cells: functions, capacitances, tables of transition times and of
internal energies, leakage. The Liberty text is read by liberty-parser, and the result kept in the user's cache."""

from dataclasses import dataclass

import numpy as np

from synth import cache
from synth.liberty import LibertyError

__all__ = ["CellLibrary", "Table", "read_cells"]

_FORMAT = 2

_FARADS = {"ff": 1e-15, "pf": 1e-12, "nf": 1e-9}
_PREFIXES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}


@dataclass(frozen=True)
class Table:
    """A look-up table over input transition and load: ``axes`` of one or two arrays (or none), ``values``."""

    slews: tuple
    loads: tuple
    values: tuple

    def __call__(self, slews, loads):
        """Values at arrays of ``slews`` (s) and ``loads`` (F), linear between and beyond the table's points."""
        from scipy.interpolate import RegularGridInterpolator

        values = np.array(self.values, float)
        axes, points = [], []
        for axis, (grid, at) in enumerate(((self.slews, slews), (self.loads, loads))):
            if len(grid) > 1:
                axes.append(grid)
                points.append(at)
            else:
                values = np.expand_dims(np.take(values, 0, axis), axis)
        shape = tuple(len(axis) for axis in axes)
        if not axes:
            return np.full(np.shape(slews), float(values.reshape(-1)[0]))
        return RegularGridInterpolator(axes, values.reshape(shape), bounds_error=False, fill_value=None)(
            np.stack(points, -1)
        )


@dataclass(frozen=True)
class CellLibrary:
    """Cells of one library, in SI units.

    Attributes
    ----------
    voltage : of the supply, in V.
    wires : F of the wires of a net that reaches 0, 1, 2, ... pins, by the library's default wire-load model; beyond the
        last one each pin adds as much as the last did.
    cells : name -> dictionary of

        * ``pins``: pin -> ``input`` or ``output``; ``capacitance``: input pin -> F;
        * ``functions``: output pin -> (input pins, truth table), bit i for the inputs that spell i, first pin lowest;
        * ``flip_flop``: {clock, data, outputs: pin -> ``IQ`` or ``IQN``}, or None;
        * ``clock_gate``: {clock, enables, output}, or None; ``latch``: True for other cells with a state;
        * ``leakage``: list of (condition or None, W);
        * ``transitions``: output pin -> list of tables in s;
        * ``energies``: list of (pin, related pin or None, condition or None, rise table, fall table) in J.

        A condition is (pins, truth table), a table the arguments of :class:`Table`.
    """

    voltage: float
    wires: list
    cells: dict

    def wire(self, pins):
        """F of the wires of nets that reach ``pins`` pins (an array)."""
        known = np.array(self.wires)
        last = len(known) - 1
        step = known[-1] - known[-2] if last else 0.0
        return known[np.minimum(pins, last)] + np.maximum(pins - last, 0) * step


def _text(value):
    return None if value is None else str(getattr(value, "value", value)).strip('"')


def _number(text):
    return float(str(text).strip('"'))


def _unit(text, default):
    """Factor to SI of a unit such as ``1ns``."""
    text = (text or default).strip().lower()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    return float(digits or 1) * _PREFIXES[text[len(digits) :][:-1]]


def _function(text):
    """(pins, truth table) of a Liberty expression, pins in alphabetical order."""
    from liberty.boolean_functions import parse_boolean_function
    from sympy import lambdify

    expression = parse_boolean_function(text)
    symbols = sorted(expression.free_symbols, key=str)
    if not symbols:
        return [], int(bool(expression))
    if len(symbols) > 16:
        raise LibertyError(f"the function {text!r} has {len(symbols)} inputs, more than the 16 that can be read")
    lines = np.arange(1 << len(symbols))
    columns = [(lines >> index & 1).astype(bool) for index in range(len(symbols))]
    values = np.broadcast_to(lambdify(symbols, expression, "numpy")(*columns), lines.shape)
    return [str(symbol) for symbol in symbols], sum(1 << int(line) for line in lines[values])


def _axes(group, templates):
    """(kind of index_1, kind of index_2) of a table: ``slew`` or ``load``."""
    template = templates.get(_text(group.args[0]) if group.args else None)
    kinds = []
    for index in (1, 2):
        kind = _text(template.get(f"variable_{index}")) if template is not None else None
        if kind:
            kinds.append("load" if "capacitance" in kind else "slew")
    return template, kinds or ["slew", "load"]


def _table(group, templates, time, capacitance, unit):
    """Arguments of :class:`Table` for a group such as ``rise_power``."""
    template, kinds = _axes(group, templates)
    values = np.atleast_2d(group.get_array("values")) * unit
    grids = {"slew": np.array([0.0]), "load": np.array([0.0])}
    order = []
    for index, kind in enumerate(kinds, 1):
        holder = group if f"index_{index}" in group else template
        if holder is None or f"index_{index}" not in holder:
            continue
        grids[kind] = holder.get_array(f"index_{index}").reshape(-1) * (time if kind == "slew" else capacitance)
        order.append(kind)
    if order == ["load", "slew"]:
        values = values.T
    values = (
        values.reshape(len(grids["slew"]), len(grids["load"]))
        if values.size > 1
        else np.full((1, 1), values.reshape(-1)[0])
    )
    if values.shape == (1, 1):
        grids = {"slew": np.array([0.0]), "load": np.array([0.0])}
    return [grids["slew"].tolist(), grids["load"].tolist(), values.tolist()]


def _cell(cell, templates, time, capacitance, leakage_unit, voltage):
    energy = capacitance * voltage * voltage  # of a library that counts volts in V
    pins = {_text(pin.args[0]): pin for pin in cell.get_groups("pin")}
    ways = {name: _text(pin.get("direction")) for name, pin in pins.items()}
    found = {
        "pins": {name: way for name, way in ways.items() if way in ("input", "output")},
        "capacitance": {
            name: float(pin.get("capacitance", 0) or 0) * capacitance
            for name, pin in pins.items()
            if ways[name] == "input"
        },
        "functions": {},
        "flip_flop": None,
        "clock_gate": None,
        "latch": bool(cell.get_groups("latch") or cell.get_groups("statetable")),
        "leakage": [],
        "transitions": {},
        "energies": [],
    }
    gate = _text(cell.get("clock_gating_integrated_cell"))
    if gate:
        found["latch"] = False
        roles = {
            role: [name for name, pin in pins.items() if _text(pin.get(f"clock_gate_{role}_pin")) == "true"]
            for role in ("clock", "enable", "test", "out")
        }
        found["clock_gate"] = {
            "kind": gate,
            "clock": roles["clock"][0],
            "enables": roles["enable"] + roles["test"],
            "output": roles["out"][0],
        }
    for flip_flop in cell.get_groups("ff"):
        state, inverse = (_text(name) for name in flip_flop.args)
        clock_pins, clock = _function(_text(flip_flop.get("clocked_on")))
        found["flip_flop"] = {
            "clock": clock_pins[0],
            "rising": clock == 0b10,
            "data": _function(_text(flip_flop.get("next_state"))),
            "clear": None if "clear" not in flip_flop else _function(_text(flip_flop.get("clear"))),
            "preset": None if "preset" not in flip_flop else _function(_text(flip_flop.get("preset"))),
            "outputs": {
                name: _text(pin.get("function")) == state
                for name, pin in pins.items()
                if _text(pin.get("function")) in (state, inverse)
            },
        }
    plain = cell.get("cell_leakage_power")
    for leak in cell.get_groups("leakage_power"):
        if _text(leak.get("related_pg_pin")) not in (None, "VDD", "VPWR"):
            continue
        when = _text(leak.get("when"))
        found["leakage"].append([when and _function(when), _number(leak["value"]) * leakage_unit])
    if plain is not None:
        found["leakage"].append([None, float(plain) * leakage_unit])
    for name, pin in pins.items():
        function = _text(pin.get("function"))
        if ways[name] == "output" and function and not found["flip_flop"] and not gate and not found["latch"]:
            found["functions"][name] = _function(function)
        tables = [
            _table(group, templates, time, capacitance, time)
            for timing in pin.get_groups("timing")
            for group in timing.groups
            if group.group_name in ("rise_transition", "fall_transition")
        ]
        if tables:
            found["transitions"][name] = tables
        for power in pin.get_groups("internal_power"):
            when, related = _text(power.get("when")), _text(power.get("related_pin"))
            sides = [
                _table(power.get_groups(side)[0], templates, time, capacitance, energy)
                if power.get_groups(side)
                else None
                for side in ("rise_power", "fall_power")
            ]
            both = power.get_groups("power")
            if both:
                sides = [_table(both[0], templates, time, capacitance, energy)] * 2
            if sides != [None, None]:
                found["energies"].append([name, related, when and _function(when), *sides])
    return found


def _parse(liberty):
    try:
        from liberty.parser import parse_liberty
    except ImportError as error:
        raise LibertyError(
            "liberty-parser is not installed, which reads power tables: pip install 'mvq[power]'"
        ) from error

    try:
        library = parse_liberty(liberty.path.read_text())
    except Exception as error:  # whatever lark raises for text that is not Liberty
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise LibertyError(f"the library {liberty.path} cannot be read by liberty-parser ({reason})") from error
    number, name = library["capacitive_load_unit"]
    capacitance = float(number) * _FARADS[str(name).strip('"').lower()]
    time = _unit(_text(library.get("time_unit")), "1ns")
    leakage_unit = _unit(_text(library.get("leakage_power_unit")), "1nW")
    voltage_unit = _unit(_text(library.get("voltage_unit")), "1V")
    voltage = float(library["nom_voltage"]) * voltage_unit
    templates = {
        _text(group.args[0]): group
        for kind in ("lu_table_template", "power_lut_template")
        for group in library.get_groups(kind)
    }
    cells = {
        _text(cell.args[0]): _cell(cell, templates, time, capacitance, leakage_unit, voltage_unit)
        for cell in library.get_groups("cell")
    }
    return {"voltage": voltage, "wires": _wires(library, capacitance), "cells": cells}


def _wires(library, capacitance):
    name = _text(library.get("default_wire_load"))
    groups = [group for group in library.get_groups("wire_load") if _text(group.args[0]) == name]
    if not groups:
        return [0.0]
    [group] = groups
    points = {int(float(fanout)): float(length) for fanout, length in group.get_attributes("fanout_length")}
    most = max(points)
    lengths = np.interp(range(most + 1), [0, *sorted(points)], [0.0, *(points[key] for key in sorted(points))])
    lengths = np.append(lengths, lengths[-1] + float(group.get("slope", 0) or 0))
    return (lengths * float(group["capacitance"]) * capacitance).tolist()


def read_cells(liberty):
    """Cells of a library.

    Parameters
    ----------
    liberty : :class:`synth.liberty.Liberty`.

    Returns
    -------
    :class:`CellLibrary`

    Raises
    ------
    LibertyError : the text cannot be parsed.
    """
    key = cache.content_key(liberty.sha256, _FORMAT)
    found = cache.load("liberty", key)
    if found is None:
        found = _parse(liberty)
        cache.store("liberty", key, found)
    return CellLibrary(**found)
