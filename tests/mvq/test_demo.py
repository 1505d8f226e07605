"""The main job: the whole way on handwritten digits."""

import json

import pytest

from hdl.config import VARIANTS


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_way(tmp_path):
    pytest.importorskip("sklearn")
    from golden import Checkpoint
    from mvq.demo import run_demo

    report = run_demo(tmp_path)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert report["digits"] >= 20
    assert report["right"] >= 0.8 * report["digits"]
    assert report["accuracy"]["float"] > 0.98
    assert report["accuracy"]["int8"] > report["accuracy"]["float"] - 0.03
    assert report["sizes"]["total"]["formula_ratio"] > 15
    assert all(layer["cycles"] == layer["model_cycles"] for layer in report["layers"])
    assert [row["variant"] for row in report["area"]["rows"]] == list(VARIANTS)
    assert Checkpoint.load(tmp_path / "checkpoint").graph.output == "fc"
    for name in ("digits.png", "area.png", "area.json", "calibration.json", "verilog/mvq_core.v"):
        assert (tmp_path / name).stat().st_size > 300
