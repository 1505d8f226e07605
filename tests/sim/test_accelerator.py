"""The whole accelerator, compiled: values equal to golden, cycles and counters to the model."""

import numpy as np
import pytest

from golden import integer
from golden.timing import MemoryTiming, predict
from tests.golden.program_networks import GraphBuilder, digits, random_graph
from tests.sim.accelerators import CONFIGS, Case

#: configurations; each takes tens of seconds to compile.
NAMES = ["ews-cms", *(pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS if name != "ews-cms")]


def check(case, timing):
    """Run ``case`` and compare everything."""
    case.engine.bench.set_timing(timing.read_latency, timing.write_latency)
    expected = predict(case.program, timing)
    result, registers = case.driver.run(case.x)
    np.testing.assert_array_equal(result, case.values[case.program.output])
    assert case.program.compare(case.driver.memory, case.values)
    assert registers["cycles"] == expected.cycles
    assert {name: registers[name] for name in expected.counters} == expected.counters
    return registers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [None, "all"])
def test_digits(name, keep):
    check(Case(name, digits(), keep=keep), MemoryTiming())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_with_random_memories(name, seed):
    rng = np.random.default_rng(seed)
    case = Case(name, random_graph(rng), seed, keep=["all", None][seed % 2], base=4096 * (seed % 3))
    check(case, MemoryTiming(read_latency=int(rng.choice([1, 3, 20, 150])), write_latency=int(rng.choice([1, 20, 90]))))


def test_pauses_change_cycles_but_no_value():
    case = Case("ews-cms", digits(), keep="all")
    quiet = check(case, MemoryTiming())["cycles"]
    for seed, chance in enumerate([0.1, 0.5, 0.9]):
        case.engine.bench.pause(chance, seed)
        try:
            _, registers = case.driver.run(case.x)
        finally:
            case.engine.bench.pause(0.0)
        assert case.program.compare(case.driver.memory, case.values)
        assert registers["cycles"] > quiet


def test_gated_multiplications_are_those_with_a_zero():
    net = GraphBuilder((3, 9, 7))  # all columns have an output channel: what the others do depends on the codebook
    net.linear(net.mean(net.conv(net.conv("image", 16), 24, stride=2)), 16)
    case = Case("ews-cms", net.graph())
    registers = check(case, MemoryTiming())
    graph, useful = case.network.graph, 0
    for node in graph.layers:
        weight = (case.network.layers[node.name].weight != 0).astype(np.int8)
        x = (case.values[node.inputs[0]] != 0).astype(np.int8)[None]
        if node.op == "conv":
            useful += integer.conv2d(x, weight, node.attrs["stride"], node.attrs["padding"], node.attrs["groups"]).sum()
        else:
            useful += integer.linear(x, weight).sum()
    multipliers = CONFIGS["ews-cms"].array.multipliers
    assert registers["gated_multiplications"] == registers["busy_cycles"] * multipliers - useful


def test_images_follow_each_other():
    case = Case("ews-cms", digits())
    rng = np.random.default_rng(7)
    for _ in range(3):
        x = rng.integers(-128, 128, case.x.shape).astype(np.int8)
        result, _ = case.driver.run(x)
        np.testing.assert_array_equal(result, case.network.run(x[None])[case.program.output][0])
