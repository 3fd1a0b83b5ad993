"""Which device and which precision to compute on: asked for, or chosen by what the machine is fast at."""

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from dualdiff.core.errors import UsageError

log = logging.getLogger(__name__)

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
FREE_SHARE = 0.7
"""How much of a GPU's free memory a batch may take: allocations never fit without gaps."""

PrecisionName = Literal["auto", "float32", "bfloat16"]


def select_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" takes a CUDA GPU, else Apple's, else the CPU.

    Raises:
        UsageError: the device asked for is not on this machine.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, here in present.items() if here)
    if not present.get(name.partition(":")[0], False):
        raise UsageError(
            f'device "{name}" is not on this machine', "use device auto or cpu; `dualdiff doctor` says what is here"
        )
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: GPUs since Ampere, CPUs with matrix units (AMX)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
        return bool(probe and probe())
    return False


def select_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that network bodies compute in; "auto" is bfloat16 where that is fast, else float32."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def machine_name(device: torch.device) -> str:
    """What computes: a GPU by its name, a CPU by its vector instructions and threads, on which the last bits depend."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return device.type


def room_for(trial: Callable[[], None], device: torch.device) -> int:
    """How many of what `trial` computes a CUDA GPU's free memory has room for at once, at least 1; by trying one."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    trial()
    torch.cuda.synchronize(device)
    each = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(FREE_SHARE * free / max(each, 1)))


def compile_in_place(network: nn.Module, device: torch.device) -> None:
    """Let a network run as one compiled graph on a GPU; elsewhere it is left as it is.

    Its parameters and their names do not change. Where compiling fails, which shows at the first call, one line is
    logged and the network runs uncompiled from there on.
    """
    if device.type != "cuda":
        return
    plain: Callable[..., Any] = network.forward
    fast: Callable[..., Any] = torch.compile(plain, fullgraph=True)

    def forward(*inputs: Any) -> Any:
        try:
            return fast(*inputs)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            log.warning("not compiled, so slower: %s", str(error).strip().splitlines()[0])
            network.forward = plain
            return plain(*inputs)

    network.forward = forward
