"""Training: one loop, an objective for each network, and the run folder on disk."""
