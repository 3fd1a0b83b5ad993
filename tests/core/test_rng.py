"""Random streams: named, independent, repeatable."""

import numpy as np
import torch

from dualdiff.core.rng import Stream, derive_seed


def test_the_same_place_draws_the_same_numbers_and_other_places_others() -> None:
    stream = Stream(1).at("step", 3)
    assert torch.equal(torch.randn(4, generator=stream.torch("noise")), torch.randn(4, generator=stream.torch("noise")))
    seeds = {
        Stream(seed).at(*path).seed_for(purpose)
        for seed in (1, 2)
        for path in ((), ("step",), ("step", 3), ("step", "3"), (3, "step"))
        for purpose in ("noise", "labels")
    }
    assert len(seeds) == 20
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_never_change_between_versions() -> None:
    assert derive_seed(0) == 4246866556266386882
    assert derive_seed(5, "step", 12) == 725189226614196695


def test_no_two_paths_share_a_seed_whatever_is_in_their_names() -> None:
    paths = [
        ("a/i5",),
        ("a", 5),
        ("a", "5"),
        ("a\\", 5),
        ("a\\/i5",),
        ("a/", 5),
        ("a", "/i5"),
        ("a", "", 5),
        ("a//i5",),
    ]
    assert len({derive_seed(0, *path) for path in paths}) == len(paths)


def test_numpy_and_torch_streams_are_uniform() -> None:
    values = [Stream(0).at(index).numpy("x").random() for index in range(2000)]
    histogram = np.histogram(values, bins=10, range=(0, 1))[0]
    assert histogram.min() > 140
    assert histogram.max() < 260
