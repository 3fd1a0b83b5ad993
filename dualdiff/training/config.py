"""What a training run is told, whichever network it trains."""

from dataclasses import dataclass
from typing import Literal

from dualdiff.core.config import setting


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch, optimizer and record of one training run."""

    run: str = setting("run", "name of the run folder in runs/ and of the model folder in models/")
    steps: int = setting(10000, "optimizer steps in all", minimum=1)
    batch_size: int = setting(16, "examples per optimizer step, over all processes and micro-batches", minimum=1)
    grad_accum_steps: int = setting(
        1, "micro-batches that a process splits its share of a batch into; 0: as few as fit into memory", minimum=0
    )
    crop_s: float = setting(8.0, "length of a training example, seconds (rounded down to whole latents)", above=0)
    game_temperature: float = setting(0.5, "how games are drawn: 1 by their hours, 0 all alike", minimum=0, maximum=1)
    num_workers: int = setting(0, "processes that load data (0: none besides the training itself)", minimum=0)
    learning_rate: float = setting(0.01, "Adam's step size after the warm-up", above=0)
    warmup_steps: int = setting(100, "steps over which the learning rate rises from 0", minimum=0)
    decay: Literal["inverse-sqrt", "constant-then-linear"] = setting(
        "inverse-sqrt", "how the learning rate falls: as 1/sqrt(step), or in a straight line to 0 at the last step"
    )
    decay_after_steps: int = setting(2000, "from here the learning rate falls; 0 for never", minimum=0)
    max_grad_norm: float = setting(10.0, "gradients longer than this are shortened to it", above=0, ablation=True)
    ema_widths: tuple[float, ...] = setting(
        (0.015, 0.025, 0.045, 0.1, 0.16, 0.25),
        "relative widths of the weight averages, each of them 4 bytes a parameter in memory",
        above=0.01,
        maximum=0.25,
    )
    export_ema_width: float = setting(0.1, "which of them is validated, heard and exported", above=0.01, maximum=0.25)
    report_every: int = setting(20, "steps between lines of metrics.jsonl", minimum=1)
    validate_every: int = setting(500, "steps between validations", minimum=1)
    preview_every: int = setting(1000, "steps between audio and pictures", minimum=1)
    save_every: int = setting(500, "steps between checkpoints", minimum=1)
    keep_checkpoints: int = setting(2, "checkpoints kept", minimum=1)
    keep_ema_snapshots: int = setting(
        4, "snapshots kept of each weight average, to rebuild any width from 0.015 to 0.25", minimum=1
    )

    def __post_init__(self) -> None:
        if not self.run.strip() or set(self.run) & set('/\\:*?"<>|') or self.run.startswith("."):
            raise ValueError(f'run = "{self.run}" is not a name that a folder can have')
        if self.grad_accum_steps and self.batch_size % self.grad_accum_steps:
            raise ValueError(
                f"batch_size = {self.batch_size} does not split into "
                f"grad_accum_steps = {self.grad_accum_steps} equal parts"
            )
        if len({f"{width:.3f}" for width in self.ema_widths}) < len(self.ema_widths):
            raise ValueError(f"ema_widths = {list(self.ema_widths)} names one width twice (to three decimals)")
        if self.export_ema_width not in self.ema_widths:
            raise ValueError(f"export_ema_width = {self.export_ema_width:g} is none of ema_widths")


@dataclass(frozen=True, kw_only=True)
class UNetObjectiveConfig:
    """What the UNet is trained for."""

    label_dropout: float = setting(0.1, "share of examples trained without their game", minimum=0, maximum=1)
    rhythm_dropout: float = setting(0.1, "share of examples trained without their beats", minimum=0, maximum=1)


@dataclass(frozen=True, kw_only=True)
class VAEObjectiveConfig:
    """What the VAE is trained for."""

    reconstruction: Literal["spectral", "spectral_1d", "point"] = setting(
        "spectral",
        "what is compared: spectra of samples, of waveforms (by formats with a phase), or points",
        ablation=True,
    )
    kl_weight: float = setting(0.1, "weight of keeping the latents' mean at 0 and their variance at 1", minimum=0)
