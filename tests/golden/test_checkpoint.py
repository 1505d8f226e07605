import dataclasses
import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy

from golden.checkpoint import Checkpoint, CheckpointError, Codebook, DenseLayer, MvqLayer
from golden.graph import Graph, Node


@pytest.fixture
def saved(tmp_path, networks):
    networks.checkpoint().save(tmp_path / "net")
    return tmp_path / "net"


def edit(folder, manifest=None, tensors=None):
    """Change the files and mend the digests, so that only the change itself is wrong."""
    content = json.loads((folder / "manifest.json").read_text())
    if tensors:
        values = safetensors.numpy.load_file(folder / "tensors.safetensors")
        tensors(values)
        safetensors.numpy.save_file(values, folder / "tensors.safetensors")
        content["tensors_sha256"] = hashlib.sha256((folder / "tensors.safetensors").read_bytes()).hexdigest()
    if manifest:
        manifest(content)
    del content["manifest_sha256"]
    content["manifest_sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(content))


def test_round_trip_is_exact(saved, networks):
    first, second = networks.checkpoint(), Checkpoint.load(saved)
    assert second.graph == first.graph
    assert (second.settings, second.statistics) == (first.settings, first.statistics)
    assert list(second.layers) == list(first.layers)
    for name, layer in first.layers.items():
        assert second.weights(name).tobytes() == first.weights(name).tobytes()
        for key in ("channel_scale", "channel_bias"):
            assert getattr(second.layers[name], key).tobytes() == getattr(layer, key).tobytes()
    assert second.layers["conv2"].codebook is second.layers["point"].codebook
    assert second.codebooks["shared"].scale == first.codebooks["shared"].scale
    assert second._files() == first._files()


def test_weights_are_masked_codewords_in_the_papers_order(networks):
    checkpoint = networks.checkpoint()
    layer, weights = checkpoint.layers["conv2"], checkpoint.weights("conv2")
    assert weights.shape == (20, 8, 3, 3)
    masks, d = layer.masks(), 16
    for group, c, y, x in ((0, 0, 0, 0), (0, 7, 2, 1), (1, 3, 1, 2)):
        v = ((group * 8 + c) * 3 + y) * 3 + x
        expected = layer.codebook.values[layer.index[v]] * masks[v]
        got = weights[group * d : (group + 1) * d, c, y, x]
        assert (got == expected[: len(got)]).all()
    assert ((weights[:16] != 0).sum(axis=0) <= 4).all()


def test_plain_vq_and_linear_layers(tmp_path, networks):
    rng = np.random.default_rng(1)
    net = Graph(
        [
            Node("x", "input", (), {"shape": [6, 1, 1]}),
            Node("flat", "flatten", ("x",)),
            Node("fc", "linear", ("flat",), {"in_features": 6, "out_features": 9, "activation": "none"}),
        ],
        "fc",
    )
    layer = networks.mvq_layer(rng, (9, 6), "fc", d=4, n=4, m=4, k=1)
    Checkpoint(net, {"fc": layer}).save(tmp_path / "vq")
    loaded = Checkpoint.load(tmp_path / "vq")
    assert loaded.layers["fc"].mask_codes is None
    assert (loaded.weights("fc") == np.tile(layer.codebook.values[0], 3)[:9, None]).all()


def test_sizes_follow_equation_7(saved):
    checkpoint = Checkpoint.load(saved)
    sizes = checkpoint.sizes()
    vectors = 2 * 8 * 9 + 20
    codebook = 32 * 16 * 8
    assert sizes["layers"]["conv2"]["assignments"] == 2 * 8 * 9 * 5
    assert sizes["layers"]["conv2"]["masks"] == 2 * 8 * 9 * 11
    weights = 20 * 8 * 9 + 16 * 20
    assert sizes["formula_ratio"] == pytest.approx(weights * 32 / (vectors * (5 + 11) + codebook))
    assert sizes["file_bytes"] == sum(file.stat().st_size for file in saved.iterdir())
    assert sizes["file_ratio"] == sizes["float_bytes"] / sizes["file_bytes"]


def test_saving_replaces_a_checkpoint_but_nothing_else(tmp_path, networks):
    networks.checkpoint(1).save(tmp_path / "a" / "net")
    networks.checkpoint(2).save(tmp_path / "a" / "net")
    assert Checkpoint.load(tmp_path / "a" / "net").settings["seed"] == 2
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["net"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("irreplaceable")
    with pytest.raises(CheckpointError, match="thesis exists and is no checkpoint"):
        networks.checkpoint().save(tmp_path / "thesis")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file exists and is no checkpoint"):
        networks.checkpoint().save(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        networks.checkpoint().save(tmp_path / "file" / "net")


def test_a_failed_replacement_leaves_the_former_checkpoint(saved, monkeypatch, networks):
    rename = type(saved).rename

    def failing(path, target):
        if path.name.endswith(".new"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(type(saved), "rename", failing)
    with pytest.raises(CheckpointError, match="No space left"):
        networks.checkpoint(3).save(saved)
    assert Checkpoint.load(saved).settings["seed"] == 0
    assert [file.name for file in saved.parent.iterdir()] == ["net"]


@pytest.mark.parametrize("name", ["manifest.json", "tensors.safetensors"])
def test_missing_truncated_and_altered_files(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{name}: is truncated"):
        Checkpoint.load(saved)
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read .No such file"):
        Checkpoint.load(saved)


def test_one_altered_bit(saved):
    content = bytearray((saved / "tensors.safetensors").read_bytes())
    content[-1] ^= 1
    (saved / "tensors.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tensors.safetensors: is truncated or was altered"):
        Checkpoint.load(saved)


def test_altered_manifest(saved):
    path = saved / "manifest.json"
    path.write_text(path.read_text().replace('"relu6"', '"relu"'))
    with pytest.raises(CheckpointError, match=r"manifest.json: was altered"):
        Checkpoint.load(saved)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": NaN'))
    with pytest.raises(CheckpointError, match=r"manifest.json: is truncated or no JSON .NaN"):
        Checkpoint.load(saved)


def _nan(tensors):
    tensors["conv1.channel_bias"][3] = np.nan


def _short(tensors):
    tensors["conv2.index"] = tensors["conv2.index"][:-1]


@pytest.mark.parametrize(
    ("manifest", "tensors", "message"),
    [
        (lambda m: m.update(format="onnx"), None, "is not a manifest of the format 'mvq-checkpoint'"),
        (
            lambda m: m.update(format_version=2),
            None,
            "format_version = 2, but only 1 can be read; a newer mvq wrote it",
        ),
        (lambda m: m.update(format_version="1"), None, "format_version = '1', but only 1 can be read$"),
        (lambda m: m.pop("graph"), None, "is not well-formed .KeyError.'graph'"),
        (lambda m: m.update(layers=[]), None, "is not well-formed"),
        (lambda m: m["layers"].pop("fc"), None, "layer 'fc' is in the graph, but has no weights"),
        (lambda m: m["layers"]["fc"].update(storage="fp4"), None, "layer 'fc': unknown storage 'fp4'"),
        (lambda m: m["layers"].update(sum={"storage": "int8"}), None, "layer 'sum' has weights, but is no conv"),
        (lambda m: m["layers"]["conv2"].update(n=17), None, "layer 'conv2': n = 17: must be 1 to m = 16"),
        (lambda m: m["layers"]["conv2"].update(vector_length=8), None, "vector_length = 8, but its codebook has .* 16"),
        (lambda m: m["graph"]["nodes"][-1]["attrs"].update(out_features=11), None, "fc.*shape .11,., not .10,"),
        (None, lambda t: t.pop("conv2.mask"), "tensors.safetensors lacks the tensor 'conv2.mask'"),
        (None, lambda t: t.update(stray=np.zeros(1)), "holds 'stray', which no layer uses"),
        (None, _nan, r"layer 'conv1': channel_bias holds nan at \(3,\)"),
        (None, _short, "layer 'conv2': 144 values of 5 bits fill 12 words, not 11"),
        (None, lambda t: t.update({"fc.weight": t["fc.weight"].astype(np.int16)}), "weight must be int8, not int16"),
        (None, lambda t: t["codebook.shared.scale"].fill(np.inf), "codebook 'shared': scale holds inf"),
    ],
)
def test_what_does_not_fit(saved, manifest, tensors, message):
    edit(saved, manifest, tensors)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(saved)


def test_not_safetensors(saved):
    (saved / "tensors.safetensors").write_bytes(b"garbage")
    content = json.loads((saved / "manifest.json").read_text())
    content["tensors_sha256"] = hashlib.sha256(b"garbage").hexdigest()
    (saved / "manifest.json").write_text(json.dumps(content))
    edit(saved)
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        Checkpoint.load(saved)


def test_construction_checks_layers(networks):
    good = networks.checkpoint()
    layer = good.layers["conv2"]

    def build(**changes):
        return Checkpoint(good.graph, {**good.layers, "conv2": dataclasses.replace(layer, **changes)})

    with pytest.raises(CheckpointError, match="layer 'conv2': index holds 32, but must be from 0 to 31"):
        build(index=np.where(np.arange(144) == 5, 32, layer.index))
    with pytest.raises(CheckpointError, match="layer 'conv2': mask_codes holds 1820"):
        build(mask_codes=np.full((144, 1), 1820, np.uint16))
    with pytest.raises(CheckpointError, match=r"mask_codes must be integers \(144, 1\)"):
        build(mask_codes=np.zeros((144, 2), np.uint16))
    with pytest.raises(CheckpointError, match="4:16 must have masks"):
        build(mask_codes=None)
    with pytest.raises(CheckpointError, match="vector_length = 16 must be a multiple of m = 12"):
        build(m=12)
    with pytest.raises(CheckpointError, match="another codebook is called 'shared' too"):
        build(codebook=Codebook("shared", layer.codebook.values, 1.0))
    with pytest.raises(CheckpointError, match="layer 'conv9' has weights, but is no conv"):
        Checkpoint(good.graph, {**good.layers, "conv9": layer})
    with pytest.raises(CheckpointError, match="statistics cannot be written as JSON"):
        Checkpoint(good.graph, good.layers, {}, {"sse": float("nan")})
    with pytest.raises(CheckpointError, match="the checkpoint has no layer 'conv3'"):
        good.weights("conv3")
    assert isinstance(good.layers["conv1"], DenseLayer)
    assert isinstance(layer, MvqLayer)
