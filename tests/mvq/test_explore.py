"""The search over configurations: what it measures, what it records, and what is left of it after a kill."""

import json
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import torch
from dask.distributed import LocalCluster

import mvq.explore
import synth.area
from golden.estimate import L2_BYTES
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import ConfigError, MvqError, preset
from mvq.accuracy import AccuracyTable, CompressedAccuracy
from mvq.compare import compare, load_reports
from mvq.estimate import run_estimate
from mvq.explore import Settings, draw, explore, save, tables
from mvq.knobs import DEFAULTS, Space, configuration
from synth.area import BLOCKS
from synth.flow import Policy
from synth.liberty import read_liberty
from synth.yosys import SynthesisError
from tests.synth.tiny_library import FLIP_FLOP, NAND, write_library

NETWORK = 'name = "small"\nimage = [3, 8, 8]\n' + "".join(
    f'\n[[layers]]\nname = "conv{number}"\nout_channels = 16\nkernel = 3\npadding = 1\n' for number in (1, 2)
)

#: a cluster in this process that others can connect to.
HERE = {"processes": False, "protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}

#: one value of every knob.
FIXED = {"variant": "ews-cms", "rows": 16, "n:m": "4:16", "codewords": 64, "wrf_depth": 16, "tile_rows": 16}
FIXED |= {"crf_read_ports": "all", "mask_path": "direct"}


def space(**changes):
    """A space with one value of each knob, but for ``changes``."""
    return Space.parse([f"{knob}={value}" for knob, value in {**FIXED, **changes}.items()])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "small.toml"
    path.write_text(NETWORK)
    return str(path)


@pytest.fixture(scope="module")
def scheduler():
    """Address of a cluster with two workers in this process."""
    with LocalCluster(n_workers=2, threads_per_worker=1, **HERE) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def quick(network):
    """Function of a space that gives settings for cycles and energy."""
    return lambda **changes: Settings(
        objectives=("cycles", "energy"), space=space(**changes), networks=(network,), quick=True
    )


@pytest.fixture
def study(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def states(url):
    """State of each trial in the database."""
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        return [state for (state,) in database.execute("SELECT state FROM trials ORDER BY number")]


# ---- the space
# -----------------------------------------------------------------------------------------------------------


def test_every_default_point_is_legal():
    points = list(Space(DEFAULTS).points())
    assert len(points) == Space(DEFAULTS).size
    assert all(AcceleratorConfig(array=configuration(point)) for point in points)


def test_knobs_that_a_variant_lacks_count_for_nothing():
    assert configuration({**FIXED, "variant": "ews"}) == preset("ews", 16)
    assert configuration({**FIXED, "variant": "ws-cms", "codewords": 512}) == preset("ws-cms", 16)
    assert configuration({**FIXED, "variant": "ews-c", "n:m": "1:2"}) == preset("ews-c", 16, codewords=64)
    assert configuration({**FIXED, "n:m": "2:8", "columns": 32, "crf_read_ports": 1}) == preset(
        "ews-cms", 16, 32, n=2, m=8, codewords=64, tile_rows=16, crf_read_ports=1
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size=3", "--set = 'size=3': must be KNOB=VALUE,VALUE with a knob of variant, rows, n:m"),
        ("rows", "--set = 'rows'"),
        ("rows=many", "rows = 'many': must be a number such as 16"),
        ("n:m=4", "n:m = '4': must be a number such as 4:16"),
        ("variant=ewz", "variant = 'ewz': must be one of ws, ws-cms"),
    ],
)
def test_bad_knobs(text, message):
    with pytest.raises(ConfigError, match=message):
        Space.parse([text])


# ---- the search
# ----------------------------------------------------------------------------------------------------------


def test_every_point(quick, study, scheduler, network, tmp_path):
    """Illegal points are recorded, the others have the numbers of `mvq estimate`."""
    settings = quick(variant="ews,ews-cms", rows="8,16", codewords="32,64")
    report = explore(settings, study, sampler="all", scheduler=scheduler)
    assert report["trials"] == 7  # of EWS, which has no codebook, one that is legal, and two that are not
    reasons = {failure["error"] for failure in report["failures"]}
    assert reasons == {"columns = 8: must be a multiple of vector_length = 16; the nearest legal value is 16"}
    assert len(report["rows"]) == 3
    for row in report["rows"]:
        machine = AcceleratorConfig(array=preset(row["variant"], row["rows"], codewords=row["config"]["codewords"]))
        found, _ = run_estimate(network, machine, quick=True, l2_bytes=L2_BYTES)
        assert row["networks"]["small"]["cycles"] == row["objectives"]["cycles"] == found.cycles
        assert row["objectives"]["energy"] == pytest.approx(found.traffic.energy / 1e6)
    values = [tuple(row["objectives"].values()) for row in report["rows"]]
    for row, own in zip(report["rows"], values, strict=True):
        beaten = any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in values)
        assert row["front"] is not beaten

    [section] = compare(load_reports([save(report, tmp_path / "explore.json")]))
    assert len(section.designs) == 3
    assert [measure.heading for measure in section.points("small")[0]] == ["small cycles", "small energy, M"]
    assert draw(report, tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    front, failed = tables(report)
    assert front.row_count == sum(row["front"] for row in report["rows"])
    assert failed.row_count == 1


@pytest.mark.parametrize(("sampler", "counts"), [("tpe", (6, 12)), ("nsga2", (2, 4))])
def test_samplers_go_on_where_they_were(quick, study, scheduler, sampler, counts, monkeypatch):
    """A second call only adds what is missing; configurations that were measured are not measured again."""
    settings, calls = quick(rows="16,32", codewords="32,64"), []
    measure = mvq.explore._run
    monkeypatch.setattr(mvq.explore, "_run", lambda *args: calls.append(args) or measure(*args))
    first = explore(settings, study, trials=counts[0], sampler=sampler, scheduler=scheduler)
    known = len(calls)
    second = explore(settings, study, trials=counts[1], sampler=sampler, scheduler=scheduler)
    assert (first["trials"], second["trials"]) == counts
    assert second["rows"][: len(first["rows"])] == [
        {**row, "front": again["front"]} for row, again in zip(first["rows"], second["rows"], strict=False)
    ]
    assert len(second["rows"]) <= 4
    assert known <= len(calls) <= 4 + 2  # two at a time may be the same
    again = explore(settings, study, trials=counts[1], sampler=sampler, scheduler=scheduler)
    assert again == second


def test_a_tool_that_fails_is_recorded(study, scheduler, tmp_path, monkeypatch):
    """A sentence at the points where Yosys ends early, and the search goes on to the others."""

    def area_report(configs, liberty, **options):
        if configs[0].codewords == 32:
            raise SynthesisError(
                f"synthesis of {configs[0].name}", "Yosys ended with exit code 1", tmp_path / "yosys.log"
            )
        return {
            "rows": [{"total_um2": 1e5}],
            "liberty": {"sha256": read_liberty(library).sha256},
            "policy": {},
            "tools": {},
        }

    monkeypatch.setattr(synth.area, "area_report", area_report)
    library = write_library(tmp_path / "tiny.lib", NAND, FLIP_FLOP)
    settings = Settings(objectives=("area",), space=space(codewords="32,64"), liberty=library, policy=Policy())
    report = explore(settings, study, sampler="all", scheduler=scheduler)
    assert [row["total_um2"] for row in report["rows"]] == [1e5]
    [failure] = report["failures"]
    assert failure["error"].startswith("synthesis of ews-cms-16x16 failed: Yosys ended with exit code 1")


KILLED = """
import sys
import mvq.explore
from mvq.explore import Settings, explore
from mvq.knobs import Space

url, scheduler, network, *knobs = sys.argv[1:]
settings = Settings(objectives=("cycles", "energy"), space=Space.parse(knobs), networks=(network,), quick=True)
explore(settings, url, sampler="all", scheduler=scheduler, heartbeat=1)
"""


@pytest.mark.slow
def test_killed_and_resumed(quick, network, study, scheduler, monkeypatch):
    """SIGKILL in the middle: what had finished stays, what was running is tried again, and nothing is left running."""
    changes = {"rows": "16,32", "codewords": "16,32,64", "tile_rows": "4,8"}
    measure = mvq.explore._run

    def slowly(*arguments):
        time.sleep(0.7)
        return measure(*arguments)

    monkeypatch.setattr(mvq.explore, "_run", slowly)  # the workers are threads of this process
    knobs = [f"{knob}={value}" for knob, value in {**FIXED, **changes}.items()]
    process = subprocess.Popen([sys.executable, "-c", KILLED, study, scheduler, network, *knobs])
    try:
        for _ in range(600):
            time.sleep(0.1)
            assert process.poll() is None
            try:
                now = states(study)
            except sqlite3.OperationalError:  # no table yet
                continue
            if now.count("COMPLETE") >= 3 and "RUNNING" in now:
                break
    finally:
        process.kill()
        process.wait()
    monkeypatch.setattr(mvq.explore, "_run", measure)

    import optuna

    before = {trial.number: trial for trial in optuna.load_study(study_name="mvq", storage=study).trials}
    finished = {number for number, trial in before.items() if trial.state.name == "COMPLETE"}
    running = {number for number, trial in before.items() if trial.state.name == "RUNNING"}
    assert len(finished) >= 3
    assert running

    report = explore(quick(**changes), study, sampler="all", scheduler=scheduler, heartbeat=1)
    after = {trial.number: trial for trial in optuna.load_study(study_name="mvq", storage=study).trials}
    assert {"RUNNING", "WAITING"}.isdisjoint(trial.state.name for trial in after.values())
    assert all(after[number].values == before[number].values for number in finished)
    retried = {trial.user_attrs["retry of"]: trial for trial in after.values() if "retry of" in trial.user_attrs}
    for number in running:
        assert after[number].state.name == "FAIL"
        assert retried[number].state.name == "COMPLETE"
        # a point that was killed while it was drawn lacks its last knobs
        assert after[number].params.items() <= retried[number].params.items()
    assert report["trials"] == len(report["rows"]) == 12
    assert report["failures"] == []


@pytest.mark.slow
def test_command_with_processes_of_its_own(network, tmp_path):
    command = ["explore", "--network", network, "--objectives", "cycles,energy", "--quick", "--sampler", "all"]
    for knob, value in {**FIXED, "variant": "ews,ews-cms"}.items():
        command += ["--set", f"{knob}={value}"]
    command = [sys.executable, "-m", "mvq", *command, "--jobs", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 points, 2 configurations, 0 points failed" in result.stdout
    assert result.stderr == "cycles, energy over 2 points\n"
    files = sorted(path.name for path in (tmp_path / "exploration").iterdir())
    assert files == ["explore.json", "front.png", "study.db"]


@pytest.mark.slow
def test_area_on_a_library(nangate45, study, scheduler, network):
    settings = Settings(
        objectives=("area", "cycles"),
        space=space(rows=4, codewords=8, wrf_depth=2, tile_rows=4, **{"vector_length": 4, "n:m": "1:4"}),
        networks=(network,),
        quick=True,
        liberty=nangate45.path,
        policy=Policy(),
    )
    report = explore(settings, study, sampler="all", scheduler=scheduler)
    [row] = report["rows"]
    assert row["config_hash"] == preset("ews-cms", 4, vector_length=4, n=1, m=4, codewords=8, wrf_depth=2).hash
    assert row["total_um2"] == row["objectives"]["area"] == pytest.approx(sum(row["blocks"].values()), abs=0.1)
    assert list(row["blocks"]) == list(BLOCKS)
    assert report["liberty"]["sha256"] == nangate45.sha256
    assert report["policy"] == Policy().to_dict()


# ---- accuracy
# ------------------------------------------------------------------------------------------------------------


def test_accuracy_from_a_table(quick, study, scheduler, tmp_path):
    path = tmp_path / "accuracies.json"
    path.write_text(json.dumps([{"variant": "ews-cms", "codewords": 64, "n": 4, "accuracy": 0.9}]))
    settings = Settings(
        objectives=("cycles", "accuracy"),
        space=space(codewords="32,64"),
        networks=quick().networks,
        quick=True,
        accuracy=AccuracyTable.read(path),
    )
    report = explore(settings, study, sampler="all", scheduler=scheduler)
    [row] = report["rows"]
    assert row["accuracy"] == row["objectives"]["accuracy"] == 0.9
    [failure] = report["failures"]
    assert failure["error"] == f"{path} has no accuracy of ews-cms-16x16, codewords=32"


def test_rows_that_differ():
    rows = ({"n": 4, "accuracy": 0.9}, {"m": 16, "accuracy": 0.8})
    with pytest.raises(MvqError, match="mine has 2 accuracies of ews-16x16 that differ"):
        AccuracyTable("mine", rows).of(preset("ews", 16))


NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
"""


def test_accuracy_of_a_compression(quick, study, scheduler, tmp_path, monkeypatch):
    """The part of images that the compressed network gets right; once for configurations that compress alike."""
    import numpy as np

    from algo.compress import CompressSettings, compress
    from algo.sources import load_network

    monkeypatch.chdir(tmp_path)
    (tmp_path / "tinynet.py").write_text(NET)
    module, shape = load_network("tinynet:net", input_shape=(3, 8, 8))
    x = np.random.default_rng(0).standard_normal((40, 3, 8, 8), np.float32)
    labels = module(torch.from_numpy(x)).argmax(1)
    np.savez("images.npz", x=x, y=labels.numpy())
    source = CompressedAccuracy(
        network="tinynet:net", input_shape=(3, 8, 8), data=tmp_path / "images.npz", reconstruct=8
    )
    source.check()
    settings = Settings(
        objectives=("cycles", "accuracy"),
        space=space(variant="ews,ews-cms", codewords="2,64", tile_rows="8,16"),
        networks=quick().networks,
        quick=True,
        accuracy=source,
    )
    calls, of = [], CompressedAccuracy.of
    monkeypatch.setattr(CompressedAccuracy, "of", lambda self, config: calls.append(config) or of(self, config))
    report = explore(settings, study, sampler="all", scheduler=scheduler)
    assert report["failures"] == []
    found = {(row["variant"], row["config"]["codewords"]): row["accuracy"] for row in report["rows"]}
    plain = compress(module, shape, CompressSettings(method="int8"))
    expected = (plain(torch.from_numpy(x)).argmax(1) == labels).double().mean().item()
    assert found["ews", 512] == pytest.approx(expected)
    assert found["ews-cms", 2] <= found["ews-cms", 64] <= found["ews", 512]
    assert len(report["rows"]) == 6
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("{}", "must hold a list of tables"),
        ('[{"n": 4}]', "row 0 has no number 'accuracy'"),
        ('[{"accuracy": 90}]', "row 0 has accuracy = 90, not from 0 to 1"),
        ('[{"accuracy": 0.9, "k": 4}]', "row 0 has 'k', which no configuration has"),
    ],
)
def test_bad_accuracies(tmp_path, content, message):
    path = tmp_path / "accuracies.json"
    if content:
        path.write_text(content)
    with pytest.raises(MvqError, match=message):
        AccuracyTable.read(path)


# ---- bad input
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": ("speed",)}, "--objectives = 'speed': must be some of area, cycles, energy, accuracy"),
        ({"objectives": ()}, "must name each objective once"),
        ({"objectives": ("cycles",)}, "--network is missing"),
        ({"objectives": ("cycles",), "networks": ("nothing",)}, "nothing"),
        ({"objectives": ("accuracy",)}, "--accuracy is missing"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(MvqError, match=message):
        Settings(space=space(), **options)


def test_another_study(quick, study, scheduler):
    explore(quick(), study, sampler="all", scheduler=scheduler)
    with pytest.raises(MvqError, match=r"was made with space = .*: give the same, or another --name or --study"):
        explore(quick(codewords="32"), study, sampler="all", scheduler=scheduler)
    assert explore(quick(codewords="32"), study, name="other", sampler="all", scheduler=scheduler)["trials"] == 1


def test_bad_databases(quick, tmp_path):
    path = tmp_path / "damaged.db"
    path.write_text("this is no database\n" * 100)
    for url in (f"sqlite:///{path}", "nonsense", "postgres://user:secret@host/name"):
        with pytest.raises(MvqError, match=r"--study = .*: cannot be opened \(") as raised:
            explore(quick(), url)
        assert "secret" not in str(raised.value)


def test_no_scheduler(quick, study, monkeypatch):
    monkeypatch.setattr(mvq.explore, "_PATIENCE", 1)
    with pytest.raises(MvqError, match=r"--scheduler = 'tcp://127\.0\.0\.1:9': no Dask scheduler answers"):
        explore(quick(), study, scheduler="tcp://127.0.0.1:9")


def test_scheduler_without_workers(quick, study):
    with (
        LocalCluster(n_workers=0, **HERE) as cluster,
        pytest.raises(MvqError, match="has no workers; start some with `dask worker tcp:"),
    ):
        explore(quick(), study, scheduler=cluster.scheduler_address)


def test_a_scheduler_that_goes_away(quick, study, scheduler, monkeypatch):
    """A sentence; and with another scheduler the search goes on."""
    monkeypatch.setattr(mvq.explore, "_PATIENCE", 3)  # a client waits so long for it to come back
    settings = quick(codewords="16,32,64,128,256,512")
    measure, cluster = mvq.explore._run, LocalCluster(n_workers=1, threads_per_worker=1, **HERE)
    closing, calls = threading.Thread(target=cluster.close), []

    def last(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            closing.start()
            time.sleep(1)
        return measure(*arguments)

    monkeypatch.setattr(mvq.explore, "_run", last)
    with pytest.raises(MvqError, match="the Dask scheduler is gone: run the command again"):
        explore(settings, study, sampler="all", scheduler=cluster.scheduler_address)
    closing.join()
    monkeypatch.setattr(mvq.explore, "_run", measure)
    report = explore(settings, study, sampler="all", scheduler=scheduler)
    assert report["trials"] == len(report["rows"]) == 6


def test_too_many_points(study):
    settings = Settings(
        objectives=("area",),
        space=Space.parse(["psum_width=" + ",".join(map(str, range(100)))]),
        liberty=None,
        policy=Policy(),
    )
    with pytest.raises(MvqError, match="more than 100,000; give fewer by --set"):
        mvq.explore._enqueue_all(None, settings.space)
