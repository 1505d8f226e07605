"""Estimates on the screen and in files; the model is :mod:`golden.estimate`."""

import json

from rich import box
from rich.table import Table

from golden.estimate import OBJECTIVES, estimate
from golden.files import write_text
from golden.traffic import COSTS, LEVELS
from hdl.config import ConfigError

__all__ = ["estimate_tables", "run_estimate", "save_estimate"]


def run_estimate(network, machine, *, objective, l2_bytes):
    """:class:`golden.estimate.Estimate` of a :class:`golden.networks.Network` on a
    :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Raises
    ------
    MvqError : names the option, or the layer that cannot run.
    """
    if objective not in OBJECTIVES:
        raise ConfigError("--objective", objective, f"must be one of {', '.join(OBJECTIVES)}", OBJECTIVES[0])
    return estimate(network, machine, l2_bytes=l2_bytes, objective=objective)


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
    """rich tables: the layers, and what each level of memory costs."""
    array, traffic = found.machine.array, found.traffic
    title = f"{found.network} on {found.machine.name}, one image"
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
    energy = Table(title="energy by the paper's costs of an access (Tab. 8), a multiplication being 1")
    for heading in ("level", "weights", "activations", "psums", "accesses", "cost", "energy, millions", "share"):
        energy.add_column(heading, justify="left" if heading == "level" else "right")
    for level in LEVELS:
        kinds = [traffic.counts.get((level, kind), 0) for kind in ("weights", "activations", "psums")]
        used = COSTS[level] * traffic[level]
        numbers = [f"{count:,}" for count in (*kinds, traffic[level])]
        energy.add_row(
            level.upper(), *numbers, f"{COSTS[level]:g}", f"{used / 1e6:,.1f}", f"{used / traffic.energy:.1%}"
        )
    energy.add_row(
        "MAC",
        "",
        "",
        "",
        f"{traffic.macs:,}",
        "1",
        f"{traffic.macs / 1e6:,.1f}",
        f"{traffic.macs / traffic.energy:.1%}",
    )
    return layers, energy


_CAPTION = (
    "tiles: of the ofmap; each has the weights streamed anew. ifmap: where it lies (* as patches). used: "
    "multiplications of the dense layer, of H x L a cycle. weights, maps: cycles of waiting for weights, and for "
    "feature maps. DRAM, L2, L1: kilobytes read and written. energy: millions of multiplications."
)
