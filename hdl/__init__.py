"""What becomes hardware: Amaranth sources of the array, its codebook path and the core."""
