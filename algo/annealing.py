"""Annealing (stochastic relaxation) of k-means: noise on the codewords that fades, as in PQF and LSQ++.

Martinez et al. (CVPR 2021, ECCV 2018) disturb each updated codeword by normal noise whose deviation falls as
sqrt(1 - i / I) over I iterations. Ours is relative to the clustering's own error, half its root mean square at first,
so that it fits weights of any size.
"""

import math

import numpy as np

__all__ = ["anneal"]

#: deviation of the first noise, in root mean squares of the clustering's error.
_NOISE = 0.5


def anneal(data, codebook, iterations, seed, progress):
    """Iterate k-means with noise.

    Parameters
    ----------
    data : :class:`algo.masked_kmeans.MaskedVectors`.
    codebook : float32 (k, d), to start from.
    iterations : I; the last has no noise.
    seed : of the noise.
    progress : called with the iterations done.

    Returns
    -------
    float32 (k, d).
    """
    generator = np.random.default_rng([seed, 1])  # another stream than the one that draws the first codewords
    for iteration in range(1, iterations + 1):
        assignment = data.assign(codebook)
        codebook = data.update(codebook, assignment)
        data.reseed(codebook, assignment)
        deviation = math.sqrt(data.errors(codebook, assignment).sum() / data.weights)
        deviation *= _NOISE * math.sqrt(1 - iteration / iterations)
        codebook = codebook + (deviation * generator.standard_normal(codebook.shape)).astype(np.float32)
        progress(iteration)
    return codebook
