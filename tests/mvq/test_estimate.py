"""`mvq estimate`, and the committed figures that rest on the same model."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from golden import lower
from golden.networks import NETWORKS, read_network
from golden.program import compile_program
from golden.synthetic import random_network
from golden.timing import MemoryTiming, predict
from hdl.accelerator_config import load_accelerator_config

ROOT = Path(__file__).parents[2]


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "mvq", "estimate", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_network_by_name(tmp_path):
    path = tmp_path / "resnet18.json"
    result = run("resnet18", "--config", "ews-cms-16x16", "--quick", "--json", path)
    assert result.returncode == 0, result.stderr
    report = json.loads(path.read_text())
    assert f"{report['cycles']:,}" in result.stdout
    assert report["config_name"] == "ews-cms-16x16"
    assert [layer["name"] for layer in report["layers"]][:3] == ["conv1", "maxpool", "layer1.0.conv1"]
    for part in ("layer4.1.conv2", "DRAM", "WRF", "MAC", str(path)):
        assert part in result.stdout
    assert "…" not in result.stdout
    assert "closed form" in result.stdout
    assert not report["exact"]


TWO_LAYERS = (
    'image = [3, 32, 32]\n[[layers]]\nname = "a"\nout_channels = 16\nkernel = 3\npadding = 1\n'
    '[[layers]]\nname = "b"\nout_channels = 16\n'
)


def test_exact_by_default(tmp_path):
    """Of layer shapes and of a checkpoint of them: the same cycles, those of the compiled program."""
    path, config = tmp_path / "two.toml", load_accelerator_config("ews-cms-16x16")
    path.write_text(TWO_LAYERS)
    checkpoint, calibration = random_network(read_network(path), config.array)
    checkpoint.save(tmp_path / "checkpoint")
    program = compile_program(lower(checkpoint, calibration, config.array), config)
    timing = predict(program, MemoryTiming(read_latency=50))
    for source in (path, tmp_path / "checkpoint"):
        result = run(source, "--config", "ews-cms-16x16", "--read-latency", 50, "--json", tmp_path / "exact.json")
        assert result.returncode == 0, result.stderr
        report = json.loads((tmp_path / "exact.json").read_text())
        assert report["exact"]
        assert report["memory"]["read_latency"] == 50
        assert report["cycles"] == timing.cycles == sum(layer["cycles"] for layer in report["layers"])
        for name, value in timing.counters.items():
            assert sum(layer["counters"][name] for layer in report["layers"]) == value
        for part in ("exact", "counters", "psum writes", "descriptors", f"{report['cycles']:,}"):
            assert part in result.stdout
        assert "…" not in result.stdout


def test_what_cannot_be_planned_is_estimated(tmp_path):
    """A layer that reads a tensor from memory: no program has two inputs."""
    path = tmp_path / "two.toml"
    path.write_text(TWO_LAYERS + "input = [16, 8, 8]\n")
    result = run(path, "--config", "ews-cms-16x16")
    assert result.returncode == 0, result.stderr
    notes = [line for line in result.stdout.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert notes[0].startswith("note: two cannot be planned, so this is the closed form of --quick: ")
    assert "closed form" in result.stdout


def test_file_of_layer_shapes(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(TWO_LAYERS)
    results = {}
    for objective in ("cycles", "energy", "edp"):
        report = tmp_path / f"{objective}.json"
        options = ("--quick", "--objective", objective, "--l2-kb", 64, "--json", report)
        result = run(path, "--config", "ews-16x16", *options)
        assert result.returncode == 0, result.stderr
        results[objective] = json.loads(report.read_text())
    assert results["cycles"]["l2_bytes"] == 64 << 10
    assert results["cycles"]["cycles"] <= results["edp"]["cycles"] <= results["energy"]["cycles"]
    energies = [results[objective]["traffic"]["access_energy"] for objective in ("energy", "edp", "cycles")]
    assert energies == sorted(energies)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19", "--config", "ews-16x16"], "network = 'resnet19': must be one of resnet18"),
        (["missing.toml", "--config", "ews-16x16"], "missing.toml: cannot be read"),
        (["alexnet", "--config", "ews-16x32"], "columns = 32: must equal rows = 16 in an accelerator"),
        (["alexnet", "--config", "ewz-16x16"], "variant = 'ewz'"),
        (["alexnet", "--config", "ews-16x16", "--objective", "time"], "--objective = 'time': must be one of cycles"),
        (["alexnet", "--config", "ews-16x16", "--objective", "energy"], "--objective = 'energy': needs --quick"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, message):
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_heavy_packages_stay_out():
    script = "import sys\nfrom mvq.estimate import run_estimate\nprint(*sys.modules, sep='\\n')"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "matplotlib", "pydantic", "amaranth"} & set(modules)


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("paper_figures", ROOT / "benchmarks" / "paper_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report():
    return json.loads((ROOT / "docs" / "results" / "paper_figures.json").read_text())


def test_committed_tables_are_those_of_the_committed_numbers(figures, report):
    assert (ROOT / "docs" / "results" / "paper_figures.md").read_text() == figures.markdown(report)


def test_committed_numbers_are_those_of_the_model(figures, report):
    """AlexNet stands for all: a changed model shows in it. If it does, run benchmarks/paper_figures.py --exact."""
    committed = report["results"]["alexnet"]["16"]
    for variant, quantities in figures.numbers("alexnet", NETWORKS["alexnet"](), 16).items():
        assert {key: value for key, value in committed[variant].items() if key != "exact_cycles"} == quantities


def test_committed_exact_cycles_are_those_of_the_program(figures, report):
    cycles = figures.exact_cycles("alexnet", NETWORKS["alexnet"](), figures.machine("alexnet", "ews-cms", 64))
    assert report["results"]["alexnet"]["64"]["ews-cms"]["exact_cycles"] == cycles


def test_speed_up_of_resnet18(figures, report):
    """2.2 times WS on 64x64, as in the paper, in exact cycles."""
    assert report["exact"]
    assert figures.speedups(report["results"]["resnet18"]["64"])[-1] >= 2.2
