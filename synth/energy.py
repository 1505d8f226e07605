"""Energy of a mapped core on real layers, and what an event costs in each of its blocks.

A simulation gives the energy of every block in every cycle. Where the array works and where weights are loaded overlap,
so the costs of events are fitted, for each block, by non-negative least squares over windows of as many cycles as an
event takes to pass through the array:

    energy = cycles * idle + issued * compute + codeword words * codebook + other words * load + ofmap vectors * vector

What a cycle costs is not fitted: it is leakage, the clock, and what toggles when nothing is done.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golden.traffic import COSTS
from synth import cache
from synth.cells import read_cells
from synth.netlist import BLOCKS, flatten

__all__ = ["EVENTS", "Stimulus", "event_counts", "mac_energy", "measure", "network_energy", "predict", "stimulus_of"]

#: what has a cost, in this order.
EVENTS = ("cycle", "issued", "codeword word", "weight word", "ofmap vector")
#: events that cannot move a block: without this, vectors that leave at a steady pace look like cycles of the array.
_UNMOVED = {
    **dict.fromkeys((name for name in BLOCKS.values() if name.startswith("array")), ("ofmap vector",)),
    "prf/arf": ("codeword word", "weight word", "ofmap vector"),
    "codebook": ("issued", "ofmap vector"),
    "decoding and loading": ("issued", "ofmap vector"),
    "requantisation": ("issued", "codeword word"),
}
#: of what is kept; to be raised when :func:`_measure` changes.
_FORMAT = 4


@dataclass(frozen=True)
class Stimulus:
    """What a core is given.

    Attributes
    ----------
    name : of the layer. ``streams``, ``expected`` : see :func:`synth.stimulus.layer_streams`.
    codeword_words : bool (words,): words of the weight stream that carry codewords.
    final : bool (vectors,): ofmap vectors that are requantised.
    multiplications, nonzero : of the layer's part that is simulated: of all weights, and of those where neither operand
        is zero.
    """

    name: str
    streams: object
    expected: np.ndarray
    codeword_words: np.ndarray
    final: np.ndarray
    multiplications: int
    nonzero: int

    @property
    def digest(self):
        """Hash of all that the core is given."""
        digest = hashlib.sha256()
        for name, bits in sorted(self.streams.inputs.items()):
            digest.update(name.encode())
            digest.update(np.packbits(bits).tobytes())
        return digest.hexdigest()


def stimulus_of(layer, x, most_cycles):
    """:class:`Stimulus` of the first subsets of a layer, as many as take ``most_cycles`` (at least one).

    Parameters
    ----------
    layer : :class:`golden.lower.LoweredLayer`. ``x`` : int8 (N, C, height, width), its input.
    """
    from synth.stimulus import layer_streams

    config = layer.config
    runs, cycles = [], 0
    for run in layer.runs(x):
        work = len(run.psums) * run.subset.entries
        cycles += max(work, len(run.words))
        if runs and cycles > most_cycles:
            break
        runs.append(run)
    streams, expected = layer_streams(runs, config)
    codewords = np.concatenate(
        [np.arange(len(run.words)) < run.subset.codewords * config.codeword_words for run in runs]
    )
    final = np.concatenate([np.full(run.psums.shape[0] * run.psums.shape[1], run.values is not None) for run in runs])
    issued = sum(len(run.psums) * run.subset.entries for run in runs)
    weights, activations = (np.count_nonzero(part) / part.size for part in (layer.image.weight, x))
    total = issued * config.rows * config.columns
    return Stimulus(layer.shape.name, streams, expected, codewords, final, total, round(total * weights * activations))


def measure(design, stimulus):
    """Simulate a mapped core, check every ofmap vector, and return costs of events as a JSON-ready dictionary.

    Parameters
    ----------
    design : :class:`synth.netlist.Design`. ``stimulus`` : :class:`Stimulus`.

    Returns
    -------
    dictionary with ``cycles``, ``counts`` (event -> number), ``costs`` (block -> J of each of :data:`EVENTS`),
    ``energy`` (block -> J of the whole run), ``leakage`` (block -> W), ``glitches`` (share of the toggles' energy),
    ``fit_error`` (of the run's energy in windows, root mean square over mean), ``multiplications``, ``nonzero``.

    Raises
    ------
    MvqError : the netlist cannot be simulated, or it differs from the golden model.
    """
    sources = [Path(__file__).with_name(name).read_text() for name in ("activity.py", "power.py", "cells.py")]
    key = cache.content_key(design.key, stimulus.digest, _FORMAT, sources)
    found = cache.load("energy", key)
    if found is None:
        found = _measure(design, stimulus)
        cache.store("energy", key, found)
    return found


def _measure(design, stimulus):
    from synth.activity import WINDOW, StimulusError, circuit_of, simulate
    from synth.power import leakage, power_model

    library = read_cells(design.liberty)
    modules = design.modules
    pins = {
        kind: list(library.cells[kind]["pins"])
        for module in modules.values()
        for kind, _ in module["cells"].values()
        if kind not in modules
    }
    flat = flatten(modules, design.top, pins, BLOCKS)
    circuit, model = circuit_of(flat, library), power_model(flat, library)
    activity = simulate(
        flat,
        circuit,
        stimulus.streams,
        (model.net_energy, model.net_block),
        (model.gate_energy, model.gate_block),
    )
    config = design.config
    values, psums = config.columns * 8, config.columns * config.psum_width
    expected = stimulus.expected.copy()
    got = activity.ofmap[:, : values + psums].copy()
    got[~stimulus.final, :values] = expected[~stimulus.final, :values]  # not requantised, and not looked at
    if not np.array_equal(got, expected):
        first = int(np.nonzero((got != expected).any(axis=1))[0][0])
        raise StimulusError(
            f"{config.name}, layer {stimulus.name!r}: the netlist's ofmap vector {first} differs from the golden model"
        )
    period = design.policy.clock_ps * 1e-12
    watts = leakage(flat, library, activity.high / activity.cycles)
    still = watts * period + model.clock_energy  # of a cycle in which nothing moves
    words = np.zeros(activity.cycles, bool)
    words[np.nonzero(activity.taken[:, 1])[0]] = stimulus.codeword_words[: int(activity.taken[:, 1].sum())]
    events = np.stack(
        [
            np.ones(activity.cycles),
            activity.computing,
            words,
            activity.taken[:, 1] & ~words,
            activity.taken[:, -1],
        ],
        axis=1,
    ).astype(float)
    dynamic = activity.energy[:, 0] + activity.gate_energy
    windows = events.reshape(-1, WINDOW, len(EVENTS)).sum(axis=1)
    quiet = dynamic[-1] / WINDOW  # of a cycle, when streams have ended
    starts = np.arange(0, len(windows), -(-(config.rows + config.columns) // WINDOW))
    windows, dynamic = np.add.reduceat(windows, starts), np.add.reduceat(dynamic, starts)
    costs = _fit(flat.names, windows, dynamic, quiet)
    costs[:, 0] += still
    whole = dynamic.sum(axis=0) + activity.cycles * still
    measured = dynamic.sum(axis=1) + windows[:, 0] * still.sum()
    fitted = windows @ costs.sum(axis=0)
    toggles = activity.energy.sum(axis=(0, 2))
    return {
        "layer": stimulus.name,
        "cycles": activity.cycles,
        "counts": dict(zip(EVENTS, events.sum(axis=0).astype(int).tolist(), strict=True)),
        "costs": {
            name: dict(zip(EVENTS, row, strict=True)) for name, row in zip(flat.names, costs.tolist(), strict=True)
        },
        "energy": dict(zip(flat.names, whole.tolist(), strict=True)),
        "leakage": dict(zip(flat.names, watts.tolist(), strict=True)),
        "glitches": float(1 - toggles[1] / toggles[0]),
        "fit_error": float(np.sqrt(np.mean((measured - fitted) ** 2)) / measured.mean()),
        "multiplications": stimulus.multiplications,
        "nonzero": stimulus.nonzero,
    }


def _fit(names, events, energy, quiet):
    """(blocks, events) J, blocks as in ``names``: costs that explain ``energy`` (windows, blocks), and add up to it.

    ``quiet`` : (blocks,) J of a cycle in which nothing moves; the rest is fitted.
    """
    from scipy.optimize import nnls

    costs = np.zeros((energy.shape[1], events.shape[1]))
    costs[:, 0] = quiet
    for block, (name, column) in enumerate(zip(names, energy.T, strict=True)):
        moving = [event not in _UNMOVED.get(name, ()) for event in EVENTS[1:]]
        used = 1 + np.nonzero(events[:, 1:].any(axis=0) & moving)[0]
        right = column - costs[block, 0] * events[:, 0]
        scale = right.max() or 1.0
        costs[block, used] = nnls(events[:, used], right / scale)[0] * scale
        fitted = (events[:, used] @ costs[block, used]).sum()
        if fitted:
            costs[block, used] *= right.sum() / fitted
    return costs


def event_counts(found):
    """{event: number} of :data:`EVENTS` in a network on an accelerator.

    Parameters
    ----------
    found : :class:`golden.estimate.Estimate`, or a part of one.
    """
    array = found.machine.array
    counts = dict.fromkeys(EVENTS, 0)
    for one in found.layers:
        accesses, layer = one.traffic.counts, one.layer
        codewords = array.codewords * array.codeword_words if layer.compressed and array.has_codebook else 0
        streamed = accesses.get(("l2", "weights"), 0) - accesses.get(("dram", "weights"), 0)
        spilled = accesses.get(("l1", "psums"), 0) / (2 * array.columns * array.psum_width / 8)
        vectors = -(-layer.ofmap[0] // array.columns) * layer.ofmap[1] * layer.ofmap[2]
        numbers = (
            one.cycles,
            accesses.get(("prf", "psums"), 0) / (2 * array.columns),
            codewords,
            max(0, streamed / (array.stream_width / 8) - codewords),
            (vectors if layer.op == "conv" else 0) + spilled,
        )
        for event, number in zip(EVENTS, numbers, strict=True):
            counts[event] += round(number)
    return counts


def predict(measured, counts):
    """{block: J} of ``counts`` (event -> number), by the costs of :func:`measure`."""
    return {block: sum(costs[event] * counts[event] for event in EVENTS) for block, costs in measured["costs"].items()}


def network_energy(found, inner, first, mac_joules):
    """J of one image by part: blocks of the core by what events cost there, L1 and L2 by the paper's access costs.

    DRAM is left out, as in the paper's Fig. 19.

    Parameters
    ----------
    found : :class:`golden.estimate.Estimate`.
    inner, first : what :func:`measure` gave for the same array on a layer that can be compressed, and on one that is
        not, which a sparse tile runs in passes.
    mac_joules : J of one multiplication and addition, the unit of the paper's costs (Tab. 8).
    """
    energy = dict.fromkeys(inner["costs"], 0.0)
    for measured, compressed in ((inner, True), (first, False)):
        counts = event_counts(found.select(lambda layer, wanted=compressed: layer.compressed == wanted))
        for block, joules in predict(measured, counts).items():
            energy[block] += joules
    for level in ("l1", "l2"):
        energy[level.upper()] = found.traffic[level] * COSTS[level] * mac_joules
    return energy


def mac_energy(measured):
    """J of a multiplication and its addition on a dense array with int8 weights: what multipliers and adders take in a
    cycle in which the array works, for each of them. Those that a zero saves are among them."""
    energy = sum(measured["costs"][f"array {part}"]["issued"] for part in ("multipliers", "adders"))
    return energy * measured["counts"]["issued"] / measured["multiplications"]
