"""``mvq compress``: the plan is what happens, checkpoints are whole or not there, and what cannot be is named."""

import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from algo import zoo
from algo.compress import CompressSettings, compress
from golden import Calibration, Checkpoint, CheckpointError
from hdl.accelerator_config import load_accelerator_config
from hdl.config import MvqError
from mvq.cli import app
from mvq.compress import make_plan, run_compress

CODE = """
from torch import nn
from algo.zoo import DigitsNet

class Modern(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3), nn.GroupNorm(2, 16), nn.SiLU(), nn.Conv2d(16, 16, 3), nn.Hardswish(), nn.Flatten(),
            nn.Linear(256, 10),
        )
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with a user's network, weights and images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digitnet_under_test.py").write_text(CODE)
    torch.manual_seed(0)
    torch.save(zoo.DigitsNet().state_dict(), tmp_path / "w.pt")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(20, 1, 8, 8)).astype(np.float32), y=rng.integers(0, 10, 20))
    yield tmp_path
    sys.modules.pop("digitnet_under_test", None)


def invoke(*options):
    return CliRunner().invoke(app, ["compress", *map(str, options)])


DIGITS = ("digitnet_under_test:DigitsNet", "--weights", "w.pt", "--input", "1,8,8", "--codewords", "16")


def test_a_checkpoint_with_its_calibration(here):
    found = invoke(*DIGITS, "--calibrate", "x.npz", "--out", "net", "--json", "report.json")
    assert found.exit_code == 0, found.output
    checkpoint = Checkpoint.load(here / "net")
    assert checkpoint.settings["codewords"] == 16
    module = zoo.DigitsNet()
    module.load_state_dict(torch.load(here / "w.pt"))
    expected = compress(module, (1, 8, 8), CompressSettings(codewords=16)).to_checkpoint()
    for name in expected.layers:
        np.testing.assert_array_equal(checkpoint.weights(name), expected.weights(name))
    calibration = Calibration.load(here / "net" / "calibration.json")
    assert set(calibration.amax) == {node.name for node in checkpoint.graph.nodes}
    assert [row["name"] for row in json.loads((here / "report.json").read_text())["rows"]] == list(checkpoint.layers)
    assert "by the paper's eq. 7" in found.output


def test_the_same_command_gives_the_same_bytes(here):
    for out in ("one", "two"):
        assert invoke(*DIGITS, "--out", out, "--seed", "3").exit_code == 0
    for name in ("manifest.json", "tensors.safetensors"):
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()
    assert not (here / "one" / "calibration.json").exists()


def test_options_reach_the_settings(here):
    options = (
        "--method",
        "vq-sparse",
        "--codeword-bits",
        "6",
        "--n",
        "2",
        "--m",
        "8",
        "--vector-length",
        "8",
        "--codebook",
        "shared",
        "--dense",
        "conv3",
    )
    assert invoke(*DIGITS, *options, "--compress", "fc", "--seed", "7", "--out", "net").exit_code == 0
    checkpoint = Checkpoint.load(here / "net")
    expected = CompressSettings(
        method="vq-sparse",
        codeword_bits=6,
        codewords=16,
        n=2,
        m=8,
        vector_length=8,
        codebook="shared",
        dense=("conv3",),
        compress=("fc",),
        seed=7,
    )
    assert checkpoint.settings == expected.to_dict()
    assert list(checkpoint.codebooks) == ["shared"]


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A folder with a trained DigitsNet, training and test images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_x, train_y, test_x, test_y = zoo.digits()
        torch.save(zoo.train(zoo.DigitsNet(), train_x, train_y, epochs=8).state_dict(), folder / "w.pt")
        np.savez(folder / "train.npz", x=train_x.numpy(), y=train_y.numpy())
        np.savez(folder / "test.npz", x=test_x.numpy(), y=test_y.numpy())
        yield folder


@pytest.fixture
def digits_command(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return ("algo.zoo:DigitsNet", "--weights", "w.pt", "--input", "1,8,8", "--codewords", "32")


def top1(checkpoint):
    """Accuracy of its integers on the held-out digits."""
    from mvq.run import load_images, prepare, run_images

    lowered, program = prepare(checkpoint, load_accelerator_config("ews-cms-16x16"))
    images, labels = load_images("test.npz")
    return run_images(lowered, program, images, labels, None, None).right / len(labels)


def test_training_brings_the_accuracy_back(digits_command, tmp_path):
    out = tmp_path / "plain"
    assert invoke(*digits_command, "--calibrate", "train.npz", "--out", out).exit_code == 0
    steps = ("--train", "train.npz", "--validate", "test.npz", "--work", tmp_path / "work", "--rate", "3e-3")
    options = ("--sparse-epochs", 2, "--reconstruct", 64, "--epochs", 2, "--teacher", "--activations", "int8")
    found = invoke(*digits_command, *steps, *options, "--out", tmp_path / "trained")
    assert found.exit_code == 0, found.output
    assert "with calibration.json" in found.output.replace("\n", " ")
    assert top1(tmp_path / "trained") > max(0.93, top1(out) + 0.1)
    for stage in ("prune", "fine-tune"):
        log = json.loads((tmp_path / "work" / stage / "log.json").read_text())
        assert [entry["epoch"] for entry in log] == [1, 2]
        assert all(0 < entry["accuracy"] <= 1 for entry in log)


def test_a_training_that_was_stopped_goes_on(digits_command, tmp_path):
    options = ("--train", "train.npz", "--sparse-epochs", 1, "--epochs", 1, "--work", tmp_path / "work")
    outs = tmp_path / "one", tmp_path / "two"
    for out in outs:  # the second finds both trainings complete
        assert invoke(*digits_command, *options, "--out", out).exit_code == 0
    assert len({(out / "tensors.safetensors").read_bytes() for out in outs}) == 1
    found = invoke(*digits_command, *options, "--rate", "1e-4", "--out", tmp_path / "three")
    assert isinstance(found.exception, MvqError)
    assert "rate = 0.001, not 0.0001" in str(found.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "1"), "--train is missing"),
        (("--train", "train.npz", "--sparse-epochs", "1", "--method", "vq"), "'vq' does not prune"),
        (("--train", "train.npz", "--reconstruct", "9", "--method", "pqf"), "changes the order of channels"),
        (("--train", "train.npz", "--epochs", "1", "--optimiser", "adagrad"), "optimiser = 'adagrad'"),
        (("--train", "train.npz", "--sparse-epochs", "1", "--pruning", "lottery"), "'lottery'.*sr-ste, asp"),
    ],
)
def test_trainings_that_cannot_be(digits_command, tmp_path, options, message):
    found = invoke(*digits_command, *options, "--out", tmp_path / "net")
    assert isinstance(found.exception, MvqError)
    assert re.search(message, str(found.exception)), found.exception
    assert not (tmp_path / "net").exists()


# ---- the plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"codewords": 16},
        {"codewords": 16, "codebook": "shared"},
        {"codewords": 512, "dense": ("conv2",)},
        {"codewords": 5, "n": 1, "m": 4, "vector_length": 8, "compress": ("fc",)},
        {"codewords": 16, "n": 16},
        {"codewords": 1, "vector_length": 32},
        {"method": "vq", "codewords": 40, "codeword_bits": 6, "codebook": "shared"},
        {"method": "vq-sparse", "codewords": 16, "layers": {"conv3": {"n": 8, "codewords": 9}}},
        {"method": "pqf", "codewords": 16},
        {"method": "vecq", "weight_bits": 3},
        {"method": "int8"},
    ],
)
def test_the_plan_is_what_the_checkpoint_holds(options):
    torch.manual_seed(0)
    module, settings = zoo.DigitsNet(residual=True), CompressSettings(**options)
    plan = make_plan(module, (1, 8, 8), settings)
    checkpoint = compress(module, (1, 8, 8), settings).to_checkpoint()
    sizes = checkpoint.sizes()
    assert [layer.name for layer in plan.layers] == list(checkpoint.layers)
    for layer in plan.layers:
        bits = sizes["layers"][layer.name]
        assert layer.weights == bits["weights"]
        assert layer.bits == bits["assignments"] + bits["masks"] + bits["dense"]
        if layer.fate == "compressed" and layer.codewords:
            stored = checkpoint.layers[layer.name]
            assert (layer.vectors, layer.codewords) == (stored.index.size, stored.codebook.codewords)
            assert layer.codebook_bits + plan.shared_bits == stored.codebook.bits
    assert plan.formula_ratio == pytest.approx(sizes["formula_ratio"] or 4.0)  # eq. 7 is not about int8


def test_why_layers_stay_dense():
    module = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1, groups=2), nn.Conv2d(32, 32, 1)),
        *(nn.Conv2d(32, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)),
    )
    plan = make_plan(module, (3, 8, 8), CompressSettings(dense=("4",)))
    assert [layer.reason for layer in plan.layers] == [
        "first convolution",
        "depthwise",
        "grouped",
        "",
        "named in --dense",
        "classifier",
    ]


def test_a_dry_run_writes_nothing(here):
    before = sorted(here.iterdir())
    found = invoke(*DIGITS, "--dry-run", "--out", "net")
    assert found.exit_code == 0, found.output
    assert re.search(r"conv2 .*compressed .*32x16x3x3 .*4,608 .*288 .*16", found.output)
    assert re.search(r"fc .*dense: classifier", found.output)
    assert sorted(here.iterdir()) == before
    assert invoke(*DIGITS, "--dry-run", "--json", "plan.json").exit_code == 0
    plan = json.loads((here / "plan.json").read_text())
    assert plan["total"]["weights"] == sum(layer["weights"] for layer in plan["layers"])


@pytest.mark.parametrize("options", [("--dry-run",), ("--out", "net")])
def test_all_that_is_not_supported_is_named_before_any_work(here, options):
    found = invoke("digitnet_under_test:Modern", "--input", "1,8,8", *options)
    assert isinstance(found.exception, MvqError)
    assert str(found.exception) == (
        "3 parts of the network are not supported: '1' (GroupNorm); '2' (SiLU); '4' (Hardswish)"
    )
    assert not (here / "net").exists()
    if options[0] == "--dry-run":
        assert re.search(r"1 .*unsupported: GroupNorm", found.output)
        assert re.search(r"3 .*compressed", found.output)


# ---- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--out is missing"),
        (("--out", "thesis"), "thesis exists and is no checkpoint"),
        (("--out", "net", "--codebook", "global"), "codebook = 'global': must be 'layer' or 'shared'"),
        (("--out", "net", "--vector-length", "24"), "vector_length = 24: must be a multiple of m = 16"),
        (("--out", "net", "--dense", "conv9"), "layer 'conv9' is not in the network; its layers are conv1"),
        (("--out", "net", "--calibrate", "y.npz"), "y.npz: there is no such file or folder of images"),
        (
            ("--out", "net", "--calibrate", "small.npz"),
            "small.npz: its images are 1 x 4 x 4, but the network takes 1 x 8",
        ),
    ],
)
def test_options_that_cannot_be(here, options, message):
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter1").write_text("irreplaceable")
    np.savez(here / "small.npz", x=np.zeros((2, 1, 4, 4)))
    found = invoke(*DIGITS, *options)
    assert isinstance(found.exception, MvqError), found.output
    assert message in str(found.exception)
    assert not (here / "net").exists()


def test_a_checkpoint_is_not_compressed_again(here):
    assert invoke(*DIGITS, "--out", "net").exit_code == 0
    found = invoke("net", "--out", "again")
    assert isinstance(found.exception, MvqError)
    assert "is compressed already" in str(found.exception)


@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors"])
def test_a_full_disk_leaves_nothing_half_written(here, monkeypatch, name):
    write = Path.write_bytes

    def full(path, content):
        if path.name == name:
            write(path, content[:10])
            raise OSError(28, "No space left on device")
        return write(path, content)

    run_compress(zoo.DigitsNet(), (1, 8, 8), CompressSettings(codewords=8), here / "old")
    monkeypatch.setattr(Path, "write_bytes", full)
    for out in ("old", "new"):
        with pytest.raises(CheckpointError, match=rf"{out} cannot be written \(No space left on device\)"):
            run_compress(zoo.DigitsNet(), (1, 8, 8), CompressSettings(codewords=16), here / out)
    assert Checkpoint.load(here / "old").settings["codewords"] == 8
    assert sorted(path.name for path in here.iterdir()) == ["digitnet_under_test.py", "old", "w.pt", "x.npz"]


def test_a_full_disk_leaves_no_half_of_a_calibration(here, monkeypatch):
    write = Path.write_text

    def full(path, text, *arguments):
        if "calibration" in path.name:
            write(path, text[:10])
            raise OSError(28, "No space left on device")
        return write(path, text, *arguments)

    monkeypatch.setattr(Path, "write_text", full)
    settings, images = CompressSettings(codewords=8), torch.randn(4, 1, 8, 8)
    with pytest.raises(MvqError, match=r"calibration.json cannot be written \(No space left on device\)"):
        run_compress(zoo.DigitsNet(), (1, 8, 8), settings, here / "net", images=images)
    assert sorted(path.name for path in (here / "net").iterdir()) == ["manifest.json", "tensors.safetensors"]


@pytest.mark.parametrize(("codebook", "count"), [("layer", 2), ("shared", 100)])
def test_progress_goes_over_all_layers(here, codebook, count):
    steps = []
    settings, images = CompressSettings(codewords=8, codebook=codebook), torch.randn(4, 1, 8, 8)
    run_compress(
        zoo.DigitsNet(), (1, 8, 8), settings, here / "n", images=images, progress=lambda *step: steps.append(step)
    )
    done = [step[1] for step in steps if step[0] == "compress"]
    assert done == sorted(done)
    assert {step[2] for step in steps if step[0] == "compress"} == {count}
    assert steps[-1] == ("calibrate", 4, 4)
