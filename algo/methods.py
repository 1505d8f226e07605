"""The ways to compress a network that can be compared with each other; the paper's Tab. 3 and 5 name most of them."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the weights of a layer are compressed and stored.

    Parameters
    ----------
    summary : one sentence for people.
    storage : ``codebook``, ``uniform`` (VecQ, a few bits a weight) or ``int8``.
    prune : weights are pruned N:M before they are clustered.
    masked : only surviving weights count in the clustering (masked k-means); otherwise all do, zeros too.
    sparse : the mask is stored, and the rebuilt weights are masked with it.
    permute : channels are put in an order first in which subvectors are more alike.
    anneal : noise on the codewords, less and less of it, keeps the clustering from the nearest local minimum.
    vector_length, codewords : d and k where the user sets none.
    """

    summary: str
    storage: Literal["codebook", "uniform", "int8"] = "codebook"
    prune: bool = False
    masked: bool = False
    sparse: bool = False
    permute: bool = False
    anneal: bool = False
    vector_length: int = 16
    codewords: int = 512


#: name -> method. Dense codebooks have the paper's k = 1024, d = 8: at 4:16 as many bits as k = 512, d = 16 with masks.
METHODS = {
    "mvq": Method(
        summary="Masked vector quantisation: sparse weights, masked k-means, sparse reconstruction (case D).",
        prune=True,
        masked=True,
        sparse=True,
    ),
    "vq": Method(
        summary="Plain vector quantisation: dense weights, common k-means, dense reconstruction (case A).",
        vector_length=8,
        codewords=1024,
    ),
    "vq-sparse-dense": Method(
        summary="Sparse weights, common k-means, dense reconstruction (case B).",
        prune=True,
        vector_length=8,
        codewords=1024,
    ),
    "vq-sparse": Method(
        summary="Sparse weights, common k-means with the zeros, sparse reconstruction (case C).",
        prune=True,
        sparse=True,
    ),
    "pqf": Method(
        summary="Permute, quantise, fine-tune: channels in a better order, annealed k-means, dense reconstruction.",
        permute=True,
        anneal=True,
        vector_length=8,
        codewords=1024,
    ),
    "vecq": Method(
        summary="VecQ: every weight in a few bits with one scale a layer, by direction and length of the weights.",
        storage="uniform",
    ),
    "int8": Method(summary="Every weight in 8 bits with one scale for each output channel.", storage="int8"),
}
