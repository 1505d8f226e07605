"""``mvq evaluate``: scores of the float network, the compressed one and its integers."""

import json
import re
import zipfile

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from algo import zoo
from algo.calibration import calibrate
from algo.compress import CompressSettings, compress
from algo.datasets import Dataset
from golden import Calibration, Checkpoint, quantise
from hdl.config import MvqError
from mvq.cli import app
from mvq.evaluate import Score, evaluate, load_networks


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with a trained network's weights, its checkpoint, and held-out digits."""
    folder = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small networks: a second thread only waits, above all on a busy machine
    train_x, train_y, test_x, test_y = zoo.digits()
    module = zoo.train(zoo.DigitsNet(), train_x, train_y, epochs=4)
    network = compress(module, (1, 8, 8), CompressSettings(codewords=64))
    torch.save(module.state_dict(), folder / "w.pt")
    network.to_checkpoint().save(folder / "net")
    calibrate(network, train_x[:128]).save(folder / "net" / "calibration.json")
    np.savez(folder / "test.npz", x=test_x.numpy(), y=test_y.numpy())
    return folder


def invoke(folder, *options):
    arguments = ["evaluate", folder / "net", "--data", folder / "test.npz", *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_three_networks_on_the_same_images(files):
    options = ("--network", "algo.zoo:DigitsNet", "--weights", files / "w.pt", "--integers", "--batch", "77")
    found = invoke(files, *options, "--json", files / "scores.json")
    assert found.exit_code == 0, found.output
    report = json.loads((files / "scores.json").read_text())
    float_score, compressed, integers = report["networks"]
    assert [score["network"] for score in report["networks"]] == ["float", "compressed", "integers"]
    with np.load(files / "test.npz") as data:
        x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    module = zoo.DigitsNet()
    module.load_state_dict(torch.load(files / "w.pt"))
    assert float_score["right"] == round(zoo.accuracy(module, x, y) * len(x))
    assert float_score["top1"] == float_score["right"] / 360 > 0.9
    checkpoint = Checkpoint.load(files / "net")
    golden = quantise(checkpoint, Calibration.load(files / "net" / "calibration.json"))
    outputs = golden.logits(golden.run(golden.quantise_input(x.numpy()), keep=False)[golden.graph.output])
    assert integers["right"] == int((outputs.argmax(axis=1) == y.numpy()).sum())
    assert compressed["right"] != float_score["right"]  # or this test would not notice which is which
    assert compressed["top5"] is None
    assert "points" in found.output


def test_first_images_and_a_zip(files):
    with zipfile.ZipFile(files / "net.zip", "w") as archive:
        for name in ("manifest.json", "tensors.safetensors"):
            archive.write(files / "net" / name, name)
    arguments = [
        "evaluate",
        files / "net.zip",
        "--data",
        files / "test.npz",
        "--count",
        10,
        "--json",
        files / "ten.json",
    ]
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output
    assert json.loads((files / "ten.json").read_text())["networks"][0]["images"] == 10
    with pytest.raises(MvqError, match=r"has no calibration\.json"):
        load_networks(files / "net.zip", integers=True)


def test_top_five():
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.permuted(np.tile(np.arange(20.0), (50, 1)), axis=1))
    ranks = torch.from_numpy(rng.integers(1, 8, 50))  # place of the label: 1 is the largest output
    labels = torch.stack([(row == 20 - rank).nonzero()[0, 0] for row, rank in zip(outputs, ranks, strict=True)])
    (score,) = evaluate({"a": lambda x: outputs[x[:, 0].long()]}, Dataset(torch.arange(50.0)[:, None], labels), 20, 7)
    assert score.right == int((ranks == 1).sum())
    assert score.among_five == int((ranks <= 5).sum())
    assert score.top5 > score.top1 > 0
    assert Score("b", 100, 50).standard_error == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "w.pt"], "give it with --network"),
        (["--integers", "--calibration", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--split", "dev"], "split = 'dev'"),
        (["--mean", "0.5"], "mean, std and size are for uint8"),
        (["--data", "nowhere.npz"], "nowhere.npz: there is no such file"),
        (["--network", "algo.zoo:resnet20"], "algo.zoo:resnet20: does not take 1 x 8 x 8 images .Given groups=1"),
    ],
)
def test_what_cannot_be_is_one_sentence(files, options, message):
    found = invoke(files, *options)
    assert isinstance(found.exception, MvqError), found.output
    assert re.search(message, str(found.exception))


def test_images_that_do_not_fit(files, tmp_path):
    for arrays, message in (
        ({"x": np.zeros((2, 1, 9, 9))}, "its images are 1 x 9 x 9, but the network takes 1 x 8 x 8"),
        ({"x": np.zeros((2, 1, 8, 8))}, "has no labels"),
        ({"x": np.zeros((2, 1, 8, 8)), "y": np.array([3, 10])}, "holds the label 10, but the network has 10 classes"),
    ):
        np.savez(tmp_path / "x.npz", **arrays)
        found = CliRunner().invoke(app, ["evaluate", str(files / "net"), "--data", str(tmp_path / "x.npz")])
        assert isinstance(found.exception, MvqError)
        assert message in str(found.exception)


def test_outputs_that_do_not_fit():
    dataset = Dataset(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(MvqError, match="the float network gives 7 outputs, but the checkpoint has 10"):
        evaluate({"float": nn.Sequential(nn.Flatten(), nn.Linear(64, 7))}, dataset, 10)
    with pytest.raises(MvqError, match="the compressed network gives NaN or infinity"):
        evaluate({"compressed": lambda x: torch.full((len(x), 10), torch.nan)}, dataset, 10)


def test_a_checkpoint_of_a_newer_version(files, tmp_path):
    content = json.loads((files / "net" / "manifest.json").read_text())
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "manifest.json").write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(MvqError, match=r"format_version = 99, but only .* can be read; a newer mvq wrote it"):
        load_networks(tmp_path / "net")
