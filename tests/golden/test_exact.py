"""Layers of a compiled program: cycles and counters against golden.timing, accesses against the loops."""

import dataclasses

import numpy as np
import pytest

from golden import Calibration, MvqLayer, lower
from golden.estimate import estimate
from golden.exact import compile_network, exact_estimate, load_weights
from golden.networks import from_graph, read_network
from golden.schedule import schedule
from golden.synthetic import any_calibration
from golden.timing import MemoryTiming, predict
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import MvqError, preset
from tests.golden.program_networks import GraphBuilder, random_checkpoint, random_graph

CONV = '[[layers]]\nname = "{}"\nout_channels = {}\nkernel = 3\npadding = 1\ncompressed = {}\n'


def machine(variant="ews-cms", **sizes):
    return AcceleratorConfig(array=preset(variant, 16), **sizes)


def network(folder, text, image="[32, 28, 28]"):
    path = folder / "small.toml"
    path.write_text(f"image = {image}\n{text}")
    return read_network(path)


def block(folder):
    """Dense and compressed convolutions, an addition, pools, a linear layer."""
    text = CONV.format("a", 64, "false") + CONV.format("b", 128, "true") + "stride = 2\n"
    text += CONV.format("c", 128, "true") + CONV.format("d", 128, "true")
    text += '[[layers]]\nname = "sum"\nop = "add"\ninputs = ["d", "b"]\n'
    text += '[[layers]]\nname = "pool"\nop = "max_pool"\nkernel = 2\n'
    text += '[[layers]]\nname = "mean"\nop = "global_avg_pool"\n'
    return network(folder, text + '[[layers]]\nname = "fc"\nop = "linear"\nout_channels = 10\n')


@pytest.mark.parametrize("variant", ["ws", "ews", "ews-cms"])
@pytest.mark.parametrize("psum_vectors", [None, 64])
def test_layers_sum_to_the_program(variant, psum_vectors, tmp_path):
    """Cycles, and every counter register."""
    shapes = block(tmp_path)
    config = machine(variant) if psum_vectors is None else machine(variant, psum_vectors=psum_vectors)
    program = compile_network(shapes, config)
    memory = MemoryTiming(read_latency=35)
    timing, found = predict(program, memory), exact_estimate(shapes, program, memory=memory)
    assert found.exact
    assert [layer.layer.name for layer in found.layers] == ["a", "b", "c", "d", "pool", "mean", "fc"]
    assert found.cycles == timing.cycles
    assert {name: sum(layer.counters[name] for layer in found.layers) for name in timing.counters} == timing.counters
    for layer in found.layers:
        assert min(layer.compute, layer.weight_stalls, layer.activation_stalls) >= 0
        assert layer.compute + layer.weight_stalls + layer.activation_stalls <= layer.cycles
        assert 0 <= layer.utilisation(config.array) <= 1
    assert found.traffic["l2"] > found.traffic["dram"] > 0


@pytest.mark.parametrize("seed", range(6))
def test_random_graphs_sum_to_the_program(seed):
    """Every operation there is: depthwise, slices and pads, tensors that leave L1."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    weights = random_checkpoint(graph, rng)
    compressed = {name for name, layer in weights[0].layers.items() if isinstance(layer, MvqLayer)}
    program = compile_network(None, machine(l1_banks=4, l1_bank_words=64), weights)
    timing, found = predict(program), exact_estimate(from_graph(graph, compressed), program)
    assert found.cycles == timing.cycles
    assert {name: sum(layer.counters[name] for layer in found.layers) for name in timing.counters} == timing.counters


def test_a_checkpoint_with_and_without_calibration(networks, tmp_path):
    """The same cycles; layers of the program by their names in the graph."""
    checkpoint, config = networks.checkpoint(), machine()
    shapes = from_graph(checkpoint.graph, {"conv2", "point"})
    checkpoint.save(tmp_path / "checkpoint")
    cycles = []
    for calibrated in (False, True):
        if calibrated:
            Calibration({node.name: 4.0 for node in checkpoint.graph.nodes}).save(
                tmp_path / "checkpoint" / "calibration.json"
            )
        weights = load_weights(tmp_path / "checkpoint")
        assert (set(weights[1].amax.values()) == {4.0}) == calibrated
        found = exact_estimate(shapes, compile_network(shapes, config, weights))
        cycles.append([layer.cycles for layer in found.layers])
    assert cycles[0] == cycles[1]
    names = {layer.layer.name for layer in found.layers}
    assert {"conv1", "max", "conv2", "sum", "depthwise", "fc"} - names == {"sum"}
    assert not names & {"crop", "flat"}


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 50.0])
def test_any_calibration_can_be_lowered(networks, scale):
    checkpoint = networks.checkpoint()
    for name, layer in checkpoint.layers.items():
        checkpoint.layers[name] = dataclasses.replace(layer, channel_scale=layer.channel_scale * np.float32(scale))
    lower(checkpoint, any_calibration(checkpoint), preset("ews-cms", 16))


def test_an_addition_of_a_tensor_to_itself_is_one_layer():
    """Its copy is a vector operation of its own in the program."""
    net = GraphBuilder((3, 8, 8))
    x = net.pool(net.conv("image", 8))
    net.add(x, x)
    weights = random_checkpoint(net.graph(), np.random.default_rng(0))
    program = compile_network(None, machine(), weights)
    assert program.layers == ["conv1", "max_pool2", "add3", "add3"]
    found = exact_estimate(from_graph(net.graph(), set()), program)
    assert [layer.layer.name for layer in found.layers] == ["conv1", "max_pool2", "add3"]
    assert found.cycles == predict(program).cycles


def test_accesses_are_those_of_the_plan(tmp_path):
    """Of one layer in one tile: the subsets of its repeats."""
    layers = (("a", 32, "false"), ("b", 48, "true"), ("c", 16, "true"))
    shapes = network(tmp_path, "".join(CONV.format(*layer) for layer in layers), "[16, 12, 12]")
    config = machine()
    found = exact_estimate(shapes, compile_network(shapes, config)).layers[1]
    assert (found.mapping.tiles, found.mapping.tile) == (1, (12, 12))
    layer, array = shapes.layers[1], config.array
    subsets = schedule(layer.shape, array, found.mapping.repeats, compressed=True).subsets
    rows, issued = sum(s.entries * s.rows for s in subsets), sum(s.compute_cycles for s in subsets)
    windows = sum(s.ifmap_vectors for s in subsets)
    assert found.compute == issued
    assert found.traffic["prf"] == 2 * issued * 16
    assert found.traffic["wrf"] == (issued * 16 + rows) * 4
    assert found.traffic["crf"] == rows * 16 + 512 * 16
    assert found.traffic["arf"] == (windows + sum(s.pixels * s.vectors for s in subsets)) * 16
    spills = sum(s.pixels * len(s.out_groups) * (s.accumulate + (not s.final)) for s in subsets)
    assert found.traffic.counts["l1", "psums"] == spills * 16 * 3
    assert found.traffic.macs == layer.macs // 4
    assert found.places[0] == "l1"


def test_accesses_are_near_the_closed_form(tmp_path):
    """Where both have the same tiles, in register files and L1."""
    shapes, config = block(tmp_path), machine()
    found, quick = exact_estimate(shapes, compile_network(shapes, config)), estimate(shapes, config)
    for level in ("l1", "prf", "arf", "wrf"):
        assert found.traffic[level] == pytest.approx(quick.traffic[level], rel=0.35)
    assert found.cycles == pytest.approx(quick.cycles, rel=0.1)


def test_tensors_leave_a_small_l2(tmp_path):
    shapes = block(tmp_path)
    program = compile_network(shapes, machine(l1_banks=4, l1_bank_words=256))
    large, small = (exact_estimate(shapes, program, l2_bytes=size) for size in (1 << 21, 1 << 10))
    places = [{place for layer in found.layers[1:-1] for place in layer.places} for found in (large, small)]
    assert "l2" in places[0]
    assert "l2" not in places[1]
    assert small.traffic["dram"] > large.traffic["dram"]
    assert small.cycles == large.cycles


def test_progress_ends_with_all(tmp_path):
    shapes, planned, counted = block(tmp_path), [], []
    program = compile_network(shapes, machine(), progress=lambda *counts: planned.append(counts))
    assert planned[-1] == (len(program.layers),) * 2
    exact_estimate(shapes, program, progress=lambda *counts: counted.append(counts))
    assert all(done <= total == program.program_length for done, total in counted)


def test_what_cannot_be_planned_is_named(tmp_path):
    shapes = network(tmp_path, CONV.format("wide", 16, "true"), "[512, 40, 40]")
    with pytest.raises(MvqError, match="layer 'wide'"):
        compile_network(shapes, machine(l1_banks=1, l1_bank_words=64))
