"""Driver of the accelerator: puts a program into memory, starts it, and reads the result, on any engine that runs the
gateware."""

from typing import Protocol

from golden.program import Program
from hdl.config import MvqError
from hdl.control.register_map import ErrorCode

__all__ = ["Driver", "Engine", "RunFailedError"]

#: cycles without progress after which the accelerator gives up by itself.
WATCHDOG = 100_000


class Engine(Protocol):
    """What runs the gateware with a memory behind its bus."""

    def run(self, memory, settings, limit, *, base=0):
        """Reset the accelerator, write the registers ``settings`` (name -> value), start it, wait for its interrupt.

        Parameters
        ----------
        memory : uint8, what the bus sees from address ``base`` on; changed in place.
        limit : cycles after which it is given up.

        Returns
        -------
        dict : register name -> value at the end, 64-bit registers in one.
        """


class RunFailedError(MvqError):
    """A run that ended with an error.

    Parameters
    ----------
    code : :class:`~hdl.control.register_map.ErrorCode`. ``layer`` : name. ``address`` : as the register has it.
    """

    def __init__(self, code, layer, address):
        self.code, self.layer, self.address = code, layer, address
        super().__init__(f"layer {layer!r}: the accelerator stopped with {code.name.lower()} at address {address:#x}")


class Driver:
    """Runs one program, image after image.

    Parameters
    ----------
    program : :class:`golden.program.Program`. ``engine`` : :class:`Engine` for ``program.config``.
    """

    def __init__(self, program: Program, engine: Engine):
        self.program, self.engine = program, engine
        self.memory = program.memory()

    def settings(self):
        """Register name -> value, before a start."""
        program = self.program
        return {
            "program_address": program.program_address,
            "program_length": program.program_length,
            **dict(zip(("memory_base", "memory_limit"), program.memory_window, strict=True)),
            **dict(zip(("output_base", "output_limit"), program.output_window, strict=True)),
            "watchdog": WATCHDOG,
            "irq_enable": 3,
        }

    def run(self, image, limit=1_000_000_000):
        """Run one image.

        Parameters
        ----------
        image : int8 (C, H, W). ``limit`` : cycles after which it is given up.

        Returns
        -------
        (result, registers) : value of the output node, int8 or int32 without batch; register name -> value.

        Raises
        ------
        RunFailedError : the accelerator reports an error.
        """
        program = self.program
        program.write_input(self.memory, image)
        registers = self.engine.run(self.memory, self.settings(), limit, base=program.base)
        code = ErrorCode(registers["error"] & 0xFF)
        if code != ErrorCode.NONE:
            layer = program.layer_name(registers["error"] >> 8 & 0xFFFF)
            raise RunFailedError(code, layer, registers["error_address"])
        return program.read(self.memory), registers
