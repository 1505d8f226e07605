"""The accelerator as a system of its own on an FPGA board: memory, a network's program, and a UART."""
