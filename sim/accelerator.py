"""The accelerator as a compiled simulation, for :class:`mvq.driver.Driver`."""

import numpy as np

from golden.timing import MemoryTiming
from hdl.accelerator import Accelerator
from hdl.config import MvqError
from hdl.control.register_map import OFFSETS, REGISTERS
from sim.axi_bench import AxiBench
from sim.cxxrtl import gateware_identity

__all__ = ["CxxrtlAccelerator"]


class CxxrtlAccelerator:
    """An accelerator, a host and a memory.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    timing : :class:`golden.timing.MemoryTiming` of the memory.
    cache, progress : see :func:`sim.cxxrtl.compile_design`.

    Attributes
    ----------
    bench : :class:`sim.axi_bench.AxiBench`, for pauses and faults.
    """

    def __init__(self, config, timing=None, *, cache=None, progress=None):
        timing = timing or MemoryTiming()
        self.bench = AxiBench(
            Accelerator(config),
            np.zeros(config.descriptor_bytes, np.uint8),
            read_latency=timing.read_latency,
            write_latency=timing.write_latency,
            identity=gateware_identity(config),
            cache=cache,
            progress=progress,
        )

    def write(self, name, value):
        """Write the register ``name``."""
        self.bench.write_register(OFFSETS[name], value)

    def read(self, name):
        """Value of the register ``name``."""
        return self.bench.read_register(OFFSETS[name])

    def registers(self):
        """Register name -> value, 64-bit registers in one."""
        return {
            item.name: sum(self.bench.read_register(item.offset + 4 * i) << 32 * i for i in range(item.width // 32))
            for item in REGISTERS
        }

    def start(self, memory, settings, *, base=0):
        """Write the registers ``settings`` (name -> value) and start with ``memory`` on the bus from ``base`` on."""
        self.bench.set_memory(memory, base)
        for name, value in settings.items():
            self.write(name, value)
        self.write("irq_status", 3)
        self.write("control", 1)

    def run(self, memory, settings, limit, *, base=0):
        """See :class:`mvq.driver.Engine`.

        Raises
        ------
        MvqError : no interrupt within ``limit`` cycles. BenchError : a rule of the bus is broken.
        """
        self.start(memory, settings, base=base)
        if not self.bench.run(limit, until_interrupt=True):
            raise MvqError(f"the accelerator gave no interrupt within {limit} cycles")
        return self.registers()
