"""Gate-level activity and power: the netlist computes what golden does, and its energy adds up."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
import small_core

from synth.activity import StimulusError, circuit_of, simulate
from synth.cells import Table, read_cells
from synth.energy import EVENTS, _measure, mac_energy, stimulus_of
from synth.liberty import LibertyError
from synth.netlist import BLOCKS, flatten
from synth.power import leakage, power_model
from synth.sta import run_sta

needs_sta = pytest.mark.skipif(shutil.which("sta") is None, reason="needs OpenSTA: apt-get install opensta")


@pytest.fixture(scope="module")
def library(nangate45):
    return read_cells(nangate45)


@pytest.fixture(scope="module")
def design(nangate45):
    return small_core.mapped(nangate45)


def pins_of(design, library):
    kinds = {kind for module in design.modules.values() for kind, _ in module["cells"].values()}
    return {kind: list(library.cells[kind]["pins"]) for kind in kinds if kind in library.cells}


@pytest.fixture(scope="module")
def flat(design, library):
    return flatten(design.modules, design.top, pins_of(design, library), BLOCKS)


@pytest.fixture(scope="module")
def stimulus():
    return stimulus_of(*small_core.random_layer(np.random.default_rng(3), pixels=8), 10_000)


@pytest.fixture(scope="module")
def measured(design, stimulus):
    return _measure(design, stimulus)


def test_netlist_equals_golden_and_energy_adds_up(measured, stimulus):
    """``_measure`` raises when one ofmap vector differs."""
    counts = [measured["counts"][event] for event in EVENTS]
    assert counts[EVENTS.index("ofmap vector")] == len(stimulus.expected)
    assert counts[EVENTS.index("codeword word")] == stimulus.codeword_words.sum()
    assert min(counts) > 0
    for block, costs in measured["costs"].items():
        fitted = sum(number * costs[event] for number, event in zip(counts, EVENTS, strict=True))
        assert fitted == pytest.approx(measured["energy"][block], rel=1e-6), block
    assert 0 < measured["glitches"] < 0.9
    watts = sum(measured["energy"].values()) / (measured["cycles"] * small_core.CLOCK_PS * 1e-12)
    assert 1e-4 < watts < 0.1
    assert 0 < sum(measured["leakage"].values()) < 0.5 * watts
    assert 1e-14 < mac_energy(measured) < 1e-11


def test_every_gate_is_there(design, flat, nangate45):
    areas = {**nangate45.areas, "CLKGATE_X1": 3.458}
    total = sum(areas[kind] * len(rows) for kind, rows in flat.gates.items())
    assert total == pytest.approx(sum(design.area.values()))


def test_a_wrong_result_is_found(design, stimulus):
    expected = stimulus.expected.copy()
    expected[2, -1] ^= 1
    with pytest.raises(StimulusError, match="ofmap vector 2 differs"):
        _measure(design, dataclasses.replace(stimulus, expected=expected))


def test_toggles(flat, library, stimulus):
    circuit = circuit_of(flat, library)
    found = simulate(flat, circuit, stimulus.streams)
    net = flat.ports["computing"][1][0]
    assert found.settled[net] == np.count_nonzero(np.diff(found.computing.astype(int)))
    assert found.high[net] == np.count_nonzero(found.computing)
    assert (found.toggles >= found.settled).all()
    assert ((found.toggles - found.settled) % 2 == 0).all()  # a glitch is there and back
    with pytest.raises(StimulusError, match="ofmap vectors came out in 64 cycles"):
        simulate(flat, circuit, stimulus.streams, most_cycles=20)


def one_after_another(circuit, activity, flat, inputs):
    """Toggles of each net, cycle after cycle and wave after wave, on what a simulation put on the inputs."""
    functions = [
        (int(table), row[:count], target)
        for table, count, row, target in zip(
            circuit.tables, circuit.inputs, circuit.sources.tolist(), circuit.targets.tolist(), strict=True
        )
    ]
    readers = [[] for _ in range(circuit.nets)]
    for number, (_, row, _) in enumerate(functions):
        for net in row:
            readers[net].append(number)
    values, toggles = [0] * circuit.nets, np.zeros(circuit.nets, int)
    values[1] = 1
    state = np.zeros(len(circuit.data), int)

    def settle(changes, waiting=()):
        waiting = set(waiting)
        while changes or waiting:
            for net in changes:
                values[net] ^= 1
                toggles[net] += 1
                waiting.update(readers[net])
            changes = {
                target
                for table, row, target in map(functions.__getitem__, waiting)
                if table >> sum(values[net] << bit for bit, net in enumerate(row)) & 1 != values[target]
            }
            waiting = set()

    def edge():
        """Registers that the clock reaches take their data; returns the nets that change."""
        for group in range(len(circuit.gate_starts) - 1):
            if not group or any(values[net] for net in circuit.enables[group - 1]):
                for r in range(circuit.gate_starts[group], circuit.gate_starts[group + 1]):
                    state[r] = values[circuit.data[r]]
        return outputs()

    def outputs():
        ends = [(net, bit) for net, bit in zip(circuit.outputs.tolist(), state.tolist(), strict=True) if net > 1]
        ends += [(net, 1 - bit) for net, bit in zip(circuit.inverses.tolist(), state.tolist(), strict=True) if net > 1]
        return {net for net, bit in ends if values[net] != bit}

    reset = flat.ports["rst"][1][0]
    settle(outputs() | {reset}, range(len(functions)))
    for _ in range(63):
        settle(edge())
    toggles[:] = 0
    at = dict.fromkeys(inputs, 0)
    for _ in range(activity.cycles):
        wanted = {reset: 0, flat.ports["ofmap__ready"][1][0]: 1}
        for name, bits in inputs.items():
            wanted[flat.ports[f"{name}__valid"][1][0]] = int(at[name] < len(bits))
            payload = [net for port in flat.ports if port.startswith(f"{name}__payload") for net in flat.ports[port][1]]
            wanted.update(zip(payload, bits[min(at[name], len(bits) - 1)].tolist(), strict=True))
        settle(edge() | {net for net, bit in wanted.items() if values[net] != bit})
        for name, bits in inputs.items():
            at[name] += at[name] < len(bits) and values[flat.ports[f"{name}__ready"][1][0]]
    return toggles


def test_bundles_are_cycles_one_after_another(flat, library):
    circuit = circuit_of(flat, library)
    few = stimulus_of(*small_core.random_layer(np.random.default_rng(3)), 1).streams
    found = simulate(flat, circuit, few)
    np.testing.assert_array_equal(found.toggles[2:], one_after_another(circuit, found, flat, few.inputs)[2:])


def test_a_combinational_loop_is_found(design, library):
    modules = {"ring": {"ports": dict(design.modules[design.top]["ports"]), "cells": {}}}
    for number, (source, target) in enumerate(((90_001, 90_002), (90_002, 90_001))):
        modules["ring"]["cells"][f"g{number}"] = ["INV_X1", {"A": [source], "ZN": [target]}]
    clock = modules["ring"]["ports"]["clk"][1]
    modules["ring"]["cells"]["r"] = ["DFF_X1", {"D": [90_001], "CK": clock, "Q": [90_003], "QN": []}]
    pins = {kind: list(library.cells[kind]["pins"]) for kind in ("INV_X1", "DFF_X1")}
    with pytest.raises(StimulusError, match="2 gates are in a combinational loop"):
        circuit_of(flatten(modules, "ring", pins), library)


@needs_sta
@pytest.mark.parametrize("module", ["partial_sum_file", "sparse_row", "activation_file"])
def test_uniform_activity_as_opensta(design, library, nangate45, tmp_path, module):
    activity = 0.1
    commands = [
        f"read_liberty {nangate45.path}",
        f"read_verilog {design.folder / 'netlist.v'}",
        f"link_design {module}",
        f"create_clock -name clk -period {small_core.CLOCK_PS * 1e-3} [get_ports clk]",
        "set_input_delay 0 -clock clk [all_inputs]",
        f"set_power_activity -global -activity {activity} -duty 0.5",
        "report_power -digits 8",
    ]
    text = run_sta("power", commands, tmp_path)
    numbers = re.search(r"^Total\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)", text, flags=re.MULTILINE)
    leaking, total = float(numbers[3]), float(numbers[4])
    flat = flatten(design.modules, module, pins_of(design, library))
    model = power_model(flat, library, both_edges=True)
    ours = model.net_energy.sum() * activity + model.clock_energy.sum() + model.gate_energy.sum()
    ours = ours / (small_core.CLOCK_PS * 1e-12) + model.leakage.sum()
    assert model.leakage.sum() == pytest.approx(leaking, rel=0.01)
    assert ours == pytest.approx(total, rel=0.1)
    # one edge for each toggle is less, and internal power can only fall
    single = power_model(flat, library)
    assert 0.3 * model.net_energy.sum() < single.net_energy.sum() < model.net_energy.sum()


def without(library, what):
    cells = {name: {**cell, what: []} for name, cell in library.cells.items()}
    return dataclasses.replace(library, cells=cells)


@pytest.mark.parametrize(("what", "message"), [("energies", "no internal_power tables"), ("leakage", "no leakage")])
def test_a_library_without_power(flat, library, what, message):
    with pytest.raises(LibertyError, match=message):
        power_model(flat, without(library, what))


def test_leakage_depends_on_state(flat, library):
    duties = [np.full(flat.nets, share) for share in (0.0, 0.5, 1.0)]
    watts = [leakage(flat, library, duty).sum() for duty in duties]
    half = power_model(flat, library).leakage.sum()
    assert watts[1] == pytest.approx(half, rel=0.01)
    assert len({round(value, 9) for value in watts}) == 3


def test_latches_are_refused(flat, library):
    cells = {name: {**cell, "latch": True} if cell["functions"] else cell for name, cell in library.cells.items()}
    with pytest.raises(Exception, match="is a latch, and latches are not simulated"):
        circuit_of(flat, dataclasses.replace(library, cells=cells))


def test_table():
    table = Table((0.0, 1.0), (0.0, 2.0), ((0.0, 4.0), (1.0, 5.0)))
    np.testing.assert_allclose(table(np.array([0.5, 1.0, 2.0]), np.array([1.0, 2.0, 4.0])), [2.5, 5.0, 10.0])
    constant = Table((0.0,), (0.0,), ((3.0,),))
    np.testing.assert_allclose(constant(np.zeros(2), np.zeros(2)), [3.0, 3.0])
    slews_only = Table((0.0, 2.0), (0.0,), ((1.0,), (3.0,)))
    np.testing.assert_allclose(slews_only(np.array([1.0]), np.array([9.0])), [2.0])


def test_wires(library):
    found = library.wire(np.array([0, 1, 2, 500]))
    assert found[0] == 0
    assert (np.diff(found) > 0).all()
