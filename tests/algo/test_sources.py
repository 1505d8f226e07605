"""Networks and weights from the user's own files, and what is said when they do not fit."""

import json
import sys
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from algo import zoo
from algo.compress import CompressSettings, compress
from algo.datasets import load_dataset
from algo.keras_weights import MEAN, keras_state
from algo.sources import load_network, load_weights
from hdl.config import MvqError
from tests.algo.conftest import DATA

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)

class Wide(Net):
    def __init__(self, width):
        super().__init__()

def small():
    return Net()

def broken():
    return Net(
        ).nothing

class inner:
    ready = Net()

number = 3
text = lambda: "text"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with the user's file ``mynet_under_test.py`` and a package."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet_under_test.py").write_text(CODE)
    (tmp_path / "mypackage_under_test").mkdir()
    (tmp_path / "mypackage_under_test" / "__init__.py").write_text("")
    (tmp_path / "mypackage_under_test" / "net.py").write_text(CODE)
    (tmp_path / "needy_under_test.py").write_text("import a_module_that_is_not_installed")
    (tmp_path / "wrong_under_test.py").write_text("x = 1\n\nx = (")
    yield tmp_path
    for name in [name for name in sys.modules if "under_test" in name and not name.startswith("tests")]:
        del sys.modules[name]


SHAPE = (3, 8, 8)


@pytest.mark.parametrize(
    "spec",
    [
        "mynet_under_test:Net",
        "mynet_under_test:small",
        "mynet_under_test:inner.ready",
        "mypackage_under_test.net:Net",
    ],
)
def test_networks_of_the_users_own_file(here, spec):
    module, shape = load_network(spec, input_shape=SHAPE)
    assert module(torch.zeros(1, *SHAPE)).shape == (1, 4, 6, 6)
    assert shape == SHAPE
    assert not module.training


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet20", "'resnet20' names no network; it must be package.module:callable such as mynet:Net"),
        ("net.py/x:Net", "names no network"),
        ("missing_under_test:Net", "there is no module 'missing_under_test' in .* or among the installed packages"),
        ("mypackage_under_test.nets:Net", r"no module 'mypackage_under_test.nets'"),
        ("needy_under_test:Net", "needs the module 'a_module_that_is_not_installed', which is not installed"),
        ("wrong_under_test:Net", r"cannot be imported: SyntaxError"),
        ("mynet_under_test:Nett", "has no 'Nett'; it has Net, Wide, small and 3 more"),
        ("mynet_under_test:number", "is a int, neither an nn.Module nor a callable"),
        ("mynet_under_test:text", "gave a str, not an nn.Module"),
        ("mynet_under_test:Wide", "calling it without arguments failed: TypeError .*missing 1 required .*'width'"),
        ("mynet_under_test:broken", r"failed: AttributeError at .*mynet_under_test.py:2[12] \(.*'nothing'"),
    ],
)
def test_specs_that_name_no_network(here, spec, message):
    with pytest.raises(MvqError, match=message) as caught:
        load_network(spec, input_shape=SHAPE)
    assert "\n" not in str(caught.value)


def test_input_shapes(here):
    with pytest.raises(MvqError, match="does not say what it takes; give --input"):
        load_network("mynet_under_test:Net")
    with pytest.raises(MvqError, match="must be channels, rows and columns"):
        load_network("mynet_under_test:Net", input_shape=(3, 8))


def test_checkpoints_in_a_folder_and_in_a_zip(tmp_path, digits_module):
    compressed = compress(digits_module, (1, 8, 8), CompressSettings(codewords=16))
    compressed.to_checkpoint().save(tmp_path / "net")
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        for file in (tmp_path / "net").iterdir():
            archive.write(file, f"net/{file.name}")
    x = torch.randn(2, 1, 8, 8)
    for name in ("net", "net.zip"):
        module, shape = load_network(tmp_path / name)
        assert shape == (1, 8, 8)
        assert torch.equal(module(x), compressed(x))
    with pytest.raises(MvqError, match="has its weights inside"):
        load_network(tmp_path / "net", weights="w.pt")
    with pytest.raises(MvqError, match=r"takes \(1, 8, 8\)"):
        load_network(tmp_path / "net", input_shape=SHAPE)
    (tmp_path / "net.zip").write_bytes(b"PK")
    with pytest.raises(MvqError, match="neither the folder nor the zip of a checkpoint"):
        load_network(tmp_path / "net.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(MvqError, match=r"empty.zip/manifest.json: cannot be read"):
        load_network(tmp_path / "empty.zip")


# ---- weights ------------------------------------------------------------------------------------------------------


def saved(path, state):
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
    ],
)
def test_weights_however_they_were_saved(tmp_path, digits_module, wrap):
    module = load_weights(zoo.DigitsNet(), saved(tmp_path / "w.pt", wrap(digits_module.state_dict()))).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(module(x), digits_module(x))


def test_safetensors(tmp_path, digits_module):
    safetensors.torch.save_file(digits_module.state_dict(), tmp_path / "w.safetensors")
    module = load_weights(zoo.DigitsNet(), tmp_path / "w.safetensors")
    assert torch.equal(module.conv3.weight, digits_module.conv3.weight)
    (tmp_path / "w.safetensors").write_bytes(b"garbage")
    with pytest.raises(MvqError, match=r"w.safetensors: cannot be read as weights"):
        load_weights(module, tmp_path / "w.safetensors")


def test_weights_that_do_not_fit(tmp_path, digits_module):
    state = digits_module.state_dict()
    del state["conv1.weight"]
    state["head.weight"] = torch.zeros(1)
    state["fc.bias"] = torch.zeros(12)
    with pytest.raises(MvqError) as caught:
        load_weights(zoo.DigitsNet(), saved(tmp_path / "w.pt", state))
    assert str(caught.value) == (
        f"{tmp_path / 'w.pt'}: does not fit DigitsNet: it lacks conv1.weight; it has besides head.weight; "
        "its fc.bias is (12,) instead of (10,)"
    )
    with pytest.raises(MvqError, match=r"lacks conv4.weight, bn4.weight, bn4.bias and 2 more$"):
        load_weights(zoo.DigitsNet(residual=True), saved(tmp_path / "w.pt", digits_module.state_dict()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, digits_module, bad):
    state = {name: value.clone() for name, value in digits_module.state_dict().items()}
    state["conv2.weight"][0, 0, 0, :2] = bad
    with pytest.raises(MvqError, match="layer 'conv2': its weight must be finite, but 2 of 4608 are NaN or infinite"):
        load_weights(zoo.DigitsNet(), saved(tmp_path / "w.pt", state))


class Planted:
    """What a pickle must not be able to make."""

    def __reduce__(self):
        return (print, ("planted",))


def test_files_that_hold_no_weights(tmp_path, capsys):
    module = zoo.DigitsNet()
    with pytest.raises(MvqError, match="there is no such file of weights"):
        load_weights(module, tmp_path / "missing.pt")
    for content in (Planted(), module):
        with pytest.raises(MvqError, match=r"or holds more than tensors; save it with torch.save\(net.state_dict"):
            load_weights(module, saved(tmp_path / "w.pt", content))
    assert "planted" not in capsys.readouterr().out
    for content in ([1, 2], {"epoch": 3}, {}):
        with pytest.raises(MvqError, match="is no state dict"):
            load_weights(module, saved(tmp_path / "w.pt", content))
    (tmp_path / "w.pt").write_bytes(b"garbage")
    with pytest.raises(MvqError, match=r"w.pt: .*cannot be read|is no file of torch"):
        load_weights(module, tmp_path / "w.pt")
    full = saved(tmp_path / "half.pt", module.state_dict()).read_bytes()
    (tmp_path / "half.pt").write_bytes(full[: len(full) // 2])
    with pytest.raises(MvqError, match=r"half.pt: "):
        load_weights(module, tmp_path / "half.pt")


# ---- ImageNet's ResNets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18", 11689512), ("resnet34", 21797672), ("resnet50", 25557032)]
)
def test_imagenet_resnets_have_torchvisions_parameters(name, parameters):
    module = getattr(zoo, name)()
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    names = set(module.state_dict())
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer4.1.conv2.weight",
        "layer2.0.downsample.1.bias",
        "fc.bias",
    } <= names
    assert ("layer1.0.downsample.0.weight" in names) == (name == "resnet50")
    strides = {part: tuple(module.get_submodule(part).stride) for part in ("layer2.0.conv1", "layer2.0.conv2")}
    assert strides["layer2.0.conv2" if name == "resnet50" else "layer2.0.conv1"] == (2, 2)


@pytest.mark.parametrize(("name", "right"), [("resnet20-12fca82f", 91.73), ("resnet56-4bfd9763", 93.39)])
def test_cifar_resnets_by_their_spec(name, right):
    weights = DATA / "cifar10" / f"{name}.th"
    if not weights.is_file():
        pytest.skip(f"the weights are not at {weights}")
    module, shape = load_network(f"algo.zoo:{name.partition('-')[0]}", weights=weights, input_shape=(3, 32, 32))
    data = load_dataset(DATA / "cifar10", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), count=400)
    data.check(shape, 10)
    found = 100 * zoo.accuracy(module, data.images, data.labels)
    assert abs(found - right) < 4  # three standard errors of 400 pictures


BRANCHES = {
    "2a": ("conv1", "bn1"),
    "2b": ("conv2", "bn2"),
    "2c": ("conv3", "bn3"),
    "1": ("downsample.0", "downsample.1"),
}


def write_keras(folder, module, rng):
    """A folder such as the package's, whose network equals ``module`` (a resnet50_v1); biases are random."""
    state, weights = module.state_dict(), {}
    places = {("conv1", "bn1"): ("conv1", "bn_conv1")}
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            for branch, names in BRANCHES.items():
                if branch != "1" or block == 0:
                    path, keras = f"layer{stage}.{block}.", f"{stage + 1}{chr(ord('a') + block)}_branch{branch}"
                    places[tuple(path + name for name in names)] = f"res{keras}", f"bn{keras}"
    for (conv, norm), (keras_conv, keras_norm) in places.items():
        kernel = state[f"{conv}.weight"].permute(2, 3, 1, 0).numpy()
        bias = rng.normal(size=kernel.shape[-1]).astype(np.float32)
        weights[f"{keras_conv}/kernel"] = kernel[:, :, ::-1] / 255 if conv == "conv1" else kernel
        weights[f"{keras_conv}/bias"] = bias
        weights[f"{keras_norm}/gamma"] = state[f"{norm}.weight"].numpy()
        weights[f"{keras_norm}/beta"] = state[f"{norm}.bias"].numpy()
        weights[f"{keras_norm}/moving_mean"] = state[f"{norm}.running_mean"].numpy() + bias
        weights[f"{keras_norm}/moving_variance"] = state[f"{norm}.running_var"].numpy()
    weights["fc1000/kernel"], weights["fc1000/bias"] = state["fc.weight"].numpy().T, state["fc.bias"].numpy()
    content = b"".join(np.ascontiguousarray(values, "<f4").tobytes() for values in weights.values())
    for number, start in enumerate((0, 40_000_000), 1):
        (folder / f"group1-shard{number}of2.bin").write_bytes(
            content[start : start + 40_000_000 if number == 1 else None]
        )
    entries = [{"name": name, "shape": list(values.shape), "dtype": "float32"} for name, values in weights.items()]
    paths = ["group1-shard1of2.bin", "group1-shard2of2.bin"]
    (folder / "model.json").write_text(json.dumps({"weightsManifest": [{"paths": paths, "weights": entries}]}))


def test_keras_weights(tmp_path):
    torch.manual_seed(0)
    module = zoo.resnet50_v1()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
    write_keras(tmp_path, module, np.random.default_rng(0))
    found = load_weights(zoo.resnet50_v1(), tmp_path)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    (tmp_path / "group1-shard2of2.bin").write_bytes(b"")
    with pytest.raises(MvqError, match="its shards hold 40000000 bytes, too few for"):
        keras_state(tmp_path)
    (tmp_path / "group1-shard2of2.bin").unlink()
    with pytest.raises(MvqError, match=r"group1-shard2of2.bin: cannot be read"):
        keras_state(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(MvqError, match=r"is no model of TensorFlow.js"):
        keras_state(tmp_path)
    assert max(abs(a - b) for a, b in zip(MEAN, (0.485, 0.458, 0.408), strict=True)) < 1e-3
