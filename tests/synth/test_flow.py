"""The Yosys flow on small hierarchical Verilog."""

import random
import subprocess
import sys

import pytest
from tiny_library import FLIP_FLOP, NAND, write_library

from cocotb_tests.simulators import find_icarus
from hdl.config import MvqError
from synth.flow import Policy, synthesise, synthesise_all
from synth.liberty import read_liberty, resolve_liberty
from synth.yosys import SynthesisError, run_yosys

DESIGN = """
module mvq_full_adder(input a, input b, input ci, output s, output co);
  assign s = a ^ b ^ ci; assign co = (a & b) | (ci & (a | b));
endmodule
module mvq_half_adder(input a, input b, output s, output co);
  assign s = a ^ b; assign co = a & b;
endmodule
module counter(input clk, input rst, input enable, input [3:0] step, output reg [3:0] value = 0, output carry);
  wire [3:0] sum, c;
  mvq_half_adder a0(.a(step[0]), .b(value[0]), .s(sum[0]), .co(c[0]));
  mvq_full_adder a1(.a(step[1]), .b(value[1]), .ci(c[0]), .s(sum[1]), .co(c[1]));
  mvq_full_adder a2(.a(step[2]), .b(value[2]), .ci(c[1]), .s(sum[2]), .co(c[2]));
  mvq_full_adder a3(.a(step[3]), .b(value[3]), .ci(1'b1), .s(sum[3]), .co(c[3]));
  assign carry = c[3];
  always @(posedge clk) if (rst) value <= 4'd5; else if (enable) value <= sum;
endmodule
module store(input clk, input write, input [7:0] data, output reg [7:0] value);
  always @(posedge clk) if (write) value <= data;
endmodule
module pair(input clk, input rst, input enable, input [3:0] step, output [7:0] value, output [1:0] carry);
  counter low(.clk(clk), .rst(rst), .enable(enable), .step(step), .value(value[3:0]), .carry(carry[0]));
  counter high(.clk(clk), .rst(rst), .enable(carry[0]), .step(step), .value(value[7:4]), .carry(carry[1]));
endmodule
module top(input clk, input rst, input enable, input [3:0] step, output [7:0] value, output [1:0] carry);
  wire [7:0] counted;
  pair counters(.clk(clk), .rst(rst), .enable(enable), .step(step), .value(counted), .carry(carry));
  store \\store$12 (.clk(clk), .write(enable ^ step[0]), .data(counted), .value(value));
endmodule
"""


@pytest.fixture(scope="module")
def netlist(nangate45):
    return synthesise(DESIGN, "top", nangate45)


def test_totals_follow_the_hierarchy(netlist):
    counter, store = netlist.modules["counter"], netlist.modules["store"]
    assert netlist.counts == {"counter": 2, "store": 1, "pair": 1, "top": 1}
    assert netlist.total()[0] == pytest.approx(2 * counter.area + store.area + netlist.modules["top"].area)
    assert netlist.total()[1] == pytest.approx(16 * 4.522)  # DFF_X1
    assert netlist.cells["DFF_X1"] == 16


def test_areas_are_those_of_the_cells(netlist, nangate45):
    clock_gates = {"CLKGATE_X1": 3.458}
    for module in netlist.modules.values():
        areas = {**nangate45.areas, **clock_gates}
        assert module.area == pytest.approx(sum(areas[cell] * number for cell, number in module.cells.items()))


def test_adders_become_cells_unless_an_input_is_constant(netlist):
    cells = netlist.modules["counter"].cells
    assert (cells["FA_X1"], cells["HA_X1"]) == (2, 1)


def test_enables_become_clock_gates(netlist, nangate45):
    assert netlist.modules["store"].cells["CLKGATE_X1"] == 1
    assert netlist.modules["counter"].cells["CLKGATE_X1"] == 1  # though its reset works without the enable
    assert "MUX2_X1" not in netlist.modules["store"].cells
    plain = synthesise(DESIGN, "top", nangate45, Policy(register_files="flip_flop"))
    assert "CLKGATE_X1" not in plain.cells
    assert plain.modules["store"].area > netlist.modules["store"].area


@pytest.mark.parametrize("library", ["sky130A:sky130_fd_sc_hd", "ihp-sg13g2:sg13g2_stdcell"])
def test_other_libraries(shared_pdk, monkeypatch, library):
    monkeypatch.setenv("PDK_ROOT", str(shared_pdk))
    netlist = synthesise(DESIGN, "top", read_liberty(resolve_liberty(library)))
    area, sequential = netlist.total()
    assert area > sequential > 0


def test_blocks_take_the_longest_path(netlist):
    blocks = netlist.blocks({"counters": "count", "counters.h*": "high", "store": "store"})
    counter = netlist.modules["counter"].area
    assert blocks == pytest.approx(
        {
            "count": counter,
            "high": counter,
            "store": netlist.modules["store"].area,
            "control": netlist.modules["top"].area,
        }
    )


def test_a_shared_module_is_synthesised_once(nangate45, monkeypatch, cache):
    jobs = []

    def count(what, commands, folder, *, modules=(), placed=()):
        jobs.append(sorted(modules))
        return run_yosys(what, commands, folder, modules=modules, placed=placed)

    monkeypatch.setattr("synth.flow.run_yosys", count)
    other = DESIGN.replace("module top(", "module other(").replace("enable ^ step[0]", "enable")
    first, second = synthesise_all([("one", DESIGN, "top"), ("two", other, "other")], nangate45)
    assert sorted(name for job in jobs for name in job) == ["counter", "other", "pair", "store", "top"]
    assert first.modules["counter"] is second.modules["counter"]


def test_hierarchies(nangate45, netlist):
    """Constants of instances, and then all boundaries, are less to keep each time; there are no areas by block when
    flattened."""
    single, flat = (
        synthesise(DESIGN, "top", nangate45, Policy(hierarchy=name)) for name in ("hierarchical", "flattened")
    )
    assert flat.total()[0] <= single.total()[0] <= netlist.total()[0]
    assert set(flat.modules) == {"top"}
    assert len(single.modules) == 5  # each counter has a module of its own
    assert all(number == 1 for number in single.counts.values())
    assert flat.total()[1] == single.total()[1] == netlist.total()[1]
    assert single.blocks({"counters": "count", "counters.h*": "high", "store": "store"}).keys() >= {"high", "store"}


@pytest.mark.parametrize(
    ("register_files", "hierarchy"),
    [("clock_gated", "shared"), ("flip_flop", "hierarchical"), ("clock_gated", "flattened")],
)
def test_netlist_behaves_like_the_source(nangate45, tmp_path, register_files, hierarchy):
    """Random stimuli: reset without enable, enable without reset, and both, on the source and on the gates."""
    policy = Policy(register_files=register_files, hierarchy=hierarchy)
    synthesise(DESIGN, "top", nangate45, policy, folder=tmp_path)
    [netlist] = tmp_path.glob("*/netlist.v")
    models = tmp_path / "cells.v"
    run_yosys(
        "cell models",
        [f"read_liberty -ignore_miss_func {nangate45.path}", f"write_verilog -noattr {models}"],
        tmp_path / "models",
    )
    gate = "reg on; always @* if (!CK) on = E; assign GCK = on & CK;"
    models.write_text(models.read_text() + f"module CLKGATE_X1(input CK, E, output GCK); {gate} endmodule\n")
    generator = random.Random(1)
    lines = [
        f"{generator.randrange(4) == 0:d}{generator.randrange(2):d}{generator.randrange(16):04b}" for _ in range(200)
    ]
    stimuli = tmp_path / "stimuli.txt"
    stimuli.write_text("110000\n" + "\n".join(lines) + "\n")
    bench = f"""
    module bench; reg clk = 0, rst, enable; reg [3:0] step; reg [5:0] line;
      wire [7:0] value; wire [1:0] carry; integer file, got;
      top dut(.clk(clk), .rst(rst), .enable(enable), .step(step), .value(value), .carry(carry));
      initial begin
        file = $fopen("{stimuli}", "r");
        while (!$feof(file)) begin
          got = $fscanf(file, "%b\\n", line); {{rst, enable, step}} = line;
          #5 $display("%b %b", value, carry); clk = 1; #5 clk = 0;
        end
        $finish;
      end
    endmodule"""
    (tmp_path / "bench.v").write_text(bench)
    (tmp_path / "source.v").write_text(DESIGN)

    def simulate(*sources):
        binary = tmp_path / "simulation"
        subprocess.run([find_icarus(), "-g2005-sv", "-o", binary, *sources], check=True)
        return subprocess.run(["vvp", binary], check=True, capture_output=True, text=True).stdout.split("\n")[4:]

    expected = simulate(tmp_path / "bench.v", tmp_path / "source.v")
    assert len(expected) > 190
    assert simulate(tmp_path / "bench.v", netlist, models) == expected


def test_failure_gives_no_numbers_but_a_log(nangate45):
    with pytest.raises(SynthesisError, match=r"synthesis of broken failed: .*ERROR.*the log is ") as failure:
        synthesise_all(
            [
                ("good", DESIGN, "top"),
                ("broken", "module m(input a, output b);\nassign b = nothing(a);\nendmodule", "m"),
            ],
            nangate45,
        )
    assert failure.value.log.exists()
    assert "ERROR" in failure.value.log_tail
    assert isinstance(failure.value, MvqError)


def test_missing_top(nangate45):
    with pytest.raises(MvqError, match="top module 'nothing' of nothing is not in the Verilog, which holds"):
        synthesise(DESIGN, "nothing", nangate45)


def test_a_latch_needs_a_library_with_latches(tmp_path):
    inverter = (
        'cell (INV) { area : 1; pin (A) { direction : input; } pin (Y) { direction : output; function : "!A"; } }'
    )
    liberty = read_liberty(write_library(tmp_path / "tiny.lib", NAND, FLIP_FLOP, inverter))
    latch = "module m(input e, input d, output reg q);\nalways @* if (e) q = d;\nendmodule"
    with pytest.raises(SynthesisError, match=r"synthesis of m failed: .*D latches are not supported"):
        synthesise(latch, "m", liberty)


@pytest.mark.parametrize(
    ("script", "reason"),
    [("kill -SEGV $$", "ended by signal 11"), ("exit 3", "exit code 3"), ("exit 0", "left no result")],
)
def test_crash_of_yosys(tmp_path, monkeypatch, script, reason):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho last words\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(SynthesisError, match=reason) as failure:
        run_yosys("a task", ["help"], tmp_path / "run")
    assert failure.value.log_tail == "last words"


def test_unknown_policy():
    with pytest.raises(MvqError, match="must be one of clock_gated, flip_flop, latch"):
        Policy(register_files="dram")
