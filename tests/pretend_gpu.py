"""A GPU for machines that have none: tensors that say they lie on one, computed on the CPU.

Inside of `pretended()`, torch says that there is a GPU: NVIDIA's, or Apple's. What is moved or made there is an
`OnGPU`: it holds a tensor of the CPU, on which every operation is done. What a GPU refuses is refused here: operands on
different devices, `.numpy()`, a CPU's generator that should draw on the GPU, and on Apple's float64. So the paths that
only GPUs take run in tests, with the CPU's numbers. Speed, memory, other kernels and `torch.compile` are not pretended.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CPU = torch.device("cpu")
KINDS = ("cpu", "cuda", "mps")
WIDE = (torch.float64, torch.complex128)
"""What Apple's GPUs do not have."""
MAY_MIX = {"copy_", "_foreach_copy_"}
"""Operations that read from one device and write to another."""
TAKE_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations whose indices may lie on the CPU, wherever the rest lies."""


class OnGPU(Tensor):
    """A tensor that says it lies on the GPU; `held` has its numbers."""

    held: Tensor
    there: ClassVar[torch.device]
    """The GPU that is pretended."""
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: OnGPU.there)  # type: ignore[assignment]
    is_cuda = property(lambda self: OnGPU.there.type == "cuda")  # type: ignore[assignment]
    is_mps = property(lambda self: OnGPU.there.type == "mps")  # type: ignore[assignment]
    is_cpu = property(lambda self: False)

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGPU":
        """A leaf without a gradient around a tensor of the CPU."""
        if OnGPU.there.type == "mps" and held.dtype in WIDE:
            raise TypeError(f"Cannot convert a MPS Tensor to {held.dtype} dtype: the MPS framework has none")
        facts = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return Tensor._make_wrapper_subclass(cls, held.shape, **facts)  # type: ignore[attr-defined, no-any-return]

    def __init__(self, held: Tensor) -> None:
        self.held = held.detach()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as torch does."""
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        self.numpy()

    def __reduce_ex__(self, _: Any) -> Any:
        raise TypeError("a tensor on a GPU does not go to other processes")

    def tolist(self) -> Any:
        """The numbers."""
        return self.held.tolist()

    def data_ptr(self) -> int:
        """Where the numbers lie."""
        return self.held.data_ptr()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGPU({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation on what its tensors hold."""
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if name not in MAY_MIX:
            indices = {id(value) for value in args[1] if value is not None} if name in TAKE_INDICES else set()
            for value in given:
                if value.ndim and not isinstance(value, OnGPU) and id(value) not in indices:
                    raise RuntimeError(f"all tensors must be on one device, but {func} found {cls.there} and cpu")
        wrapped = {id(value.held): value for value in given if isinstance(value, OnGPU)}
        args, kwargs = tree_map_only(OnGPU, lambda value: value.held, (args, kwargs))
        result = func(*args, **kwargs)
        if name == "copy_" and not wrapped.keys() & {id(args[0])}:
            return result
        return tree_map_only(Tensor, lambda own: wrapped[id(own)] if id(own) in wrapped else OnGPU(own), result)


class Up(torch.autograd.Function):
    """To the GPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """See the class."""
        return OnGPU(x)

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Tensor:
        """Back."""
        return slope.held  # type: ignore[no-any-return]


class Down(torch.autograd.Function):
    """To the CPU."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Tensor:
        """See the class."""
        return x.held.clone()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        """Back."""
        return OnGPU(slope)


class Devices(TorchFunctionMode):
    """Sees what is made on, or moved to, a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let a call with a device do its work on the CPU, and its result lie on that device."""
        kwargs = kwargs or {}
        if any(is_meta(value) for value in (*args, kwargs.get("device"))):  # a device of its own, without numbers
            args, kwargs = tree_map_only(OnGPU, lambda value: value.held, (args, kwargs))
            return func(*args, **kwargs)
        if func is Tensor.cuda or func is Tensor.cpu:
            func, args = Tensor.to, (args[0], OnGPU.there if func is Tensor.cuda else CPU)
        if func is torch.nn.functional.one_hot and isinstance(args[0], OnGPU):  # counts on the device that C++ sees
            return OnGPU(func(args[0].held, *args[1:], **kwargs))
        device = asked(func, args, kwargs)
        if device is None:
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != device.type:
            raise RuntimeError(f"a generator of {generator.device} cannot draw on {device}")
        args = tuple(CPU if is_device(value) else value for value in args)
        kwargs = {name: CPU if name == "device" else value for name, value in kwargs.items()}
        return tree_map_only(Tensor, lambda value: moved(value, device), func(*args, **kwargs))


def is_device(value: Any) -> bool:
    """Whether an argument names a device."""
    return isinstance(value, torch.device) or (isinstance(value, str) and value.partition(":")[0] in KINDS)


def is_meta(value: Any) -> bool:
    """Whether an argument names the device of tensors without numbers."""
    return isinstance(value, str | torch.device) and str(value) == "meta"


def asked(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    """The device that a call asks for; that of the other tensor in `x.to(other)`."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    if func is Tensor.to:
        for value in args[1:]:
            if isinstance(value, Tensor) or is_device(value):
                return value.device if isinstance(value, Tensor) else torch.device(value)
    return None


def moved(value: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; itself if it lies there."""
    if isinstance(value, OnGPU) == (device.type != "cpu"):
        return value
    return (Down if device.type == "cpu" else Up).apply(value)  # type: ignore[no-any-return, no-untyped-call]


@contextmanager
def pretended(kind: str = "cuda") -> Iterator[None]:
    """Torch finds one GPU, "cuda" (of 8 GiB) or "mps", and nothing is compiled."""
    about = {
        "is_available": kind == "cuda",
        "device_count": int(kind == "cuda"),
        "current_device": 0,
        "get_device_name": "Pretended GPU",
        "get_device_capability": (9, 0),
        "get_device_properties": SimpleNamespace(name="Pretended GPU", total_memory=2**33),
        "mem_get_info": (2**33, 2**33),
        "memory_allocated": 2**20,
        "max_memory_allocated": 2**21,
        "is_bf16_supported": True,
        **dict.fromkeys(("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats", "init"), None),
    }
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    OnGPU.there = torch.device(kind, 0)
    with pytest.MonkeyPatch.context() as patch, Devices():
        for name, answer in about.items():
            patch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
        patch.setattr(torch.backends.mps, "is_available", functools.cache(lambda: kind == "mps"))
        patch.setattr(torch, "compile", lambda network, **_: network)
        # neither knows tensors that hold another
        patch.setattr(torch, "inference_mode", lambda on=True: torch.no_grad() if on else nullcontext())
        patch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda _: None)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # else Module.to keeps tensors of the CPU
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
