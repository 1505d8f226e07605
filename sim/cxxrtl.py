"""Gateware compiled to a shared library: Amaranth to RTLIL, Yosys's CXXRTL to C++, g++ to machine code, once for each
design."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from golden.files import replacing
from hdl.config import MvqError
from hdl.verilog import ModuleLibrary
from sim.partition import partition

__all__ = ["CompileError", "cache_folder", "compile_design"]

_HERE = Path(__file__).parent

#: -O2 and -O3 are the same within a few percent, -O1 is 15 % slower; -march=native gains nothing, and would tie the
#: cache to a machine.
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fvisibility=hidden")

#: C++ files that a design is cut into, for compilers side by side.
_FILES = 8

_SCRIPT = """\
read_rtlil <<rtlil
{text}
rtlil
hierarchy -top {top}
flatten
write_cxxrtl -g0 -O6 -noproc
"""

_KEPT_LINES = 15  # of a compiler's errors


class CompileError(MvqError):
    """A design that cannot be compiled, or a compiler that is missing."""


def cache_folder():
    """Where compiled designs are kept: the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mvq" / "cxxrtl"


def compile_design(component, harness="axi_bench.cc", *, cache=None, progress=None):
    """Shared library of ``component`` and of C++ that runs it.

    Parameters
    ----------
    component : Amaranth component with a ``module_name``; one clock, and no port whose name another one begins with.
    harness : C++ file that includes ``design.h`` (see :mod:`sim.partition`) and exports functions; a name in this
        package, or a path.
    cache : folder of compiled designs; :func:`cache_folder` when None. The same gateware, harness and compiler give the
        same file, which is compiled once.
    progress : called with a line of text before what takes more than a second.

    Returns
    -------
    Path of the library.

    Raises
    ------
    CompileError : g++ is missing, or refuses the C++. PartitionError : the design has what is not supported.
    """
    progress = progress or (lambda text: None)
    compiler, version = _compiler()
    library = ModuleLibrary()
    library.add(component)
    top = component.module_name
    text = library.to_rtlil(top)
    harness = _HERE / harness
    parts = [text, top, version, *_FLAGS, *(path.read_text() for path in (*sorted(_HERE.glob("*.h")), harness))]
    parts += [(_HERE / name).read_text() for name in ("partition.py", "cxxrtl.py")]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    target = Path(cache or cache_folder()) / f"{top}-{key}.so"
    if target.is_file():
        return target
    progress(f"compiling {top} to C++, once for this configuration: Yosys")
    design = partition(_write_cxxrtl(text, top), _FILES)
    sources = {f"design_{number}.cc": source for number, source in enumerate(design.sources)}
    sources |= {"design.h": design.header, "harness.cc": harness.read_text()}
    started = time.monotonic()
    progress(f"compiling {sum(map(len, sources.values())) // 1000} KB of C++ with {version}")
    with replacing(target, CompileError) as temporary, tempfile.TemporaryDirectory(prefix="mvq-cxxrtl-") as folder:
        _compile(compiler, Path(folder), sources, temporary)
    progress(f"compiled in {time.monotonic() - started:.0f} s: {target}")
    return target


def _compiler():
    compiler = shutil.which("g++")
    if compiler is None:
        raise CompileError(
            "g++ is not installed: the cxxrtl engine needs it; `apt-get install g++` on Debian and Ubuntu"
        )
    found = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    if found.returncode:
        raise CompileError(f"`{compiler} --version` fails: {found.stderr.strip()}")
    return compiler, found.stdout.splitlines()[0]


def _write_cxxrtl(text, top):
    from amaranth._toolchain.yosys import YosysError, find_yosys

    try:
        return find_yosys(lambda version: True).run(
            ["-q", "-"], _SCRIPT.format(text=text, top=top), ignore_warnings=True
        )
    except YosysError as error:
        raise CompileError(f"Yosys cannot convert {top} to C++: {error}") from error


def _compile(compiler, folder, sources, target):
    for name, text in sources.items():
        (folder / name).write_text(text)

    def run(*arguments):
        command = [compiler, *_FLAGS, f"-I{folder}", f"-I{_HERE}", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise CompileError("\n  ".join([f"g++ fails ({done.returncode}):", *lines[:_KEPT_LINES]]))

    objects = [Path(name).with_suffix(".o").name for name in sources if name.endswith(".cc")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda name: run("-c", Path(name).with_suffix(".cc").name, "-o", name), objects))
    run("-shared", *objects, "-o", str(target))
