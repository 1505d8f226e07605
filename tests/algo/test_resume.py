import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from algo import zoo
from algo.augmentation import crop_and_flip
from algo.compress import CompressSettings, compress
from algo.finetune import FinetuneSettings, finetune
from algo.training import TrainingSettings, load_best, train
from hdl.config import MvqError

ROOT = Path(__file__).resolve().parents[2]


class Stopped(Exception):
    pass


def small():
    """Convolution, normalisation and dropout, so that buffers and torch's own generator matter."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(8 * 36, 10)
    )


def stop_at(step):
    def progress(stage, done, total):
        if done == step:
            raise Stopped

    return progress


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser": "adamw", "weight_decay": 1e-2},
        {"optimiser": "adam"},
        {"optimiser": "sgd", "rate": 0.02, "nesterov": True},
    ],
)
@pytest.mark.parametrize("step", [1, 4, 5, 11])  # before the first epoch ends, with it, after it, in the last one
def test_a_stopped_training_ends_in_the_same_weights(digits, tmp_path, settings, step):
    x, y = digits[0][:256], digits[1][:256]
    settings = TrainingSettings(epochs=3, **settings)
    whole, parts = small(), small()
    options = {"augment": crop_and_flip, "validation": (digits[2], digits[3]), "teacher": small()}
    expected = train(whole, x, y, settings, **options)
    with pytest.raises(Stopped):
        train(parts, x, y, settings, folder=tmp_path, progress=stop_at(step), **options)
    again = small()
    log = train(again, x, y, settings, folder=tmp_path, **options)
    assert equal(whole, again)
    assert [{**entry, "seconds": 0} for entry in log] == [{**entry, "seconds": 0} for entry in expected]
    assert json.loads((tmp_path / "log.json").read_text()) == log
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt", "log.json"]


def test_a_stopped_fine_tuning_ends_in_the_same_file(digits, digits_module, tmp_path):
    settings, x, y = FinetuneSettings(epochs=3), digits[0][:256], digits[1][:256]
    whole, first, second = (compress(digits_module, (1, 8, 8), CompressSettings(codewords=16)) for _ in range(3))
    history = finetune(whole, x, y, settings, teacher=digits_module)
    with pytest.raises(Stopped):
        finetune(first, x, y, settings, teacher=digits_module, folder=tmp_path, progress=stop_at(7))
    assert finetune(second, x, y, settings, teacher=digits_module, folder=tmp_path) == history
    assert whole.to_checkpoint()._files() == second.to_checkpoint()._files()
    other = compress(digits_module, (1, 8, 8), CompressSettings(codewords=16, seed=1))
    with pytest.raises(MvqError, match="assignments"):
        finetune(other, x, y, settings, teacher=digits_module, folder=tmp_path)


def test_a_finished_training_is_read_back(digits, tmp_path):
    settings = TrainingSettings(epochs=2)
    first, second = small(), small()
    log = train(first, *digits[:2], settings, folder=tmp_path)
    assert train(second, *digits[:2], settings, folder=tmp_path, progress=stop_at(1)) == log
    assert equal(first, second)


CHILD = """
import sys
import torch
from algo import zoo
from algo.training import TrainingSettings, train
torch.set_num_threads(1)
torch.manual_seed(3)
train(zoo.DigitsNet(), *zoo.digits()[:2], TrainingSettings(epochs=20), folder=sys.argv[1])
"""


def test_a_killed_process_loses_nothing(digits, tmp_path):
    """SIGKILL at a random moment after some epochs, twice; what is left ends in the weights of one run."""
    settings = TrainingSettings(epochs=20)
    for epochs in (2, 5):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT)
        deadline = time.monotonic() + 120
        log = tmp_path / "log.json"
        while not (log.exists() and len(json.loads(log.read_text())) >= epochs):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    done = len(json.loads(log.read_text()))
    assert done < 20
    networks, seen = [], []
    for folder in (tmp_path, None):
        torch.manual_seed(3)
        networks.append(zoo.DigitsNet())
        train(networks[-1], *digits[:2], settings, folder=folder, report=seen.append)
    assert equal(*networks)
    assert len(seen) <= 40 - done + 1  # the log may be one epoch ahead of what it goes on from


def test_the_best_epoch_is_kept(digits, tmp_path):
    """A rate that ruins the network: the best epoch is not the last, and can be had again."""
    x, y, test_x, test_y = digits
    module = small()
    settings = TrainingSettings(epochs=6, optimiser="sgd", rate=0.7, batch=32)
    log = train(module, x, y, settings, folder=tmp_path, validation=(test_x, test_y))
    best = max(log, key=lambda entry: entry["accuracy"])
    assert load_best(module, tmp_path) == best
    assert zoo.accuracy(module, test_x, test_y) == best["accuracy"]
    without = train(small(), x, y, settings, folder=tmp_path / "loss")
    assert load_best(small(), tmp_path / "loss") == min(without, key=lambda entry: entry["loss"])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rate": 0.5}, "rate = 0.001, not 0.5"),
        ({"epochs": 3}, "epochs = 2, not 3"),
        ({"optimiser": "sgd"}, "optimiser = 'adamw', not 'sgd'"),
    ],
)
def test_other_settings_are_refused(digits, tmp_path, changed, named):
    base = {"epochs": 2, "rate": 1e-3}
    x, y = digits[0][:128], digits[1][:128]
    train(small(), x, y, TrainingSettings(**base), folder=tmp_path)
    with pytest.raises(MvqError, match=named):
        train(small(), x, y, TrainingSettings(**base | changed), folder=tmp_path)
    with pytest.raises(MvqError, match="images = 128, not 100"):
        train(small(), x[:100], y[:100], TrainingSettings(**base), folder=tmp_path)
    with pytest.raises(MvqError, match="augment = None, not 'crop_and_flip'"):
        train(small(), x, y, TrainingSettings(**base), folder=tmp_path, augment=crop_and_flip)
    with pytest.raises(MvqError, match="another network"):
        train(zoo.DigitsNet(), x, y, TrainingSettings(**base), folder=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty"])
def test_a_damaged_file(digits, tmp_path, damage):
    settings, x, y = TrainingSettings(epochs=1), digits[0][:128], digits[1][:128]
    train(small(), x, y, settings, folder=tmp_path)
    path = tmp_path / "last.pt"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[:-100], "flipped": content, "text": b"hello", "empty": b""}[damage])
    with pytest.raises(MvqError, match=r"last\.pt is damaged"):
        train(small(), x, y, settings, folder=tmp_path)


def test_a_disk_that_fills_up(digits, tmp_path, monkeypatch):
    settings, x, y = TrainingSettings(epochs=3), digits[0][:128], digits[1][:128]
    whole, parts = small(), small()
    train(whole, x, y, settings)
    with pytest.raises(Stopped):
        train(parts, x, y, settings, folder=tmp_path, progress=stop_at(3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def full(path, data):
        write(path, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(MvqError, match=r"cannot be written .*No space left"):
            train(parts, x, y, settings, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    again = small()
    train(again, x, y, settings, folder=tmp_path)
    assert equal(whole, again)


def test_a_folder_that_cannot_be_made(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MvqError, match="cannot be written"):
        train(small(), digits[0][:64], digits[1][:64], TrainingSettings(epochs=1), folder=tmp_path / "file" / "run")
