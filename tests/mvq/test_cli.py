"""The command line: starts at once, writes what it says, and fails with one sentence."""

import json
import resource
import subprocess
import sys

import pytest

from hdl.config import preset


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "mvq", *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


def fails(*arguments, **options):
    """The message of a command that must fail."""
    result = run(*arguments, **options)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def report_file(nangate45, tmp_path_factory):
    path = tmp_path_factory.mktemp("reports") / "decoder.json"
    result = run("area", "ews-cms-16x16", "--unit", "mask_decoder", "--json", path, "--png")
    assert result.returncode == 0, result.stderr
    return path


def test_help_starts_at_once():
    """Less than a second of processor time: wall time would depend on what else the machine does."""

    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "generate" in run("--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.parametrize(
    "code",
    [
        "from mvq.cli import app",
        "from mvq.generate import write_design",
        "from synth.area import area_report, area_table, draw_areas",
        "from mvq.compare import compare",
        "from mvq.explore import explore",
    ],
)
def test_heavy_packages_stay_out(code):
    """torch is for compression only, matplotlib for pictures, bokeh for pages, optuna and dask for searches."""
    script = f"import sys\n{code}\nprint(*sys.modules, sep='\\n')"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "matplotlib", "scipy", "sklearn", "bokeh", "optuna", "dask", "sqlalchemy"} & set(modules)


def test_version():
    assert run("--version").stdout == "mvq 0.1.0\n"


def test_generate(tmp_path):
    texts = []
    for name in ("one", "two"):
        result = run("generate", "ews-cms-16x16", "--unit", "mask_decoder", "--out", tmp_path / name)
        assert result.returncode == 0, result.stderr
        files = sorted((tmp_path / name).iterdir())
        assert [path.suffix for path in files] == [".json", ".v"]
        texts.append([path.read_bytes() for path in files])
        assert json.loads(files[0].read_text())["config_hash"] == preset("ews-cms", 16).hash
    assert texts[0] == texts[1]


def test_generate_accelerator_with_black_boxes(tmp_path):
    config, tmp_path = tmp_path / "mine.toml", tmp_path / "out"
    config.write_text("rows = 8\ncolumns = 8\nvector_length = 8\nm = 8\nn = 2\ncodewords = 16\npsum_vectors = 1024\n")
    result = run("generate", config, "--unit", "accelerator", "--memories", "black-box", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    names = ["mvq_accelerator.json", "mvq_accelerator.v", "mvq_registers.h", "mvq_srams.v"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(str(tmp_path / name) in "".join(result.stderr.split("\n")) for name in names)
    sidecar = json.loads((tmp_path / "mvq_accelerator.json").read_text())
    models, verilog = ((tmp_path / name).read_text() for name in ("mvq_srams.v", "mvq_accelerator.v"))
    assert [box["module"] for box in sidecar["black_boxes"]][-1] == "mvq_sram_1r1w_1024x192"
    for box in sidecar["black_boxes"]:
        assert f"module {box['module']} (" in models
        assert f"  {box['module']} memory (" in verilog
    header = (tmp_path / "mvq_registers.h").read_text()
    assert all(f"#define MVQ_REG_{item['name'].upper()} " in header for item in sidecar["registers"])


def test_area_report(report_file):
    report = json.loads(report_file.read_text())
    [row] = report["rows"]
    assert (row["variant"], row["rows"], row["columns"], row["unit"]) == ("ews-cms", 16, 16, "mask_decoder")
    assert report_file.with_suffix(".png").stat().st_size > 1000


def test_compare(report_file, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(report_file.read_text())
    files = [tmp_path / name for name in ("side.csv", "side.md", "pictures", "side.html")]
    options = [word for pair in zip(("--csv", "--markdown", "--png", "--html"), files, strict=True) for word in pair]
    result = run("compare", report_file, other, *options)
    assert result.returncode == 0, result.stderr
    assert "Area by block, um2: other" in result.stdout
    assert all(str(path) in result.stdout for path in files)
    assert (tmp_path / "side.csv").read_text().startswith("library,policy,design,variant,rows,columns,unit,")
    assert "| ews-cms-16x16, mask_decoder |" in (tmp_path / "side.md").read_text()
    assert (tmp_path / "pictures" / "area.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "side.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "ews-cms-16x20", "--out", "x"], "columns = 20: must be a multiple of vector_length = 16"),
        (["generate", "nothing.toml", "--out", "x"], "config = 'nothing.toml': cannot be read"),
        (["generate", "ews-16x16", "--unit", "mask_decoder", "--out", "x"], "unit = 'mask_decoder'"),
        (
            ["generate", "ews-16x16", "--memories", "sram", "--out", "x"],
            "memories = 'sram': must be one of behavioural, black_box",
        ),
        (["area", "ews-16x16", "--variants", "ewz"], "variants = 'ewz'"),
        (["area", "ews-16x16", "--sizes", "big"], "--sizes = 'big': must be numbers"),
        (["area", "ews-16x16", "--register-files", "x"], "must be one of clock_gated, flip_flop, latch"),
        (["area", "ews-16x16", "--hierarchy", "x"], "must be one of shared, hierarchical, flattened"),
        (["area", "ews-cms-16x16", "--codebook", "x"], "codebook_memory = 'x': must be one of registers, sram"),
        (["area", "ews-16x16", "--liberty", "missing.lib"], "there is no library 'missing.lib'"),
        (["compare", "missing.json"], "the report missing.json cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, message):
    error = fails(*arguments, cwd=tmp_path)
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_missing_simulator_is_one_sentence(tmp_path):
    script = "from cocotb_tests.simulators import find_icarus\nfrom mvq import cli\ncli.app = find_icarus\ncli.main()"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)}
    )
    assert result.returncode == 2
    assert result.stderr == "error: Icarus Verilog is not installed: `apt-get install iverilog` on Debian and Ubuntu\n"


def test_failed_synthesis_prints_no_numbers(nangate45, tmp_path):
    """Yosys ends with an error in the middle of the run: a sentence, the end of its log, and no table."""
    script = (
        "from synth import flow\n"
        "from mvq import cli\n"
        "flow.Policy.__init__.__kwdefaults__['abc_script'] = 'no_such_command'\n"
        "cli.main()"
    )
    path = tmp_path / "report.json"
    arguments = ["area", "ews-cms-16x16", "--unit", "mask_decoder", "--json", str(path)]
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "synthesis of ews-cms-16x16 failed" in result.stderr
    assert "um2" not in result.stdout
    assert not path.exists()
