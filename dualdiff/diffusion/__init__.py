"""The mathematics of diffusion; it knows no network."""
