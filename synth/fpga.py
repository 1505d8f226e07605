"""FPGAs: cells of a design by Yosys, place and route by nextpnr, and a bitstream for a board of amaranth-boards."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io

from golden.files import replacing
from hdl.config import MvqError
from synth.boards import RESOURCES
from synth.yosys import SynthesisError, quote, run_yosys

__all__ = [
    "BoardTooSmallError",
    "build_board",
    "check_board",
    "check_fit",
    "count_resources",
    "find_tool",
    "synthesise",
]

#: name of a board's design in all files.
TOP = "mvq_board"


class BoardTooSmallError(MvqError):
    """A design that an FPGA has no room for; the text names each resource, and by how much.

    Parameters
    ----------
    what : the design. ``board`` : :class:`~synth.boards.Board`. ``used`` : resource -> units.
    """

    def __init__(self, what, board, used):
        available = board.device.available
        self.missing = {name: used[name] - have for name, have in available.items() if used[name] > have}
        parts = [
            f"{used[name]:,} {name}{'s' * (used[name] != 1)} of {available[name]:,} ({over:,} more)"
            for name, over in self.missing.items()
        ]
        super().__init__(
            f"{what} does not fit {board.name} ({board.platform.device}): it needs {' and '.join(parts)} than there are"
        )


def count_resources(family, cells, what="the design"):
    """Units of each of :data:`~synth.boards.RESOURCES` in a netlist.

    Parameters
    ----------
    family : :class:`~synth.boards.Family`. ``cells`` : cell -> count.

    Raises
    ------
    MvqError : a cell is none of the family's.
    """
    used = dict.fromkeys(RESOURCES, 0)
    for cell, count in cells.items():
        found = [kind for pattern, kind in family.cells.items() if re.fullmatch(pattern, cell)]
        if not found:
            raise MvqError(f"{what} has {count} cells {cell!r}, which is no cell of {family.name} known here")
        [(resource, units)] = found
        if resource:
            used[resource] += count * units
    return {name: int(units) if units == int(units) else units for name, units in used.items()}


def check_fit(what, board, used):
    """Raise :class:`BoardTooSmallError` unless ``board`` has all of ``used`` (resource -> units)."""
    if any(used[name] > have for name, have in board.device.available.items()):
        raise BoardTooSmallError(what, board, used)


def synthesise(what, family, folder, read, top, netlist=None):
    """Synthesise for an FPGA: with module boundaries kept and each distinct module synthesised once, which takes a
    fraction of the time; flattened where a netlist is wanted.

    Parameters
    ----------
    what : the task in words. ``family`` : :class:`~synth.boards.Family`.
    folder : where log and report stay. ``read`` : Yosys commands that read the design. ``top`` : its top module.
    netlist : JSON file to write for nextpnr.

    Returns
    -------
    dict : cell -> count.

    Raises
    ------
    SynthesisError : Yosys failed. MvqError : as :func:`count_resources`.
    """
    folder = Path(folder)
    report = folder / "stat.json"
    synth = f"{family.synth} {family.options if netlist else f'{family.options} {family.keep_modules}'} -top {top}"
    commands = [
        *read,
        f"{synth} -run begin:map_luts",
        "splitnets",  # without it ABC9 makes a name twice and stops: Yosys issue 4349
        f"{synth} -run map_luts:",
        f"tee -q -o {quote(report)} stat -json",
    ]
    if netlist:
        commands.append(f"write_json {quote(netlist)}")
    run_yosys(what, commands, folder)
    try:
        found = json.loads(report.read_text())
        modules = {name.removeprefix("\\") for name in found["modules"]}
        return {cell: count for cell, count in found["design"]["num_cells_by_type"].items() if cell not in modules}
    except (OSError, KeyError, ValueError) as error:
        raise SynthesisError(what, f"Yosys's report is incomplete ({error!r})", folder / "yosys.log") from error


def find_tool(name):
    """Command of the tool ``name``, e.g. ``nextpnr-ecp5``: what the environment variable NEXTPNR_ECP5 names, else the
    YoWASP build beside this Python, else what PATH has.

    Raises
    ------
    MvqError : there is none.
    """
    variable = name.upper().replace("-", "_")
    named = os.environ.get(variable)
    candidates = [str(Path(sys.executable).parent / f"yowasp-{name}"), f"yowasp-{name}", name]
    candidates = [named] if named else candidates
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    package = f"yowasp-{'nextpnr-ecp5' if 'ecp' in name else 'nextpnr-ice40'}"
    given = f"{variable} names {named!r}, which is no program" if named else f"yowasp-{name} is not installed"
    raise MvqError(f"{given}: `pip install {package}` brings it")


def _run_tool(what, command, folder):
    """Run ``command`` (words) in ``folder``; YoWASP's tools see only files below their working directory.

    Raises
    ------
    SynthesisError : it failed.
    """
    log = f"{command[0]}.log"
    with (folder / log).open("w") as stream:
        process = subprocess.run(
            [find_tool(command[0]), *command[1:]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if process.returncode:
        raise SynthesisError(what, f"{command[0]} ended with exit code {process.returncode}", folder / log)


def _commands(plan):
    """{tool: words behind it} of those steps of a build plan that follow synthesis."""
    script, found = plan.files[f"build_{TOP}.sh"], {}
    for variable, arguments in re.findall(r'^"\$(\w+)" (.*)$', script, flags=re.MULTILINE):
        tool = variable.lower().replace("_", "-")
        if tool != "yosys":
            found[tool] = [word for word in shlex.split(arguments) if word != "--quiet"]
    return found


def check_board(board, pnr=False):
    """Raise MvqError unless a system can be built for ``board``, and placed and routed with ``pnr``: the board has a
    UART, and the tools are there."""
    if pnr and not board.family.tools:
        raise MvqError(f"--pnr: nextpnr has no {board.family.name} ({board.name}); leave it out for the counts alone")
    if not board.has_uart:
        raise MvqError(f"{board.name} has no UART in amaranth-boards, which the system on a board needs")
    for tool in board.family.tools if pnr else ():
        find_tool(tool)


class BoardTop(Elaboratable):
    """Puts the pins ``rx``, ``tx`` and ``busy`` of a design on a board's UART and first LED, where it has one.

    Parameters
    ----------
    module_name : of the design in Verilog, which has the ports ``clk`` and ``rst`` too.
    """

    def __init__(self, module_name):
        self.module_name = module_name

    def elaborate(self, platform):
        m = Module()
        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        busy = Signal()
        if any(key == ("led", 0) for key in platform.resources):
            m.submodules.led = led = io.Buffer("o", platform.request("led", 0, dir="-"))
            m.d.comb += led.o.eq(busy)
        m.submodules.design = Instance(
            self.module_name,
            i_clk=ClockSignal(),
            i_rst=ResetSignal(allow_reset_less=True),
            i_rx=rx.i,
            o_tx=tx.o,
            o_busy=busy,
        )
        return m


def build_board(what, board, design, folder, report, pnr=False, progress=lambda step: None, seed=1):
    """Synthesise a system for a board; with ``pnr`` place, route and pack it too.

    Parameters
    ----------
    what : the system in words. ``board`` : :class:`~synth.boards.Board`.
    design : :class:`~hdl.verilog.Design` with the ports clk, rst, rx, tx and busy.
    folder : where everything stays; the bitstream is ``mvq_board.bit`` (ECP5) or ``mvq_board.bin`` (iCE40).
    report : dictionary that is filled as results come, so that it has them after an error too: ``cells``, ``used``,
        then ``placed``, ``fmax_mhz``, ``bitstream``.
    progress : called with the name of each step. ``seed`` : of place and route.

    Raises
    ------
    BoardTooSmallError : there is no room. SynthesisError : a tool failed. MvqError : the board's clock is too fast.
    """
    folder = Path(folder)
    for ending in ("bit", "bin"):  # of an earlier run
        (folder / f"{TOP}.{ending}").unlink(missing_ok=True)
    platform = board.platform()
    platform.add_file(f"{design.top}.v", design.text)
    plan = platform.prepare(BoardTop(design.top), TOP, synth_opts=board.family.options)
    for name, content in plan.files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
    progress(f"synthesising {what}")
    read = [f"read_verilog {quote(folder / f'{design.top}.v')}", f"read_rtlil {quote(folder / f'{TOP}.il')}"]
    netlist = folder / f"{TOP}.json" if pnr else None
    report["cells"] = synthesise(what, board.family, folder, read, TOP, netlist)
    report["used"] = count_resources(board.family, report["cells"], what)
    check_fit(what, board, report["used"])
    if not pnr:
        return
    place, pack = board.family.tools
    commands = _commands(plan)
    arguments, pack_arguments = commands[place], commands[pack]
    progress(f"placing and routing {what}")
    arguments = [*arguments, "--seed", str(seed), "--report", "nextpnr.json", "--timing-allow-fail"]
    _run_tool(f"place and route of {what}", [place, *arguments], folder)
    found = json.loads((folder / "nextpnr.json").read_text())
    use = found["utilization"]
    report["placed"] = {name: use[cell]["used"] for name, cell in board.family.placed.items()}
    clock = min(found["fmax"].values(), key=lambda item: item["achieved"] / item["constraint"])
    report["fmax_mhz"] = round(clock["achieved"], 2)
    if clock["achieved"] < clock["constraint"]:
        raise MvqError(
            f"{what} reaches {clock['achieved']:.1f} MHz on {board.name}, whose clock has {board.clock_mhz:g} MHz: use "
            "fewer tile_rows, or another --seed"
        )
    progress("packing the bitstream")
    _run_tool(f"packing of {what}", [pack, *pack_arguments], folder)
    report["bitstream"] = str(
        folder / next(name for name in pack_arguments if re.fullmatch(rf"{TOP}\.(bit|bin)", name))
    )
