"""The paper's compression of ResNet-18, as benchmarks/compression_ratio.py prints it."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "compression_ratio.py"


def test_the_formula_gives_the_papers_ratio_for_resnet18(tmp_path, monkeypatch):
    """22.6x with conv1 and normalisation in float32, the paper's "about 22x"; Fig. 13 goes from 20x to 25x."""
    out = tmp_path / "ratio.json"
    monkeypatch.setattr(sys, "argv", [BENCHMARK.name, "--json", str(out)])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    rows = {row["codewords"]: row for row in json.loads(out.read_text())}
    assert {row["weights"] for row in rows.values()} == {11_157_504}
    assert rows[512]["convolutions"] == pytest.approx(23.5, abs=0.05)
    for codewords, ratio in ((512, 22.6), (1024, 20.2), (256, 24.7)):
        assert rows[codewords]["with_conv1_and_bn"] == pytest.approx(ratio, abs=0.05)
