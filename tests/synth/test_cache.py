"""Results from the cache: equal to those that put them there, or made again."""

import json

import pytest

from hdl.config import preset
from synth.area import area_report
from synth.cache import content_key, load, store
from synth.flow import Policy, synthesise

TEXT = """
module part(input clk, input d, output reg q);
  always @(posedge clk) q <= ~d;
endmodule
module top(input clk, input [3:0] d, output [3:0] q);
  part a(.clk(clk), .d(d[0] & d[1]), .q(q[0]));
  part b(.clk(clk), .d(d[2] ^ d[3]), .q(q[1]));
  assign q[3:2] = d[1:0] | d[3:2];
endmodule
"""


def refuse(*arguments, **options):
    raise AssertionError("Yosys ran")


@pytest.mark.parametrize("hierarchy", ["shared", "hierarchical", "flattened"])
def test_a_second_run_needs_no_yosys(nangate45, cache, monkeypatch, hierarchy):
    policy = Policy(hierarchy=hierarchy)
    first = synthesise(TEXT, "top", nangate45, policy)
    monkeypatch.setattr("synth.flow.run_yosys", refuse)
    second = synthesise(TEXT, "top", nangate45, policy)
    assert second == first
    assert (second.total(), second.cells) == (first.total(), first.cells)


@pytest.mark.parametrize(
    "change",
    [
        (TEXT.replace("~d", "d"), Policy()),
        (TEXT, Policy(register_files="flip_flop")),
        (TEXT, Policy(abc_script="strash;map")),
    ],
    ids=["text", "register files", "script"],
)
def test_what_matters_is_part_of_the_key(nangate45, cache, monkeypatch, change):
    synthesise(TEXT, "top", nangate45)
    monkeypatch.setattr("synth.flow.run_yosys", refuse)
    text, policy = change
    with pytest.raises(AssertionError, match="Yosys ran"):
        synthesise(text, "top", nangate45, policy)


def half(value):
    """A function of an entry's text: the same entry, with another number and the old checksum."""
    return lambda text: json.dumps({**json.loads(text), "value": value})


@pytest.mark.parametrize(
    "spoil",
    [half(1.0), lambda text: text[: len(text) // 2], lambda text: "", lambda text: "[]", lambda text: "\x00\x01"],
    ids=["another number", "cut off", "empty", "not an entry", "bytes"],
)
def test_a_damaged_entry_is_a_missing_one(cache, spoil):
    key = content_key("area", 2.0)
    store("numbers", key, 2.0)
    assert load("numbers", key) == 2.0
    [path] = (cache / "numbers").rglob("*.json")
    path.write_text(spoil(path.read_text()))
    assert load("numbers", key) is None
    store("numbers", key, 2.0)
    assert load("numbers", key) == 2.0


def test_a_damaged_area_is_measured_again(nangate45, cache):
    first = synthesise(TEXT, "top", nangate45)
    entries = sorted((cache / "synthesis").rglob("*.json"))
    assert len(entries) == 2  # part and top
    for path in entries:
        entry = json.loads(path.read_text())
        for value in entry["value"].values():
            value[0] = value[0] / 2 + 1
        path.write_text(json.dumps(entry))
    assert synthesise(TEXT, "top", nangate45) == first


def test_a_report_from_the_cache(nangate45, cache, monkeypatch):
    """Neither the gateware is elaborated nor Yosys run; a damaged design is elaborated again."""
    config, path = preset("ews-cms", 16), str(nangate45.path)
    first = area_report([config], path, unit="mask_decoder")
    monkeypatch.setattr("synth.flow.run_yosys", refuse)
    with monkeypatch.context() as patch:
        patch.setattr("hdl.verilog.generate", refuse)
        second = area_report([config], path, unit="mask_decoder")
    assert {**second, "seconds": 0} == {**first, "seconds": 0}
    [design] = (cache / "designs").rglob("*.json")
    design.write_text(design.read_text().replace("endmodule", "endmodul"))
    assert area_report([config], path, unit="mask_decoder")["rows"] == first["rows"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("synth.cache.cache_folder", lambda kind: tmp_path / "file" / kind)
    store("numbers", content_key("a"), 1)
    assert load("numbers", content_key("a")) is None
