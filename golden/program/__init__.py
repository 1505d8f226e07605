"""The program: from a lowered network to what the accelerator has in memory."""

from golden.program.program import MismatchError, Program, compile_program

__all__ = ["MismatchError", "Program", "compile_program"]
