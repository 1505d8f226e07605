"""Weight loader, sequencer and requantiser: what runs the array for one command after another."""
