"""Runs lowered layers on the generated Verilog of a core, and compares what comes out with golden."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cocotb_tests.bits import numbers, rows, rows_of_integers
from cocotb_tests.simulators import Simulation
from hdl.config import MvqError
from hdl.verilog import generate

__all__ = ["CoreSimulation", "JobResult", "MismatchError", "compare"]

_TESTBENCH = "cocotb_tests.core_testbench"


@dataclass(frozen=True, eq=False)
class JobResult:
    """What one job gave.

    Attributes
    ----------
    name : the job's name.
    outputs : for each of its subsets, (psums, values): psums int64 (pixels, A, L), values int8 of that shape, or
        None unless final.
    cycles : from the one in which the first command is taken to the one in which the last ofmap vector is taken, both
        included.
    """

    name: str
    outputs: list
    cycles: int


class MismatchError(MvqError):
    """The Verilog's output differs from golden's.

    Parameters
    ----------
    where : layer, tile, image, row and column. ``what`` : partial sum or value.
    verilog, golden : both values of the first place that differs.
    count, total : places that differ, and all places.
    """

    def __init__(self, where, what, verilog, golden, count, total):
        self.where, self.what, self.verilog, self.golden = where, what, verilog, golden
        self.count, self.total = count, total
        super().__init__(f"{where}: {what} is {verilog} in Verilog, {golden} in golden ({count} of {total} differ)")


def compare(layer, runs, outputs):
    """Compare every partial sum and value of a layer.

    Parameters
    ----------
    layer : :class:`golden.lower.LoweredLayer`, which names the places. ``runs`` : its :class:`golden.lower.SubsetRun`.
    outputs : (psums, values) of each run, as in :class:`JobResult`.

    Raises
    ------
    MismatchError : names layer, tile, image, row, column and both values of the first difference.
    """
    for run, (psums, values) in zip(runs, outputs, strict=True):
        pairs = [("partial sum", psums, run.psums)]
        pairs += [] if run.values is None else [("int8 value", values, run.values)]
        for what, verilog, golden in pairs:
            differ = np.argwhere(verilog != golden)
            if len(differ):
                place = tuple(int(at) for at in differ[0])
                where = layer.locate(run.subset, *place)
                raise MismatchError(where, what, int(verilog[place]), int(golden[place]), len(differ), golden.size)


class CoreSimulation:
    """The core of ``config`` in a Verilog simulator.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.
    build_dir : folder for Verilog, compiled simulation, jobs and logs.
    simulator : ``verilator`` (slow to compile, fast to run) or ``icarus``.
    design : the generated Verilog, where the caller has it already.
    """

    def __init__(self, config, build_dir, simulator="verilator", design=None):
        self.config, self.build_dir, self.simulator, self.design = config, Path(build_dir), simulator, design
        self._simulation = None
        #: cycles of the last :meth:`run`, those between its jobs included.
        self.total_cycles = 0

    def build(self):
        """Generate the Verilog and compile it, unless the folder holds the same already.

        Raises
        ------
        ToolMissingError : the simulator is missing. SimulationError : it refuses the Verilog.
        """
        self.design = self.design or generate(self.config)
        self._simulation = Simulation(self.design, self.build_dir / self.simulator, self.simulator)
        self._simulation.build()

    def run(self, jobs, progress=None, *, stall=0.0, seed=0, watchdog=20_000, keep=False):
        """Run jobs one after another; the core is idle between them.

        Parameters
        ----------
        jobs : list of (layer name, list of :class:`golden.lower.SubsetRun`).
        progress : called with (layer name, ofmap vectors done in all jobs, ofmap vectors of all jobs).
        stall : chance that a stream pauses in a cycle, on each of the five; one for all jobs, or a list.
        seed : of these chances.
        watchdog : cycles without any transfer after which the run is given up.
        keep : keep the files of the run, for looking into it.

        Returns
        -------
        list of :class:`JobResult`

        Raises
        ------
        SimulationError : the simulator crashed or hung, no stream moved, or streams did not end together; with the tail
            of its log.
        """
        if self._simulation is None:
            self.build()
        jobs = [(name, list(runs)) for name, runs in jobs]
        totals = [sum(run.psums.shape[0] * run.psums.shape[1] for run in runs) for _, runs in jobs]
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.build_dir))
        files = {name: folder / f"{name}.npz" for name in ("jobs", "results")} | {"progress": folder / "progress.json"}
        stalls = [stall] * len(jobs) if isinstance(stall, (int, float)) else list(stall)
        options = {"vectors": totals, "stalls": stalls, "seed": seed, "watchdog": watchdog}
        arrays = {
            f"{i}.{name}": array for i, (_, runs) in enumerate(jobs) for name, array in self._streams(runs).items()
        }
        np.savez(files["jobs"], options=np.array(json.dumps(options)), **arrays)

        def watch():
            if not files["progress"].is_file():
                return None
            job, vectors, cycles = json.loads(files["progress"].read_text())
            if progress:
                progress(jobs[job][0], sum(totals[:job]) + vectors, sum(totals))
            return cycles

        plusargs = [f"+{name}={path}" for name, path in files.items()]
        self._simulation.run(_TESTBENCH, folder, plusargs=plusargs, watch=watch)
        with np.load(files["results"]) as results:
            self.total_cycles = int(results["total_cycles"])
            outputs = [
                JobResult(name, self._outputs(runs, results[f"{i}.ofmap"]), int(results[f"{i}.cycles"]))
                for i, (name, runs) in enumerate(jobs)
            ]
        if progress and jobs:
            progress(jobs[-1][0], sum(totals), sum(totals))
        if not keep:
            shutil.rmtree(folder)
        return outputs

    def _streams(self, runs):
        """Payloads of the input streams as rows of packed bits."""
        config = self.config
        width = sum(bits for _, bits in config.command_fields)
        psums = [run.psum_in.reshape(-1, config.columns) for run in runs if run.psum_in is not None]
        psums = np.concatenate(psums) if psums else np.zeros((0, config.columns), np.int64)
        return {
            "command": rows_of_integers([run.command for run in runs], width),
            "weights": np.concatenate([run.words for run in runs]).astype(">u8").view(np.uint8).reshape(-1, 8),
            "ifmap": np.concatenate([run.ifmap for run in runs]).astype(np.int8).view(np.uint8)[:, ::-1],
            "psum_in": rows(psums, config.psum_width),
        }

    def _outputs(self, runs, packed):
        """(psums, values) of each run from rows of ofmap vectors: values in the low bits, partial sums, ``final``."""
        columns, width = self.config.columns, self.config.psum_width
        values = numbers(packed, columns, 8).astype(np.int8)
        psums = numbers(packed, columns, width, start=columns * 8)
        final = numbers(packed, 1, 1, start=columns * (8 + width), signed=False)[:, 0]
        outputs, start = [], 0
        for run in runs:
            shape = run.psums.shape
            part = slice(start, start + shape[0] * shape[1])
            if (final[part] != run.subset.final).any():
                raise MvqError(f"the core's final flag is not {run.subset.final} for every ofmap vector of a subset")
            outputs.append((psums[part].reshape(shape), values[part].reshape(shape) if run.subset.final else None))
            start = part.stop
        return outputs
