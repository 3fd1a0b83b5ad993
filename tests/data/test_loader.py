"""The loader: the same batches whoever makes them, errors as the user should see them, no worker left behind."""

import itertools
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass

import pytest
import torch

from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.rng import Stream
from dualdiff.data.loader import PREFETCH, Batch, _handed_over, load

RANGES = [(0, 2), (2, 2), (10, 3), (4, 1), (0, 2)]


@dataclass
class Noise:
    """Example i is noise from stream i; asking for `bad` is an error of the user's, for `deadly` kills the process."""

    bad: int = -1
    deadly: int = -1

    def examples(self, first: int, count: int) -> Batch:
        if first == self.bad:
            raise DataError(f"example {first} is broken", "mend it")
        if first == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        numbers = range(first, first + count)
        rows = [torch.randn(64, generator=Stream(3).at(i).torch("noise")) for i in numbers]
        weight = torch.randn(64, 64, generator=Stream(3).torch("weight"))
        return Batch({"noise": torch.stack(rows) @ weight}, [f"{i} in {torch.get_num_threads()}" for i in numbers])


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.names == b.names and torch.equal(a.tensors["noise"], b.tensors["noise"])
        for a, b in zip(one, other, strict=True)
    )


def test_batches_come_in_the_order_asked_for() -> None:
    batches = list(load(Noise(), RANGES))
    assert [len(batch) for batch in batches] == [2, 2, 3, 1, 2]
    assert batches[2].names == ["10 in 1", "11 in 1", "12 in 1"]
    assert same(batches[:1], batches[4:])


@pytest.mark.parametrize(("workers", "start_method"), [(2, "fork"), (1, "spawn")])
def test_workers_make_the_same_batches(workers: int, start_method: str) -> None:
    alone = list(load(Noise(), RANGES))
    shared = list(load(Noise(), RANGES, workers, start_method=start_method))  # type: ignore[arg-type]
    assert same(alone, shared)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(load(Noise(), RANGES))
    assert torch.equal(before, torch.get_rng_state())


def test_the_main_process_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    next(load(Noise(), RANGES))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_user_arrives_whole(workers: int) -> None:
    batches = load(Noise(bad=10), RANGES, workers, start_method="fork")
    assert len(next(batches)) == len(next(batches)) == 2
    with pytest.raises(DataError, match=r"^example 10 is broken$") as caught:
        next(batches)
    assert caught.value.hint == "mend it"


def test_endless_ranges_are_asked_for_only_a_little_ahead() -> None:
    asked = []

    def endless():
        for first in itertools.count():
            asked.append(first)
            yield first, 1

    batches = load(Noise(), endless(), 2, start_method="fork")
    next(batches)
    batches.close()
    assert len(asked) <= 2 * PREFETCH + 2, "two ahead each, the one used, and the one at hand"


def test_the_next_batch_is_at_hand_while_one_is_used():
    taken = threading.Event()

    def batches():
        for number in range(4):
            if number == 1:
                taken.set()
            yield number

    handed_over = _handed_over(batches())
    assert next(handed_over) == 0
    assert taken.wait(timeout=10), "the second is taken without being asked for"
    assert list(handed_over) == [1, 2, 3]


def test_closing_stops_the_workers() -> None:
    batches = load(Noise(), ((i, 1) for i in itertools.count()), 2, start_method="fork")
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_a_dead_worker_is_told_in_words() -> None:
    with pytest.raises(DualdiffError, match="a process that loads batches died") as caught:
        list(load(Noise(deadly=2), RANGES, 1, start_method="fork"))
    assert "fewer workers" in caught.value.hint


def test_workers_leave_ctrl_c_to_the_main_process() -> None:
    batches = load(Noise(), RANGES, 1, start_method="fork")
    first = next(batches)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    assert same([first, *batches], list(load(Noise(), RANGES)))


def test_a_batch_moves_as_a_whole() -> None:
    batch = next(load(Noise(), [(0, 2)])).to("meta")
    assert batch.tensors["noise"].device.type == "meta"
    assert len(batch) == 2
