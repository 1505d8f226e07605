"""Train a float network to N:M sparsity before it is clustered (paper section 6.2): SR-STE, or ASP.

Groups lie along the output channels, exactly as :mod:`algo.grouping` cuts them and :mod:`algo.pruning` prunes them, so
that :func:`algo.compress.compress` finds the trained masks again.
"""

import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils import parametrize

from algo.compress import CompressSettings, choose_layers
from algo.frontend import trace
from algo.grouping import group, ungroup
from algo.pruning import magnitude_masks
from algo.training import train
from hdl.config import MvqError

__all__ = ["SparseSettings", "sparse_weights", "train_sparse"]

_METHODS = ("sr-ste", "asp")


@dataclass(frozen=True, kw_only=True)
class SparseSettings:
    """Which weights stay.

    Parameters
    ----------
    method : ``sr-ste`` (Zhou et al. 2021) chooses the mask anew in every step and lets pruned weights come back;
        ``asp`` (Mishra et al. 2021) prunes once, for networks whose training SR-STE makes unstable.
    vector_length : d, output channels in a subvector; a multiple of every ``m``.
    n, m : N weights of every M survive.
    decay : lambda of SR-STE, which pulls pruned weights towards 0.
    layers : name of a layer -> (n, m), where these differ from the rest.
    dense, compress : as :class:`algo.compress.CompressSettings` has them.

    Raises
    ------
    MvqError : names the setting, its value and the nearest legal one.
    """

    method: str = "sr-ste"
    vector_length: int = 16
    n: int = 4
    m: int = 16
    decay: float = 2e-4
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    dense: tuple[str, ...] = ()
    compress: tuple[str, ...] = ()

    def __post_init__(self):
        if self.method not in _METHODS:
            raise MvqError(f"method = {self.method!r}: must be one of {', '.join(_METHODS)}")
        if not 0 <= self.decay < float("inf"):
            raise MvqError(f"decay = {self.decay}: must be at least 0; the nearest legal value is 0")
        object.__setattr__(self, "layers", {name: tuple(value) for name, value in self.layers.items()})
        self._compression(self.n, self.m)
        for name, value in self.layers.items():
            try:
                self._compression(*value)
            except (MvqError, TypeError) as error:
                raise MvqError(f"layer {name!r}: (n, m) = {value} ({error})") from error

    def _compression(self, n, m):
        """The compression's settings with these n and m, which checks them."""
        return CompressSettings(vector_length=self.vector_length, n=n, m=m, dense=self.dense, compress=self.compress)

    def choose(self, graph):
        """Name of each layer to prune -> (n, m); the layers that :func:`algo.compress.choose_layers` compresses."""
        names = choose_layers(graph, self._compression(self.n, self.m))
        for name in self.layers:
            if name not in names:
                raise MvqError(f"layers: {name!r} is not pruned; the layers that are: {', '.join(names)}")
        return {name: self.layers.get(name, (self.n, self.m)) for name in names}


class _StraightThrough(torch.autograd.Function):
    """W o mask, with the gradient g + decay * (1 - mask) o W (SR-STE, Zhou et al. 2021, eq. 9)."""

    @staticmethod
    def forward(ctx, weight, mask, decay):
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx, gradient):
        weight, mask = ctx.saved_tensors
        return gradient + ctx.decay * ~mask * weight, None, None


def _weight_mask(weight, n, m, vector_length):
    """Bool in the shape of ``weight``: the weights that :func:`algo.compress.compress` would keep."""
    return ungroup(magnitude_masks(group(weight.detach(), vector_length), n, m), weight.shape)


class _Renewed(nn.Module):
    """SR-STE: the mask follows the magnitudes."""

    def __init__(self, weight, n, m, settings):
        super().__init__()
        self.n, self.m, self.vector_length, self.decay = n, m, settings.vector_length, settings.decay

    def forward(self, weight):
        mask = _weight_mask(weight, self.n, self.m, self.vector_length)
        return _StraightThrough.apply(weight, mask, self.decay)


class _Frozen(nn.Module):
    """ASP: the mask of the first weights."""

    def __init__(self, weight, n, m, settings):
        super().__init__()
        self.register_buffer("mask", _weight_mask(weight, n, m, settings.vector_length))

    def forward(self, weight):
        return weight * self.mask


def _layer(module, name):
    """The submodule ``name`` with a parameter called weight."""
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        layer = None
    if not isinstance(getattr(layer, "weight", None), nn.Parameter):
        raise MvqError(f"layer {name!r}: sparse training needs a module of this name with a parameter 'weight'")
    return layer


@contextmanager
def sparse_weights(module, input_shape, settings=None):
    """Let a float network compute with N:M sparse weights while the context lasts, and have them afterwards.

    After an exception it has the weights behind the masks, which are dense.

    Parameters
    ----------
    module : ``nn.Module`` that :func:`algo.frontend.trace` supports; its layers' weights are reparametrised.
    input_shape : (C, H, W) of an image.
    settings : :class:`SparseSettings`; the paper's when None.

    Yields
    ------
    dict : name of each sparse layer -> (n, m).

    Raises
    ------
    MvqError : a layer of ``settings`` is not in the network, or is no module of its own.
    """
    settings = settings or SparseSettings()
    chosen = settings.choose(trace(module, input_shape)[0])
    layers = {name: _layer(module, name) for name in chosen}
    kind = {"sr-ste": _Renewed, "asp": _Frozen}[settings.method]
    for name, layer in layers.items():
        parametrize.register_parametrization(layer, "weight", kind(layer.weight, *chosen[name], settings))
    whole = False
    try:
        yield chosen
        whole = True
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=whole)


def train_sparse(module, input_shape, images, labels, settings=None, training=None, **options):
    """Train a float network, in place, to weights that are N:M sparse along the output channels.

    Parameters
    ----------
    module : ``nn.Module`` that :func:`algo.frontend.trace` supports, usually trained before.
    input_shape : (C, H, W) of an image.
    images, labels : as :func:`algo.training.train` takes them.
    settings : :class:`SparseSettings`; the paper's when None.
    training : :class:`algo.training.TrainingSettings`.
    options : what else :func:`algo.training.train` takes, such as ``folder``, ``teacher`` and ``validation``.

    Returns
    -------
    list of dict : a line for each epoch, as :func:`algo.training.train` gives them. The pruned weights are 0, and
    :func:`algo.compress.compress` with the same n, m and vector length keeps the others.

    Raises
    ------
    MvqError : what :func:`sparse_weights` and :func:`algo.training.train` refuse.
    """
    settings = settings or SparseSettings()
    identity = {"sparse": dataclasses.asdict(settings), **options.pop("identity", {})}
    with sparse_weights(module, input_shape, settings):
        return train(module, images, labels, training, identity=identity, **{"stage": "prune", **options})
