"""The one training loop: seeded batches, a cosine rate, distillation, and a folder that it goes on from.

With a folder, ``last.pt`` holds everything after each complete epoch, ``best.pt`` the weights of the best one, and
``log.json`` a line for every epoch. A run that was stopped, at whatever moment, and is called again with the same
settings ends in the same weights, to the bit, as one that was not.
"""

import copy
import dataclasses
import io
import json
import pickle
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from algo.zoo import accuracy
from golden.files import replacing, write_text
from hdl.config import MvqError

__all__ = ["TrainingSettings", "load_best", "train"]

_FORMAT, _VERSION = "mvq-training", 1
_OPTIMISERS = ("adamw", "adam", "sgd")
_PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train.

    Parameters
    ----------
    epochs : passes over the images.
    batch : images in a step.
    rate : first learning rate; it falls to 0 along a cosine, step by step.
    optimiser : ``adamw``, ``adam`` or ``sgd``.
    momentum, nesterov : of ``sgd``.
    weight_decay : of the weights that decay; of all, unless the caller groups them.
    distillation : what the teacher counts where there is one, 0 to 1; the labels count the rest.
    temperature : of the softmax that compares with the teacher.
    keep : ``last`` or ``best``, the epoch whose weights the network has in the end; best is the highest accuracy on the
        validation images, or, without these, the lowest loss.
    precision : ``float32``, or ``bfloat16`` for the products of both passes (torch's automatic mixed precision;
        weights, normalisation, loss and optimiser stay in float32).
    seed : draws the order of the images and their augmentation.

    Raises
    ------
    MvqError : names the setting and its value.
    """

    epochs: int = 5
    batch: int = 64
    rate: float = 1e-3
    optimiser: str = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    distillation: float = 0.5
    temperature: float = 2.0
    keep: str = "last"
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MvqError(f"{name} = {value!r}: must be an integer of at least 1; the nearest legal value is 1")
        for name in ("rate", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise MvqError(f"{name} = {getattr(self, name)}: must be above 0 and finite")
        if not 0 <= self.weight_decay < float("inf"):
            raise MvqError(f"weight_decay = {self.weight_decay}: must be at least 0; the nearest legal value is 0")
        if not 0 <= self.momentum < 1:
            raise MvqError(f"momentum = {self.momentum}: must be at least 0 and below 1")
        if not 0 <= self.distillation <= 1:
            nearest = min(max(self.distillation, 0), 1)
            raise MvqError(f"distillation = {self.distillation}: must be 0 to 1; the nearest legal value is {nearest}")
        if self.optimiser not in _OPTIMISERS:
            raise MvqError(f"optimiser = {self.optimiser!r}: must be one of {', '.join(_OPTIMISERS)}")
        if self.precision not in _PRECISIONS:
            raise MvqError(f"precision = {self.precision!r}: must be one of {', '.join(_PRECISIONS)}")
        if self.keep not in ("last", "best"):
            raise MvqError(f"keep = {self.keep!r}: must be 'last' or 'best'")
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            raise MvqError("nesterov = True: needs the optimiser 'sgd' and a momentum above 0")

    def build(self, groups):
        """The optimiser of parameters or parameter groups."""
        if self.optimiser == "sgd":
            options = {"momentum": self.momentum, "nesterov": self.nesterov}
            return torch.optim.SGD(groups, self.rate, weight_decay=self.weight_decay, **options)
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[self.optimiser]
        return kind(groups, self.rate, weight_decay=self.weight_decay)


# ---- files --------------------------------------------------------------------------------------------------------


def _write(path, content):
    """``torch.save`` to memory and then to ``path``, so that a full disk is an error of the file system."""
    data = io.BytesIO()
    torch.save({"format": _FORMAT, "version": _VERSION, **content}, data)
    with replacing(path) as temporary:
        temporary.write_bytes(data.getbuffer())


def _read(path):
    """What :func:`_write` wrote."""
    damaged = f"{path} is damaged or was not written by a training"
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise MvqError(f"{damaged}; delete it to begin anew")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise MvqError(f"{path} cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise MvqError(f"{damaged}; delete it to begin anew") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise MvqError(f"{damaged}; delete it to begin anew")
    if content["version"] != _VERSION:
        raise MvqError(f"{path}: version = {content['version']!r}, but only {_VERSION} can be read")
    return content


def _load_weights(module, state, path):
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise MvqError(f"{path} holds the training of another network ({text})") from error


class _Folder:
    """The files of a training; ``settings`` are what has to agree before it goes on."""

    def __init__(self, path, settings):
        self.path, self.settings = Path(path), json.loads(json.dumps(settings))
        self.last = self.path / "last.pt"

    def resume(self, parts, module, generator):
        """Bring everything to where ``last.pt`` was written; the log so far, empty when there is none."""
        if not self.last.exists():
            return []
        content = _read(self.last)
        stored = content["settings"]
        for name in sorted(self.settings.keys() | stored.keys()):
            mine, theirs = self.settings.get(name), stored.get(name)
            if mine != theirs:
                raise MvqError(
                    f"{self.path} holds a training with {name} = {theirs!r}, not {mine!r}; "
                    f"use {theirs!r} or another folder"
                )
        _load_weights(module, content["module"], self.last)
        for name, part in parts.items():
            part.load_state_dict(content[name])
        generator.set_state(content["generator"])
        torch.set_rng_state(content["torch"])
        return content["log"]

    def save(self, parts, module, generator, log, better):
        """Write what :meth:`resume` reads; that comes last, so that the other files are never older."""
        weights = module.state_dict()
        if better:
            _write(self.path / "best.pt", {"module": weights, "log": log[-1:]})
        write_text(self.path / "log.json", json.dumps(log, indent=1) + "\n")
        state = {name: part.state_dict() for name, part in parts.items()}
        random = {"generator": generator.get_state(), "torch": torch.get_rng_state()}
        _write(self.last, {"settings": self.settings, "module": weights, "log": log, **state, **random})


def load_best(module, folder):
    """Give ``module`` the weights of the best epoch that a training of it in ``folder`` saw.

    Returns
    -------
    dict : that epoch's line of the log.

    Raises
    ------
    MvqError : there is no such file, or it is damaged or of another network.
    """
    path = Path(folder) / "best.pt"
    content = _read(path)
    _load_weights(module, content["module"], path)
    return content["log"][0]


# ---- the loop -----------------------------------------------------------------------------------------------------


def _distilled(value, output, guide, settings):
    """The labels' loss and the Kullback-Leibler divergence from the teacher (Hinton et al. 2015, sec. 2)."""
    if guide.shape != output.shape:
        raise MvqError(
            f"the teacher gives {tuple(guide.shape[1:])} values for an image, but the network {tuple(output.shape[1:])}"
        )
    t = settings.temperature
    divergence = F.kl_div(F.log_softmax(output / t, 1), F.log_softmax(guide / t, 1), None, None, "batchmean", True)
    return (1 - settings.distillation) * value + settings.distillation * t * t * divergence


def _widened(output):
    """``output`` in at least float32."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _name(function):
    return None if function is None else getattr(function, "__qualname__", type(function).__qualname__)


def _is_better(log):
    """True when the last epoch of ``log`` is the best so far."""

    def quality(entry):
        return -entry["loss"] if entry["accuracy"] is None else entry["accuracy"]

    return all(quality(log[-1]) > quality(entry) for entry in log[:-1])


def train(
    module,
    images,
    labels,
    settings=None,
    *,
    loss=None,
    groups=None,
    teacher=None,
    augment=None,
    validation=None,
    folder=None,
    identity=None,
    stage="train",
    progress=None,
    report=None,
):
    """Train a module in place.

    Parameters
    ----------
    module : ``nn.Module`` on the CPU.
    images : float32 (N, C, H, W), or anything with a length that gives such images for an int64 tensor of indices.
    labels : what ``loss`` compares with, (N, ...).
    settings : :class:`TrainingSettings`.
    loss : ``loss(output, labels)``; cross entropy when None.
    groups : parameter groups as torch's optimisers take them; all parameters when None.
    teacher : float network whose outputs are distilled into ``module`` (``settings.distillation``).
    augment : ``augment(images, generator)`` gives the images of a step, such as
        :func:`algo.augmentation.crop_and_flip`.
    validation : (images, labels) whose accuracy is measured after each epoch.
    folder : where to keep the state after each epoch, and to go on from.
    identity : JSON values that, besides the settings, have to be the same to go on.
    stage : the work's name for ``progress``.
    progress : called with (stage, steps done, steps).
    report : called with each line of the log.

    Returns
    -------
    list of dict : ``epoch``, ``loss`` (mean), ``accuracy`` (None without validation), ``rate`` (at its start) and
    ``seconds`` of each epoch. The module is in evaluation mode.

    Raises
    ------
    MvqError : the loss became NaN or infinite; ``folder`` holds the training of other settings or of another network,
    is damaged, or cannot be written (what it held before is still there).
    """
    settings, loss = settings or TrainingSettings(), loss or F.cross_entropy
    for what, (x, y) in {"training": (images, labels), "validation": validation or (labels, labels)}.items():
        if len(x) != len(y) or not len(x):
            raise MvqError(f"{what} needs as many labels as images, and at least one, not {len(y)} and {len(x)}")
    generator = torch.Generator().manual_seed(settings.seed)
    optimiser = settings.build(list(module.parameters()) if groups is None else groups)
    each = -(-len(images) // settings.batch)
    steps = settings.epochs * each
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    parts, store, log, best = {"optimiser": optimiser, "schedule": schedule}, None, [], None
    if folder is not None:
        same = {"images": len(images), "loss": _name(loss), "augment": _name(augment), "teacher": _name(teacher)}
        store = _Folder(folder, {**dataclasses.asdict(settings), **same, **(identity or {})})

    def step(part, number):
        x, y = torch.as_tensor(images[part]), labels[part]
        if augment is not None:
            x = augment(x, generator)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)  # the CPU convolves faster so
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16"):
            output = _widened(module(x))
            if teacher is not None:
                with torch.no_grad():
                    guide = _widened(teacher(x))
        value = loss(output, y)
        if teacher is not None:
            value = _distilled(value, output, guide, settings)
        if not torch.isfinite(value):
            raise MvqError(
                f"the loss became {float(value.detach())} after {number} steps; use a rate below {settings.rate}"
            )
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        return float(value.detach()) * len(part)

    guiding = teacher is not None and teacher.training
    try:
        with torch.random.fork_rng(devices=[]):  # dropout draws from torch's own generator
            torch.manual_seed(settings.seed)
            if store is not None:
                log = store.resume(parts, module, generator)
            if teacher is not None:
                teacher.eval()
            while len(log) < settings.epochs:
                start, rate, total = time.monotonic(), optimiser.param_groups[0]["lr"], 0.0
                order = torch.randperm(len(images), generator=generator)
                module.train()
                for number, part in enumerate(order.split(settings.batch), len(log) * each):
                    total += step(part, number)
                    if progress:
                        progress(stage, number + 1, steps)
                entry = {"epoch": len(log) + 1, "loss": total / len(images), "accuracy": None, "rate": rate}
                if validation is not None:
                    entry["accuracy"] = accuracy(module, *validation)
                entry["seconds"] = round(time.monotonic() - start, 3)
                log = [*log, entry]
                if store is not None:
                    store.save(parts, module, generator, log, _is_better(log))
                elif settings.keep == "best" and _is_better(log):
                    best = copy.deepcopy(module.state_dict())
                if report:
                    report(entry)
        if best is not None:
            module.load_state_dict(best)
        elif settings.keep == "best":
            load_best(module, folder)
    finally:
        module.eval()
        if teacher is not None:
            teacher.train(guiding)
    return log
