"""Area of the generated Verilog on a standard-cell library, with Yosys."""
