"""Model checking: what holds for all inputs and, where a proof by induction closes, for all time."""
