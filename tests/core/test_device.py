"""Device and precision."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dualdiff.core.device import compile_in_place, cpu_bfloat16, has_fast_bfloat16, select_device, select_precision
from dualdiff.core.errors import UsageError


def test_auto_finds_a_device_and_an_absent_one_is_refused() -> None:
    assert select_device("auto").type in ("cpu", "cuda", "mps")
    assert select_device("cpu") == torch.device("cpu")
    absent = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(UsageError, match=f'device "{absent}" is not on this machine'):
        select_device(absent)


def test_precision_is_what_is_asked_or_what_is_fast() -> None:
    cpu = torch.device("cpu")
    assert select_precision("float32", cpu) == torch.float32
    assert select_precision("bfloat16", cpu) == torch.bfloat16
    assert select_precision("auto", cpu) == (torch.bfloat16 if has_fast_bfloat16(cpu) else torch.float32)


@pytest.mark.parametrize(
    ("capabilities", "found"),
    [
        ({"avx2": True}, ""),
        ({"avx512_f": True, "avx512_bf16": False}, ""),
        ({"avx512_f": True, "avx512_bf16": True}, "avx512_bf16"),
        ({"avx512_bf16": True, "amx_bf16": True, "amx_tile": True}, "amx_bf16"),
        ({"avx2": True, "amx_fp16": True, "avx512_fp16": True}, ""),
        ({"neon": True, "bf16": True}, ""),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], found: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert cpu_bfloat16() == found
    assert select_precision("auto", torch.device("cpu")) == (torch.bfloat16 if found else torch.float32)


@pytest.mark.parametrize(("amx", "avx512", "found"), [(1, 1, "amx_bf16"), (0, 1, "avx512_bf16"), (0, 0, "")])
def test_an_older_torch_is_asked_the_same(monkeypatch: pytest.MonkeyPatch, amx: int, avx512: int, found: str) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512))
    assert cpu_bfloat16() == found
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert cpu_bfloat16() == ""


def test_networks_are_not_compiled_on_a_cpu() -> None:
    network = nn.Linear(2, 2)
    compile_in_place(network, torch.device("cpu"))
    assert "forward" not in vars(network)


def test_a_compiled_network_answers_the_same_and_keeps_the_names_of_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def counted(plain: Callable[..., torch.Tensor], **_: object) -> Callable[..., torch.Tensor]:
        def fast(*inputs: torch.Tensor) -> torch.Tensor:
            calls.append(inputs)
            return plain(*inputs)

        return fast

    monkeypatch.setattr(torch, "compile", counted)
    network, x = nn.Linear(2, 2), torch.ones(1, 2)
    expected = network(x)
    compile_in_place(network, torch.device("cuda"))
    assert torch.equal(network(x), expected)
    assert len(calls) == 1
    assert list(network.state_dict()) == ["weight", "bias"]


def test_where_compiling_fails_the_plain_network_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> object:
        def call(*_: object) -> object:
            raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no compiler"), [])

        return call

    monkeypatch.setattr(torch, "compile", broken)
    network, x = nn.Linear(2, 2), torch.ones(1, 2)
    expected = network(x)
    compile_in_place(network, torch.device("cuda"))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(network(x), expected)
        assert torch.equal(network(x), expected)
    assert sum("not compiled" in record.message for record in caplog.records) == 1


def test_an_error_of_the_network_itself_is_not_taken_for_a_failed_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    network = nn.Linear(2, 2)
    compile_in_place(network, torch.device("cuda"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network(torch.ones(1, 3))
