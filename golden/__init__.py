"""What must come out: formats, integer arithmetic and models in numpy, without torch and without gateware."""

from golden.checkpoint import Checkpoint, CheckpointError, Codebook, DenseLayer, Layer, MvqLayer
from golden.graph import Graph, GraphError, Node
from golden.integer import Requantisation
from golden.lower import LoweredLayer, LoweredNetwork, LoweringError, lower
from golden.network import Calibration, CalibrationError, IntegerLayer, IntegerNetwork, quantise

__all__ = [
    "Calibration",
    "CalibrationError",
    "Checkpoint",
    "CheckpointError",
    "Codebook",
    "DenseLayer",
    "Graph",
    "GraphError",
    "IntegerLayer",
    "IntegerNetwork",
    "Layer",
    "LoweredLayer",
    "LoweredNetwork",
    "LoweringError",
    "MvqLayer",
    "Node",
    "Requantisation",
    "lower",
    "quantise",
]
