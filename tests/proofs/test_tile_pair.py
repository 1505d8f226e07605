"""Sparse tile = dense tile on masked weights, proven; and that a wrong tile is found out."""

import pytest

from hdl.config import ArrayConfig, ConfigError, MvqError, preset
from hdl.pe.arithmetic import PRODUCT_WIDTH
from hdl.pe.row import SparseRow
from proofs import model_check
from proofs.model_check import SolverError, prove_tiles, small_tile

TILE = small_tile(ArrayConfig(rows=1, columns=2, vector_length=2, n=1, m=2), rows=1, words=2)


def test_bounded():
    report = prove_tiles(TILE, "bounded", cycles=6)
    assert (report["status"], report["cycles"], report["example"]) == ("proven", 6, None)
    assert report["first_products"] == 4  # reset and the first write together, then three steps


@pytest.mark.parametrize(("n", "m"), [(1, 2), (3, 4)])
def test_induction(n, m):
    config = ArrayConfig(rows=1, columns=m, vector_length=m, n=n, m=m)
    report = prove_tiles(small_tile(config, rows=1, words=2), "induction")
    assert (report["status"], report["cycles"], report["weight_bits"]) == ("proven", None, 8)


@pytest.mark.slow
def test_induction_at_4_16():
    report = prove_tiles(small_tile(preset("ews-cms", 16), rows=1, words=2), "induction")
    assert report["status"] == "proven"


def _without_gate(self, m, pe, q, chosen):
    """Steering that forgets to force gated products to zero."""
    lines = chosen if self.config.style == "structural" else [chosen == offset for offset in range(16)]
    return lambda offset: (pe.product ^ (1 << (PRODUCT_WIDTH - 1))) & lines[offset].replicate(PRODUCT_WIDTH)


def _one_column_off(self, m, pe, q, chosen):
    """Steering of each product to the column before the right one, and round."""
    own = _steering(self, m, pe, q, chosen)
    return lambda offset: own((offset + 1) % (self.config.m - self.config.n + 1))


_steering = SparseRow._steering


@pytest.mark.parametrize("wrong", [_without_gate, _one_column_off])
@pytest.mark.parametrize("method", ["bounded", "induction"])
def test_a_wrong_tile_differs(monkeypatch, wrong, method):
    monkeypatch.setattr(SparseRow, "_steering", wrong)
    report = prove_tiles(TILE, method, cycles=6)
    assert report["status"] == "differs"
    assert "in the sparse tile and" in report["example"]["summary"]
    signals = report["example"]["signals"]
    assert {len(values) for values in signals.values()} == {report["cycles"] + 1 if method == "bounded" else 2}
    if method == "bounded":  # a run from reset
        assert signals["rst"][0] == 1
        assert any(signals["write_row"])


def test_too_few_cycles_prove_nothing():
    with pytest.raises(SolverError, match="no product reaches a column of every row within 3 cycles"):
        prove_tiles(TILE, "bounded", cycles=3)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (preset("ews-cm", 16), {}, "tile = 'dense': only a sparse tile .* nearest legal value is sparse"),
        (preset("ws-cms", 16), {}, "wrf_depth = 1: .* nearest legal value is 2"),
        (TILE, {"bits": 9}, "bits = 9: weights and activations must have 2 to 8; the nearest legal value is 8"),
    ],
)
def test_what_cannot_be_compared(config, options, message):
    with pytest.raises(ConfigError, match=message):
        prove_tiles(config, "bounded", **options)


def test_unknown_method():
    with pytest.raises(MvqError, match="method = 'guess': must be one of bounded, induction"):
        prove_tiles(TILE, "guess")


def test_abc_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(model_check.pyosys, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(SolverError, match=r"ABC is not at .*: install pyosys==0.70"):
        prove_tiles(TILE, "bounded")


@pytest.fixture
def fake_abc(monkeypatch, tmp_path):
    """Gives a script for ABC, which first finds the products that the probe looks for; Yosys is left out."""
    monkeypatch.setattr(model_check, "run_yosys", lambda *arguments, **options: None)

    def make(script):
        fake = tmp_path / "abc"
        fake.write_text(f"#!/bin/sh\ncase $PWD in */probe) echo was asserted in frame 4; exit;; esac\n{script}\n")
        fake.chmod(0o755)
        monkeypatch.setattr(model_check, "abc_path", lambda: fake)

    return make


def test_abc_ends_without_a_result(fake_abc):
    fake_abc("echo out of memory; exit 3")
    with pytest.raises(SolverError, match="ABC ended with exit code 3 and no result; it said 'out of memory'"):
        prove_tiles(TILE, "bounded")


def test_abc_runs_out_of_time(fake_abc):
    fake_abc("echo No output asserted in 5 frames. Resource limit reached")
    report = prove_tiles(TILE, "bounded")
    assert (report["status"], report["cycles"]) == ("unproven", 5)


def test_induction_out_of_time():
    report = prove_tiles(TILE, "induction", timeout_s=0.01)
    assert report["status"] == "unproven"
