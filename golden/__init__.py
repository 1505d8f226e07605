"""What must come out: formats, integer arithmetic and models in numpy, without torch and without gateware."""

from golden.checkpoint import Checkpoint, CheckpointError, Codebook, DenseLayer, Layer, MvqLayer
from golden.graph import Graph, GraphError, Node

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Codebook",
    "DenseLayer",
    "Graph",
    "GraphError",
    "Layer",
    "MvqLayer",
    "Node",
]
