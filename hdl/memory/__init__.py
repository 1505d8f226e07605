"""On-chip memories of the accelerator: activation banks (L1), partial-sum buffer, and the small rings between
engines."""
