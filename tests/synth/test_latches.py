"""Register files as latches of a library: their netlists against the flip-flops of the source."""

import random
import re
import subprocess

import pytest
from tiny_library import FLIP_FLOP, NAND, write_library

from cocotb_tests.simulators import find_icarus
from hdl.config import ArrayConfig, preset
from hdl.pe.offset_pairs import fold_numbers
from hdl.verilog import generate
from synth.area import area_report
from synth.flow import Policy, synthesise
from synth.liberty import LibertyError, read_liberty, resolve_liberty
from synth.yosys import run_yosys

CONFIG = ArrayConfig(
    rows=2,
    columns=8,
    vector_length=8,
    n=2,
    m=4,
    codewords=40,
    wrf_depth=4,
    tile_rows=2,
    prf_depth=3,
    style="structural",
)


def sparse_row(generator, cycle):
    """Inputs of a row; the first cycles write every word, and no word is read while it is written."""
    words = range(CONFIG.wrf_depth)
    write = cycle if cycle in words else generator.choice([None, *words])
    select, now = generator.choices([word for word in words if word != write], k=2)
    return {
        "step": generator.random() < 0.8,
        "swap": 0,
        "activation": generator.choice([0, generator.getrandbits(8)]),
        "idle": generator.random() < 0.2,
        "select": 1 << select,
        "select_now": 1 << now,
        "write": 0 if write is None else 1 << write,
        "weights": generator.getrandbits(32),
        "positions": fold_numbers(*sorted(generator.choices(range(3), k=2)), 3) * 0b1001,  # the same in both groups
    }


def partial_sum_file(generator, cycle):
    """Inputs of the file, which reads a word and writes it in one cycle."""
    inputs = {"step": generator.random() < 0.8 or cycle < 3, "valid": generator.random() < 0.8 or cycle < 3}
    inputs |= {"address": cycle % 3 if cycle < 6 else generator.randrange(3)}
    inputs |= {"first": generator.random() < 0.3 or cycle < 3}
    for column in range(CONFIG.columns):
        inputs |= {f"{name}__{column}": generator.getrandbits(24) for name in ("sums", "initial")}
    return inputs


@pytest.mark.parametrize("stimuli", [sparse_row, partial_sum_file])
def test_mapped_latches_equal_flip_flops(nangate45, tmp_path, stimuli):
    """A register file whose words are never read while they are written, and one whose words are."""
    source = generate(CONFIG, stimuli.__name__)
    latches = generate(CONFIG, stimuli.__name__, storage="latch")
    mapped = synthesise(latches.text, latches.top, nangate45, Policy(register_files="latch"), folder=tmp_path)
    words = 4 * 8 * 4 + 3 * 2 * 4 if stimuli is sparse_row else 8 * 3 * 24
    assert mapped.cells["DLH_X1"] == words + (8 * 3 if stimuli is partial_sum_file else 0)  # and those of the gates
    assert mapped.total()[1] >= 2.66 * words  # latches count as sequential
    [netlist] = tmp_path.glob("*/netlist.v")
    models = tmp_path / "cells.v"
    commands = [f"read_liberty -ignore_miss_func {nangate45.path}", f"write_verilog -noattr {models}"]
    run_yosys("cell models", commands, tmp_path / "models")
    gate = "reg on; always @* if (!CK) on = E; assign GCK = on & CK;"
    models.write_text(models.read_text() + f"module CLKGATE_X1(input CK, E, output GCK); {gate} endmodule\n")

    ports = {port["name"]: port for port in source.sidecar["ports"]}
    ports |= {name: {"direction": "input", "width": 1} for name in ("clk", "rst")}
    inputs = {name: port["width"] for name, port in ports.items() if port["direction"] == "input"}
    driven = [name for name in inputs if name not in ("clk", "rst")]
    outputs = [name for name, port in ports.items() if port["direction"] == "output"]
    generator = random.Random(1)
    lines = [stimuli(generator, cycle) for cycle in range(300)]
    text = "\n".join("".join(f"{int(line[name]):0{inputs[name]}b}" for name in driven) for line in lines)
    (tmp_path / "stimuli.txt").write_text(text + "\n")
    header = re.findall(r"\w+", re.search(rf"^module {source.top}\(([^;]*)\);", source.text, flags=re.MULTILINE)[1])
    regs = " ".join(f"reg [{width - 1}:0] {name} = 0;" for name, width in inputs.items())
    wires = " ".join(f"wire [{ports[name]['width'] - 1}:0] {name};" for name in outputs)
    width = sum(inputs[name] for name in driven)
    (tmp_path / "bench.v").write_text(f"""
    module bench; {regs} {wires} reg [{width - 1}:0] line; integer file, got;
      {source.top} dut({", ".join(f".{name}({name})" for name in header)});
      initial begin
        file = $fopen("{tmp_path / "stimuli.txt"}", "r"); rst = 1; #5 clk = 1; #5 clk = 0; #5 clk = 1; #1 rst = 0;
        while (!$feof(file)) begin
          got = $fscanf(file, "%b\\n", line); {{{", ".join(driven)}}} = line;
          #4 clk = 0; #5 $display("%b", {{{", ".join(outputs)}}}); clk = 1; #1;
        end
        $finish;
      end
    endmodule""")
    (tmp_path / "source.v").write_text(source.text)

    def simulate(*sources):
        binary = tmp_path / "simulation"
        subprocess.run([find_icarus(), "-g2012", "-o", binary, tmp_path / "bench.v", *sources], check=True)
        return subprocess.run(["vvp", binary], check=True, capture_output=True, text=True).stdout.split("\n")[8:]

    expected = simulate(tmp_path / "source.v")
    assert len(expected) > 280
    assert len(set(expected)) > 80
    assert simulate(netlist, models) == expected


def test_latches_that_the_library_lacks(tmp_path):
    library = write_library(tmp_path / "tiny.lib", NAND, FLIP_FLOP)
    with pytest.raises(LibertyError, match=r"tiny.lib has no latch, which register_files = 'latch' needs: use clock_g"):
        area_report([preset("ews", 16)], str(library), policy=Policy(register_files="latch"))


@pytest.mark.parametrize(
    ("name", "latch"),
    [("sky130A:sky130_fd_sc_hd", "sky130_fd_sc_hd__dlxtp_1"), ("ihp-sg13g2:sg13g2_stdcell", "sg13g2_dlhrq_1")],
)
def test_latches_of_other_libraries(shared_pdk, monkeypatch, name, latch):
    monkeypatch.setenv("PDK_ROOT", str(shared_pdk))
    library = read_liberty(resolve_liberty(name))
    assert library.latch[0] == latch
