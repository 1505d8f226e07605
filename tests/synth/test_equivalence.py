"""Formal equivalence of RTL and netlist, and that a wrong netlist is found out."""

import re

import pytest

from hdl.config import MvqError, preset
from hdl.verilog import generate
from synth.equivalence import prove_module, prove_unit
from synth.flow import Policy, synthesise
from synth.liberty import read_liberty, resolve_liberty
from synth.yosys import SynthesisError

CONFIG = preset("ews-cms", 2, 4, vector_length=4, n=2, m=4, codewords=4, wrf_depth=2, style="structural")

STORE = """
module store(input clk, input rst, input write, input [3:0] data, output reg [3:0] value, output reg full);
  always @(posedge clk) if (write) value <= data;
  always @(posedge clk) if (rst) full <= 0; else if (write) full <= 1;
endmodule
"""


def _modules(text):
    return {
        match[1]: match[0] for match in re.finditer(r"^module (\w+).*?^endmodule\n", text, re.MULTILINE | re.DOTALL)
    }


@pytest.fixture(scope="module")
def element(nangate45, tmp_path_factory):
    """RTL and netlist of a processing element and its multiplier."""
    folder = tmp_path_factory.mktemp("element")
    design = generate(CONFIG, "processing_element")
    synthesise(design.text, design.top, nangate45, folder=folder)
    return _modules(design.text), _modules(next(folder.glob("*/netlist.v")).read_text())


@pytest.mark.parametrize("register_files", ["clock_gated", "flip_flop"])
def test_sparse_tile(nangate45, register_files):
    """Every module of a small tile, both kinds of registers; one of the big ones is slow below."""
    policy = Policy(register_files=register_files)
    report = prove_unit(CONFIG, "sparse_tile", nangate45, policy)
    modules = {proof["module"]: proof for proof in report["modules"]}
    assert report["status"] == "proven"
    assert {"sparse_tile", "sparse_row", "wrf_2x16", "mrf_2x3", "processing_element", "multiplier"} <= set(modules)
    assert all(proof["points"] and proof["cells"] for proof in report["modules"])


def test_behavioural_mask_decoder(nangate45):
    report = prove_unit(CONFIG, "mask_decoder", nangate45, Policy(style="behavioural"))
    assert [proof["status"] for proof in report["modules"]] == ["proven"]


def test_clock_gates_of_another_library(shared_pdk, monkeypatch, tmp_path):
    monkeypatch.setenv("PDK_ROOT", str(shared_pdk))
    liberty = read_liberty(resolve_liberty("sky130A:sky130_fd_sc_hd"))
    synthesise(STORE, "store", liberty, folder=tmp_path)
    netlist = _modules(next(tmp_path.glob("*/netlist.v")).read_text())
    assert any(gate in netlist["store"] for gate in liberty.clock_gates)
    assert prove_module("store", _modules(STORE), netlist, liberty).status == "proven"


def _swap(text, first, second):
    return text.replace(first, "@").replace(second, first).replace("@", second)


MUTANTS = {
    "another gate": ("processing_element", lambda text: text.replace("NOR4_X1", "NAND4_X1", 1), "is"),
    "inverted input": ("processing_element", lambda text: re.sub(r"\.A\(step\)", ".A(idle)", text, count=1), "is"),
    "swapped bits": ("processing_element", lambda text: _swap(text, ".D(weight[0])", ".D(weight[1])"), "the next b is"),
    "clock not gated": (
        "processing_element",
        lambda text: re.sub(r"\.CK\(_\w+\)", ".CK(clk)", text, count=1),
        "the next",
    ),
    "adder's outputs swapped": (
        "multiplier",
        lambda text: re.sub(r"\.CO\((\S+ )\),\s*\.S\((\S+ )\)", r".CO(\2), .S(\1)", text, count=1),
        "product is",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_changed_netlist_differs(nangate45, element, mutant):
    rtl, netlist = element
    module, change, words = MUTANTS[mutant]
    changed = {**netlist, module: change(netlist[module])}
    assert changed[module] != netlist[module]
    proof = prove_module(module, rtl, changed, nangate45)
    assert proof.status == "differs"
    assert words in proof.detail
    assert "with " in proof.detail


def test_time_runs_out(nangate45, element):
    proof = prove_module("multiplier", *element, nangate45, timeout_s=0.01)
    assert (proof.status, proof.detail) == ("unproven", "no result within 0.01 s")


def test_a_broken_netlist_is_an_error(nangate45, element):
    rtl, netlist = element
    broken = {**netlist, "multiplier": netlist["multiplier"].replace("FA_X1", "UNKNOWN_X1", 1)}
    with pytest.raises(SynthesisError, match=r"equivalence of multiplier failed: .*UNKNOWN_X1"):
        prove_module("multiplier", rtl, broken, nangate45)


def test_registers_of_another_name(nangate45, element):
    """They are no common inputs: they are proven equal all the same, or named as what stands in the way."""
    rtl, netlist = element
    text = re.sub(r"(?<!\.)\bb\b", "other", netlist["processing_element"])
    assert prove_module("processing_element", rtl, {"processing_element": text}, nangate45).status == "proven"
    wrong = _swap(text, ".D(weight[0])", ".D(weight[1])")
    proof = prove_module("processing_element", rtl, {"processing_element": wrong}, nangate45)
    assert proof.status == "unproven"
    assert "only one side has the registers" in proof.detail


def test_latches_are_refused(nangate45, monkeypatch):
    policy = Policy()
    object.__setattr__(policy, "register_files", "latch")
    with pytest.raises(MvqError, match="equivalence is proven for clock_gated and flip_flop only"):
        prove_unit(CONFIG, "sparse_tile", nangate45, policy)
