"""AXI: the master's read and write channels to memory, and the AXI4-Lite slave of the registers."""
