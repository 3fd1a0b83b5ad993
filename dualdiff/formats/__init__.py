"""Waveform <-> sample; the rest of dualdiff knows only `base.Format`."""
