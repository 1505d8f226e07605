"""Configurations: presets, files, and errors that name parameter, value and nearest legal value."""

import json

import pytest

from hdl.config import VARIANTS, ArrayConfig, ConfigError, load_config, preset
from hdl.units import UNITS, build_unit


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [16, 32, 64])
def test_presets_are_the_papers(variant, size):
    config = preset(variant, size)
    assert (config.variant, config.rows, config.columns) == (variant, size, size)
    assert config.wrf_depth == (1 if variant.startswith("ws") else 16)
    assert load_config(f"{variant}-{size}x{size}") == config
    if config.has_masks:
        assert (config.entry_width, config.codewords, config.vector_length) == (20, 512, 16)
        assert config.multipliers_per_vector == (4 if config.tile == "sparse" else 16)
        assert config.crf_read_ports == size // 16
    if variant == "ews-c":
        assert (config.codewords, config.vector_length, config.entry_width) == (1024, 8, 10)


@pytest.mark.parametrize(
    ("changes", "parameter", "nearest"),
    [
        ({"columns": 40}, "columns", 32),
        ({"columns": 8}, "columns", 16),
        ({"n": 17}, "n", 16),
        ({"n": 16}, "n", 15),
        ({"n": 0}, "n", 1),
        ({"vector_length": 24, "columns": 24}, "vector_length", 32),
        ({"vector_length": 8, "columns": 16}, "vector_length", 16),
        ({"codewords": 1024, "index_width": 9}, "codewords", 512),
        ({"tile_rows": 5}, "tile_rows", 4),
        ({"columns": 64, "crf_read_ports": 3}, "crf_read_ports", 2),
        ({"psum_width": 12}, "psum_width", 20),
        ({"psum_width": 40}, "psum_width", 32),
        ({"wrf_depth": 0}, "wrf_depth", 1),
        ({"wrf_depth": 4, "prf_depth": 8}, "prf_depth", 4),
        ({"arf_depth": 1}, "arf_depth", 2),
        ({"tile": "sparse", "weights": "int8"}, "tile", "dense"),
        ({"rows": "16"}, "rows", None),
        ({"weights": "ternary"}, "weights", None),
    ],
)
def test_illegal_values_name_parameter_value_and_nearest(changes, parameter, nearest):
    with pytest.raises(ConfigError) as error:
        ArrayConfig(**changes)
    assert (error.value.parameter, error.value.nearest) == (parameter, nearest)
    assert str(error.value).startswith(f"{parameter} = {error.value.value!r}: ")
    if nearest is not None:
        assert str(error.value).endswith(f"nearest legal value is {nearest}")


@pytest.mark.parametrize(
    ("repeats", "parameter", "nearest"),
    [((4, 5, 1), "A*B*D", 16), ((9, 1, 1), "out_channel_repeat", 8), ((1, 0, 1), "in_channel_repeat", 1)],
)
def test_repeats_that_do_not_fit(repeats, parameter, nearest):
    with pytest.raises(ConfigError) as error:
        preset("ews-cms", 16).check_repeats(*repeats)
    assert (error.value.parameter, error.value.nearest) == (parameter, nearest)


def test_files(tmp_path):
    toml, js = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text('preset = "ews-cms-32x32"\ncodewords = 256\ncrf_read_ports = 1\n')
    js.write_text(json.dumps(preset("ews", 16).to_dict()))
    assert load_config(toml) == preset("ews-cms", 32, codewords=256, crf_read_ports=1)
    assert load_config(js) == preset("ews", 16)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.toml", "rows = = 3", "is not valid TOML"),
        ("a.json", "[1", "is not valid JSON"),
        ("a.json", "[1]", "must hold a table"),
        ("a.toml", "rowz = 3", "rowz = 3: is not a parameter; the parameters are arf_depth"),
        ("a.toml", 'preset = "mvq"', "preset = 'mvq': is not a preset"),
        ("a.toml", None, "cannot be read"),
        ("a.yaml", "x", "neither a preset"),
    ],
)
def test_bad_files(tmp_path, name, content, text):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=text):
        load_config(tmp_path / name)


def test_unknown_presets():
    with pytest.raises(ConfigError, match="variant = 'ewz': must be one of ws, ws-cms"):
        load_config("ewz-16x16")
    with pytest.raises(ConfigError, match=r"columns = 24.*nearest legal value is 32"):
        load_config("ews-cms-16x24")


def test_the_hash_names_the_configuration():
    assert preset("ews", 16).hash == preset("ews", 16).hash
    assert preset("ews", 16).hash != preset("ews", 16, psum_width=25).hash


def test_units_are_refused_where_they_do_not_exist():
    with pytest.raises(ConfigError, match="unit = 'sparse_tile': is not part of ews-16x16, which has no sparse part"):
        build_unit(preset("ews", 16), "sparse_tile")
    with pytest.raises(ConfigError, match="unit = 'pe': must be one of core"):
        build_unit(preset("ews", 16), "pe")


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_has_a_latency_and_says_so(unit):
    config = preset("ews" if UNITS[unit][1] == "dense" else "ews-cms", 16)
    component, _ = build_unit(config, unit)
    component._MustUse__used = True  # it is looked at, not elaborated
    assert isinstance(component.latency, int)
    text = type(component).__doc__.lower()
    assert "latency" in text or "combinational" in text
