"""Which device and which precision to compute on: asked for, or chosen by what the machine is fast at."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dualdiff.core.errors import UsageError

log = logging.getLogger(__name__)

FREE_SHARE = 0.7
"""How much of a GPU's free memory a batch may take: allocations never fit without gaps."""


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


BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
"""CPU capabilities that multiply bfloat16 numbers directly. Without them a convolution in bfloat16 is slower than in
float32: by far on processors that have AVX2 only."""


def cpu_bfloat16() -> str:
    """Return the instructions that this CPU multiplies bfloat16 numbers with, or an empty string where it has none."""
    read = getattr(torch.cpu, "get_capabilities", None)
    if read is None:  # the oldest torch that may be installed has no public one
        probes = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
        known = {name: getattr(torch.cpu, probe, bool)() for name, probe in probes.items()}
    else:
        known = read()
    return next((name for name in BFLOAT16_INSTRUCTIONS if known.get(name)), "")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32, by what the device can do: no clock decides, so that it repeats.

    True of CUDA GPUs since Ampere and of CPUs with instructions for bfloat16.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(cpu_bfloat16())


def select_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type that network bodies compute in; "auto" is bfloat16 where that is fast, else float32."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def name_of_precision(dtype: torch.dtype) -> str:
    """Return the name that settings and recipes have for a type: "float32" or "bfloat16"."""
    return str(dtype).removeprefix("torch.")


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
