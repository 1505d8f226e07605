"""Proves that a sparse tile is a dense tile on masked weights: for a number of cycles, or for ever.

Yosys turns :class:`~proofs.tiles.TilePair` into a circuit. ``bounded`` gives it to ABC's bounded model checker, with
every multiplier and adder in it, for narrow weights and activations; ``induction`` proves with Yosys's own SAT solver,
for int8, that the assertions hold after a step if they held before it. docs/formal.md has both in words.
"""

import math
import os
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import pyosys
from amaranth.hdl import Value

from hdl.config import MvqError
from hdl.pe.arithmetic import PRODUCT_WIDTH
from proofs.tiles import TilePair, check_pair
from synth.yosys import SynthesisError, YosysTimeout, quote, read_trace, run_yosys, scratch_folder

os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
from amaranth.back import rtlil

__all__ = ["METHODS", "SolverError", "abc_path", "prove_tiles", "small_tile"]

#: method -> what it is.
METHODS = {
    "bounded": "bounded model checking, ABC bmc3",
    "induction": "1-induction, Yosys sat; multipliers and column adders as unknown functions",
}


class SolverError(MvqError):
    """A solver is missing, or ended without a result."""


def abc_path():
    """Path of the ABC that pyosys brings along.

    Raises
    ------
    SolverError : it is not there.
    """
    path = Path(pyosys.__file__).parent / "yosys-abc"
    if not path.is_file():
        raise SolverError(f"the model checker ABC is not at {path}: install pyosys==0.70 from a wheel, which has it")
    return path


def small_tile(config, rows, words):
    """The array of one tile of ``config``, of ``rows`` rows and with ``words`` words in its WRF; rows of a tile share
    nothing but their control, and words of a WRF nothing but their ports."""
    small = {"rows": rows, "tile_rows": rows, "columns": config.vector_length, "crf_read_ports": 1}
    small |= {"wrf_depth": words, "prf_depth": 1, "arf_depth": max(2, words), "codewords": 2, "index_width": 1}
    return config.replace(**small)


def _flatten(pair, folder, *tail):
    """Commands that read ``pair`` and leave one flat module with assertions and assumptions, then ``tail``."""
    ports = {"__".join(map(str, path)): (Value.cast(value), None) for path, _, value in pair.signature.flatten(pair)}
    text = rtlil.convert(pair, name=pair.module_name, ports=ports, emit_src=False)
    (folder / "pair.il").write_text(text)
    top = pair.module_name
    unknown = [f"{top}.{pattern}/{kind}:*" for pattern in pair.unknown for kind in "cp"]
    return [
        f"read_rtlil {quote(folder / 'pair.il')}",
        f"hierarchy -check -top {top}",
        *([f"delete {' '.join(unknown)}"] if pair.purpose == "induction" else []),
        "proc",
        f"setattr -unset init {top}.*/w:*",  # tiles start in any state, the pair's own registers as they are
        "flatten",
        "delete -input w:tap_*",
        # "-nounset": what already reads the port must go on doing so
        *(f"connect -nounset -set {port} {path}" for port, path in pair.taps.items()),
        "chformal -lower",
        "memory_map",
        "opt",
        "async2sync",
        "formalff -clk2ff",
        *tail,
    ]


def _bounded(pair, folder, cycles, timeout_s):
    """(first cycle with a failed assertion or None, cycles checked)."""
    top, file = pair.module_name, folder / "pair.aig"
    to_gates = ["techmap", "opt -fast", "aigmap", "opt_clean", f"write_aiger -zinit {quote(file)}"]
    run_yosys(f"preparation of {top}", _flatten(pair, folder, *to_gates), folder, timeout_s=timeout_s)
    script = f"read_aiger pair.aig; fold; strash; bmc3 -F {cycles} -T {timeout_s}"
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "check": False}
    try:
        # ABC watches its time only between two steps
        process = subprocess.run([abc_path(), "-c", script], cwd=folder, timeout=timeout_s + 60, **options)
    except subprocess.TimeoutExpired as error:
        raise SolverError(f"ABC did not end within {timeout_s + 60} s") from error
    (folder / "abc.log").write_text(process.stdout + process.stderr)
    if found := re.search(r"was asserted in frame (\d+)", process.stdout):
        return int(found[1]), int(found[1])
    if found := re.search(r"No output asserted in (\d+) frames", process.stdout):
        return None, int(found[1])
    last = (process.stdout + process.stderr).strip().splitlines()[-1:] or ["nothing"]
    raise SolverError(f"ABC ended with exit code {process.returncode} and no result; it said {last[0]!r}")


def prove_tiles(config, method="bounded", *, bits=2, cycles=8, timeout_s=600, folder=None):
    """Prove that the sparse tile of ``config`` does what a dense one does on masked weights.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig` of one sparse tile, see :func:`small_tile`. ``induction`` takes the
        gateware of style ``structural``, ``bounded`` partial sums just wide enough for the rows.
    method : see :data:`METHODS`. ``bits`` : of weights and activations, for ``bounded``; ``induction`` takes all 8.
    cycles : from reset, for ``bounded``.
    timeout_s : seconds for each run of a solver.
    folder : where jobs and logs stay; when None, a temporary folder that is kept only after a failure.

    Returns
    -------
    JSON-ready dictionary. ``status`` : ``proven``, ``differs`` with an ``example``, or ``unproven`` when time ran out;
    then ``cycles`` is how many were proven.

    Raises
    ------
    ConfigError : another kind of tile. SolverError : a solver is missing or failed, or nothing was left to prove.
    """
    if method not in METHODS:
        raise MvqError(f"method = {method!r}: must be one of {', '.join(METHODS)}")
    check_pair(config, bits)
    started = time.perf_counter()
    with scratch_folder(folder) as scratch:
        if method == "induction":
            config = config.replace(style="structural")
            found = _induction(config, scratch, timeout_s)
        else:
            found = _bounded_proof(config, bits, cycles, scratch, timeout_s)
    return {
        "method": method,
        "config": config.to_dict(),
        "tile": f"{config.tile_rows} x {config.vector_length}, {config.n}:{config.m}, {config.wrf_depth} words",
        "pyosys": version("pyosys"),
        **found,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _bounded_proof(config, bits, cycles, folder, timeout_s):
    widths = {"weight_bits": bits, "activation_bits": bits}
    config = config.replace(psum_width=PRODUCT_WIDTH + math.ceil(math.log2(config.rows)))
    abc_path()
    probe = folder / "probe"
    probe.mkdir(exist_ok=True)
    reached, checked = _bounded(TilePair(config, **widths, purpose="probe"), probe, cycles, timeout_s)
    if reached is None:
        raise SolverError(f"no product reaches a column of every row within {checked} cycles: give --cycles more")
    pair = TilePair(config, **widths)
    failed, checked = _bounded(pair, folder, cycles, timeout_s)
    found = {**widths, "cycles": checked, "first_products": reached, "example": None}
    if failed is not None:
        return {**found, "status": "differs", "example": _trace(pair, folder, failed, timeout_s)}
    return {**found, "status": "proven" if checked >= cycles else "unproven"}


def _example(pair, trace, otherwise, when):
    """``summary``: which products differ in the last cycle of a trace, or ``otherwise``, and ``when`` that is;
    ``start``: registers before it, ``signals``: inputs and products in every cycle."""
    wrong = []
    for port, path in pair.taps.items():
        if path.startswith("sparse_tile") and "contributions" in path:
            values = [trace.get(name, [None])[-1] for name in (port, port.replace("sparse", "dense"))]
            if None not in values and values[0] != values[1]:
                row, column = re.search(r"row_(\d+).*__(\d+)", path).groups()
                sparse, dense = (value - (1 << (PRODUCT_WIDTH - 1)) for value in values)
                wrong.append(f"row {row} adds {sparse} to column {column} in the sparse tile and {dense} in the dense")
    summary = f"{'; '.join(wrong) or otherwise}, {when}"
    named = {name: values for name, values in trace.items() if "$" not in name}
    start = {name: values[0] for name, values in named.items() if values[0] is not None}
    return {"summary": summary, "start": start, "signals": {n: v[1:] for n, v in named.items() if n not in start}}


def _trace(pair, folder, failed, timeout_s):
    """Values of inputs and of both tiles' outputs in the cycles up to the one where they differ."""
    file = folder / "example.json"
    shown = " ".join(f"-show {port}" for port in pair.taps)
    sat = f"sat -seq {failed + 1} -prove-asserts -prove-skip {failed} -set-assumes -show-inputs -show-regs {shown}"
    run_yosys("counterexample", _flatten(pair, folder, f"{sat} -dump_json {quote(file)}"), folder, timeout_s=timeout_s)
    if not file.is_file():
        raise SolverError(f"ABC found a difference in cycle {failed}, but Yosys did not")
    return _example(pair, read_trace(file), "outputs differ, though products do not", f"in cycle {failed}")


def _induction(config, folder, timeout_s):
    pair = TilePair(config, purpose="induction")
    file = folder / "example.json"
    shown = " ".join(f"-show {port}" for port in pair.taps if "contributions" in port)
    sat = "sat -tempinduct -prove-asserts -set-assumes -maxsteps 1 -verify"
    sat += f" -show-inputs -show-regs {shown} -dump_json {quote(file)}"
    found = {"weight_bits": 8, "activation_bits": 8, "cycles": None, "example": None}
    try:
        run_yosys("induction", _flatten(pair, folder, sat), folder, timeout_s=timeout_s)
    except YosysTimeout:
        return {**found, "status": "unproven"}
    except SynthesisError:
        if not file.is_file():
            raise
        inside = "an assertion about the insides of the tiles fails"
        when = "after a step from a state in which all assertions hold, though perhaps no run leads to it"
        return {**found, "status": "differs", "example": _example(pair, read_trace(file), inside, when)}
    return {**found, "status": "proven"}
