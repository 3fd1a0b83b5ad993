"""Device and precision."""

import logging

import pytest
import torch
from torch import nn

from dualdiff.device import compiled, has_fast_bfloat16, select_device, select_precision
from dualdiff.errors import UsageError


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


def test_networks_are_not_compiled_on_a_cpu() -> None:
    network = nn.Linear(2, 2)
    assert compiled(network, torch.device("cpu")) is network


def test_where_compiling_fails_the_plain_network_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> object:
        def call(*_: object) -> object:
            raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no compiler"), [])

        return call

    monkeypatch.setattr(torch, "compile", broken)
    network = nn.Linear(2, 2)
    call = compiled(network, torch.device("cuda"))
    x = torch.ones(1, 2)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(call(x), network(x))
        assert torch.equal(call(x), network(x))
    assert sum("not compiled" in record.message for record in caplog.records) == 1


def test_an_error_of_the_network_itself_is_not_taken_for_a_failed_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compiled(nn.Linear(2, 2), torch.device("cuda"))(torch.ones(1, 3))
