"""Power of a mapped core: energies of the library's tables for every net, and what a simulation makes of them.

Before layout: wires are those of the library's default wire-load model, the clock tree has no buffers and no wires, and
its edges are sharp. Transition times elsewhere come from the library's tables, with the mean of a gate's inputs. A
toggle takes the mean of the energies of a rising and a falling edge, over the pins that may have caused it, and over
the conditions under which it may happen; for these, pins are taken to be 1 half of the time. Leakage uses how long they
really are.

OpenSTA 2.0.17, with which this is compared at uniform activity, counts both edges for every toggle, and the energies of
all pins that could have caused it. ``both_edges`` counts like that.
"""

from dataclasses import dataclass

import numpy as np

from synth.cells import Table
from synth.liberty import LibertyError

__all__ = ["PowerModel", "power_model"]

#: rounds of transition times; what a gate far away does is forgotten after a few gates.
_ROUNDS = 6


@dataclass(frozen=True)
class PowerModel:
    """Energies of a core.

    Attributes
    ----------
    blocks : their names.
    net_energy : J of a toggle of each net (internal energy of its driver, charge, and energy inside the gates that read
        it); 0 for clocks. ``net_block`` : block of its driver.
    clock_energy : (blocks,) J of a cycle of the clock, in the cells that it reaches.
    gate_energy : J of a cycle of the clock behind each clock gate. ``gate_block`` : its block.
    leakage : (blocks,) W, with every pin 1 half of the time.
    """

    blocks: list
    net_energy: np.ndarray
    net_block: np.ndarray
    clock_energy: np.ndarray
    gate_energy: np.ndarray
    gate_block: np.ndarray
    leakage: np.ndarray


def _probability(condition, duty, columns, rows):
    """Chance that ``condition`` holds, pins being independent, for each gate; pins that are not there count half."""
    if condition is None:
        return np.ones(len(rows))
    pins, table = condition
    chances = [duty[rows[:, columns[pin]]] if pin in columns else np.full(len(rows), 0.5) for pin in pins]
    total = np.zeros(len(rows))
    for line in range(1 << len(pins)):
        if table >> line & 1:
            term = np.ones(len(rows))
            for bit, chance in enumerate(chances):
                term *= chance if line >> bit & 1 else 1 - chance
            total += term
    return total


def _half(condition):
    """:func:`_probability` where every pin is 1 half of the time."""
    if condition is None:
        return 1.0
    pins, table = condition
    return bin(table).count("1") / (1 << len(pins))


def _mean_table(parts):
    """Tables for the weighted mean of ``parts`` (weight, arguments of a table), one for each kind of axes."""
    grouped, total = {}, sum(weight for weight, _ in parts)
    for weight, (slews, loads, values) in parts:
        key = (tuple(slews), tuple(loads))
        grouped[key] = grouped.get(key, 0) + (weight / total if total else 0) * np.array(values)
    return [Table(slews, loads, values) for (slews, loads), values in grouped.items()]


def _evaluate(tables, slews, loads):
    return sum((table(slews, loads) for table in tables), np.zeros(len(slews)))


def _sum_table(parts):
    """Like :func:`_mean_table`, without dividing by the weights."""
    total = sum(weight for weight, _ in parts)
    return [Table(table.slews, table.loads, np.array(table.values) * total) for table in _mean_table(parts)]


def _sensitised(function, pin):
    """Chance that ``pin`` decides what ``function`` is, others being 1 half of the time; 1 where it is not an input."""
    pins, table = function or ((), 0)
    if pin not in pins:
        return 1.0
    bit = 1 << pins.index(pin)
    lines = [line for line in range(1 << len(pins)) if not line & bit]
    return sum((table >> line & 1) != (table >> (line | bit) & 1) for line in lines) / len(lines)


def _toggle_tables(entries, cell, both_edges):
    """(related pins, tables of the energy of one toggle) of ``entries``, which are about one pin."""
    groups = {}
    for entry in entries:
        groups.setdefault(entry[1], []).append(entry)
    found = []
    for related, group in groups.items():
        parts = []
        for pin, _, condition, *sides in group:
            if condition is None and both_edges and related:
                chance = _sensitised(cell["functions"].get(pin), related)
            else:
                chance = _half(condition)
            parts += [(chance, side) for side in sides if side is not None]
        found.append(((related or "").split(), _sum_table(parts) if both_edges else _mean_table(parts)))
    return found


def _loads(flat, library):
    """F on each net: of the pins that it reaches, and of its wires."""
    loads, pins = np.zeros(flat.nets), np.zeros(flat.nets, np.int64)
    for kind, rows in flat.gates.items():
        for column, pin in enumerate(flat.pins[kind]):
            if library.cells[kind]["pins"][pin] == "input":
                reached = np.bincount(rows[:, column], minlength=flat.nets)
                loads += reached * library.cells[kind]["capacitance"][pin]
                pins += reached
    for way, nets in flat.ports.values():
        if way == "output":
            pins[nets] += 1
    loads += library.wire(pins)
    loads[:2] = 0  # open outputs
    return loads


def _transitions(flat, library, loads, ideal):
    """s of the edges of each net; 0 for the nets ``ideal``."""
    slews = np.zeros(flat.nets)
    tables = {
        (kind, pin): _mean_table([(1.0, part) for part in parts])
        for kind in flat.gates
        for pin, parts in library.cells[kind]["transitions"].items()
        if pin in flat.pins[kind]
    }
    for _ in range(_ROUNDS):
        found = np.zeros(flat.nets)
        for (kind, pin), mean in tables.items():
            rows, cell = flat.gates[kind], library.cells[kind]
            special = cell["flip_flop"] or cell["clock_gate"]
            inputs = [
                column
                for column, name in enumerate(flat.pins[kind])
                if cell["pins"][name] == "input" and (not special or name == special["clock"])
            ]
            driven = rows[:, flat.pins[kind].index(pin)]
            found[driven] = _evaluate(mean, slews[rows[:, inputs]].mean(axis=1), loads[driven])
        slews = np.maximum(found, 0)
        slews[ideal] = slews[:2] = 0
    return slews


def power_model(flat, library, clock="clk", *, both_edges=False):
    """Energies of a core.

    Parameters
    ----------
    flat : :class:`synth.netlist.Flat`. ``library`` : :class:`synth.cells.CellLibrary`.
    clock : name of the clock port. ``both_edges`` : count as OpenSTA does, to compare with it.

    Returns
    -------
    :class:`PowerModel`

    Raises
    ------
    LibertyError : the library has no tables of internal power, or no leakage.
    """
    if not any(library.cells[kind]["energies"] for kind in flat.gates):
        raise LibertyError(
            "the library has no internal_power tables for the cells of this design, so its power is not known: "
            "use one that is characterised for power"
        )
    if not any(library.cells[kind]["leakage"] for kind in flat.gates):
        raise LibertyError("the library has no leakage for the cells of this design, so its power is not known")
    [root] = flat.ports[clock][1].tolist()
    loads = _loads(flat, library)
    gate_number = np.full(flat.nets, -1)
    clocks = [root]
    first = 0
    for kind, rows in flat.gates.items():
        if library.cells[kind]["clock_gate"]:
            outputs = rows[:, flat.pins[kind].index(library.cells[kind]["clock_gate"]["output"])]
            gate_number[outputs] = first + np.arange(len(outputs))
            first += len(outputs)
            clocks += outputs.tolist()
    slews = _transitions(flat, library, loads, clocks)
    is_clock = np.zeros(flat.nets, bool)
    is_clock[clocks] = True

    count, square = len(flat.names), library.voltage**2
    energy, block = np.zeros(flat.nets), np.zeros(flat.nets, np.int8)
    clock_energy = np.zeros(count)
    gate_energy, gate_block = np.zeros(first), np.zeros(first, np.int8)
    for kind, rows in flat.gates.items():
        cell, columns = library.cells[kind], {pin: index for index, pin in enumerate(flat.pins[kind])}
        blocks = flat.blocks[kind]
        for pin, column in columns.items():
            nets = rows[:, column]
            internal = np.zeros(len(rows))
            found = _toggle_tables([entry for entry in cell["energies"] if entry[0] == pin], cell, both_edges)
            for related, tables in found:
                sources = [columns[name] for name in related if name in columns] or [column]
                internal += _evaluate(tables, slews[rows[:, sources]].mean(axis=1), loads[nets])
            special = cell["flip_flop"] or cell["clock_gate"]
            if cell["pins"][pin] == "output":
                if cell["flip_flop"]:  # an open output toggles with the other one
                    ends = [columns[name] for name in cell["flip_flop"]["outputs"] if name in columns]
                    nets = np.where(nets > 1, nets, rows[:, ends].max(axis=1))
                    charge = 0.5 * loads[nets] * square * (rows[:, column] > 1)
                else:
                    charge = 0.5 * loads[nets] * square
                if found and not both_edges:
                    internal /= len(found)
                if cell["clock_gate"]:
                    gate_energy[gate_number[nets]] += 2 * internal + loads[nets] * square
                    gate_block[gate_number[nets]] = blocks
                else:
                    energy += np.bincount(nets, internal + charge, minlength=flat.nets)
                    block[nets] = blocks
            elif special and pin == special["clock"]:  # a cycle has two edges
                behind = gate_number[nets]
                gate_energy += np.bincount(behind[behind >= 0], 2 * internal[behind >= 0], minlength=first)
                both = (2 * internal + cell["capacitance"][pin] * square)[behind < 0]
                clock_energy += np.bincount(blocks[behind < 0], both, minlength=count)
            else:
                energy += np.bincount(nets, internal, minlength=flat.nets)
    energy[:2] = 0
    energy[is_clock] = 0
    half = np.full(flat.nets, 0.5)
    half[:2] = 0, 1
    return PowerModel(
        flat.names,
        energy,
        block,
        clock_energy,
        gate_energy,
        gate_block,
        leakage(flat, library, half),
    )


def leakage(flat, library, duty):
    """(blocks,) W of leakage when each net is 1 for the part ``duty`` of the time."""
    total = np.zeros(len(flat.names))
    for kind, rows in flat.gates.items():
        columns = {pin: index for index, pin in enumerate(flat.pins[kind])}
        states = [(condition, watt) for condition, watt in library.cells[kind]["leakage"] if condition is not None]
        plain = [watt for condition, watt in library.cells[kind]["leakage"] if condition is None]
        if states:
            chances = [_probability(condition, duty, columns, rows) for condition, _ in states]
            known = np.sum(chances, axis=0)
            watts = sum(chance * watt for chance, (_, watt) in zip(chances, states, strict=True))
            mean = plain[0] if plain else np.mean([watt for _, watt in states])
            watts = watts + np.maximum(1 - known, 0) * mean
            watts = np.where(known > 1, watts / np.maximum(known, 1e-9), watts)  # conditions that overlap
        else:
            watts = np.full(len(rows), plain[0] if plain else 0.0)
        total += np.bincount(flat.blocks[kind], watts, minlength=len(flat.names))
    return total
