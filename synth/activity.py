"""Gate-level simulation of a mapped core: how often each net toggles on real weights and activations.

Event by event, every gate with a delay of one unit, so that glitches count; what a net does from cycle to cycle,
without glitches, is counted beside it. Compiled by numba: a core of 200,000 gates runs some hundred cycles a second,
where Icarus takes seconds for a cycle. The clock, and clocks behind clock gates, are ideal.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from hdl.config import MvqError

__all__ = ["IDLE_CYCLES", "RESET_CYCLES", "Activity", "Circuit", "StimulusError", "Streams", "circuit_of", "simulate"]

#: inputs that a gate may have.
_INPUTS = 6
#: units of delay after which a cycle must have settled.
_LONGEST = 10_000


class StimulusError(MvqError):
    """A core that does not do what was asked of it."""


@dataclass(frozen=True)
class Circuit:
    """Gates as the simulator takes them.

    Attributes
    ----------
    nets : number of nets.
    tables, sources, targets : of each function of a gate: truth table, input nets, output net.
    fan_starts, fan_functions : functions that read net i are ``fan_functions[fan_starts[i]:fan_starts[i + 1]]``.
    data, outputs, inverses : nets of each flip-flop, sorted by clock; 0 for an output that it has not.
    gate_starts : flip-flops of clock gate i are ``gate_starts[i + 1]`` to ``gate_starts[i + 2]``; those before
        ``gate_starts[1]`` have the clock itself.
    enables : nets that open each clock gate (two, or one twice).
    """

    nets: int
    tables: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    fan_starts: np.ndarray
    fan_functions: np.ndarray
    data: np.ndarray
    outputs: np.ndarray
    inverses: np.ndarray
    gate_starts: np.ndarray
    enables: np.ndarray


def circuit_of(flat, library, clock="clk"):
    """:class:`Circuit` of a flattened core.

    Parameters
    ----------
    flat : :class:`synth.netlist.Flat`. ``library`` : :class:`synth.cells.CellLibrary`.
    clock : name of the clock port.

    Raises
    ------
    MvqError : a cell that cannot be simulated; names it.
    """
    [root] = flat.ports[clock][1].tolist()
    tables, sources, targets = [], [], []
    gate_outputs, enables = [], []
    registers = []
    for kind, rows in flat.gates.items():
        cell, column = library.cells[kind], {pin: index for index, pin in enumerate(flat.pins[kind])}
        if cell["clock_gate"]:
            gate = cell["clock_gate"]
            if gate["kind"].replace("_precontrol", "").replace("_postcontrol", "") != "latch_posedge":
                raise MvqError(f"the clock gate {kind} is a {gate['kind']}; only latch_posedge can be simulated")
            if not (rows[:, column[gate["clock"]]] == root).all():
                raise MvqError(
                    f"a clock gate {kind} has another clock than {clock}: one behind another is not simulated"
                )
            pins = [column[pin] for pin in gate["enables"]]
            gate_outputs.append(rows[:, column[gate["output"]]])
            enables.append(rows[:, [pins[0], pins[-1]]])
        elif cell["flip_flop"]:
            registers.append((kind, cell["flip_flop"], rows, column))
        elif cell["latch"]:
            raise MvqError(f"the cell {kind} is a latch, and latches are not simulated: use clock_gated register files")
        else:
            for pin, (inputs, table) in cell["functions"].items():
                if len(inputs) > _INPUTS:
                    raise MvqError(
                        f"the cell {kind} has {len(inputs)} inputs; gates of up to {_INPUTS} can be simulated"
                    )
                wide = np.zeros((len(rows), _INPUTS), np.int32)
                wide[:, : len(inputs)] = rows[:, [column[name] for name in inputs]]
                sources.append(wide)
                targets.append(rows[:, column[pin]])
                tables.append(np.full(len(rows), table, np.uint64))
    gate_outputs = np.concatenate(gate_outputs) if gate_outputs else np.zeros(0, np.int32)
    number = np.full(flat.nets, -2, np.int64)
    number[root] = -1
    number[gate_outputs] = np.arange(len(gate_outputs))
    parts = []
    for kind, register, rows, column in registers:
        pins, table = register["data"]
        if not register["rising"] or table != 0b10:
            raise MvqError(f"the flip-flop {kind} is not a plain one with a rising clock, and cannot be simulated")
        for name in ("clear", "preset"):
            if register[name]:
                controls, active = register[name]
                lines = sum((rows[:, column[pin]].astype(np.int64) << bit) for bit, pin in enumerate(controls))
                if (rows[:, [column[pin] for pin in controls]] > 1).any() or (active >> lines & 1).any():
                    raise MvqError(f"a flip-flop {kind} has an asynchronous {name}, which is not simulated")
        direct = [rows[:, column[pin]] for pin, true in register["outputs"].items() if true and pin in column]
        inverse = [rows[:, column[pin]] for pin, true in register["outputs"].items() if not true and pin in column]
        none = np.zeros(len(rows), np.int32)
        parts.append(
            (
                number[rows[:, column[register["clock"]]]],
                rows[:, column[pins[0]]],
                direct[0] if direct else none,
                inverse[0] if inverse else none,
            )
        )
    clocks, data, outputs, inverses = (np.concatenate(part) for part in zip(*parts, strict=True))
    if (clocks == -2).any():
        raise MvqError("a flip-flop is clocked by neither the clock nor a clock gate")
    order = np.argsort(clocks, kind="stable")
    gate_starts = np.searchsorted(clocks[order], np.arange(-1, len(gate_outputs) + 1))
    sources, targets, tables = (np.concatenate(part) for part in (sources, targets, tables))
    starts, functions = _fans(sources, flat.nets)
    return Circuit(
        flat.nets,
        tables,
        sources,
        targets.astype(np.int32),
        starts,
        functions,
        data[order].astype(np.int32),
        outputs[order].astype(np.int32),
        inverses[order].astype(np.int32),
        gate_starts.astype(np.int64),
        np.concatenate(enables).astype(np.int32) if enables else np.zeros((0, 2), np.int32),
    )


def _fans(sources, nets):
    """Functions that read each net, one after another, and where those of each net begin."""
    functions, columns = np.nonzero(sources > 1)
    read = sources[functions, columns]
    order = np.argsort(read, kind="stable")
    starts = np.zeros(nets + 1, np.int64)
    np.cumsum(np.bincount(read, minlength=nets), out=starts[1:])
    return starts, functions[order].astype(np.int32)


@dataclass(frozen=True)
class Streams:
    """What a core's streams carry, as bits, least significant first.

    Attributes
    ----------
    inputs : name -> uint8 (words, bits).
    outputs : words that are to come out of ``ofmap`` before the simulation ends.
    """

    inputs: dict
    outputs: int


@dataclass(frozen=True)
class Activity:
    """What a simulation counted.

    Attributes
    ----------
    cycles : clock cycles.
    toggles, settled : changes of each net, with and without glitches.
    high : cycles in which each net ended as 1.
    opened : cycles in which each clock gate was open.
    energy : float64 (cycles, 2, blocks), of the toggles in each cycle, with and without glitches; clocks left out.
    gate_energy : float64 (cycles, blocks), of the clocks behind clock gates.
    taken : bool (cycles, streams): a word of that stream was taken; the last one is ``ofmap``.
    computing : bool (cycles,).
    ofmap : uint8 (words, bits) that came out.
    """

    cycles: int
    toggles: np.ndarray
    settled: np.ndarray
    high: np.ndarray
    opened: np.ndarray
    energy: np.ndarray
    gate_energy: np.ndarray
    taken: np.ndarray
    computing: np.ndarray
    ofmap: np.ndarray


STREAMS = ("command", "weights", "ifmap", "psum_in")
RESET_CYCLES = 2
#: cycles after the last ofmap vector, in which nothing moves.
IDLE_CYCLES = 64


def simulate(flat, circuit, streams, energies=None, gate_energies=None, most_cycles=100_000):
    """Run a core.

    Parameters
    ----------
    flat : :class:`synth.netlist.Flat` of the core. ``circuit`` : its :class:`Circuit`.
    streams : :class:`Streams`. Inputs are offered without pause, and ``ofmap`` is always taken.
    energies : (energy of a toggle of each net, block of each net), or None.
    gate_energies : (energy of a cycle of the clock behind each clock gate, its block), or None.
    most_cycles : the simulation fails when it takes more.

    Returns
    -------
    :class:`Activity`

    Raises
    ------
    StimulusError : a combinational loop, or fewer words come out than asked for.
    """
    gates = len(circuit.enables)
    energies = energies or (np.zeros(circuit.nets), np.zeros(circuit.nets, np.int8))
    gate_energies = gate_energies or (np.zeros(gates), np.zeros(gates, np.int8))
    net = {name: nets for name, (_, nets) in flat.ports.items()}
    data = [np.ascontiguousarray(streams.inputs.get(name, np.zeros((0, 0), np.uint8))) for name in STREAMS]
    words, buses, valids, readies = [], [], [], []
    for name, bits in zip(STREAMS, data, strict=True):
        payload = _payload(net, name)
        if len(bits) and bits.shape[1] != len(payload):
            raise StimulusError(f"stream {name}: words have {bits.shape[1]} bits, but the core's have {len(payload)}")
        buses.append(payload)
        words.append(bits if len(bits) else np.zeros((0, len(payload)), np.uint8))
        valids.append(net[f"{name}__valid"][0])
        readies.append(net[f"{name}__ready"][0])
    log = _run(
        circuit.tables,
        circuit.sources,
        circuit.targets,
        circuit.fan_starts,
        circuit.fan_functions,
        circuit.data,
        circuit.outputs,
        circuit.inverses,
        circuit.gate_starts,
        circuit.enables,
        np.array(valids, np.int32),
        np.array(readies, np.int32),
        np.concatenate(buses).astype(np.int32),
        np.cumsum([0, *map(len, buses)]),
        np.concatenate([bits.reshape(-1) for bits in words]),
        np.array([len(bits) for bits in words]),
        tuple(int(net[name][0]) for name in ("rst", "ofmap__ready", "ofmap__valid", "computing")),
        _payload(net, "ofmap").astype(np.int32),
        (streams.outputs, most_cycles, len(flat.names)),
        *(np.ascontiguousarray(part) for part in (*energies, *gate_energies)),
    )
    cycles, toggles, settled, high, opened, energy, gate_energy, taken, computing, ofmap = log
    if cycles < 0:
        raise StimulusError(f"the gates do not settle within {_LONGEST} delays: there is a combinational loop")
    if len(ofmap) < streams.outputs:
        raise StimulusError(f"only {len(ofmap)} of {streams.outputs} ofmap vectors came out in {most_cycles} cycles")
    return Activity(cycles, toggles, settled, high, opened, energy, gate_energy, taken, computing, ofmap)


def _payload(net, stream):
    """Nets of a stream's payload, in the order of its fields."""
    names = [name for name in net if name == f"{stream}__payload" or name.startswith(f"{stream}__payload__")]
    return np.concatenate([net[name] for name in names])


@njit(cache=True)
def _run(
    tables,
    sources,
    targets,
    fan_starts,
    fan_functions,
    data,
    outputs,
    inverses,
    gate_starts,
    enables,
    valids,
    readies,
    bus,
    bus_starts,
    bits,
    word_counts,
    ports,
    result,
    limits,
    net_energy,
    net_block,
    clock_energy,
    clock_block,
):
    rst, result_ready, result_valid, computing_net = ports
    wanted, most_cycles, blocks = limits
    nets, functions, gates, streams = len(fan_starts) - 1, len(targets), len(enables), len(valids)
    values = np.zeros(nets, np.uint8)
    values[1] = 1
    started = np.zeros(nets, np.uint8)  # values at the start of the cycle, of nets in touched
    is_touched = np.zeros(nets, np.bool_)
    touched = np.zeros(nets, np.int32)
    toggles, settled = np.zeros(nets, np.int64), np.zeros(nets, np.int64)
    high, since = np.zeros(nets, np.int64), np.zeros(nets, np.int64)
    opened = np.zeros(gates, np.int64)
    energy = np.zeros((most_cycles, 2, blocks))
    gate_energy = np.zeros((most_cycles, blocks))
    taken = np.zeros((most_cycles, streams + 1), np.bool_)
    computing = np.zeros(most_cycles, np.bool_)
    found = np.zeros((wanted, len(result)), np.uint8)
    pointers = np.zeros(streams, np.int64)
    base = np.zeros(streams, np.int64)
    for s in range(1, streams):
        base[s] = base[s - 1] + word_counts[s - 1] * (bus_starts[s] - bus_starts[s - 1])
    queued = np.zeros(functions, np.bool_)
    queue, changed = np.zeros(functions, np.int32), np.zeros(nets, np.int32)
    sampled = np.zeros(len(data), np.uint8)
    count, out, cycle = 0, 0, 0

    # power-up: everything is evaluated once
    for f in range(functions):
        queue[f] = f
        queued[f] = True
    waiting = functions
    last = most_cycles
    while cycle < last:
        # 1. what changes at the clock edge: registers (after the first cycle), then inputs
        changes = 0
        if cycle > 0:
            for group in range(gates + 1):
                if group > 0:
                    g = group - 1
                    if not (values[enables[g, 0]] or values[enables[g, 1]]):
                        continue
                    opened[g] += 1
                    gate_energy[cycle, clock_block[g]] += clock_energy[g]
                for r in range(gate_starts[group], gate_starts[group + 1]):
                    sampled[r] = values[data[r]]
            for group in range(gates + 1):
                if group > 0 and not (values[enables[group - 1, 0]] or values[enables[group - 1, 1]]):
                    continue
                for r in range(gate_starts[group], gate_starts[group + 1]):
                    if outputs[r] > 1 and values[outputs[r]] != sampled[r]:
                        changed[changes] = outputs[r]
                        changes += 1
                    if inverses[r] > 1 and values[inverses[r]] == sampled[r]:
                        changed[changes] = inverses[r]
                        changes += 1
        reset = np.uint8(cycle < RESET_CYCLES)
        if values[rst] != reset:
            changed[changes] = rst
            changes += 1
        if values[result_ready] == reset:
            changed[changes] = result_ready
            changes += 1
        for s in range(streams):
            offered = np.uint8(reset == 0 and pointers[s] < word_counts[s])
            if values[valids[s]] != offered:
                changed[changes] = valids[s]
                changes += 1
            if offered:
                width = bus_starts[s + 1] - bus_starts[s]
                word = base[s] + pointers[s] * width
                for b in range(width):
                    n = bus[bus_starts[s] + b]
                    if values[n] != bits[word + b]:
                        changed[changes] = n
                        changes += 1
        # 2. the wave: nets change together, then every gate that reads one of them is evaluated
        count = 0
        for wave in range(_LONGEST + 1):
            for i in range(changes):
                n = changed[i]
                if not is_touched[n]:
                    is_touched[n] = True
                    started[n] = values[n]
                    touched[count] = n
                    count += 1
                values[n] ^= 1
                toggles[n] += 1
                energy[cycle, 0, net_block[n]] += net_energy[n]
                for k in range(fan_starts[n], fan_starts[n + 1]):
                    f = fan_functions[k]
                    if not queued[f]:
                        queued[f] = True
                        queue[waiting] = f
                        waiting += 1
            if waiting == 0:
                break
            changes = 0
            for i in range(waiting):
                f = queue[i]
                queued[f] = False
                index = np.uint64(0)
                for k in range(_INPUTS):
                    index |= np.uint64(values[sources[f, k]]) << np.uint64(k)
                value = np.uint8((tables[f] >> index) & np.uint64(1))
                if value != values[targets[f]]:
                    changed[changes] = targets[f]
                    changes += 1
            waiting = 0
            if wave == _LONGEST:
                return -1, toggles, settled, high, opened, energy, gate_energy, taken, computing, found
        for i in range(count):
            n = touched[i]
            is_touched[n] = False
            if values[n] != started[n]:
                settled[n] += 1
                energy[cycle, 1, net_block[n]] += net_energy[n]
                if started[n]:
                    high[n] += cycle - since[n]
                since[n] = cycle
        # 3. who takes a word at the next edge
        for s in range(streams):
            if values[valids[s]] and values[readies[s]]:
                taken[cycle, s] = True
                pointers[s] += 1
        if out < wanted and values[result_valid] and values[result_ready]:
            taken[cycle, streams] = True
            for b in range(len(result)):
                found[out, b] = values[result[b]]
            out += 1
            if out == wanted:
                last = min(most_cycles, cycle + 1 + IDLE_CYCLES)
        computing[cycle] = values[computing_net] != 0
        cycle += 1
    for n in range(nets):
        if values[n]:
            high[n] += cycle - since[n]
    return (
        cycle,
        toggles,
        settled,
        high,
        opened,
        energy[:cycle],
        gate_energy[:cycle],
        taken[:cycle],
        computing[:cycle],
        found[:out],
    )
