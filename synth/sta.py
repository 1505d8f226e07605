"""OpenSTA as a subprocess: any complaint of its own becomes one sentence, and no number is read after it."""

import re
import shutil
import subprocess
from pathlib import Path

from hdl.config import MvqError

__all__ = ["StaError", "find_sta", "run_sta"]

#: what OpenSTA says when something is wrong, also where it goes on.
_COMPLAINTS = re.compile(r"\bError\b|syntax error|black box|not found|invalid command|wrong # args", re.IGNORECASE)


class StaError(MvqError):
    """OpenSTA is missing or complained."""


def find_sta():
    """Path of OpenSTA.

    Raises
    ------
    StaError : it is not installed.
    """
    found = shutil.which("sta")
    if found is None:
        raise StaError(
            "OpenSTA (`sta`) is not installed, and timing needs it: `apt-get install opensta` on Debian and Ubuntu"
        )
    return found


def run_sta(what, commands, folder):
    """Run Tcl ``commands``; return what OpenSTA printed.

    Parameters
    ----------
    what : the task in words, for messages.
    folder : where the script and the log go.

    Raises
    ------
    StaError : OpenSTA is missing, ended early, or printed an error; nothing it printed is to be used then.
    """
    program = find_sta()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    script, log = folder / "sta.tcl", folder / "sta.log"
    script.write_text("\n".join([*commands, 'puts "finished"', ""]))
    with log.open("w") as stream:
        process = subprocess.run(
            [program, "-no_splash", "-exit", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    text = log.read_text(errors="replace")
    complaint = next((line.strip() for line in text.splitlines() if _COMPLAINTS.search(line)), None)
    if complaint:
        raise StaError(f"{what} failed: OpenSTA says {complaint!r}; the log is {log}")
    if process.returncode or not text.rstrip().endswith("finished"):
        raise StaError(f"{what} failed: OpenSTA ended early with exit code {process.returncode}; the log is {log}")
    return text
