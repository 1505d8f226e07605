"""Runs a program on the generated Verilog of the accelerator, with cocotbext-axi's memory and master around it."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from cocotb_tests.simulators import Simulation
from golden.timing import MemoryTiming
from hdl.config import MvqError
from hdl.control.register_map import OFFSETS, REGISTERS, ErrorCode
from hdl.verilog import generate

__all__ = ["AXI_RAM", "AcceleratorSimulation"]

_TESTBENCH = "cocotb_tests.accelerator_testbench"

#: cocotbext-axi's AxiRam without pauses. Two addresses of reads wait while a third's beats go through a queue of two.
#: Writes never wait for it, because the accelerator sends AW with its first W and takes every answer at once.
AXI_RAM = MemoryTiming(read_latency=2, write_latency=2, read_addresses=2, read_beats=2)


class AcceleratorSimulation:
    """The accelerator of ``config`` in a Verilog simulator, AxiRam and AxiLiteMaster at its ports.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    build_dir : folder for Verilog, compiled simulation and logs.
    simulator : ``verilator`` (slow to compile, fast to run) or ``icarus``.
    design : the generated Verilog, where the caller has it already.
    """

    def __init__(self, config, build_dir, simulator="verilator", design=None):
        self.config, self.build_dir, self.simulator, self.design = config, Path(build_dir), simulator, design
        self._simulation = None
        #: clock cycles of the last :meth:`run`, access to registers included, and seconds that they took.
        self.total_cycles, self.seconds = 0, 0.0

    def build(self):
        """Generate the Verilog and compile it, unless the folder holds the same already.

        Raises
        ------
        ToolMissingError : the simulator is missing. SimulationError : it refuses the Verilog.
        """
        self.design = self.design or generate(self.config, "accelerator")
        self._simulation = Simulation(self.design, self.build_dir / self.simulator, self.simulator)
        self._simulation.build()

    def run(self, memory, settings, limit, *, base=0, stall=0.0, seed=0):
        """Reset, write ``settings``, start, wait for the interrupt, read all registers.

        Parameters
        ----------
        memory : uint8, changed in place by what the accelerator writes; every address outside it answers SLVERR.
        settings : register name -> value, written before the start; ``irq_enable`` is 3 unless it is among them.
        limit : cycles after which the run is given up. ``base`` : address of the first byte of ``memory``.
        stall : chance that a channel pauses in a cycle, on each of the ten. ``seed`` : of these chances.

        Returns
        -------
        dict : register name -> value.

        Raises
        ------
        MvqError : no interrupt within ``limit`` cycles. SimulationError : the simulator crashed or hung.
        """
        unknown = settings.keys() - OFFSETS.keys()
        if unknown:
            raise MvqError(f"no registers: {', '.join(sorted(unknown))}")
        if self._simulation is None:
            self.build()
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.build_dir))
        files = {name: folder / name for name in ("memory", "settings", "results", "progress")}
        options = {"irq_enable": 3} | {name: int(value) for name, value in settings.items()}
        options = {"settings": options, "limit": limit, "base": base, "stall": stall, "seed": seed}
        files["settings"].write_text(json.dumps(options))
        memory.tofile(files["memory"])

        def watch():
            return files["progress"].read_text() if files["progress"].is_file() else None

        plusargs = [f"+{name}={path}" for name, path in files.items()]
        self._simulation.run(_TESTBENCH, folder, plusargs=plusargs, watch=watch)
        results = json.loads(files["results"].read_text())
        memory[:] = np.fromfile(files["memory"], np.uint8)
        shutil.rmtree(folder)
        self.total_cycles, self.seconds, words = results["cycles"], results["seconds"], results["registers"]
        registers = {
            item.name: words[item.name] | (words[f"{item.name}_high"] << 32 if item.width == 64 else 0)
            for item in REGISTERS
        }
        if not results["ended"]:
            error = ErrorCode(registers["error"] & 0xFF).name.lower()
            raise MvqError(
                f"no interrupt within {limit} cycles; layer {registers['status'] >> 16}, status "
                f"{registers['status'] & 0xFFFF:#x}, error {error}, {registers['cycles']} cycles counted"
            )
        return registers
