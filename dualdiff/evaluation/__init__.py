"""Judging: what `format test` and `inspect` measure, and the pictures they draw."""
