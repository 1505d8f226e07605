"""Shared test set-up."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def shared_pdk():
    """A PDK_ROOT with SKY130 HD and IHP SG13G2, where the machine has one beside the repository."""
    folder = ROOT.parent / "shared" / "pdk"
    if not folder.is_dir():
        pytest.skip(f"needs the PDKs in {folder}")
    return folder


@pytest.fixture(scope="session")
def nangate45():
    """NanGate45 as :class:`synth.liberty.Liberty`."""
    from synth.liberty import nangate45_path, read_liberty

    if not nangate45_path().is_file():
        pytest.skip(f"needs NanGate45 in {nangate45_path()}: run `make setup`")
    return read_liberty(nangate45_path())
