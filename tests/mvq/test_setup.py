"""The installer: quick and silent when everything is there, clear when something is too old."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup():
    spec = importlib.util.spec_from_file_location("mvq_setup", ROOT / "scripts" / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_installed_machine_is_left_alone(setup):
    if not setup.ready():
        pytest.skip("this machine was not installed with `make setup`")
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "setup.py"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_old_python_without_a_newer_one(setup, monkeypatch):
    monkeypatch.setattr(setup.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"setup: Python 3\.11 or newer is needed, but .* is 3\.9"):
        setup.check_python()


def test_old_compiler(setup, monkeypatch):
    monkeypatch.setattr(setup.shutil, "which", lambda name: name)
    monkeypatch.setattr(
        setup.subprocess, "run", lambda *_, **options: subprocess.CompletedProcess([], 0, stdout="9.4.0\n")
    )
    with pytest.raises(SystemExit, match=r"setup: g\+\+ 10 or newer is needed .* is 9\.4\.0"):
        setup.install_packages()


def test_missing_package_without_root(setup, monkeypatch):
    monkeypatch.setattr(setup.shutil, "which", lambda name: name if name == "apt-get" else None)
    monkeypatch.setattr(setup.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match=r"run `sudo apt-get install .*iverilog`, then try again"):
        setup.install_packages()


def test_stamp_follows_the_lock_file(setup, monkeypatch, tmp_path):
    before = setup.wanted_stamp()
    changed = tmp_path / "requirements.lock"
    changed.write_text((ROOT / "requirements.lock").read_text() + "another==1.0\n")
    monkeypatch.setattr(setup, "LOCK", str(changed))
    assert setup.wanted_stamp() != before


def test_every_requirement_is_locked():
    """Names in pyproject.toml, but for extras that `make setup` does not install, and the lock file agree, and what is
    pinned is pinned to the same version."""
    locked = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted = [re.fullmatch(r"([\w-]+)(?:\[.*\])?([=>]=)(\S+)", line).groups() for line in listed]
    assert len(wanted) > 15
    for name, relation, version in wanted:
        assert name in locked
        assert relation == ">=" or locked[name] == version
