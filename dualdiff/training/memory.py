"""Memory: how many examples fit at once, and what to say when they do not."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dualdiff.core.errors import ConfigError, DualdiffError
from dualdiff.training.config import TrainConfig

log = logging.getLogger(__name__)

CPU_SHARE = 0.5
"""Of the memory that is free on a machine without a GPU, how much the activations of a micro-batch may take."""


def memory_bytes(device: torch.device) -> int:
    """The most memory taken so far: on a GPU by tensors, else by this process; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows has none
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes() -> int | None:
    """The memory of the machine that is free to take, or None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limited = _free_of_the_container()
    return min([*found[:1], *limited], default=None)


def _free_of_the_container(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """The memory that is left under the limit of a container (cgroups of version 2), if there is one."""
    try:
        limit, taken = ((root / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        lines = (root / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
    cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return [max(0, int(limit) - int(taken) + cached)] if limit.isdecimal() else []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    words = ("allocate memory", "out of memory")  # of a CPU, and of Apple's GPUs, whose error is a RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def divisors(share: int) -> list[int]:
    """The sizes that micro-batches of `share` examples can have, largest first."""
    return [size for size in range(share, 0, -1) if share % size == 0]


def largest_fitting(share: int, attempt: Callable[[int], None]) -> int | None:
    """The largest micro-batch of which an attempt does not run out of memory, or None if not even one example fits."""
    for size in divisors(share):
        try:
            attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) and not isinstance(error, MemoryError):
                raise
        else:
            return size
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()
    return None


def saved_bytes(attempt: Callable[[int], None]) -> int:
    """The bytes that the forward pass of one example keeps for the backward pass."""
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attempt(1)
    return sum(seen.values())


def state_bytes(parameters: int, config: TrainConfig) -> int:
    """What a training holds beside weights and gradients: Adam's two moments, and each average of the weights."""
    return 4 * parameters * (2 + len(config.ema_widths))


def require_room(
    where: str,
    section: str,
    config: TrainConfig,
    device: torch.device,
    build: Callable[[str], nn.Module],
) -> None:
    """Reckon from shapes, before a network is built, whether it can be trained in the memory that is free.

    Weights, gradients, the optimizer's state and the weight averages are counted. What an example takes besides is
    measured later (`saved_bytes`), on a network that fits.

    Args:
        where: the place of its settings, for the message.
        section: their section.
        config: of the training.
        device: to train on.
        build: makes the network on the device of a name; it is called with "meta", where tensors have no memory.

    Raises:
        ConfigError: it needs more than is free.
    """
    free = free_bytes() if device.type == "cpu" else _free_on_gpu(device)
    if free is None:
        return
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build("meta").parameters())
    needed = 8 * parameters + state_bytes(parameters, config)
    if needed > free:
        raise ConfigError(
            f"{where}: [{section}] makes a network of {parameters / 1e6:,.0f} million parameters, which takes "
            f"{needed / 1e9:.3g} GB to train; {free / 1e9:.3g} GB are free",
            f"lower {section}.base_channels, or the number of {section}.train.ema_widths",
        )


def _free_on_gpu(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def micro_batch(share: int, device: torch.device, attempt: Callable[[int], None], to_come_bytes: int = 0) -> int | None:
    """The largest micro-batch of a process's `share` of a batch that fits: tried on a GPU, reckoned on a CPU.

    None if not even one example fits, which only a trial can tell. `to_come_bytes` is what the training takes besides.
    """
    if device.type == "cpu":
        free, each = free_bytes(), saved_bytes(attempt)
        most = share if free is None else max(1, int((free - to_come_bytes) * CPU_SHARE / max(each, 1)))
        return max(size for size in divisors(share) if size <= most)
    return largest_fitting(share, attempt)


def out_of_memory(section: str, config: TrainConfig, micro: int, fits: int | None) -> DualdiffError:
    """What to say when a micro-batch of `micro` examples ran out of memory and one of `fits` does not."""
    message = f"{section}: out of memory with micro-batches of {micro} (batch_size = {config.batch_size}"
    message += f", grad_accum_steps = {config.grad_accum_steps})"
    if fits is None:
        return DualdiffError(
            message,
            f"not even one example fits: shorten {section}.crop_s, shrink the network or track fewer ema_widths",
        )
    needed = config.grad_accum_steps * (micro // fits)
    hint = f"micro-batches of {fits} fit: set {section}.grad_accum_steps = {needed}, or 0 to find out by itself"
    return DualdiffError(message, f"{hint}; what was saved before is untouched")
