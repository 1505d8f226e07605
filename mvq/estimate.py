"""Estimates on the screen and in files; the models are :mod:`golden.exact` and :mod:`golden.estimate`."""

import json
from pathlib import Path

from rich import box
from rich.table import Table

from golden.estimate import OBJECTIVES, estimate
from golden.files import write_text
from golden.networks import load_network
from golden.traffic import COSTS, LEVELS
from hdl.config import ConfigError, MvqError

__all__ = ["STAGES", "estimate_tables", "run_estimate", "save_estimate"]

#: what :func:`run_estimate` does, in order, as progress names it, and in words.
STAGES = {"plan": "planning", "count": "counting cycles"}


def _no_progress(stage, done, total):
    pass


def run_estimate(source, machine, *, quick=False, objective=None, l2_bytes, read_latency=20, progress=_no_progress):
    """Estimate a network: exactly, by its compiled program, or in closed form.

    Parameters
    ----------
    source : as :func:`golden.networks.load_network` has it. ``machine`` :
        :class:`~hdl.accelerator_config.AcceleratorConfig`.
    quick : in closed form. ``objective`` : one of :data:`golden.estimate.OBJECTIVES`; all but the first need ``quick``.
    l2_bytes : of L2. ``read_latency`` : of the memory behind the bus, for exact cycles.
    progress : called with (key of :data:`STAGES`, done, all).

    Returns
    -------
    (:class:`golden.estimate.Estimate`, sentence that says why it is not exact, or None)

    Raises
    ------
    MvqError : names the option, the file, or the layer that cannot run.
    """
    objective = objective or OBJECTIVES[0]
    if objective not in OBJECTIVES:
        raise ConfigError("--objective", objective, f"must be one of {', '.join(OBJECTIVES)}", OBJECTIVES[0])
    if objective != OBJECTIVES[0] and not quick:
        raise MvqError(f"--objective = {objective!r}: needs --quick; programs are planned for cycles")
    network, reason = load_network(source), None
    if not quick:
        from golden.exact import compile_network, exact_estimate, load_weights
        from golden.timing import MemoryTiming

        weights = load_weights(source) if Path(source).is_dir() else None
        try:
            program = compile_network(network, machine, weights, lambda *counts: progress("plan", *counts))
        except MvqError as error:
            reason = f"{network.name} cannot be planned, so this is the closed form of --quick: {error}"
        else:
            memory = MemoryTiming(read_latency=read_latency)
            counting = {"memory": memory, "progress": lambda *counts: progress("count", *counts)}
            return exact_estimate(network, program, l2_bytes=l2_bytes, **counting), None
    return estimate(network, machine, l2_bytes=l2_bytes, objective=objective), reason


def save_estimate(found, path):
    """Write the estimate as JSON; returns the path."""
    return write_text(path, json.dumps(found.to_dict(), indent=1) + "\n")


def _mapping(mapping):
    """A B D P of a layer."""
    repeats = mapping.repeats
    if repeats is None:
        return ""
    taps = f"{repeats.tap_rows}x{repeats.tap_columns}"
    return f"{repeats.out_channel_repeat} {repeats.in_channel_repeat} {taps} {repeats.passes}"


def _kilobytes(count):
    return f"{count / 1024:,.0f}"


def estimate_tables(found):
    """rich tables: the layers, what the counters count where that is known, and what each level of memory costs."""
    return [_layer_table(found), *([_counter_table(found)] if found.exact else []), _energy_table(found.traffic)]


def _layer_table(found):
    array, traffic = found.machine.array, found.traffic
    kind = f"exact, read latency {found.memory.read_latency}" if found.exact else "closed form"
    title = f"{found.network} on {found.machine.name}, one image ({kind})"
    layers = Table(title=title, caption=_CAPTION, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0))
    for heading in ("layer", "ofmap", "A B D P"):
        layers.add_column(heading, no_wrap=True)
    for heading in ("tiles", "ifmap", "cycles", "used", "weights", "maps", "DRAM", "L2", "L1", "energy"):
        layers.add_column(heading, justify="right", no_wrap=True)
    for one in found.layers:
        layers.add_row(
            one.layer.name,
            "x".join(map(str, one.layer.ofmap)),
            _mapping(one.mapping),
            f"{one.mapping.tiles}",
            one.places[0] + ("" if one.mapping.layout == "planes" else "*"),
            f"{one.cycles:,}",
            f"{one.utilisation(array):.0%}" if one.layer.op == "conv" else "",
            f"{one.weight_stalls:,}",
            f"{one.activation_stalls:,}",
            *(_kilobytes(one.traffic[level]) for level in ("dram", "l2", "l1")),
            f"{one.traffic.energy / 1e6:,.1f}",
        )
    stalls = [sum(getattr(one, name) for one in found.layers) for name in ("weight_stalls", "activation_stalls")]
    layers.add_section()
    layers.add_row(
        "all",
        *[""] * 4,
        f"{found.cycles:,}",
        f"{found.utilisation:.0%}",
        *(f"{number:,}" for number in stalls),
        *(_kilobytes(traffic[level]) for level in ("dram", "l2", "l1")),
        f"{traffic.energy / 1e6:,.1f}",
        style="bold",
    )
    return layers


def _counter_table(found):
    """Of each layer, and of all: the values of the counter registers."""
    table = Table(title="counters", box=box.SIMPLE_HEAD, padding=(0, 0))
    table.add_column("layer", no_wrap=True)
    for heading in _COUNTER_HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found.layers:
        table.add_row(one.layer.name, *(f"{one.counters[name]:,}" for name in _COUNTER_HEADINGS.values()))
    table.add_section()
    sums = [sum(one.counters[name] for one in found.layers) for name in _COUNTER_HEADINGS.values()]
    table.add_row("all", *(f"{number:,}" for number in sums), style="bold")
    return table


def _energy_table(traffic):
    kinds = [kind for kind in _KINDS if any(where == kind for _, where in traffic.counts)]
    energy = Table(title="energy by the paper's costs of an access (Tab. 8), a multiplication being 1")
    for heading in ("level", *kinds, "accesses", "cost", "energy, millions", "share"):
        energy.add_column(heading, justify="left" if heading == "level" else "right")
    for level in LEVELS:
        used = COSTS[level] * traffic[level]
        numbers = [
            f"{count:,}" for count in (*(traffic.counts.get((level, kind), 0) for kind in kinds), traffic[level])
        ]
        energy.add_row(
            level.upper(), *numbers, f"{COSTS[level]:g}", f"{used / 1e6:,.1f}", f"{used / traffic.energy:.1%}"
        )
    energy.add_row(
        "MAC",
        *[""] * len(kinds),
        f"{traffic.macs:,}",
        "1",
        f"{traffic.macs / 1e6:,.1f}",
        f"{traffic.macs / traffic.energy:.1%}",
    )
    return energy


_KINDS = ("weights", "activations", "psums", "descriptors")
_COUNTER_HEADINGS = {
    "array busy": "busy_cycles",
    "bus reads": "bus_read_beats",
    "bus writes": "bus_write_beats",
    "L1 reads": "l1_reads",
    "L1 writes": "l1_writes",
    "psum reads": "psum_reads",
    "psum writes": "psum_writes",
}
_CAPTION = (
    "tiles: of the ofmap; each has the weights streamed anew. ifmap: where it lies (* as patches). used: "
    "multiplications of the dense layer, of H x L a cycle. weights, maps: cycles in which the array waits for "
    "weights, and for feature maps. DRAM, L2, L1: kilobytes read and written. energy: millions of multiplications."
)
