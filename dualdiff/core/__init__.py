"""Foundations: errors, tensor types, progress, strict configs, safe files, random streams, devices."""
