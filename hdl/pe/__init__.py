"""Processing elements: multiplier, mask encoder, dense and sparse rows, and the tile they form."""
