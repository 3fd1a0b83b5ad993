"""The presets: what each changes of the defaults, which are the preset `small`."""

from dualdiff.core.config import Table

SMALL: Table = {}

NANO: Table = {
    "vae": {
        "base_channels": 16,
        "channel_mults": [1, 2, 4, 8],
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        "target_snr": 8.0,
    },
    "vae.spectral": {"overlap": 2, "random_offset": True},
    "vae.train": {
        "steps": 150,
        "crop_s": 1.024,
        "batch_size": 8,
        "grad_accum_steps": 1,
        "num_workers": 0,
        "warmup_steps": 20,
        "decay_after_steps": 100,
        "validate_every": 50,
        "save_every": 75,
    },
    "encode": {"offsets": 2},
    "unet": {"base_channels": 32, "blocks": 1, "embedding_channels": 128},
    "unet.noise": {"learned_warmup_steps": 200},
    "unet.train": {
        "steps": 350,
        "crop_s": 4.096,
        "batch_size": 16,
        "grad_accum_steps": 1,
        "num_workers": 0,
        "warmup_steps": 40,
        "decay_after_steps": 200,
        "validate_every": 100,
        "save_every": 175,
    },
}

SEED: Table = {
    "vae": {"base_channels": 96, "channel_mults": [1, 2, 3, 5], "encoder_blocks": 3, "decoder_blocks": 4},
    "vae.train": {"grad_accum_steps": 16},
    "unet": {"base_channels": 192, "channel_mults": [1, 2, 3, 4], "blocks": 3, "embedding_channels": 768},
    "unet.train": {"grad_accum_steps": 8},
}

PRESETS: dict[str, tuple[Table, str]] = {
    "nano": (NANO, "minutes on two CPU cores, a sketch that shows the chain at work"),
    "small": (SMALL, "for one consumer GPU"),
    "seed": (SEED, "the full size of the design, for a large GPU"),
}
