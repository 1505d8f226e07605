"""The core in Amaranth's simulator: equal to golden, in the cycles of the model, for small arrays of every variant."""

import numpy as np
import pytest

from cocotb_tests.core_simulation import MismatchError, compare
from golden import integer
from golden.integer import Requantisation
from golden.lower import LoweredLayer
from golden.masks import encode_masks
from golden.schedule import LayerShape, choose_repeats
from golden.stream import WeightImage
from hdl.config import VARIANTS, ArrayConfig
from tests.hdl.core_bench import simulate

SIZE = {"rows": 4, "columns": 8, "vector_length": 4, "n": 1, "m": 2, "codewords": 8, "tile_rows": 2}


def small_array(variant, **changes):
    weights, tile, depth = VARIANTS[variant]
    return ArrayConfig(**{**SIZE, "weights": weights, "tile": tile, "wrf_depth": depth, **changes})


def random_layer(config, rng, channels, kernel, pixels, stride=1, compressed=True, groups=1):
    """A layer with random weights; masked and clustered ones where the array reads codes."""
    (inputs, outputs), d, assignments = channels, config.vector_length, None
    if compressed and config.has_codebook:
        codebook = rng.integers(-128, 128, (config.codewords, d)).astype(np.int8)
        index = rng.integers(0, config.codewords, (-(-outputs // d), inputs, kernel, kernel))
        masks = np.ones((*index.shape, d), bool)
        codes = None
        if config.has_masks:
            chosen = rng.random((*index.shape, config.mask_groups, config.m)).argsort(axis=-1) < config.n
            codes, masks = encode_masks(chosen, config.n), chosen.reshape(masks.shape)
        weight = np.moveaxis(codebook[index] * masks, -1, 1).reshape(-1, inputs, kernel, kernel)[:outputs]
        assignments = codebook, index, codes
    else:
        weight = rng.integers(-128, 128, (outputs, inputs // groups, kernel, kernel)).astype(np.int8)
    scale, bias = rng.normal(0, 1e-3, outputs), rng.normal(0, 1, outputs)
    requantisation = Requantisation.from_real(scale, bias, rng.choice(["none", "relu", "relu6"]), 0.05)
    shape = LayerShape(
        name="conv",
        out_channels=outputs,
        in_channels=inputs,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        pixels=(pixels, pixels),
        groups=groups,
    )
    before = kernel // 2
    padding = (before, kernel - 1 - before) * 2
    image = WeightImage(config, weight, groups, assignments, requantisation)
    repeats = choose_repeats(shape, config, compressed=assignments is not None)
    return LoweredLayer(shape, padding, image, config, repeats, (0, 0)), weight


def random_input(layer, rng, batch):
    height, width = ((e - 1) * s + 1 for e, s in zip(layer.shape.pixels, layer.shape.stride, strict=True))
    x = rng.integers(-128, 128, (batch, layer.shape.in_channels, height, width)).astype(np.int8)
    return x * (rng.random(x.shape) > 0.3).astype(np.int8)


LAYERS = {
    "one subset": {"channels": (4, 8), "kernel": 1, "pixels": 3},
    "padded channels, many subsets": {"channels": (6, 20), "kernel": 3, "pixels": 3},
    "stride": {"channels": (10, 12), "kernel": 3, "pixels": 2, "stride": 2},
    "dense": {"channels": (9, 12), "kernel": 2, "pixels": 3, "compressed": False},
    "depthwise": {"channels": (8, 8), "kernel": 3, "pixels": 2, "compressed": False, "groups": 8},
}


# test_verilog_core runs all layers
@pytest.mark.parametrize(("layer_name", "style"), [("stride", "behavioural"), ("dense", "structural")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_golden_in_the_cycles_of_the_model(variant, layer_name, style):
    rng = np.random.default_rng(len(variant) + len(layer_name))
    config = small_array(variant, style=style, crf_read_ports=1 if layer_name == "stride" else None)
    layer, weight = random_layer(config, rng, **LAYERS[layer_name])
    x = random_input(layer, rng, 1)
    runs = list(layer.runs(x))
    outputs, cycles = simulate(config, runs)
    compare(layer, runs, outputs)
    assert cycles == layer.cycles(1)
    psums = layer.assemble(1, [(run.subset, psums) for run, (psums, _) in zip(runs, outputs, strict=True)])
    assert np.array_equal(psums, integer.conv2d(x, weight, layer.shape.stride, layer.padding, layer.shape.groups))


@pytest.mark.parametrize("variant", ["ews-cms", "ws-cms", "ews"])
def test_stalls_on_every_stream_change_nothing(variant):
    """The same results, and in both styles the same number of cycles."""
    took = set()
    for style in ("behavioural", "structural"):
        rng = np.random.default_rng(7)
        config = small_array(variant, style=style)
        layer, _ = random_layer(config, rng, (6, 20), 3, 2)
        runs = list(layer.runs(random_input(layer, rng, 1)))
        outputs, cycles = simulate(config, runs, stall=0.4, seed=3)
        compare(layer, runs, outputs)
        took.add(cycles)
    assert len(took) == 1
    assert took.pop() > layer.cycles(1)


def test_a_wrong_value_is_located():
    rng = np.random.default_rng(1)
    config = small_array("ews-cms")
    layer, _ = random_layer(config, rng, (4, 8), 1, 3)
    runs = list(layer.runs(random_input(layer, rng, 1)))
    outputs = [(run.psums.copy(), run.values) for run in runs]
    outputs[0][0][5, 0, 6] += 1
    with pytest.raises(MismatchError, match=r"layer 'conv', tile .*row 1, column 2, array column 6") as error:
        compare(layer, runs, outputs)
    assert str(outputs[0][0][5, 0, 6]) in str(error.value)
    assert str(runs[0].psums[5, 0, 6]) in str(error.value)
