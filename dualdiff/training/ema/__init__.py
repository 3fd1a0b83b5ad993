"""Averages of the weights: tracked while training, kept as snapshots, combined afterwards."""
