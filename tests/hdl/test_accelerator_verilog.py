"""The accelerator as generated Verilog under cocotb, between cocotbext-axi's memory and master: a network runs by
itself, equal to golden in every value, and to the model in every cycle and counter."""

import dataclasses
import functools

import numpy as np
import pytest

from cocotb_tests.accelerator_simulation import AXI_RAM, AcceleratorSimulation
from golden.lower import lower
from golden.program import compile_program
from golden.timing import COUNTERS, predict
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import ArrayConfig, MvqError
from hdl.control.register_map import IDENTITY, ErrorCode
from hdl.verilog import generate
from mvq.driver import Driver, RunFailedError
from tests.golden.conftest import graph
from tests.golden.program_networks import GraphBuilder, random_checkpoint

ARRAY = ArrayConfig(rows=8, columns=8, vector_length=8, m=8, n=2, codewords=16, gating_counter=True)
SMALL = AcceleratorConfig(array=ARRAY, l1_banks=8, l1_bank_words=64, psum_vectors=128)


@functools.cache
def design_of(config):
    return generate(config, "accelerator")


@functools.cache
def network_of(config, base=0):
    """(program, input, values of every node) of the network with every operation."""
    checkpoint, calibration = random_checkpoint(graph(), np.random.default_rng(2), d=8, n=2, m=8)
    lowered = lower(checkpoint, calibration, config.array)
    x = lowered.network.quantise_input(np.random.default_rng(1).normal(0, 2, (1, 3, 10, 8)))
    values = {name: value[0] for name, value in lowered.network.run(x).items()}
    return compile_program(lowered, config, base=base, keep="all"), x[0], values


@pytest.fixture
def accelerator(request):
    """accelerator(config, simulator) -> :class:`AcceleratorSimulation`, compiled once for all tests."""

    def make(config, simulator):
        folder = request.config.cache.mkdir("verilog") / f"accelerator-{config.hash}"
        return AcceleratorSimulation(config, folder, simulator, design_of(config))

    return make


class Stalling:
    """An engine whose bus pauses at random."""

    def __init__(self, simulation, **options):
        self.simulation, self.options = simulation, options

    def run(self, *arguments, **options):
        return self.simulation.run(*arguments, **options, **self.options)


def check(engine, config, base=0):
    """Run the network; every stored value equals golden's. Returns the registers and the model's prediction."""
    program, x, values = network_of(config, base)
    driver = Driver(program, engine)
    _, registers = driver.run(x, limit=100_000)
    assert set(program.compare(driver.memory, values)) == set(program.nodes)
    return registers, predict(program, AXI_RAM)


def check_exactly(engine, config):
    """Run the network; values, cycles and counters are equal."""
    registers, model = check(engine, config)
    assert {name: registers[name] for name in ("cycles", *COUNTERS)} == {"cycles": model.cycles, **model.counters}
    return registers


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_network_runs_by_itself(accelerator, simulator):
    registers = check_exactly(accelerator(SMALL, simulator), SMALL)
    assert registers["id"] == IDENTITY
    assert registers["config_hash"] == int(SMALL.hash, 16)
    assert registers["status"] & 0xFFFF == 0b10  # done
    assert registers["gated_multiplications"] > 0


@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
def test_back_pressure_changes_no_value(accelerator, simulator):
    registers, model = check(Stalling(accelerator(SMALL, simulator), stall=0.3, seed=5), SMALL, base=0x8000_0000)
    assert registers["cycles"] > model.cycles
    assert registers["bus_read_beats"] == model.counters["bus_read_beats"]


def test_errors_are_told(accelerator):
    engine = accelerator(SMALL, "icarus")
    program, _, _ = network_of(SMALL)
    driver, memory = Driver(program, engine), program.memory()
    with pytest.raises(MvqError, match="no registers: cycle, watchdogs"):
        engine.run(memory, {"watchdogs": 1, "cycle": 0}, 100)
    with pytest.raises(MvqError, match="no interrupt within 100 cycles; layer 0, status 0x1, error none, "):
        engine.run(memory, driver.settings(), 100)
    driver.memory = memory[: program.program_address]  # where the descriptors were answers SLVERR
    with pytest.raises(RunFailedError) as failure:
        driver.run(network_of(SMALL)[1])
    assert (failure.value.code, failure.value.address) == (ErrorCode.READ_SLVERR, program.program_address)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("array", "memory"),
    [
        ({}, {"outstanding": 1}),
        ({}, {"outstanding": 4, "burst_beats": 2}),
        ({}, {"outstanding": 32, "burst_beats": 4}),
        ({"stream_width": 128}, {"burst_beats": 8}),
        ({"stream_width": 256}, {"outstanding": 16}),
    ],
)
def test_cycles_with_other_bursts(accelerator, array, memory):
    config = dataclasses.replace(SMALL, array=dataclasses.replace(ARRAY, **array), **memory)
    check_exactly(accelerator(config, "icarus"), config)


@pytest.mark.slow
def test_wide_layers(accelerator):
    """Weights stream without end: many bursts wait for the memory while loads and descriptors want it too."""
    net = GraphBuilder((32, 8, 8))
    x = net.add(net.conv(net.conv("image", 40), 32, activation="none"), "image")
    net.linear(net.mean(net.conv(x, 64, stride=2)), 10)
    checkpoint, calibration = random_checkpoint(net.graph(), np.random.default_rng(3), d=8, n=2, m=8)
    lowered = lower(checkpoint, calibration, ARRAY)
    program = compile_program(lowered, SMALL, keep="all")
    x = lowered.network.quantise_input(np.random.default_rng(4).normal(0, 2, (1, 32, 8, 8)))
    driver = Driver(program, accelerator(SMALL, "verilator"))
    _, registers = driver.run(x[0], limit=1_000_000)
    values = {name: value[0] for name, value in lowered.network.run(x).items()}
    assert set(program.compare(driver.memory, values)) == set(program.nodes)
    assert registers["cycles"] == predict(program, AXI_RAM).cycles
