"""Command line and flow: from a trained network to verified Verilog and its area."""

__version__ = "0.1.0"
