import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "masked_kmeans.py"


def test_the_benchmark_measures_and_checks(tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss", reason="faiss is not installed")
    out = tmp_path / "result.json"
    options = ["--vectors", "3000", "--codewords", "16", "--repeats", "1", "--threads", "1", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", [BENCHMARK.name, *options])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    result = json.loads(out.read_text())
    assert (result["vectors"], result["wrong"], result["checked"]) == (3000, 0, 3000)
    assert f"{result['ratio']:.2f}" in capsys.readouterr().out


def test_resnet50_has_as_many_vectors_as_its_layers():
    pytest.importorskip("faiss", reason="faiss is not installed")
    vectors = runpy.run_path(str(BENCHMARK))["resnet50_vectors"](16)
    assert vectors.shape == (1_465_344, 16)  # 23,445,504 weights, all but conv1 and fc
    assert torch.isfinite(vectors).all()
