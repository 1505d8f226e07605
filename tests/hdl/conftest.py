"""Folders in which the tests compile Verilog; they stay, so that unchanged Verilog is compiled once."""

import re

import pytest

from cocotb_tests.core_simulation import CoreSimulation
from cocotb_tests.unit_simulation import UnitSimulation


@pytest.fixture
def unit(request):
    """unit(config, name) -> :class:`UnitSimulation` of this test."""
    test = re.sub(r"\W+", "-", request.node.name)

    def make(config, name, simulator="icarus"):
        folder = request.config.cache.mkdir("verilog") / f"{test}-{name}-{config.hash}"
        return UnitSimulation(config, name, folder, simulator)

    return make


@pytest.fixture
def core(request):
    """core(config, simulator) -> :class:`CoreSimulation`, shared by all tests of that configuration."""

    def make(config, simulator="icarus"):
        return CoreSimulation(config, request.config.cache.mkdir("verilog") / f"core-{config.hash}", simulator)

    return make
