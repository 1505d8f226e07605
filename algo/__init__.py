"""What learns the compressed weights: trace, prune, cluster, quantise, fine-tune, calibrate (torch)."""
