"""``mvq explore``: a search for the configurations that nothing else beats in area, cycles, energy and accuracy.

Optuna chooses the points and keeps every one in a database, so that a search goes on after a kill, and several
machines may share one; Dask spreads the work over processes. This process alone touches the database; its workers only
compute.

* A point that is not legal, or at which a tool fails, is a failed trial with the reason, and the search goes on.
* Each running trial has a heartbeat in the database. One whose process died is failed when that has stopped for
  twice :data:`HEARTBEAT` seconds, and its point is tried again.
* A point whose configuration was measured before has the same numbers, without work.
* ``cycles`` and ``energy`` are those of one inference of each network, added up; ``energy`` is of all accesses,
  DRAM included, and multiplications, as in :mod:`golden.traffic`.
"""

import functools
import json
import logging
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from golden.files import write_text
from hdl.config import ArrayConfig, ConfigError, MvqError
from mvq import __version__
from mvq.knobs import Space, configuration
from mvq.pareto import draw_pareto
from mvq.reports import describe

__all__ = [
    "HEARTBEAT",
    "OBJECTIVES",
    "SAMPLERS",
    "Settings",
    "draw",
    "evaluate",
    "explore",
    "save",
    "summary",
    "tables",
]

#: objective -> (heading, how it is written, larger is better).
OBJECTIVES = {
    "area": ("area, um2", ",.0f", False),
    "cycles": ("cycles", ",.0f", False),
    "energy": ("energy, M", ",.1f", False),
    "accuracy": ("accuracy", ".2%", True),
}

#: how points are chosen: tree of Parzen estimators, genetic (NSGA-II), or every point in order.
SAMPLERS = ("tpe", "nsga2", "all")

#: seconds between the signs of life of a running trial.
HEARTBEAT = 10

#: seconds in which a scheduler must answer.
_PATIENCE = 15

#: most points that the sampler ``all`` takes.
_MOST = 100_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured; a study is for one of these.

    Parameters
    ----------
    objectives : some of :data:`OBJECTIVES`.
    space : :class:`mvq.knobs.Space`.
    networks : as :func:`golden.networks.load_network` reads them, for cycles and energy.
    quick : cycles and traffic in closed form (``mvq estimate --quick``).
    liberty : path of the library, for area. ``policy`` : :class:`synth.flow.Policy`.
    accuracy : :class:`mvq.accuracy.AccuracyTable` or :class:`mvq.accuracy.CompressedAccuracy`.

    Raises
    ------
    MvqError : an objective is unknown, or lacks what it needs.
    """

    objectives: tuple
    space: Space
    networks: tuple = ()
    quick: bool = False
    liberty: Path | None = None
    policy: Any = None
    accuracy: Any = None

    def __post_init__(self):
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ConfigError("--objectives", name, f"must be some of {', '.join(OBJECTIVES)}")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ConfigError("--objectives", ",".join(self.objectives), "must name each objective once")
        if {"cycles", "energy"} & set(self.objectives):
            from golden.networks import load_network

            if not self.networks:
                raise MvqError("--network is missing: cycles and energy are those of a network")
            for source in self.networks:
                load_network(source)
        if "accuracy" in self.objectives and self.accuracy is None:
            raise MvqError("--accuracy is missing: name a table of accuracies, or give --compress and --data")

    def to_dict(self):
        """JSON form, by which a study knows its settings."""
        area = "area" in self.objectives
        return {
            "objectives": list(self.objectives),
            "space": {knob: list(values) for knob, values in self.space.values.items()},
            "networks": [str(source) for source in self.networks],
            "quick": self.quick,
            "liberty": _sha256(self.liberty) if area else None,
            "policy": self.policy.to_dict() if area else None,
            "accuracy": self.accuracy.to_dict() if "accuracy" in self.objectives else None,
        }


def _sha256(path):
    from synth.liberty import read_liberty

    return read_liberty(path).sha256


# ---- on a worker
# -------------------------------------------------------------------------------------------------------


def _sentence(work):
    """``work(...)``, or a dict with the sentence of its error: errors of tools need not survive the way back."""

    @functools.wraps(work)
    def run(*arguments):
        try:
            return work(*arguments)
        except MvqError as error:
            return {"error": str(error)}

    return run


@_sentence
def measure_accuracy(config, source):
    """Accuracy of a configuration; runs on a worker. ``source`` : see :mod:`mvq.accuracy`."""
    return source.of(config)


@_sentence
def evaluate(config, settings, accuracy=None):
    """Measure a configuration; runs on a worker.

    Parameters
    ----------
    config : :class:`hdl.config.ArrayConfig`. ``settings`` : :class:`Settings`.
    accuracy : of :func:`measure_accuracy`, where the objectives need it.

    Returns
    -------
    dict with ``area`` (a row of `mvq area`), ``conditions`` (library, policy and tools of it), ``networks`` (name ->
    cycles, energy, energy_on_chip), ``accuracy``, as far as the objectives need them; or only ``error``, a sentence.
    """
    if isinstance(accuracy, dict):  # the sentence why there is none
        return accuracy
    found = {} if accuracy is None else {"accuracy": accuracy}
    if {"cycles", "energy"} & set(settings.objectives):
        found["networks"] = dict(_run(config, source, settings) for source in settings.networks)
    if "area" in settings.objectives:
        from synth.area import area_report

        report = area_report([config], str(settings.liberty), policy=settings.policy, references=False, jobs=1)
        found["area"] = report["rows"][0]
        found["conditions"] = {name: report[name] for name in ("liberty", "policy", "tools")}
    return found


def _run(config, source, settings):
    from golden.estimate import L2_BYTES
    from golden.traffic import COSTS
    from hdl.accelerator_config import AcceleratorConfig
    from mvq.estimate import run_estimate

    objective = "energy" if settings.quick and "cycles" not in settings.objectives else None
    machine = AcceleratorConfig(array=config)
    estimate, _ = run_estimate(source, machine, quick=settings.quick, objective=objective, l2_bytes=L2_BYTES)
    traffic = estimate.traffic
    return estimate.network, {
        "cycles": int(estimate.cycles),
        "energy": float(traffic.energy),
        "energy_on_chip": float(traffic.energy - COSTS["dram"] * traffic["dram"]),
        "exact": estimate.exact,
    }


def _version():
    """Of mvq where this runs."""
    return __version__


# ---- the search
# --------------------------------------------------------------------------------------------------------


class _FailedPoint(Exception):
    """The trial failed and the reason is recorded."""


class _LostScheduler(Exception):
    """The Dask scheduler is gone; the trials that it had are tried again another time."""


@contextmanager
def _workers(scheduler, jobs):
    """A Dask client: of the scheduler at an address, or of ``jobs`` processes of its own."""
    from dask.distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters comes as errors of points
    if scheduler is None:
        options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
        with LocalCluster(n_workers=jobs, **options) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(scheduler, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise MvqError(f"--scheduler = {scheduler!r}: no Dask scheduler answers ({error})") from error
    with client:
        try:
            versions = set(client.run(_version).values())
        except Exception as error:  # whatever the worker raised: most likely it has no mvq
            raise MvqError(f"--scheduler = {scheduler!r}: a worker cannot run mvq ({error})") from error
        if not versions:
            raise MvqError(f"--scheduler = {scheduler!r}: has no workers; start some with `dask worker {scheduler}`")
        if versions != {__version__}:
            raise MvqError(
                f"--scheduler = {scheduler!r}: workers have mvq {', '.join(sorted(versions))}, not {__version__}"
            )
        yield client


def _sampler(name, seed):
    import optuna

    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, multivariate=True)


def _lock_at_once(engine):
    """Have SQLite lock when a transaction begins, not when it first writes: between the two, another thread or process
    could take the same waiting trial. The recipe is SQLAlchemy's."""
    from sqlalchemy import event

    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()


def _open_study(url, name, settings, sampler, seed, heartbeat):
    """The study of ``settings`` in the database at ``url``, made if it is not there."""
    import optuna
    from sqlalchemy.engine import make_url

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if sampler not in SAMPLERS:
        raise ConfigError("--sampler", sampler, f"must be one of {', '.join(SAMPLERS)}", SAMPLERS[0])
    shown, options = url, {}
    try:
        address = make_url(url)
        shown = address.render_as_string(hide_password=True)
        if address.get_backend_name() == "sqlite":
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
            options = {"connect_args": {"timeout": 60}}  # several processes may write
        storage = optuna.storages.RDBStorage(url, engine_kwargs=options, heartbeat_interval=heartbeat)
        if options:
            _lock_at_once(storage.engine)
        directions = ["maximize" if OBJECTIVES[one][2] else "minimize" for one in settings.objectives]
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=_sampler(sampler, seed),
            directions=directions,
            load_if_exists=True,
        )
        wanted, stored = settings.to_dict(), study.user_attrs.get("settings")
        if stored is None:
            study.set_user_attr("settings", wanted)
    except MvqError:
        raise
    except Exception as error:  # the driver's own: a database may fail in any way
        reason = " ".join(str(getattr(error, "__cause__", None) or error).split())
        raise MvqError(f"--study = {shown!r}: cannot be opened ({reason[:200]})") from error
    if stored is not None and stored != wanted:
        key = next(key for key in wanted if stored.get(key) != wanted[key])
        raise MvqError(
            f"the study {name!r} in {shown} was made with {key} = {stored.get(key)}, not {wanted[key]}: "
            f"give the same, or another --name or --study"
        )
    return study, shown


class _Search:
    """One process's part of a study."""

    def __init__(self, study, settings, client, heartbeat, progress):
        self.study, self.settings, self.client = study, settings, client
        self.heartbeat, self.progress = heartbeat, progress
        self.shared = client.scatter(settings, broadcast=True)
        self.accuracies, self.lock = {}, threading.Lock()

    def finished(self):
        """Trials that count: measured, or failed for a reason of their own and not of their process."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        return [
            trial
            for trial in trials
            if trial.state == TrialState.COMPLETE or (trial.state == TrialState.FAIL and "error" in trial.user_attrs)
        ]

    def running(self):
        """Trials that this or another process holds, or held when it died."""
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def recover(self):
        """Fail the trials of dead processes, and queue again what failed for no reason of its own."""
        import optuna
        from optuna.trial import TrialState

        optuna.storages.fail_stale_trials(self.study)
        limit = datetime.now() - timedelta(seconds=2 * self.heartbeat)
        for trial in self.running():  # ended before its first sign of life
            if "started" not in trial.user_attrs and trial.datetime_start < limit:
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get("retry of") for trial in trials}
        for trial in trials:
            if trial.state == TrialState.FAIL and "error" not in trial.user_attrs and trial.number not in retried:
                point = trial.system_attrs.get("fixed_params", trial.params)
                self.study.enqueue_trial(point, user_attrs={"retry of": trial.number})

    def run(self, count):
        """Go on until ``count`` trials have finished."""
        slots = max(1, sum(self.client.ncores().values()))
        while True:
            self.recover()
            done = len(self.finished())
            self._tell(done, count)
            if done >= count:
                return
            fresh = count - done - len(self.running())
            if fresh > 0:
                self.study.optimize(
                    self.objective,
                    n_trials=fresh,
                    n_jobs=min(slots, fresh),
                    catch=(_FailedPoint,),
                    callbacks=[lambda *_: self._tell(len(self.finished()), count)],
                )
            else:  # another process has the rest, or its heart stops soon
                time.sleep(self.heartbeat)

    def _tell(self, done, count):
        if self.progress:
            self.progress("explore", min(done, count), count)

    def objective(self, trial):
        """Values of a trial; raises _FailedPoint with the reason recorded."""
        # a first beat before the mark, or a kill between them would leave a point that runs for ever
        trial.storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr("started", True)
        point = {knob: trial.suggest_categorical(knob, values) for knob, values in self.settings.space.values.items()}
        try:
            config = configuration(point)
            trial.set_user_attr("config", config.to_dict())
            result = self._earlier("config", config.to_dict()) or self._compute(trial, config)
        except MvqError as error:
            trial.set_user_attr("error", str(error))
            raise _FailedPoint from error
        trial.set_user_attr("result", result)
        return [_number(name, result) for name in self.settings.objectives]

    def _earlier(self, key, value):
        """The result of a trial that has ``value`` as its attribute ``key``, or None."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "COMPLETE" and trial.user_attrs.get(key) == value:
                return trial.user_attrs["result"]
        return None

    def _accuracy(self, trial, config):
        """What :func:`evaluate` needs: from an earlier trial, or a task that all trials share that depend on it."""
        key = self.settings.accuracy.key(config)
        trial.set_user_attr("accuracy of", key)
        earlier = self._earlier("accuracy of", key)
        if earlier:
            return earlier["accuracy"]
        text = json.dumps(key, sort_keys=True)
        with self.lock:
            if text not in self.accuracies:
                source = self.settings.accuracy
                self.accuracies[text] = self.client.submit(measure_accuracy, config, source, pure=False)
            return self.accuracies[text]

    def _compute(self, trial, config):
        from dask.distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        accuracy = self._accuracy(trial, config) if "accuracy" in self.settings.objectives else None
        future = self.client.submit(evaluate, config, self.shared, accuracy, pure=False)
        try:
            result = future.result()
        except (CancelledError, CommClosedError) as error:
            raise _LostScheduler from error
        except KilledWorker as error:
            raise MvqError(f"the worker died at {describe(config.to_dict())}, perhaps for lack of memory") from error
        if "error" in result:
            raise MvqError(result["error"])
        conditions = result.pop("conditions", None)
        if conditions:
            if conditions["liberty"]["sha256"] != self.study.user_attrs["settings"]["liberty"]:
                raise MvqError(f"a worker has another library at {self.settings.liberty}: its file must be the same")
            self.study.set_user_attr("conditions", conditions)
        return result


def _number(objective, result):
    """The value of an objective."""
    if objective == "area":
        return result["area"]["total_um2"]
    if objective == "accuracy":
        return result["accuracy"]
    total = sum(run[objective] for run in result["networks"].values())
    return total / 1e6 if objective == "energy" else total


def explore(
    settings,
    url,
    *,
    name="mvq",
    trials=50,
    sampler="tpe",
    seed=0,
    scheduler=None,
    jobs=2,
    heartbeat=HEARTBEAT,
    progress=None,
):
    """Search, or go on with a search.

    Parameters
    ----------
    settings : :class:`Settings`.
    url : of the database, such as ``sqlite:///study.db``. ``name`` : of the study in it.
    trials : points of the study in all, earlier ones included; those that failed count. With the sampler ``all``, all.
    sampler : one of :data:`SAMPLERS`. ``seed`` : of it.
    scheduler : address of a Dask scheduler; ``jobs`` processes of its own when None.
    heartbeat : seconds between signs of life; the same for all who share a study.
    progress : called with ("explore", trials that have finished, all).

    Returns
    -------
    dict, the report (``mvq-explore``), which `mvq compare` reads.

    Raises
    ------
    MvqError : the database or the scheduler cannot be reached, or the study has other settings.
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats, multivariate TPE
        study, shown = _open_study(url, name, settings, sampler, seed, heartbeat)
        if sampler == "all":
            trials = _enqueue_all(study, settings.space)
        with _workers(scheduler, jobs) as client:
            search = _Search(study, settings, client, heartbeat, progress)
            try:
                search.run(trials)
            except _LostScheduler as error:
                raise MvqError("the Dask scheduler is gone: run the command again to go on with the study") from error
        return _report(study, settings, shown, search.finished())


def _enqueue_all(study, space):
    """Queue every point of ``space`` whose configuration is not there yet; returns how many there are."""
    if space.size > _MOST:
        raise MvqError(
            f"--sampler = 'all': the space has {space.size:,} points, more than {_MOST:,}; give fewer by --set"
        )
    points, seen = [], set()
    for point in space.points():
        try:
            config = configuration(point)
        except MvqError:
            config = json.dumps(point)  # each of those that fail, with its own reason
        if config not in seen:
            seen.add(config)
            points.append(point)
    for point in points:
        study.enqueue_trial(point, skip_if_exists=True)
    return len(points)


# ---- results
# -----------------------------------------------------------------------------------------------------------


def _report(study, settings, shown, trials):
    best = {trial.number for trial in study.best_trials}
    rows, failures, seen = [], [], set()
    for trial in trials:
        attributes = trial.user_attrs
        if trial.state.name == "FAIL":
            failures.append({"trial": trial.number, "point": trial.params, "error": attributes["error"]})
            continue
        config = ArrayConfig(**attributes["config"])
        if config in seen:
            continue
        seen.add(config)
        result = attributes["result"]
        rows.append(
            {
                "trial": trial.number,
                "variant": config.variant,
                "rows": config.rows,
                "columns": config.columns,
                "unit": None,
                "front": trial.number in best,
                "objectives": dict(zip(settings.objectives, trial.values, strict=True)),
                **result.get("area", {}),
                **{name: result[name] for name in ("networks", "accuracy") if name in result},
                "config_hash": config.hash,
                "config": config.to_dict(),
            }
        )
    return {
        "format": "mvq-explore",
        "format_version": 1,
        **{name: value for name, value in settings.to_dict().items() if name not in ("liberty", "policy")},
        **study.user_attrs.get("conditions", {}),
        "study": {"url": shown, "name": study.study_name},
        "trials": len(trials),
        "rows": rows,
        "failures": failures,
    }


def save(report, path):
    """Write the report as JSON; returns the path."""
    return write_text(path, json.dumps(report, indent=1) + "\n")


def tables(report):
    """rich tables: the front, and the reasons of points that failed."""
    objectives = report["objectives"]
    rows = sorted((row for row in report["rows"] if row["front"]), key=lambda row: row["objectives"][objectives[0]])
    front = Table(title="Pareto front", box=box.SIMPLE_HEAD, caption=_CAPTION)
    front.add_column("configuration")
    for name in objectives:
        front.add_column(OBJECTIVES[name][0], justify="right", no_wrap=True)
    for row in rows:
        values = (format(row["objectives"][name], OBJECTIVES[name][1]) for name in objectives)
        front.add_row(describe(row["config"]), *values)
    if not report["failures"]:
        return [front]
    failed = Table(title="Points that failed", box=box.SIMPLE_HEAD)
    failed.add_column("points", justify="right")
    failed.add_column("reason")
    reasons = [failure["error"] for failure in report["failures"]]
    for reason in dict.fromkeys(reasons):
        failed.add_row(str(reasons.count(reason)), escape(reason))
    return [front, failed]


_CAPTION = "no other is as good in all objectives; energy: in multiplications, by the paper's Tab. 8"


def summary(report):
    """How many points there are, in words."""
    rows, failures = report["rows"], report["failures"]
    return f"{report['trials']} points, {len(rows)} configurations, {len(failures)} points failed"


def draw(report, path):
    """Draw all points and the front; nothing where fewer than two objectives or points are there. Returns the path or
    None."""
    objectives, rows = report["objectives"], report["rows"]
    if len(objectives) < 2 or len(rows) < 2:
        return None
    draw_pareto(
        path,
        [tuple(row["objectives"][name] for name in objectives) for row in rows],
        [row["variant"] for row in rows],
        [(OBJECTIVES[name][0], OBJECTIVES[name][2]) for name in objectives],
        ", ".join(rows[0].get("networks", {})),
    )
    return path
