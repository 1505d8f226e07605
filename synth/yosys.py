"""Yosys as a subprocess: a failure becomes one sentence with the end of the log, and no result is read after it."""

import json
import subprocess
import sys
from pathlib import Path

from hdl.config import MvqError

__all__ = ["SynthesisError", "run_yosys"]


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


def run_yosys(what, commands, folder, *, modules=(), placed=()):
    """Run ``commands``; return {module: [(instance, module of the instance)]}.

    Parameters
    ----------
    what : the task in words, for messages.
    commands : Yosys commands.
    folder : where the job, the log and the result go.
    modules : modules whose instances are listed at the end; None is every one that is not a cell.
    placed : modules that count as instances; None is every one that is not a cell.

    Raises
    ------
    SynthesisError : a command failed, Yosys crashed, or pyosys is not installed.
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
        process = subprocess.run(
            [sys.executable, "-m", "synth.yosys_worker", str(job)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if process.returncode < 0:
        raise SynthesisError(what, f"Yosys was ended by signal {-process.returncode}", log)
    if process.returncode:
        raise SynthesisError(what, f"Yosys ended with exit code {process.returncode}", log)
    if not result.exists():
        raise SynthesisError(what, "Yosys ended early and left no result", log)
    return json.loads(result.read_text())["instances"]
