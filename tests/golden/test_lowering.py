"""Schedule, packed streams and lowering: what the array is fed adds up to the integer network, and what cannot run is
refused."""

import dataclasses

import numpy as np
import pytest

from golden import Calibration, LoweringError, lower
from golden.lower import LoweredLayer
from golden.packing import unpack_bits
from golden.schedule import LayerShape, Repeats, choose_repeats, cycles, schedule
from golden.stream import gather_ifmap, pack_command
from hdl.config import VARIANTS, ArrayConfig, MvqError, preset

NODES = ("image", "conv1", "conv2", "sum", "depthwise", "point", "late", "avg", "mean", "max", "crop", "widen", "flat")


@pytest.fixture
def calibration():
    return Calibration(dict.fromkeys(NODES, 4.0))


@pytest.fixture
def images():
    return np.random.default_rng(5).normal(0, 1, (2, 3, 10, 8))


def array(variant, **changes):
    """A 16x32 array that the small network fits: the distinct vectors of its masked layers are the codebook of
    EWS-C."""
    return preset(variant, 16, 32, **{"codewords": 2048, **changes} if variant == "ews-c" else changes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_subsets_add_up_to_every_layer(networks, calibration, images, variant):
    lowered = lower(networks.checkpoint(), calibration, array(variant))
    network = lowered.network
    results = network.run(network.quantise_input(images))
    for node in network.graph.layers:
        layer, source = lowered.layers[node.name], results[node.inputs[0]]
        runs = list(layer.runs(source))
        psums = layer.assemble(len(source), [(run.subset, run.psums) for run in runs])
        assert np.array_equal(psums.reshape(network.psum(node.name, source).shape), network.psum(node.name, source))
        if not network.layers[node.name].raw:
            final = [(run.subset, run.values) for run in runs if run.values is not None]
            assert np.array_equal(layer.assemble(len(source), final), results[node.name])


@pytest.mark.parametrize("variant", ["ews-cms", "ews"])
def test_words_per_subset_match_the_load_cycles(networks, calibration, images, variant):
    lowered = lower(networks.checkpoint(), calibration, array(variant))
    config = lowered.config
    source = lowered.network.run(lowered.network.quantise_input(images))["max"]
    for run in lowered.layers["conv2"].runs(source):
        assert len(run.ifmap) == run.subset.ifmap_vectors
        if not run.subset.compressed:
            assert len(run.words) == run.subset.load_cycles(config)
            continue
        scales = run.subset.scales * config.columns // 2
        bits = run.subset.entries * run.subset.rows * config.groups * config.entry_width
        assert len(run.words) == run.subset.codewords * config.codeword_words + scales + -(-bits // 64)


def test_packed_entries_are_one_and_a_quarter_bits_a_weight(networks, calibration):
    lowered = lower(networks.checkpoint(), calibration, array("ews-cms"))
    layer = lowered.layers["point"]
    subset = layer.schedule().subsets[0]
    words = layer.image.words(dataclasses.replace(subset, codewords=0, scales=0))
    entries = unpack_bits(words, 20, subset.entries * subset.rows * 2)
    index = np.asarray(entries[::2] & 511)
    assert layer.config.entry_width == 20
    assert np.array_equal(index, lowered.layers["point"].image.entries[0, : len(index), 0, 0] & 511)


def test_window_of_the_next_pixel_enters_only_what_is_new():
    config = array("ews-cms")
    shape = LayerShape(name="x", out_channels=16, in_channels=16, kernel=(3, 3), pixels=(4, 5))
    repeats = Repeats(tap_rows=3, tap_columns=3)
    (subset,) = schedule(shape, config, repeats, compressed=True).subsets
    x = np.arange(16 * 20, dtype=np.int64).reshape(1, 16, 4, 5).astype(np.int8)
    vectors = gather_ifmap(x, subset, shape, (1, 1, 1, 1), config)
    assert (subset.vectors, subset.fresh, len(vectors)) == (9, 3, 4 * (9 + 4 * 3))
    assert np.array_equal(vectors[4], x[0, :, 0, 0])  # pixel (0, 0), second column of the window, centre row
    assert np.array_equal(vectors[9 + 1], x[0, :, 0, 2])  # pixel (0, 1) needs only its third column anew


def test_cycles_approach_the_ideal_when_loading_hides():
    config = preset("ews-cms", 16)
    shape = LayerShape(name="x", out_channels=64, in_channels=64, kernel=(3, 3), pixels=(16, 16))
    plan = schedule(shape, config, compressed=True, codewords=512)
    ideal = 4 * 4 * 9 * 256
    assert ideal < cycles(plan.subsets, config) < 1.05 * ideal + 512 * 2


def test_choice_respects_every_depth():
    for depth, prf, arf in ((16, 8, 16), (16, 2, 4), (4, 4, 4), (1, 1, 2)):
        config = ArrayConfig(wrf_depth=depth, prf_depth=prf, arf_depth=arf)
        for compressed in (True, False):
            shape = LayerShape(name="x", out_channels=256, in_channels=256, kernel=(3, 3), pixels=(8, 8))
            repeats = choose_repeats(shape, config, compressed=compressed)
            config.check_repeats(
                repeats.out_channel_repeat, repeats.in_channel_repeat, repeats.tap_repeat, repeats.passes
            )


@pytest.mark.parametrize(
    ("repeats", "text"),
    [
        (Repeats(out_channel_repeat=4, in_channel_repeat=3, tap_rows=3), "A[*]B[*]D = 36.*nearest legal value is 16"),
        (Repeats(out_channel_repeat=9), "out_channel_repeat = 9.*nearest legal value is 8"),
    ],
)
def test_repeats_above_the_depth_are_refused(repeats, text):
    shape = LayerShape(name="conv7", out_channels=256, in_channels=256, kernel=(3, 3), pixels=(8, 8))
    with pytest.raises(MvqError, match=f"'conv7': {text}"):
        schedule(shape, preset("ews-cms", 16), repeats, compressed=True)


def test_a_command_field_that_does_not_fit_is_refused():
    config = preset("ews", 16)
    values = dict.fromkeys((name for name, _ in config.command_fields), 0)
    assert pack_command({**values, "scales": 3}, config) == 3
    with pytest.raises(ValueError, match="pixels = 16777216"):
        pack_command({**values, "pixels": 1 << 24}, config)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (preset("ews-cms", 4, 16, psum_width=18), "'conv1'.*psum_width = 18; legal would be psum_width >= 19"),
        (preset("ews-cms", 16, vector_length=8, m=8, n=2), "'conv2'.*vector_length = 16.*legal would be.*= 8"),
        (preset("ews-cms", 16, n=3), "'conv2'.*n = 4.*to compress with n = 3"),
        (preset("ews-cms", 16, codewords=16), "'conv2'.*32 codewords.*codewords <= 16"),
        (preset("ews-c", 16, codewords=64), "'conv2'.*distinct vectors of 8.*holds 64.*array with masks"),
    ],
)
def test_what_cannot_run_is_refused_with_layer_reason_and_legal(networks, calibration, config, text):
    with pytest.raises(LoweringError, match=text):
        lower(networks.checkpoint(), calibration, config)


def test_psum_overflow_is_refused_exactly_at_the_bound(networks, calibration):
    lowered = lower(networks.checkpoint(), calibration, preset("ews-cms", 4, 16, psum_width=32))
    bounds = [(-layer.psum_bound[0] - 1, layer.psum_bound[1]) for layer in lowered.layers.values()]
    low, high = map(max, zip(*bounds, strict=True))
    needed = max(low, high).bit_length() + 1
    lower(networks.checkpoint(), calibration, preset("ews-cms", 4, 16, psum_width=needed))
    with pytest.raises(LoweringError, match=f"psum_width >= {needed}"):
        lower(networks.checkpoint(), calibration, preset("ews-cms", 4, 16, psum_width=needed - 1))


def test_a_compressed_grouped_layer_is_refused(networks, calibration):
    checkpoint = networks.checkpoint()
    rng = np.random.default_rng(0)
    checkpoint.layers["depthwise"] = networks.mvq_layer(rng, (20, 1, 3, 3), "other")
    with pytest.raises(LoweringError, match=r"'depthwise'.*20 groups.*dense int8"):
        lower(checkpoint, calibration, preset("ews-cms", 16))


def test_a_mismatch_can_be_located(networks, calibration):
    layer = lower(networks.checkpoint(), calibration, array("ews-cms")).layers["conv2"]
    assert isinstance(layer, LoweredLayer)
    text = layer.locate(layer.schedule(2).subsets[0], 7, 0, 3)
    for part in ("layer 'conv2'", "output group 0", "image 1", "row", "column", "output channel 3"):
        assert part in text
