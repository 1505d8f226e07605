"""Memories as black boxes: what is in the text, what the sidecar says, and equal to behavioural ones to the bit."""

import collections
import dataclasses
import functools
import json
import re
import subprocess

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from cocotb_tests.accelerator_simulation import AcceleratorSimulation
from cocotb_tests.simulators import find_icarus, find_verilator
from hdl.bus.beat_buffer import BeatBuffer
from hdl.config import ConfigError
from hdl.control.register_map import OFFSETS, REGISTERS
from hdl.control.requantiser import ScaleMemory
from hdl.memory.l1 import L1Bank
from hdl.memory.psum_buffer import PsumBuffer
from hdl.memory.sram import Sram
from hdl.verilog import component_to_verilog, generate
from tests.hdl.stream_bench import small_config
from tests.hdl.test_accelerator_verilog import SMALL, check_exactly
from tests.hdl.test_verilog import WAIVED

#: 64 words of two vectors in a bank; 16 partial-sum vectors, which are too few for a black box by default.
CONFIG = small_config(4, l1_bank_words=64)


@functools.cache
def accelerator(memories="black_box"):
    return generate(CONFIG, "accelerator", memories)


def modules(text):
    return re.findall(r"^module (\S+?) ?\(", text, flags=re.MULTILINE)


def registers(text):
    """(width, depth) of every memory in Verilog -> how many."""
    found = re.findall(r"^  reg \[(\d+):0\] \S+ \[(\d+):0\];$", text, flags=re.MULTILINE)
    return collections.Counter((int(width) + 1, int(depth) + 1) for width, depth in found)


def test_tools_accept_verilog_and_models(tmp_path):
    design = accelerator()
    files = [tmp_path / "mvq_accelerator.v", tmp_path / "mvq_srams.v"]
    for path, text in zip(files, (design.text, design.memory_models), strict=True):
        path.write_text(text)
    waivers = [f"-Wno-{name}" for name in WAIVED]
    command = ["verilator", "--lint-only", "-Wall", *waivers, "--top-module", design.top, *files]
    lint = subprocess.run(command, capture_output=True, text=True, env=find_verilator(), check=False)
    assert (lint.returncode, lint.stderr) == (0, "")
    command = [find_icarus(), "-g2005", "-Wall", "-Wno-timescale", "-s", design.top, "-o", tmp_path / "out", *files]
    icarus = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (icarus.returncode, icarus.stderr) == (0, "")


def test_models_are_beside_the_text():
    design = accelerator()
    assert modules(design.memory_models) == [
        "mvq_sram_1r1w_64x64_w32",  # an L1 bank
        "mvq_sram_1r1w_64x64",  # the read master's buffers
        "mvq_sram_1r1w_128x64",
    ]
    for rule in design.sidecar["memory_contract"]["rules"]:
        assert f"// * {rule}\n" in design.memory_models
    assert not set(modules(design.memory_models)) & set(modules(design.text))
    assert accelerator("behavioural").memory_models is None
    assert "mvq_sram" not in accelerator("behavioural").text


@pytest.mark.parametrize("memories", ["behavioural", "black_box"])
@pytest.mark.parametrize("unit", ["accelerator", "core"])
def test_sidecar_lists_all_memories(unit, memories):
    design = accelerator(memories) if unit == "accelerator" else generate(CONFIG, None, memories)
    sidecar = json.loads(design.sidecar_text())
    behavioural = [entry for entry in sidecar["memories"] if entry["implementation"] == "behavioural"]
    assert collections.Counter((entry["width"], entry["depth"]) for entry in behavioural) == registers(design.text)
    assert {"scale_memory", "wrf_16x16"} <= {entry["module"] for entry in sidecar["memories"]}
    for entry in sidecar["memories"]:
        assert entry["module"] in sidecar["modules"]
        assert {port["kind"] for port in entry["ports"]} == {"read", "write"}
    boxes = {box["module"]: box for box in sidecar.get("black_boxes", ())}
    assert set(boxes) == set(modules(design.memory_models or ""))
    for entry in sidecar["memories"]:
        if "macro" not in entry:
            continue
        box = boxes[entry["macro"]]
        assert {key: box[key] for key in ("depth", "width", "write_granularity")}.items() <= entry.items()
        assert f"module {box['module']} (" in design.memory_models
        assert len(entry["paths"]) == entry["instances"]


def test_sidecar_of_a_known_accelerator():
    sidecar = accelerator().sidecar
    found = {entry["module"]: entry for entry in sidecar["memories"]}
    assert found["l1_bank"] == {
        "module": "l1_bank",
        "name": "memory",
        "instances": 4,
        "depth": 64,
        "width": 64,
        "write_granularity": 32,
        "ports": [{"kind": "write"}, {"kind": "read", "latency": 1, "during_write": "old"}],
        "implementation": "black_box",
        "macro": "mvq_sram_1r1w_64x64_w32",
        "paths": [f"l1.bank_{index}.memory" for index in range(4)],
    }
    assert found["psum_buffer"]["implementation"] == "behavioural"
    assert found["transparent_memory_128x64"]["paths"] == ["read_master.weights_buffer.memory.memory"]
    assert found["wrf_16x16"]["ports"][1] == {"kind": "read", "latency": 0, "during_write": "old"}
    assert found["wrf_16x16"]["instances"] == 4
    assert sidecar["memory_policy"] == {"memories": "black_box", "black_box_bits": 4096}
    assert sidecar["memory_contract"]["read_while_writing_same_word"] == "old"
    assert sidecar["latency"]["modules"]["l1_memory"] == 1
    assert [(item["name"], item["offset"]) for item in sidecar["registers"]] == [
        (item.name, OFFSETS[item.name]) for item in REGISTERS
    ]
    assert sidecar["registers"][2]["fields"][0] == {
        "name": "rows",
        "bit": 0,
        "width": 8,
        "description": "H, input channels in parallel",
    }


class Transparent(wiring.Component):
    """A memory whose read port is transparent, and not always enabled."""

    module_name = "transparent"

    def __init__(self):
        super().__init__(
            {
                "write": In(1),
                "write_address": In(3),
                "write_data": In(8),
                "read": In(1),
                "read_address": In(3),
                "read_data": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=8, init=[])
        write = memory.write_port()
        read = memory.read_port(transparent_for=(write,))
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.en.eq(self.read),
            read.addr.eq(self.read_address),
            self.read_data.eq(read.data),
        ]
        return m


COMPONENTS = {
    "l1_bank": lambda: L1Bank(CONFIG),
    "psum_buffer": lambda: PsumBuffer(CONFIG),
    "scale_memory": lambda: ScaleMemory(CONFIG.array),
    "beat_buffer": lambda: BeatBuffer(16, 8),
    "transparent": Transparent,
}


def differences(folder, build, change=lambda models: models, cycles=8000, ignored=4000):
    """Random values on all inputs of a component with behavioural memories and one with black boxes, in Icarus.

    ``ignored`` cycles come first: in them every word is written, as black boxes start undefined. Returns the
    differing cycles, and those in which an output changes.
    """
    known = component_to_verilog(build(), CONFIG)
    boxes = component_to_verilog(build(), CONFIG, memories="black_box", black_box_bits=64)
    assert boxes.sidecar["black_boxes"]
    renamed = known.text
    for name in known.modules:
        renamed = re.sub(rf"\b{name}\b", f"known_{name}", renamed)
    lines, inputs, outputs = [], ["clk", "rst"], []
    for port in known.sidecar["ports"]:
        name, size = port["name"], f"[{port['width'] - 1}:0]"
        if port["direction"] == "input":
            inputs.append(name)
            lines.append(f"reg {size} {name};")
        else:
            outputs.append(name)
            lines += [f"wire {size} known_{name}, box_{name};", f"reg {size} last_{name};"]
    words = {port["name"]: -(-port["width"] // 32) for port in known.sidecar["ports"]}
    draws = [f"{name} = {{{', '.join(['$random'] * words[name])}}};" for name in inputs[2:]]
    for kind, top in (("known", f"known_{known.top}"), ("box", boxes.top)):
        ports = [f".{name}({name})" for name in inputs] + [f".{name}({kind}_{name})" for name in outputs]
        lines.append(f"{top} {kind} ({', '.join(ports)});")
    differ = " || ".join(f"known_{name} !== box_{name}" for name in outputs)
    change_seen = " || ".join(f"known_{name} !== last_{name}" for name in outputs)
    bench = "\n".join(
        [
            "module bench;",
            "reg clk, rst; integer cycle, wrong, moves;",
            *lines,
            "initial begin",
            "clk = 0; rst = 1; wrong = 0; moves = 0; #1;",
            f"for (cycle = 0; cycle < {cycles}; cycle = cycle + 1) begin",
            *draws,
            "rst = cycle < 2; #1;",
            f"if (cycle >= {ignored}) begin wrong = wrong + ({differ}); moves = moves + ({change_seen}); end",
            *(f"last_{name} = known_{name};" for name in outputs),
            "clk = 1; #1; clk = 0; #1;",
            "end",
            '$display("%0d %0d", wrong, moves);',
            "end",
            "endmodule",
        ]
    )
    source, program = folder / "bench.v", folder / "bench.vvp"
    source.write_text("\n".join([renamed, boxes.text, change(boxes.memory_models), bench]))
    subprocess.run([find_icarus(), "-g2005", "-s", "bench", "-o", program, source], check=True)
    result = subprocess.run(["vvp", "-n", program], capture_output=True, text=True, check=True)
    wrong, moves = result.stdout.split()
    return int(wrong), int(moves)


@pytest.mark.parametrize("name", COMPONENTS)
def test_black_box_equals_behavioural(tmp_path, name):
    wrong, moves = differences(tmp_path, COMPONENTS[name])
    assert wrong == 0
    assert moves > 1000


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("if (read_enable) read_data <=", "read_data <="),
        ("] <= write_data[63:32]", "] = write_data[63:32]"),
        ("if (write_enable[1])", "if (write_enable[0])"),
    ],
    ids=["not held", "new instead of old", "wrong part"],
)
def test_bench_notices_a_wrong_macro(tmp_path, rule, broken):
    def change(models):
        assert rule in models
        return models.replace(rule, broken)

    assert differences(tmp_path, COMPONENTS["l1_bank"], change)[0] > 10


def test_network_runs_on_undefined_memories(request):
    """The whole accelerator never looks at a word that was not written: with every macro it can have, and all of them
    undefined at the start, values, cycles and counters are golden's."""
    design = generate(SMALL, "accelerator", "black_box", black_box_bits=64)
    assert {entry["module"] for entry in design.sidecar["memories"] if "macro" in entry} >= {
        "l1_bank",
        "psum_buffer",
        "scale_memory",
    }
    design = dataclasses.replace(design, text=design.text + design.memory_models)
    folder = request.config.cache.mkdir("verilog") / "accelerator-black-boxes"
    check_exactly(AcceleratorSimulation(SMALL, folder, "icarus", design), SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memories": "sram"}, "memories = 'sram': must be one of behavioural, black_box"),
        ({"black_box_bits": 0}, "black_box_bits = 0: must be an integer of at least 1; the nearest legal value is 1"),
    ],
)
def test_unknown_policy(options, message):
    with pytest.raises(ConfigError) as error:
        generate(CONFIG, "psum_buffer", **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("memory", "read", "write", "name"),
    [
        ({"depth": 64, "shape": 64}, {}, {}, "mvq_sram_1r1w_64x64"),
        ({"depth": 100, "shape": 48}, {}, {"granularity": 24}, "mvq_sram_1r1w_100x48_w24"),
        ({"depth": 63, "shape": 64}, {}, {}, None),
        ({"depth": 64, "shape": 64}, {"domain": "comb"}, {}, None),
        ({"depth": 64, "shape": 64}, {"domain": "other"}, {}, None),
        ({"depth": 64, "shape": 64, "init": [0, 1]}, {}, {}, None),
    ],
)
def test_which_memories_are_macros(memory, read, write, name):
    memory = Memory(**{"init": [], **memory})
    memory.write_port(**write)
    memory.read_port(**read)
    memory._MustUse__used = True
    macro = Sram.of(memory, 4096)
    assert (macro and macro.name) == name
    memory.read_port()
    assert Sram.of(memory, 4096) is None
