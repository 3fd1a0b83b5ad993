"""A project's settings: `dualdiff.toml`, presets, and checks of combinations."""
