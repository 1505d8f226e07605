"""Tiles into the systolic array, and the register files at its edges: activation file (ARF) and partial-sum file
(PRF)."""
