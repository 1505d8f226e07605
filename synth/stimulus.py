"""Streams of a core, as bits, from the weight subsets of real layers."""

import numpy as np

from synth.activity import Streams

__all__ = ["layer_streams"]


def _bits(values, width):
    """uint8 (words, lanes * width) of integers (words, lanes), least significant first."""
    values = np.asarray(values).astype(np.int64) if np.asarray(values).dtype != np.uint64 else np.asarray(values)
    shifts = np.arange(width, dtype=values.dtype)
    bits = (values[..., None] >> shifts) & values.dtype.type(1)
    return bits.reshape(len(values), -1).astype(np.uint8)


def layer_streams(runs, config):
    """Streams for ``runs``, and the ofmap vectors that must come out.

    Parameters
    ----------
    runs : list of :class:`golden.SubsetRun`. ``config`` : :class:`hdl.config.ArrayConfig`.

    Returns
    -------
    (:class:`synth.activity.Streams`, uint8 (vectors, bits)) : the second holds int8 ``values`` (0 where the subset is
    not final), then ``psums``, as the core's ``ofmap`` has them.
    """
    commands = np.array(
        [[run.command >> bit & 1 for bit in range(sum(width for _, width in config.command_fields))] for run in runs],
        np.uint8,
    )
    words = np.concatenate([run.words for run in runs]).astype(np.uint64)
    added = [run.psum_in.reshape(-1, config.columns) for run in runs if run.psum_in is not None]
    inputs = {
        "command": commands,
        "weights": _bits(words.reshape(-1, config.stream_width // 64), 64),
        "ifmap": _bits(np.concatenate([run.ifmap for run in runs]), 8),
    }
    if added:
        inputs["psum_in"] = _bits(np.concatenate(added), config.psum_width)
    psums = np.concatenate([run.psums.reshape(-1, config.columns) for run in runs])
    values = np.concatenate(
        [
            np.zeros((run.psums.shape[0] * run.psums.shape[1], config.columns), np.int64)
            if run.values is None
            else run.values.reshape(-1, config.columns)
            for run in runs
        ]
    )
    expected = np.concatenate([_bits(values, 8), _bits(psums, config.psum_width)], axis=1)
    return Streams(inputs, len(psums)), expected
