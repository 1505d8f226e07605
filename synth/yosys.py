"""Yosys as a subprocess: a failure becomes one sentence with the end of the log, and no result is read after it."""

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from hdl.config import MvqError

__all__ = ["SynthesisError", "YosysTimeout", "read_trace", "run_yosys", "scratch_folder"]


class SynthesisError(MvqError):
    """Yosys failed.

    Parameters
    ----------
    what : the task, e.g. ``synthesis of ews-16x16``.
    reason : how it ended.
    log : path of the whole log.
    """

    def __init__(self, what, reason, log):
        self.log = Path(log)
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        self.log_tail = "\n".join(lines[-12:])
        errors = [line.strip() for line in lines if "ERROR" in line]
        detail = f" ({errors[-1]})" if errors else ""
        super().__init__(f"{what} failed: {reason}{detail}; the log is {self.log}")


class YosysTimeout(SynthesisError):
    """Yosys did not end in the time it was given, and was stopped."""


def quote(path):
    """``path`` as a Yosys argument.

    Raises
    ------
    MvqError : the path holds a character that Yosys's command line cannot carry.
    """
    text = str(path)
    if any(character in text for character in '"\n\\;'):
        raise MvqError(
            f"the path {text!r} holds a character that Yosys cannot read: use a path without quotes, ';' and '\\'"
        )
    return f'"{text}"'


@contextmanager
def scratch_folder(folder=None):
    """A folder for jobs and logs: ``folder``, or a temporary one that stays only after a failure."""
    path = Path(folder or tempfile.mkdtemp(prefix="mvq-prove-"))
    path.mkdir(parents=True, exist_ok=True)
    yield path
    if folder is None:
        shutil.rmtree(path)


def run_yosys(what, commands, folder, *, modules=(), placed=(), timeout_s=None):
    """Run ``commands``; return {module: [(instance, module of the instance)]}.

    Parameters
    ----------
    what : the task in words, for messages.
    commands : Yosys commands.
    folder : where the job, the log and the result go.
    modules : modules whose instances are listed at the end; None is every one that is not a cell.
    placed : modules that count as instances; None is every one that is not a cell.
    timeout_s : seconds after which Yosys is stopped; never when None.

    Raises
    ------
    SynthesisError : a command failed, Yosys crashed, or pyosys is not installed; YosysTimeout : it took too long.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    job, log, result = folder / "job.json", folder / "yosys.log", folder / "result.json"
    result.unlink(missing_ok=True)
    wanted = {"modules": modules, "placed": placed}
    description = {"commands": list(commands), "result": str(result)}
    description |= {name: value if value is None else list(value) for name, value in wanted.items()}
    job.write_text(json.dumps(description, indent=1))
    with log.open("w") as stream:
        try:
            process = subprocess.run(
                [sys.executable, "-m", "synth.yosys_worker", str(job)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise YosysTimeout(what, f"Yosys did not end within {timeout_s} s", log) from error
    if process.returncode < 0:
        raise SynthesisError(what, f"Yosys was ended by signal {-process.returncode}", log)
    if process.returncode:
        raise SynthesisError(what, f"Yosys ended with exit code {process.returncode}", log)
    if not result.exists():
        raise SynthesisError(what, "Yosys ended early and left no result", log)
    return json.loads(result.read_text())["instances"]


def read_trace(path):
    """What Yosys's ``sat -dump_json`` wrote to ``path``.

    Returns
    -------
    {signal: [value in each cycle]}; None where the solver gave no value, as before the first cycle.
    """
    trace = {}
    text = Path(path).read_text().replace("\\", "\\\\")  # which Yosys leaves as they are
    for signal in json.loads(text)["signal"]:
        data, values = iter(signal.get("data", ())), []
        for mark in signal["wave"]:
            if mark == ".":  # as in the cycle before
                values.append(values[-1])
                continue
            bits = next(data, "") if "data" in signal else mark
            values.append(int(bits, 2) if bits and set(bits) <= set("01") else None)
        trace[signal["name"].removeprefix("\\")] = values
    return trace
