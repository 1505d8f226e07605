"""Configurations of the accelerator: files, defaults, and errors that name parameter, value and nearest legal value."""

import dataclasses
import json

import pytest

from hdl.accelerator_config import AcceleratorConfig, load_accelerator_config
from hdl.config import ArrayConfig, ConfigError, preset
from hdl.units import build_unit
from hdl.verilog import component_to_verilog

SMALL = {"vector_length": 4, "m": 4, "n": 2, "codewords": 16}


def square(rows, **changes):
    return ArrayConfig(rows=rows, columns=rows, **{**SMALL, **changes})


@pytest.mark.parametrize(("size", "kilobytes"), [(16, 128), (32, 256), (64, 256)])
def test_defaults_are_the_papers(size, kilobytes):
    config = AcceleratorConfig(array=preset("ews-cms", size))
    assert config.l1_bytes == kilobytes * 1024


@pytest.mark.parametrize(
    ("array", "changes", "parameter", "nearest"),
    [
        (ArrayConfig(rows=16, columns=32), {}, "columns", 16),
        (square(12), {}, "rows", 8),
        (square(2, vector_length=2, m=2, n=1), {}, "rows", 4),
        (square(8), {"l1_bank_words": 48}, "l1_bank_words", 32),
        (square(8), {"l1_bank_words": 1}, "l1_bank_words", 2),
        (square(8), {"l1_bank_words": 0}, "l1_bank_words", 2),
        (square(8), {"l1_bank_words": 1 << 17}, "l1_bank_words", 1 << 16),
        (square(8), {"l1_bank_words": 64.0}, "l1_bank_words", 2),
        (square(8), {"psum_vectors": 1}, "psum_vectors", 2),
        (square(8), {"psum_vectors": 100}, "psum_vectors", 64),
        (square(8), {"burst_beats": 0}, "burst_beats", 1),
        (square(8), {"burst_beats": 512}, "burst_beats", 256),
        (square(8, stream_width=256), {"burst_beats": 256}, "burst_beats", 128),  # 4 KB
        (square(8), {"outstanding": 128}, "outstanding", 64),
        (square(8), {"outstanding": True}, "outstanding", 1),
        (square(8), {"l1_banks": 17, "l1_bank_words": 1 << 16}, "l1_banks", 16),
        (square(4), {"l1_banks": 16, "l1_bank_words": 1 << 16}, "l1_banks", 8),  # two vectors in a word
    ],
)
def test_illegal_values_name_parameter_value_and_nearest(array, changes, parameter, nearest):
    with pytest.raises(ConfigError) as error:
        AcceleratorConfig(array=array, **changes)
    assert (error.value.parameter, error.value.nearest) == (parameter, nearest)
    assert str(error.value).startswith(f"{parameter} = {error.value.value!r}: ")


def test_smallest_memories_are_legal_verilog():
    config = AcceleratorConfig(array=square(8), l1_banks=1, l1_bank_words=2, psum_vectors=2, outstanding=1)
    for unit in ("l1_memory", "psum_buffer"):
        assert "[-1:0]" not in component_to_verilog(build_unit(config, unit)[0], config).text


def test_preset_and_file(tmp_path):
    config = load_accelerator_config("ews-cms-16x16")
    assert config == AcceleratorConfig(array=preset("ews-cms", 16, gating_counter=True))
    path = tmp_path / "mine.toml"
    path.write_text('preset = "ews-cms-16x16"\nstream_width = 128\nl1_banks = 4\nburst_beats = 8\n')
    mine = load_accelerator_config(path)
    array = config.array.replace(stream_width=128)
    assert mine == dataclasses.replace(config, array=array, l1_banks=4, burst_beats=8)
    assert mine.hash != config.hash
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"rows": 8, "columns": 8, **SMALL, "psum_vectors": 64, "gating_counter": False}))
    assert load_accelerator_config(path) == AcceleratorConfig(array=square(8, gating_counter=False), psum_vectors=64)


def test_unknown_key_in_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('preset = "ews-cms-16x16"\nbanks = 4\n')
    with pytest.raises(ConfigError, match=r"banks = 4: is not a parameter; the parameters are .*l1_banks") as error:
        load_accelerator_config(path)
    assert error.value.parameter == "banks"
