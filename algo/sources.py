"""Networks from where users have them: a class in their own file with weights beside it, an ONNX file, a checkpoint."""

import contextlib
import importlib
import pickle
import sys
import tempfile
import zipfile
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from algo.frontend import user_line
from algo.keras_weights import keras_state
from golden.checkpoint import Checkpoint
from hdl.config import MvqError

__all__ = ["load_checkpoint", "load_network", "load_weights"]

#: where training loops put the state dict among what else they save.
_WRAPPERS = ("state_dict", "model_state_dict", "model")

#: how many names a message lists.
_NAMED = 3

_SPECS = "package.module:callable such as mynet:Net, an .onnx file, or the folder or zip of a checkpoint"


def _few(names):
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _one_line(error):
    return " ".join(str(error).split())


# ---- weights ------------------------------------------------------------------------------------------------------


def _read_state(path):
    """What the file of weights holds, as saved."""
    if path.is_dir():
        return keras_state(path)
    if not path.is_file():
        raise MvqError(f"{path}: there is no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MvqError(
            f"{path}: is no file of torch, or holds more than tensors; save it with torch.save(net.state_dict(), ...)"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise MvqError(f"{path}: cannot be read as weights ({_one_line(error)})") from error


def _state_dict(path):
    """Name -> tensor, without what wrapped it."""
    state = _read_state(path)
    for name in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
            break
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise MvqError(f"{path}: is no state dict, that is, names and tensors")
    if all(name.startswith("module.") for name in state):  # saved from nn.DataParallel
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def load_weights(module, path):
    """Load a file of weights into a network, in place.

    Parameters
    ----------
    module : ``nn.Module``.
    path : state dict of torch (.pt, .pth, .th), bare or as ``state_dict`` in what a training loop saved, with or
        without ``module.`` before each name; a .safetensors file; or the folder of :mod:`algo.keras_weights`.

    Returns
    -------
    ``module``

    Raises
    ------
    MvqError : the file cannot be read, or names, shapes or values do not fit; lists the first ones.
    """
    path = Path(path)
    state, wanted = _state_dict(path), module.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    problems = (("it lacks", missing), ("it has besides", unexpected), ("its", shapes))
    problems = [f"{what} {_few(names)}" for what, names in problems if names]
    if problems:
        raise MvqError(f"{path}: does not fit {type(module).__name__}: {'; '.join(problems)}")
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            layer, _, what = name.rpartition(".")
            bad = f"{int((~torch.isfinite(value)).sum())} of {value.numel()}"
            raise MvqError(f"{path}: layer {layer!r}: its {what} must be finite, but {bad} are NaN or infinite")
    module.load_state_dict(state, strict=False)
    return module


# ---- networks -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _importable(folder):
    """``folder`` first on the path."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _failure(error):
    """What the user's code raised, and where."""
    place = user_line(error)
    return f"{type(error).__name__}{f' at {place}' if place else ''} ({_one_line(error)})"


def _import(spec, name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise MvqError(
                f"{spec}: there is no module {error.name!r} in {Path.cwd()} or among the installed packages"
            ) from error
        raise MvqError(f"{spec}: {name} needs the module {error.name!r}, which is not installed") from error
    except Exception as error:
        raise MvqError(f"{spec}: {name} cannot be imported: {_failure(error)}") from error


def _from_python(spec):
    """The module that ``package.module:callable`` names."""
    name, _, path = spec.partition(":")
    if not all(part.isidentifier() for part in (*name.split("."), *path.split("."))):
        raise MvqError(f"{spec!r} names no network; it must be {_SPECS}")
    with _importable(Path.cwd()):
        found = _import(spec, name)
        for part in path.split("."):
            if not hasattr(found, part):
                theirs = [item for item, value in vars(found).items() if getattr(value, "__module__", None) == name]
                raise MvqError(f"{spec}: {name} has no {part!r}; it has {_few(theirs) or 'nothing'}")
            found = getattr(found, part)
        if isinstance(found, nn.Module):
            return found
        if not callable(found):
            raise MvqError(f"{spec}: is a {type(found).__name__}, neither an nn.Module nor a callable that makes one")
        try:
            made = found()
        except Exception as error:
            raise MvqError(f"{spec}: calling it without arguments failed: {_failure(error)}") from error
    if not isinstance(made, nn.Module):
        raise MvqError(f"{spec}: gave a {type(made).__name__}, not an nn.Module")
    return made


def load_checkpoint(path):
    """The checkpoint in a folder, or in a zip of one.

    Raises
    ------
    MvqError : there is none, or it cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        return Checkpoint.load(path)
    if not zipfile.is_zipfile(path):
        raise MvqError(f"{path}: is neither the folder nor the zip of a checkpoint")
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        for member in archive.namelist():
            name = Path(member).name
            if name in ("manifest.json", "tensors.safetensors"):
                (Path(folder) / name).write_bytes(archive.read(member))
        try:
            return Checkpoint.load(folder)
        except MvqError as error:
            raise MvqError(str(error).replace(folder, str(path))) from error


def load_network(spec, *, weights=None, input_shape=None):
    """The network that a user names.

    Parameters
    ----------
    spec : ``package.module:callable``, a class, a function or a ready network, looked for in the working directory
        first; an .onnx file; or the folder or zip of a checkpoint.
    weights : file of weights for the first, see :func:`load_weights`; as the callable made them when None.
    input_shape : (C, H, W); needed for the first, and for an .onnx file that leaves it open.

    Returns
    -------
    (nn.Module, tuple) : the network in evaluation mode, and its input shape.

    Raises
    ------
    MvqError : names what is missing or does not fit.
    """
    spec, shape = str(spec), None if input_shape is None else tuple(input_shape)
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        raise MvqError(f"input = {shape}: must be channels, rows and columns, such as 3,32,32")
    if spec.endswith(".onnx"):
        from algo.onnx_import import load_onnx

        module, shape = load_onnx(spec, shape)
    elif Path(spec).exists():
        from algo.network import CompressedNetwork

        module = CompressedNetwork.from_checkpoint(load_checkpoint(spec))
        stored = tuple(module.graph.input.attrs["shape"])
        if shape not in (None, stored):
            raise MvqError(f"input = {shape}: the checkpoint {spec} takes {stored}")
        shape = stored
    elif ":" in spec:
        if shape is None:
            raise MvqError(f"{spec}: does not say what it takes; give --input channels,rows,columns, such as 3,32,32")
        module = _from_python(spec)
        if weights is not None:
            load_weights(module, weights)
        return module.eval(), shape
    else:
        raise MvqError(f"{spec!r} names no network; it must be {_SPECS}")
    if weights is not None:
        raise MvqError(f"{spec}: has its weights inside; --weights is for package.module:callable")
    return module.eval(), shape
