"""``mvq power``, from a checkpoint and images to a table and a report; and what it refuses."""

import json

import numpy as np
import pytest
import small_core
from typer.testing import CliRunner

from mvq.cli import app
from mvq.reports import load_report
from tests.golden.program_networks import digits, random_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with a checkpoint, its calibration, images and a configuration."""
    folder, config = tmp_path_factory.mktemp("power"), small_core.CONFIG
    form = {"d": config.vector_length, "n": config.n, "m": config.m, "codewords": config.codewords}
    checkpoint, calibration = random_checkpoint(digits(), np.random.default_rng(0), **form, compressed=1, shared=1)
    checkpoint.save(folder / "net")
    calibration.save(folder / "net" / "calibration.json")
    np.savez(folder / "images.npz", x=np.random.default_rng(1).normal(size=(2, 1, 8, 8)).astype(np.float32))
    (folder / "array.json").write_text(json.dumps(config.to_dict()))
    return folder


def invoke(folder, *options):
    arguments = ["power", folder / "array.json", "--checkpoint", folder / "net", "--images", folder / "images.npz"]
    return CliRunner().invoke(app, [str(argument) for argument in (*arguments, "--cycles", 1, *options)])


def test_power_from_checkpoint_and_images(files, nangate45):
    path = files / "power.json"
    found = invoke(files, "--json", path)
    assert found.exit_code == 0, found.output
    report = json.loads(path.read_text())
    assert report["format"] == "mvq-power"
    assert report["layer"] in digits().shapes()
    seconds = report["cycles"] * report["policy"]["clock_ps"] * 1e-12
    assert sum(report["power"].values()) * seconds == pytest.approx(sum(report["energy"].values()))
    assert 1e-4 < sum(report["leakage"].values()) < sum(report["power"].values()) < 0.1
    for block in report["power"]:
        assert block in found.output
    assert f"{1e3 * sum(report['power'].values()):.3f}" in found.output
    assert load_report(path)


def test_an_unknown_layer_is_named(files):
    found = invoke(files, "--layer", "conv9")
    assert found.exit_code != 0
    assert "--layer = 'conv9'" in str(found.exception or found.output)
