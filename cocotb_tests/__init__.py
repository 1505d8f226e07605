"""Verilog against golden: simulators, testbenches, and their tests."""
