"""From a folder of music to batches: the ledger, random crops of tracks, latents on disk, the loader."""
