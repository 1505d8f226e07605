"""``mvq run``: images and checkpoints from files, engines, reports, and what cannot be."""

import json
import tomllib

import numpy as np
import pytest
from typer.testing import CliRunner

from golden import Calibration
from hdl.config import MvqError
from mvq.cli import app
from mvq.run import load_images, make_engine
from tests.golden.program_networks import digits, random_checkpoint
from tests.sim.accelerators import CONFIGS


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with a checkpoint, its calibration, images and a configuration."""
    folder = tmp_path_factory.mktemp("run")
    config = CONFIGS["ews-cms"]
    rng = np.random.default_rng(0)
    array = config.array
    checkpoint, calibration = random_checkpoint(digits(), rng, d=array.vector_length, n=array.n, m=array.m)
    checkpoint.save(folder / "net")
    calibration.save(folder / "net" / "calibration.json")
    images = rng.normal(size=(3, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "images.npz", x=images, y=np.array([1, 2, 3]))
    values = {**config.to_dict(), **config.to_dict().pop("array")}
    values.pop("array")
    text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None)
    assert tomllib.loads(text)
    (folder / "array.toml").write_text(text)
    return folder


def invoke(folder, *options):
    arguments = ["run", folder / "net", "--config", folder / "array.toml", "--images", folder / "images.npz", *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_value_and_cycle_is_compared(files):
    found = invoke(files, "--engine", "cxxrtl", "--keep", "--json", files / "report.json")
    assert found.exit_code == 0, found.output
    report = json.loads((files / "report.json").read_text())
    assert report["cycles"] == [report["predicted"]] * 3
    assert len(report["compared"]) > 4
    assert report["registers"]["cycles"] == report["predicted"]
    golden = invoke(files, "--engine", "golden", "--json", files / "golden.json")
    assert golden.exit_code == 0, golden.output
    assert json.loads((files / "golden.json").read_text())["classes"] == report["classes"]


def test_count_takes_the_first_images(files):
    found = invoke(files, "--engine", "golden", "--count", "2", "--json", files / "two.json")
    assert found.exit_code == 0
    assert len(json.loads((files / "two.json").read_text())["classes"]) == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--engine", "quantum"], "must be one of golden, cxxrtl, verilator, icarus"),
        (["--calibration", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--mean", "0.5"], "are for uint8"),
        (["--mean", "grey"], "must be numbers with commas"),
    ],
)
def test_what_cannot_be_is_one_sentence(files, options, text):
    found = invoke(files, *options)
    assert isinstance(found.exception, MvqError)
    assert text in str(found.exception)


def test_pictures_are_normalised_by_channel(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    np.savez(tmp_path / "p.npz", x=pictures)
    images, labels = load_images(tmp_path / "p.npz", [0.1, 0.2, 0.3], [0.5, 0.25, 1.0])
    assert labels is None
    expected = (pictures / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 1.0]
    np.testing.assert_allclose(images, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    with pytest.raises(MvqError, match="--std has 2 values, but the images have 3 channels"):
        load_images(tmp_path / "p.npz", None, [1, 2])


def test_files_that_hold_no_images(tmp_path):
    with pytest.raises(MvqError, match=r"cannot be read as \.npz"):
        load_images(tmp_path / "missing.npz")
    np.savez(tmp_path / "flat.npz", x=np.zeros((3, 4)))
    with pytest.raises(MvqError, match="four dimensions"):
        load_images(tmp_path / "flat.npz")
    np.savez(tmp_path / "labels.npz", x=np.zeros((3, 1, 2, 2)), y=np.zeros(2))
    with pytest.raises(MvqError, match="has 3 images, but labels of shape"):
        load_images(tmp_path / "labels.npz")


def test_golden_needs_no_engine():
    assert make_engine("golden", CONFIGS["ews-cms"]) == (None, None)


def test_a_calibration_of_another_network_is_refused(files):
    Calibration({"image": 1.0}).save(files / "other.json")
    found = invoke(files, "--engine", "golden", "--calibration", files / "other.json")
    assert "calibrate this network" in str(found.exception)
