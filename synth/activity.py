"""Gate-level simulation of a mapped core: how often each net toggles on real weights and activations.

Every gate has a delay of one unit, so that glitches count; what a net does from cycle to cycle, without glitches, is
counted beside it. The clock, and clocks behind clock gates, are ideal.

64 cycles, a *bundle*, are simulated at once, one in each bit of a word. First the values with which each cycle ends are
found: gates and registers are evaluated until nothing changes, which is unique, since a cycle depends only on those
before it. The part that decides which words the streams take comes first, again and again until it agrees with the
words that it is given; all else follows once. Then the cycles are independent of each other, and waves of changes, a
unit of delay each, lead from the values of the cycle before to those of the cycle. Compiled by numba: a core of 200,000
gates runs some thousand cycles a second, where Icarus takes seconds for a cycle.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from hdl.config import MvqError

__all__ = ["WINDOW", "Activity", "Circuit", "StimulusError", "Streams", "circuit_of", "simulate"]

#: inputs that a gate may have.
_INPUTS = 6
#: cycles of which the energy is added up.
WINDOW = 32
#: cycles that are simulated at once.
_BUNDLE = 64


class StimulusError(MvqError):
    """A core that does not do what was asked of it."""


@dataclass(frozen=True)
class Circuit:
    """Gates as the simulator takes them.

    Attributes
    ----------
    nets : number of nets.
    tables, inputs, sources, targets : of each function of a gate: truth table, number of inputs, input nets, output
        net. No function reads one that comes later.
    controls : the first functions, so many, and ``register_order[:control_registers]`` decide whether streams are
        ready, with what they depend on.
    fan_starts, fan_nodes : what reads net i is ``fan_nodes[fan_starts[i]:fan_starts[i + 1]]``: functions, then
        flip-flops, then clock gates, numbered through.
    data, outputs, inverses : nets of each flip-flop, sorted by clock; 0 for an output that it has not.
    gate_starts : flip-flops of clock gate i are ``gate_starts[i + 1]`` to ``gate_starts[i + 2]``; those before
        ``gate_starts[1]`` have the clock itself.
    enables : nets that open each clock gate (two, or one twice).
    """

    nets: int
    tables: np.ndarray
    inputs: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    controls: int
    register_order: np.ndarray
    control_registers: int
    fan_starts: np.ndarray
    fan_nodes: np.ndarray
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
    StimulusError : a combinational loop.
    """
    [root] = flat.ports[clock][1].tolist()
    tables, inputs, sources, targets = [], [], [], []
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
            for pin, (names, table) in cell["functions"].items():
                if len(names) > _INPUTS:
                    raise MvqError(
                        f"the cell {kind} has {len(names)} inputs; gates of up to {_INPUTS} can be simulated"
                    )
                used = rows[rows[:, column[pin]] > 1]  # the others' outputs are open
                wide = np.zeros((len(used), _INPUTS), np.int32)
                wide[:, : len(names)] = used[:, [column[name] for name in names]]
                sources.append(wide)
                targets.append(used[:, column[pin]])
                tables.append(np.full(len(used), table, np.uint64))
                inputs.append(np.full(len(used), len(names), np.int8))
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
    data, outputs, inverses = (part[order].astype(np.int32) for part in (data, outputs, inverses))
    gate_starts = np.searchsorted(clocks[order], np.arange(-1, len(gate_outputs) + 1)).astype(np.int64)
    enables = np.concatenate(enables).astype(np.int32) if enables else np.zeros((0, 2), np.int32)
    tables, inputs, sources, targets = (np.concatenate(part) for part in (tables, inputs, sources, targets))
    readies = np.array([flat.ports[f"{name}__ready"][1][0] for name in STREAMS], np.int32)
    drivers = sources, targets, data, outputs, inverses
    is_control, registers = _controls(flat.nets, readies, *drivers, gate_starts, enables)
    order = _sorted(*_fans(flat.nets, sources), sources, targets)
    if len(order) < len(targets):
        raise StimulusError(f"{len(targets) - len(order)} gates are in a combinational loop, or behind one")
    order = order[np.argsort(~is_control[order], kind="stable")]
    tables, inputs, sources, targets = (part[order] for part in (tables, inputs, sources, targets))
    starts, nodes = _fans(flat.nets, sources, data[:, None], enables)
    return Circuit(
        flat.nets,
        tables,
        inputs,
        sources,
        targets.astype(np.int32),
        int(is_control.sum()),
        np.argsort(~registers, kind="stable"),
        int(registers.sum()),
        starts,
        nodes,
        data,
        outputs,
        inverses,
        gate_starts,
        enables,
    )


def _fans(nets, *readers):
    """Where the readers of each net begin, and the readers, one net after another.

    ``readers`` : arrays (nodes, nets that they read), whose nodes are numbered through.
    """
    read, nodes, first = [], [], 0
    for sources in readers:
        rows, columns = np.nonzero(sources > 1)
        read.append(sources[rows, columns])
        nodes.append(first + rows)
        first += len(sources)
    read, nodes = np.concatenate(read), np.concatenate(nodes)
    starts = np.zeros(nets + 1, np.int64)
    np.cumsum(np.bincount(read, minlength=nets), out=starts[1:])
    return starts, nodes[np.argsort(read, kind="stable")].astype(np.int32)


@njit(cache=True)
def _sorted(fan_starts, fan_nodes, sources, targets):
    """Functions in an order in which none reads what a later one drives; those in loops, and behind, are left out."""
    driven = np.zeros(len(fan_starts) - 1, np.bool_)
    for f in range(len(targets)):
        driven[targets[f]] = True
    missing = np.zeros(len(targets), np.int8)
    stack, order = np.zeros(len(targets), np.int32), np.zeros(len(targets), np.int32)
    depth, count = 0, 0
    for f in range(len(targets) - 1, -1, -1):
        for k in range(sources.shape[1]):
            missing[f] += sources[f, k] > 1 and driven[sources[f, k]]
        if missing[f] == 0:
            stack[depth] = f
            depth += 1
    while depth:
        depth -= 1
        f = stack[depth]
        order[count] = f
        count += 1
        for k in range(fan_starts[targets[f]], fan_starts[targets[f] + 1]):
            reader = fan_nodes[k]
            missing[reader] -= 1
            if missing[reader] == 0:
                stack[depth] = reader
                depth += 1
    return order[:count]


@njit(cache=True)
def _controls(nets, ends, sources, targets, data, outputs, inverses, gate_starts, enables):
    """(bool of functions, bool of flip-flops): those on which the nets ``ends`` depend, through registers, too."""
    function, register = np.full(nets, -1, np.int32), np.full(nets, -1, np.int32)
    function[targets] = np.arange(len(targets))
    gate = np.full(len(data), -1, np.int32)
    for g in range(len(enables)):
        gate[gate_starts[g + 1] : gate_starts[g + 2]] = g
    for r in range(len(data)):
        register[outputs[r]] = r
        register[inverses[r]] = r
    functions, registers = np.zeros(len(targets), np.bool_), np.zeros(len(data), np.bool_)
    reached = np.zeros(nets, np.bool_)
    reached[:2] = True
    stack, depth = np.zeros(nets, np.int32), 0
    for n in ends:
        if not reached[n]:
            reached[n] = True
            stack[depth] = n
            depth += 1
    before = np.zeros(sources.shape[1], np.int32)
    while depth:
        depth -= 1
        n = stack[depth]
        before[:] = 0
        if function[n] >= 0:
            functions[function[n]] = True
            before[:] = sources[function[n]]
        elif register[n] >= 0:
            registers[register[n]] = True
            before[0] = data[register[n]]
            if gate[register[n]] >= 0:
                before[1:3] = enables[gate[register[n]]]
        for source in before:
            if not reached[source]:
                reached[source] = True
                stack[depth] = source
                depth += 1
    return functions, registers


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
    """What a simulation counted, after reset.

    Attributes
    ----------
    cycles : clock cycles, a multiple of :data:`WINDOW`.
    toggles, settled : changes of each net, with and without glitches.
    high : cycles in which each net ended as 1.
    energy : float64 (windows, 2, blocks), of the toggles in each window of :data:`WINDOW` cycles, with and without
        glitches; clocks left out. Nothing moves in the last one.
    gate_energy : float64 (windows, blocks), of the clocks behind clock gates.
    taken : bool (cycles, streams): a word of that stream was taken; the last one is ``ofmap``.
    computing : bool (cycles,).
    ofmap : uint8 (words, bits) that came out.
    """

    cycles: int
    toggles: np.ndarray
    settled: np.ndarray
    high: np.ndarray
    energy: np.ndarray
    gate_energy: np.ndarray
    taken: np.ndarray
    computing: np.ndarray
    ofmap: np.ndarray


STREAMS = ("command", "weights", "ifmap", "psum_in")


def simulate(flat, circuit, streams, energies=None, gate_energies=None, most_cycles=100_000):
    """Run a core.

    Parameters
    ----------
    flat : :class:`synth.netlist.Flat` of the core. ``circuit`` : its :class:`Circuit`.
    streams : :class:`Streams`. Inputs are offered without pause, and ``ofmap`` is always taken.
    energies : (energy of a toggle of each net, block of each net), or None.
    gate_energies : (energy of a cycle of the clock behind each clock gate, its block), or None.
    most_cycles : the simulation fails when it takes more (up to a bundle).

    Returns
    -------
    :class:`Activity`

    Raises
    ------
    StimulusError : fewer words come out than asked for.
    """
    gates = len(circuit.enables)
    energies = energies or (np.zeros(circuit.nets), np.zeros(circuit.nets, np.int8))
    gate_energies = gate_energies or (np.zeros(gates), np.zeros(gates, np.int8))
    net = {name: nets for name, (_, nets) in flat.ports.items()}
    words, buses, valids, readies = [], [], [], []
    for name in STREAMS:
        payload = _payload(net, name)
        bits = streams.inputs.get(name)
        if bits is None:
            bits = np.zeros((0, len(payload)), np.uint8)
        if bits.shape[1] != len(payload):
            raise StimulusError(f"stream {name}: words have {bits.shape[1]} bits, but the core's have {len(payload)}")
        buses.append(payload)
        words.append(bits)
        valids.append(net[f"{name}__valid"][0])
        readies.append(net[f"{name}__ready"][0])
    found = _run(
        circuit.tables,
        circuit.inputs,
        circuit.sources,
        circuit.targets,
        circuit.controls,
        circuit.register_order,
        circuit.control_registers,
        circuit.fan_starts,
        circuit.fan_nodes,
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
        (streams.outputs, -(-most_cycles // _BUNDLE), len(flat.names)),
        *(np.ascontiguousarray(part) for part in (*energies, *gate_energies)),
    )
    activity = Activity(len(found[-2]), *found)
    if len(activity.ofmap) < streams.outputs:
        raise StimulusError(
            f"only {len(activity.ofmap)} of {streams.outputs} ofmap vectors came out in {activity.cycles} cycles"
        )
    return activity


def _payload(net, stream):
    """Nets of a stream's payload, in the order of its fields."""
    names = [name for name in net if name == f"{stream}__payload" or name.startswith(f"{stream}__payload__")]
    return np.concatenate([net[name] for name in names])


_NONE, _ALL = np.uint64(0), np.uint64(2**64 - 1)
_ONE, _LAST = np.uint64(1), np.uint64(_BUNDLE - 1)


@njit(cache=True, inline="always")
def _choose(one, zero, by):
    return (by & one) | (~by & zero)


@njit(cache=True)
def _pair(table, a, b):
    """The function of two inputs with a truth table of four bits, in each bit of the words ``a`` and ``b``."""
    low = _choose(_NONE - (table >> _ONE & _ONE), _NONE - (table & _ONE), a)
    high = _choose(_NONE - (table >> np.uint64(3) & _ONE), _NONE - (table >> np.uint64(2) & _ONE), a)
    return _choose(high, low, b)


@njit(cache=True)
def _four(table, inputs, a, b, c, d):
    low = _pair(table, a, b)
    if inputs > 2:
        low = _choose(_pair(table >> np.uint64(4), a, b), low, c)
    if inputs > 3:
        high = _choose(_pair(table >> np.uint64(12), a, b), _pair(table >> np.uint64(8), a, b), c)
        low = _choose(high, low, d)
    return low


@njit(cache=True)
def _value(f, tables, inputs, sources, values):
    """Word of function ``f``."""
    table, count = tables[f], inputs[f]
    a, b, c, d = values[sources[f, 0]], values[sources[f, 1]], values[sources[f, 2]], values[sources[f, 3]]
    word = _four(table, count, a, b, c, d)
    if count > 4:
        e, g = values[sources[f, 4]], values[sources[f, 5]]
        word = _choose(_four(table >> np.uint64(16), 4, a, b, c, d), word, e)
        if count > 5:
            high = _four(table >> np.uint64(48), 4, a, b, c, d)
            word = _choose(_choose(high, _four(table >> np.uint64(32), 4, a, b, c, d), e), word, g)
    return word


@njit(cache=True)
def _ones(word):
    """(bits that are 1 in the lower half of a word, those in the upper half)."""
    word = word - (word >> _ONE & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (word >> np.uint64(2) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    word = word + (word >> np.uint64(8))
    word = word + (word >> np.uint64(16))
    return np.int64(word & np.uint64(0xFF)), np.int64(word >> np.uint64(32) & np.uint64(0xFF))


@njit(cache=True)
def _held(data, opened, state):
    """Word of a flip-flop that starts as ``state`` and takes ``data`` at the end of the cycles in ``opened``."""
    known = (opened << _ONE) | _ONE
    word = ((data & opened) << _ONE) | state
    for steps in (1, 2, 4, 8, 16, 32):
        if known == _ALL:
            break
        shift = np.uint64(steps)
        word |= (word << shift) & ~known
        known |= known << shift
    return word


@njit(cache=True)
def _put(net, word, values, circuit, pending):
    """Give a net a word, and mark what reads it."""
    if values[net] == word:
        return
    values[net] = word
    fan_starts, fan_nodes, first_register, first_gate, gate_starts = circuit
    for k in range(fan_starts[net], fan_starts[net + 1]):
        node = fan_nodes[k]
        if node < first_gate:
            pending[node] = True
        else:
            gate = node - first_gate
            pending[first_register + gate_starts[gate + 1] : first_register + gate_starts[gate + 2]] = True


@njit(cache=True)
def _run(
    tables,
    inputs,
    sources,
    targets,
    controls,
    register_order,
    control_registers,
    fan_starts,
    fan_nodes,
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
    wanted, most_bundles, blocks = limits
    nets, functions, registers, streams = len(fan_starts) - 1, len(targets), len(data), len(valids)
    gates = len(enables)
    halves = _BUNDLE // WINDOW
    circuit = (fan_starts, fan_nodes, functions, functions + registers, gate_starts)
    values = np.zeros(nets, np.uint64)  # with which cycles end, a bit for each of them
    values[1] = _ALL
    wave = np.zeros(nets, np.uint64)  # on the way from the cycle before to this one
    before = np.zeros(nets, np.uint64)  # value at the end of the last bundle
    flips = np.zeros(nets, np.uint64)
    kept, state = np.zeros(registers, np.uint64), np.zeros(registers, np.uint64)
    opened, was_open = np.full(gates + 1, _ALL), np.zeros(gates + 1, np.uint64)
    pending = np.ones(functions + registers, np.bool_)
    gate_of = np.zeros(registers, np.int32)
    for group in range(gates + 1):
        gate_of[gate_starts[group] : gate_starts[group + 1]] = group
    toggles, settled, high = np.zeros(nets, np.int64), np.zeros(nets, np.int64), np.zeros(nets, np.int64)
    energy = np.zeros((halves * most_bundles, 2, blocks))
    gate_energy = np.zeros((halves * most_bundles, blocks))
    taken = np.zeros((_BUNDLE * most_bundles, streams + 1), np.bool_)
    computing = np.zeros(_BUNDLE * most_bundles, np.bool_)
    found = np.zeros((wanted, len(result)), np.uint8)
    pointers, ends, base = np.zeros(streams, np.int64), np.zeros(streams, np.int64), np.zeros(streams, np.int64)
    for s in range(1, streams):
        base[s] = base[s - 1] + word_counts[s - 1] * (bus_starts[s] - bus_starts[s - 1])
    widest = 0
    for s in range(streams):
        widest = max(widest, bus_starts[s + 1] - bus_starts[s])
    offered = np.zeros(widest, np.uint64)
    ready = np.zeros(streams, np.uint64)
    queued = np.zeros(functions, np.bool_)
    queue, changed = np.zeros(functions, np.int32), np.zeros(nets, np.int32)
    out, bundles = 0, 0
    for bundle in range(-1, most_bundles):  # the first one is reset, and not counted
        resetting = bundle < 0
        _put(rst, _ALL if resetting else _NONE, values, circuit, pending)
        _put(result_ready, _NONE if resetting else _ALL, values, circuit, pending)
        pending[functions:] = True
        # 1. what streams carry, and what is ready to take it, until they agree
        agreed, whole = False, False
        while not whole:
            whole = agreed
            if not agreed:
                for s in range(streams):
                    ready[s] = values[readies[s]]
                    width, pointer, valid = bus_starts[s + 1] - bus_starts[s], pointers[s], _NONE
                    offered[:width] = 0
                    for t in range(_BUNDLE):
                        if resetting or word_counts[s] == 0:
                            break
                        word = base[s] + min(pointer, word_counts[s] - 1) * width  # the last one stays
                        for b in range(width):
                            offered[b] |= np.uint64(bits[word + b]) << np.uint64(t)
                        if pointer < word_counts[s]:
                            valid |= _ONE << np.uint64(t)
                            pointer += np.int64(ready[s] >> np.uint64(t) & _ONE)
                    ends[s] = pointer
                    _put(valids[s], valid, values, circuit, pending)
                    for b in range(width):
                        _put(bus[bus_starts[s] + b], offered[b], values, circuit, pending)
            # values of all cycles: of the part that decides what is ready; then, once they agree, of all
            last_function, last_register = (functions, registers) if whole else (controls, control_registers)
            moving = True
            while moving:
                moving = False
                for f in range(last_function):
                    if pending[f]:
                        pending[f] = False
                        moving = True
                        _put(targets[f], _value(f, tables, inputs, sources, values), values, circuit, pending)
                for i in range(last_register):
                    r = register_order[i]
                    if not pending[functions + r]:
                        continue
                    pending[functions + r] = False
                    moving = True
                    group = gate_of[r]
                    opens = values[enables[group - 1, 0]] | values[enables[group - 1, 1]] if group else _ALL
                    word = _held(values[data[r]], opens, state[r])
                    kept[r] = word
                    if outputs[r] > 1:
                        _put(outputs[r], word, values, circuit, pending)
                    if inverses[r] > 1:
                        _put(inverses[r], ~word, values, circuit, pending)
            agreed = True
            for s in range(streams):
                agreed &= values[readies[s]] == ready[s]
        # 2. state after the last cycle
        for group in range(1, gates + 1):
            opened[group] = values[enables[group - 1, 0]] | values[enables[group - 1, 1]]
        for r in range(registers):
            open_last = opened[gate_of[r]] >> _LAST
            state[r] = (values[data[r]] if open_last else kept[r]) >> _LAST
        pointers[:] = ends
        if resetting:
            for n in range(nets):
                before[n] = values[n] >> _LAST
            for group in range(1, gates + 1):
                was_open[group] = opened[group] >> _LAST
            continue
        # 3. waves: nets change together, then every gate that reads one of them is evaluated
        changes, waiting = 0, 0
        for n in range(nets):
            wave[n] = (values[n] << _ONE) | before[n]
            before[n] = values[n] >> _LAST
            flip = wave[n] ^ values[n]
            low, upper = _ones(flip)
            settled[n] += low + upper
            energy[halves * bundle, 1, net_block[n]] += low * net_energy[n]
            energy[halves * bundle + 1, 1, net_block[n]] += upper * net_energy[n]
            low, upper = _ones(values[n])
            high[n] += low + upper
            flips[n] = flip
        for f in range(functions):
            flips[targets[f]] = _NONE
        for n in range(2, nets):
            if flips[n]:
                changed[changes] = n
                changes += 1
        while changes:
            for i in range(changes):
                n = changed[i]
                flip = flips[n]
                wave[n] ^= flip
                low, upper = _ones(flip)
                toggles[n] += low + upper
                energy[halves * bundle, 0, net_block[n]] += low * net_energy[n]
                energy[halves * bundle + 1, 0, net_block[n]] += upper * net_energy[n]
                for k in range(fan_starts[n], fan_starts[n + 1]):
                    f = fan_nodes[k]
                    if f < functions and not queued[f]:
                        queued[f] = True
                        queue[waiting] = f
                        waiting += 1
            changes = 0
            for i in range(waiting):
                f = queue[i]
                queued[f] = False
                flip = _value(f, tables, inputs, sources, wave) ^ wave[targets[f]]
                if flip:
                    flips[targets[f]] = flip
                    changed[changes] = targets[f]
                    changes += 1
            waiting = 0
        for group in range(1, gates + 1):
            low, upper = _ones((opened[group] << _ONE) | was_open[group])
            was_open[group] = opened[group] >> _LAST
            block = clock_block[group - 1]
            gate_energy[halves * bundle, block] += low * clock_energy[group - 1]
            gate_energy[halves * bundle + 1, block] += upper * clock_energy[group - 1]
        # 4. what was taken
        done = out == wanted
        for t in range(_BUNDLE):
            at, lane = _BUNDLE * bundle + t, np.uint64(t)
            for s in range(streams):
                taken[at, s] = values[valids[s]] & values[readies[s]] & (_ONE << lane) != 0
            computing[at] = values[computing_net] >> lane & _ONE != 0
            if out < wanted and values[result_valid] >> lane & _ONE:
                taken[at, streams] = True
                for b in range(len(result)):
                    found[out, b] = values[result[b]] >> lane & _ONE
                out += 1
        bundles = bundle + 1
        if done:
            break
    return (
        toggles,
        settled,
        high,
        energy[: halves * bundles],
        gate_energy[: halves * bundles],
        taken[: _BUNDLE * bundles],
        computing[: _BUNDLE * bundles],
        found[:out],
    )
