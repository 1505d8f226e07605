"""Runs one unit of the gateware on its generated Verilog: arrays in, arrays out."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from cocotb_tests.bits import numbers, rows, rows_of_integers
from cocotb_tests.simulators import Simulation
from hdl.verilog import generate

__all__ = ["UnitSimulation"]

_TESTBENCH = "cocotb_tests.unit_testbench"


class UnitSimulation:
    """One unit of :data:`hdl.units.UNITS` in a Verilog simulator.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`. ``unit`` : its name; None is the core.
    build_dir : folder for Verilog, compiled simulation and logs. ``simulator`` : ``icarus`` or ``verilator``.
    """

    def __init__(self, config, unit, build_dir, simulator="icarus"):
        self.build_dir = Path(build_dir)
        self.design = generate(config, unit)
        self._simulation = Simulation(self.design, self.build_dir / simulator, simulator)
        self.widths = {port["name"]: port["width"] for port in self.design.sidecar["ports"]}

    def _names(self, port):
        """The Verilog ports of ``port``: itself, or one for each element of an array."""
        if port in self.widths:
            return [port]
        names = [name for name in self.widths if name.startswith(f"{port}__")]
        if not names:
            raise KeyError(f"{self.design.top} has no port {port!r}; its ports are {', '.join(self.widths)}")
        return sorted(names, key=lambda name: int(name.rsplit("__", 1)[1]))

    def _rows(self, port, values):
        """Verilog port -> rows; ``values`` are (cycles,) or, for an array or a wide port, (cycles, n)."""
        names = self._names(port)
        if len(names) == 1 and np.ndim(values) == 1:
            mask = (1 << self.widths[port]) - 1
            return {names[0]: rows_of_integers([int(value) & mask for value in values], self.widths[port])}
        values = np.asarray(values)
        if names == [port]:
            return {port: rows(values, self.widths[port] // values.shape[1])}
        return {name: rows(values[:, [i]], self.widths[name]) for i, name in enumerate(names)}

    def _run(self, arrays, options):
        self._simulation.build()
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.build_dir))
        files = {name: folder / f"{name}.npz" for name in ("jobs", "results")}
        options |= {"unit": self.design.top, "clocked": self._simulation.clocked}
        np.savez(files["jobs"], options=np.array(json.dumps(options)), **arrays)
        self._simulation.run(_TESTBENCH, folder, plusargs=[f"+{name}={path}" for name, path in files.items()])
        with np.load(files["results"]) as results:
            content = dict(results)
        shutil.rmtree(folder)
        return content

    def play(self, inputs, outputs):
        """Write inputs in every cycle and read outputs just before its clock edge.

        Parameters
        ----------
        inputs : port -> integers (cycles,), or (cycles, n) for an array of ports or the n equal parts of a wide one.
        outputs : port -> (parts, width, signed): how to read it; a port inside the unit has its path with dots.

        Returns
        -------
        dict : port -> int64 (cycles,), or (cycles, parts) for an array of ports or when there are several parts.
        """
        arrays = {}
        for port, values in inputs.items():
            arrays |= {f"input.{name}": packed for name, packed in self._rows(port, values).items()}
        places = {port: [port] if "." in port else self._names(port) for port in outputs}
        options = {
            "streams": False,
            "cycles": len(next(iter(inputs.values()))),
            "inputs": [name.removeprefix("input.") for name in arrays],
            "outputs": [name for names in places.values() for name in names],
        }
        results = self._run(arrays, options)
        answer = {}
        for port, (parts, width, signed) in outputs.items():
            values = [numbers(results[name], parts, width, signed=signed) for name in places[port]]
            values = np.concatenate(values, axis=1)
            answer[port] = values[:, 0] if places[port] == [port] and parts == 1 else values
        return answer

    def stream(self, inputs, outputs, beside=None, *, stall=0.0, seed=0, watchdog=1000):
        """Feed input streams and take a number of payloads from output streams.

        Parameters
        ----------
        inputs : stream -> payloads, integers of any size.
        outputs : stream -> number of payloads to take.
        beside : port -> (output stream, values): ``values[i]`` is written until payload i of that stream is taken.
        stall : chance that a stream pauses in a cycle. ``seed`` : of it. ``watchdog`` : cycles without a transfer.

        Returns
        -------
        dict : output stream -> list of integers. ``when.stream`` -> cycle of each transfer, for inputs as well.
        """
        beside = beside or {}
        arrays = {
            f"input.{name}": rows_of_integers(payloads, self.widths[f"{name}__payload"])
            for name, payloads in inputs.items()
        }
        arrays |= {f"beside.{port}": np.asarray(values) for port, (_, values) in beside.items()}
        options = {
            "streams": True,
            "inputs": list(inputs),
            "outputs": outputs,
            "beside": {port: by for port, (by, _) in beside.items()},
            "stall": stall,
            "seed": seed,
            "watchdog": watchdog,
        }
        results = self._run(arrays, options)
        answer = {name: [int.from_bytes(row.tobytes(), "big") for row in results[name]] for name in outputs}
        return answer | {name: values for name, values in results.items() if name.startswith("when.")}
