"""The settings of diffusion. Free of torch, so that commands read settings at once."""

from dataclasses import dataclass
from typing import Literal

from dualdiff.core.config import setting


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The law of the noise levels in training."""

    law: Literal["learned", "log-normal", "log-sech", "log-linear"] = setting(
        "learned", "distribution of ln sigma", ablation=True
    )
    stratified: bool = setting(True, "spread the levels of a batch evenly over the law's quantiles", ablation=True)
    sigma_max: float = setting(80.0, "highest noise level", above=0)
    log_normal_mean: float = setting(-0.4, "mean of ln sigma (log-normal)", ablation=True)
    log_normal_std: float = setting(1.0, "standard deviation of ln sigma (log-normal)", above=0, ablation=True)
    learned_temperature: float = setting(
        4.4, "how sharply the learned law follows the progress (T)", minimum=0, ablation=True
    )
    learned_warmup_steps: int = setting(2000, "steps over which T rises from 0", minimum=0)
    learned_floor: float = setting(
        0.1, "share of the learned law that stays uniform", above=0, maximum=1, ablation=True
    )
