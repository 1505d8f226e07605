"""Closed-form loops against the subsets of golden.schedule, traffic against counting, cycles against the recurrence."""

import dataclasses

import numpy as np
import pytest

from golden import lower
from golden.estimate import estimate, layer_cycles
from golden.networks import IMAGE, NETWORKS, Layer, Network, from_graph, read_network
from golden.program import compile_program
from golden.schedule import LayerShape, Repeats, choose_repeats, cycles, schedule
from golden.synthetic import random_network
from golden.timing import predict
from golden.traffic import COSTS, Traffic, conv_traffic, count_loops, window_rows
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import VARIANTS, MvqError, preset


@dataclasses.dataclass(frozen=True)
class NoHeaders:
    """An array by itself: its weight stream has no subset headers."""

    array: object
    subset_words = 0


def random_choice(rng, array, shape, passes):
    """Repeats that fit the register files."""
    while True:
        a, b = rng.integers(1, 9), rng.integers(1, 9)
        dy, dx = (rng.integers(1, size + 1) for size in shape.kernel)
        p = rng.choice([value for value in range(1, passes + 1) if passes % value == 0])
        fits = a <= array.prf_depth and b * dy * dx <= array.arf_depth
        if fits and a * b * dy * dx * p <= array.wrf_depth:
            break
    names = ("out_channel_repeat", "in_channel_repeat", "tap_rows", "tap_columns", "passes")
    groups = (-(-shape.out_channels // array.columns), -(-shape.in_channels // array.rows))
    values = (min(a, groups[0]), min(b, groups[1]), dy, dx, p)
    return Repeats(**dict(zip(names, map(int, values), strict=True)))


def counted(shape, array, repeats, passes, tile=None):
    values = (*dataclasses.astuple(repeats), *(tile or shape.pixels))
    return count_loops(shape, array, [np.array([value]) for value in values], passes)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(12))
def test_loops_are_those_of_the_schedule(variant, seed):
    """Subsets, compute cycles, activation vectors, weight rows; and cycles, to some percent."""
    rng = np.random.default_rng(seed)
    array = preset(variant, int(rng.choice([16, 32, 64])))
    channels, kernel = (
        (int(value) for value in rng.integers(1, 400, 2)),
        (int(value) for value in rng.integers(1, 5, 2)),
    )
    out_channels, in_channels = channels
    shape = LayerShape(
        name="layer",
        out_channels=out_channels,
        in_channels=in_channels,
        kernel=tuple(kernel),
        stride=(1, int(rng.integers(1, 3))),
        pixels=tuple(int(value) for value in rng.integers(4, 40, 2)),
    )
    compressed, raw = array.has_codebook and bool(seed % 2), bool(seed % 3)
    passes = 1 if compressed else array.dense_passes
    repeats = random_choice(rng, array, shape, passes)
    codewords = array.codewords if compressed else 0
    subsets = schedule(shape, array, repeats, compressed=compressed, codewords=codewords, raw=raw).subsets
    loops = counted(shape, array, repeats, passes)
    assert loops.total(1) == len(subsets)
    assert loops.issued == sum(subset.compute_cycles for subset in subsets)
    assert loops.total(loops.window) == sum(subset.ifmap_vectors for subset in subsets)
    assert loops.total(loops.entries * loops.rows) == sum(subset.entries * subset.rows for subset in subsets)

    nothing = dict.fromkeys(("first", "loaded", "stored", "last"), np.zeros(1, int))
    found, compute, core, _ = layer_cycles(
        NoHeaders(array), loops, compressed=compressed, codewords=codewords, raw=raw, moved=nothing
    )
    assert compute == loops.issued
    assert found == core
    assert core[0] == pytest.approx(cycles(subsets, array), rel=0.2, abs=200)


@pytest.mark.parametrize("variant", ["ws", "ws-cms", "ews", "ews-cms"])
@pytest.mark.parametrize("size", [16, 64])
def test_cycles_of_real_layers(variant, size):
    """Within 3 % of the recurrence that equals the RTL, for the repeats that golden.schedule chooses."""
    array = preset(variant, size)
    for layer in NETWORKS["resnet18"]().layers:
        if not layer.compressed or layer.ofmap[1] not in (28, 7):
            continue
        codewords = 512 if array.has_codebook else 0
        repeats = choose_repeats(layer.shape, array, compressed=array.has_codebook)
        subsets = schedule(layer.shape, array, repeats, compressed=array.has_codebook, codewords=codewords).subsets
        nothing = dict.fromkeys(("first", "loaded", "stored", "last"), np.zeros(1, int))
        loops = counted(layer.shape, array, repeats, 1)
        options = {"compressed": array.has_codebook, "codewords": codewords, "raw": False, "moved": nothing}
        _, _, core, _ = layer_cycles(NoHeaders(array), loops, **options)
        assert core[0] == pytest.approx(cycles(subsets, array), rel=0.03)


def convolution(**changes):
    fields = {"name": "conv", "op": "conv", "inputs": ("before",), "ifmap": (128, 20, 20), "ofmap": (64, 20, 20)}
    fields |= {"kernel": (3, 3), "padding": (1, 1, 1, 1), "compressed": True}
    return Layer(**{**fields, **changes})


def traffic_of(layer, array, repeats, tile=None):
    """Traffic of one mapping, everything else in L1."""
    compressed = layer.compressed and array.has_codebook
    loops = counted(layer.shape, array, repeats, 1 if compressed else array.dense_passes, tile)
    options = {"stream_bytes": np.array([1000]), "from_dram": np.array([1000]), "loaded": 0, "stored": 0}
    options |= {"residual": False, "compressed": compressed, "macs": layer.macs}
    return conv_traffic(layer, loops, array, **options).pick(0)


def test_traffic_is_what_the_loops_do():
    """Counted one by one for two tiles of an EWS-CMS array."""
    layer, array = convolution(), preset("ews-cms", 16)
    repeats = Repeats(out_channel_repeat=3, in_channel_repeat=2, tap_rows=1, tap_columns=2)
    shape = dataclasses.replace(layer.shape, pixels=(10, 20))
    windows = pixel_vectors = issued = spills = rows = 0
    for _ in range(2):
        for subset in schedule(shape, array, repeats, compressed=True).subsets:
            windows += subset.ifmap_vectors
            pixel_vectors += subset.pixels * subset.vectors
            issued += subset.compute_cycles
            rows += subset.entries * subset.rows
            vectors = subset.pixels * len(subset.out_groups)
            spills += vectors * (subset.accumulate + (not subset.final))
    found = traffic_of(layer, array, repeats, tile=(10, 20))
    assert found.counts["l1", "psums"] == spills * 16 * 3
    assert found.counts["l1", "activations"] == windows * 16 + 64 * 20 * 20
    assert found["arf"] == (windows + pixel_vectors) * 16
    assert found["prf"] == 2 * issued * 16
    assert found["wrf"] == issued * 16 * 4 + rows * 4
    assert found["crf"] == rows * 16 + 512 * 16


def test_reads_fall_by_a_and_d_and_partial_sums_by_b_and_d():
    """Section 5.1: activation reads x 1/(A*D), psum accesses x 1/(B*D), on rows long enough to hide their starts."""
    layer, array = convolution(ifmap=(128, 12, 1000), ofmap=(64, 12, 1000)), preset("ews", 16)
    plain = traffic_of(layer, array, Repeats()).counts
    result = 64 * 12 * 1000
    for a, b, d in ((4, 1, 3), (1, 4, 3), (2, 2, 3), (4, 4, 1)):
        repeats = Repeats(out_channel_repeat=a, in_channel_repeat=b, tap_columns=d)
        found = traffic_of(layer, array, repeats).counts
        reads = (plain["l1", "activations"] - result) / (found["l1", "activations"] - result)
        assert reads == pytest.approx(a * d, rel=0.01)
        subsets = 8 * 9
        psums = plain["l1", "psums"] / found["l1", "psums"]
        assert psums == (subsets - 1) / (subsets / (b * d) - 1)


def test_window_rows_count_the_halo():
    total, most = window_rows(20, 3, 1, 1, 20, [20, 10, 7])
    assert total.tolist() == [20, 22, 24]
    assert most.tolist() == [20, 11, 9]
    total, most = window_rows(9, 3, 2, 1, 5, [2])  # rows -1..3, 3..7, 7..9 of which 0..8 exist
    assert (total.item(), most.item()) == (4 + 5 + 2, 5)


def test_energy_is_accesses_by_their_costs():
    traffic = Traffic({("dram", "weights"): 2, ("l1", "psums"): 3}, 5) + Traffic({("l1", "psums"): 1})
    assert traffic["l1"] == 4
    assert traffic.access_energy == 2 * COSTS["dram"] + 4 * COSTS["l1"]
    assert traffic.energy == traffic.access_energy + 5
    assert traffic.to_dict()["l1"] == {"psums": 4}


# ---- whole networks


def run(name, variant, size, **options):
    masks = {"vector_length": 8, "n": 1, "m": 2} if name == "mobilenet_v1" and variant.endswith("cms") else {}
    machine = AcceleratorConfig(array=preset(variant, size, **masks))
    return estimate(NETWORKS[name](), machine, **options)


def convolutions(found):
    return found.select(lambda layer: layer.op == "conv" and not layer.linear)


def compressed(found):
    return found.select(lambda layer: layer.compressed and not layer.linear)


def test_weights_move_in_compressed_form():
    """20 bits for 16 weights against 8 each: 6.4 times less, but for codebooks, scales and headers."""
    ratios = [
        compressed(run("resnet18", variant, 64)).traffic.counts["dram", "weights"] for variant in ("ews", "ews-cms")
    ]
    assert ratios[0] == pytest.approx(11_157_504, rel=0.01)
    assert 5.9 < ratios[0] / ratios[1] < 6.4


def test_paper_figures():
    """Fig. 17: 2.2 times WS or more for ResNet-18 on 64x64. Fig. 15: its 2.9, 3.6 and 4.1 to a tenth."""
    base, ours = (convolutions(run("resnet18", variant, 64)).cycles for variant in ("ws", "ews-cms"))
    assert base / ours >= 2.2
    for size, paper in ((16, 2.9), (32, 3.6), (64, 4.1)):
        energy = [
            compressed(run("resnet18", variant, size, objective="energy")).traffic.access_energy
            for variant in ("ews", "ews-cms")
        ]
        assert energy[0] / energy[1] == pytest.approx(paper, rel=0.1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_network_runs_on_every_variant(name, variant):
    found = run(name, variant, 32)
    for layer in found.layers:
        assert layer.cycles == layer.compute + layer.weight_stalls + layer.activation_stalls
        assert min(layer.compute, layer.activation_stalls) >= 0
        assert 0 <= layer.utilisation(found.machine.array) <= 1
    text = found.to_dict()
    assert text["cycles"] == sum(layer["cycles"] for layer in text["layers"])


def test_maps_stay_where_they_fit():
    """The last stage of ResNet-18 in L1, the first of VGG-16 beyond L2 (section 7.2)."""
    places = {layer.layer.name: layer.places for layer in run("resnet18", "ews-cms", 64).layers}
    assert places["layer4.1.conv1"] == ("l1", "l1")
    assert places["fc"] == ("l1", "dram")
    places = {layer.layer.name: layer.places for layer in run("vgg16", "ews-cms", 64).layers}
    assert places["conv1_2"] == ("dram", "dram")
    assert places["conv4_2"] == ("l2", "l2")


def test_less_l2_means_more_dram():
    small, large = (run("resnet18", "ews-cms", 64, l2_bytes=size).traffic["dram"] for size in (1 << 18, 1 << 22))
    assert small > large


def test_without_preload_weights_are_waited_for():
    with_preload, without = (run("resnet18", "ws", 32, preload=value) for value in (True, False))
    assert without.cycles > 1.2 * with_preload.cycles
    assert without.traffic.counts["dram", "weights"] <= 1.01 * with_preload.traffic.counts["dram", "weights"]


def test_energy_objective_needs_no_more_energy():
    cycles_first, energy_first = (run("alexnet", "ews", 16, objective=value) for value in ("cycles", "energy"))
    assert energy_first.traffic.energy < cycles_first.traffic.energy
    assert cycles_first.cycles < energy_first.cycles


def test_additions_and_activations_join_convolutions(networks):
    network = from_graph(networks.graph(), {"conv2", "point"})
    found = estimate(network, AcceleratorConfig(array=preset("ews-cms", 16)))
    names = [layer.layer.name for layer in found.layers]
    assert names == ["conv1", "max", "conv2", "crop", "widen", "sum", "depthwise", "point", "avg", "mean", "fc"]


def test_what_cannot_run_is_named():
    machine = AcceleratorConfig(array=preset("ews-cms", 16))
    large = Network("n", (convolution(name="wide", kernel=(9, 9), inputs=("x",)),))
    with pytest.raises(MvqError, match=r"layer 'wide': kernel = \(9, 9\) exceeds the accelerator's 7 x 7"):
        estimate(large, machine)
    small = dataclasses.replace(machine, l1_banks=1, l1_bank_words=64)
    with pytest.raises(MvqError, match=r"layer 'conv': not even .* fits the 1024 bytes"):
        estimate(Network("n", (convolution(inputs=(IMAGE,), kernel=(1, 1), ifmap=(512, 20, 20)),)), small)


@pytest.mark.parametrize("variant", ["ws", "ews", "ews-cms"])
def test_estimate_is_near_the_exact_cycles(variant, tmp_path):
    """Within 10 % of the compiled program under golden.timing."""
    path = tmp_path / "block.toml"
    conv = '[[layers]]\nname = "{}"\nout_channels = {}\nkernel = 3\npadding = 1\ncompressed = true\n'
    layers = [conv.format("a", 64), conv.format("b", 128) + "stride = 2\n", conv.format("c", 128)]
    layers += ['[[layers]]\nname = "sum"\nop = "add"\ninputs = ["c", "b"]\n', conv.format("d", 64)]
    path.write_text("image = [32, 28, 28]\n" + "".join(layers))
    network, machine = read_network(path), AcceleratorConfig(array=preset(variant, 16))
    program = compile_program(lower(*random_network(network, machine.array), machine.array), machine)
    assert estimate(network, machine).cycles == pytest.approx(predict(program).cycles, rel=0.1)
