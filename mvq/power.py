"""``mvq power``: a core's power by block, from its gates on a layer of a real network."""

from pathlib import Path

from rich import box
from rich.table import Table

from golden import Calibration, Checkpoint, lower
from hdl.config import MvqError
from mvq.run import load_images
from synth.energy import EVENTS, measure, stimulus_of
from synth.liberty import read_liberty, resolve_liberty
from synth.netlist import map_designs
from synth.timing import check_clock

__all__ = ["power_report", "power_table"]


def _layer(lowered, name):
    """The layer ``name``, or the convolution with the most multiplications."""
    if name is None:
        sizes = {
            key: layer.image.weight.size * layer.shape.pixels[0] * layer.shape.pixels[1]
            for key, layer in lowered.layers.items()
        }
        return max(sizes, key=sizes.get)
    if name not in lowered.layers:
        raise MvqError(f"--layer = {name!r}: must be one of {', '.join(lowered.layers)}")
    return name


def power_report(
    config, checkpoint, images, *, layer=None, clock_mhz=300.0, liberty="nangate45", cycles=2000, jobs=2, progress=None
):
    """Power of a core as a JSON-ready dictionary.

    Parameters
    ----------
    config : :class:`hdl.config.ArrayConfig`.
    checkpoint : folder of a compressed checkpoint with its calibration. ``images`` : .npz file of images.
    layer : name; that with the most multiplications when None.
    clock_mhz : clock that gates are sized for and that runs. ``liberty`` : see :func:`synth.liberty.resolve_liberty`.
    cycles : about how many to simulate; whole weight subsets are run, at least one.
    jobs, progress : see :func:`synth.area.area_report`; there is the stage ``simulate``, too.

    Raises
    ------
    MvqError : whatever fails; nothing is reported then.
    """
    check_clock(clock_mhz)
    folder = Path(checkpoint)
    lowered = lower(Checkpoint.load(folder), Calibration.load(folder / "calibration.json"), config)
    name = _layer(lowered, layer)
    network = lowered.network
    x = network.quantise_input(load_images(images, count=1)[0])
    stimulus = stimulus_of(lowered.layers[name], network.run(x)[network.graph[name].inputs[0]], cycles)
    library = read_liberty(resolve_liberty(liberty))
    [design] = map_designs([config], library, round(1e6 / clock_mhz), jobs=jobs, progress=progress)
    if progress:
        progress("simulate", 0, 1)
    found = measure(design, stimulus)
    if progress:
        progress("simulate", 1, 1)
    seconds = found["cycles"] * design.policy.clock_ps * 1e-12
    return {
        "format": "mvq-power",
        "format_version": 1,
        "name": config.name,
        "config": config.to_dict(),
        "liberty": {"name": library.name, "corner": library.corner, "sha256": library.sha256},
        "policy": design.policy.to_dict(),
        "clock_mhz": clock_mhz,
        "power": {block: joules / seconds for block, joules in found["energy"].items()},
        **found,
    }


def power_table(report):
    """rich table of a report, by block."""
    liberty = report["liberty"]
    used = [event for event in EVENTS if report["counts"][event]]
    table = Table(
        title=f"Power of {report['name']} at {report['clock_mhz']:g} MHz on layer {report['layer']}",
        caption=f"{liberty['name']} ({liberty['corner']}), before layout, no clock tree; {report['cycles']:,} cycles, "
        f"{report['counts']['issued']:,} in which the array works; {report['glitches']:.0%} of the toggles' energy is "
        "glitches. pJ: of one event, leakage and clock in each cycle.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("block", no_wrap=True)
    for heading in ("mW", "share", "leakage, mW", *(f"{event}, pJ" for event in used)):
        table.add_column(heading, justify="right")
    total = sum(report["power"].values())

    def row(name, blocks, style=None):
        watts = sum(report["power"][block] for block in blocks)
        leakage = sum(report["leakage"][block] for block in blocks)
        costs = [sum(report["costs"][block][event] for block in blocks) for event in used]
        numbers = [f"{watts * 1e3:.3f}", f"{watts / total:.1%}", f"{leakage * 1e3:.3f}"]
        table.add_row(name, *numbers, *(f"{cost * 1e12:.2f}" for cost in costs), style=style)

    for block in report["power"]:
        row(block, [block])
    table.add_section()
    row("all", list(report["power"]), "bold")
    return table
