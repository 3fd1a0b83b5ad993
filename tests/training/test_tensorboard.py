"""What a training lets one see while it trains: each thing that it promises is in TensorBoard."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dualdiff.training.config import TrainConfig
from dualdiff.training.run_folder import current_key
from dualdiff.training.tensorboard import TensorBoard
from dualdiff.training.unet import VALIDATION_SIGMAS

WIDTHS = [f"ema_beta/width_{width:g}" for width in TrainConfig().ema_widths]
OF_ALL = ["loss", "learning_rate", "gradient_norm", *WIDTHS, "costs/step_s", "costs/memory_mib"]


@pytest.fixture(scope="module")
def boards(chain: Path) -> dict[str, EventAccumulator]:
    return {name: EventAccumulator(str(chain / "runs" / name / "tb")).Reload() for name in ("vae", "unet")}


@pytest.mark.parametrize("network", ["vae", "unet"])
def test_what_every_training_shows(boards: dict[str, EventAccumulator], network: str) -> None:
    scalars = boards[network].Tags()["scalars"]
    assert set(OF_ALL) <= set(scalars)
    assert all(event.value > 0 for name in OF_ALL for event in boards[network].Scalars(name))


def test_the_vae_shows_its_terms_and_held_out_tracks_before_and_after(boards: dict[str, EventAccumulator]) -> None:
    tags = boards["vae"].Tags()
    terms = {"reconstruction", "amplitude", "phase", "kl", "log_variance", "latent_std"}
    validated = {f"validation/{name}" for name in ("reconstruction", "amplitude", "phase", "absolute_error")}
    assert terms | validated <= set(tags["scalars"])
    assert any(name.startswith("validation/absolute_error/game/") for name in tags["scalars"]), "each game by itself"
    heard = {f"track{number}-{kind}" for number in (1, 2) for kind in ("original", "through-vae")}
    assert set(tags["audio"]) == heard
    assert set(tags["images"]) == {f"{name}/spectrogram" for name in heard}


def test_the_unet_shows_the_loss_of_each_noise_level_its_law_and_fixed_seeds(
    boards: dict[str, EventAccumulator],
) -> None:
    tags = boards["unet"].Tags()
    scalars = set(tags["scalars"])
    assert {"denoising", "uncertainty", "log_sigma"} <= scalars
    assert sum(name.startswith("denoising/sigma_") for name in scalars) >= 4
    validated = {f"validation/denoising/sigma_{level:g}" for level in VALIDATION_SIGMAS if level > 0.1}
    assert validated <= scalars
    assert any(name.startswith("validation/held_out/game/") for name in scalars), "each game by itself"
    assert sum(name.startswith("noise/u/sigma_") for name in scalars) >= 8
    assert tags["histograms"] == ["noise/noise_density"]
    (density,) = boards["unet"].Histograms("noise/noise_density")[-1:]
    assert sum(density.histogram_value.bucket) == pytest.approx(1, abs=1e-6)
    assert set(tags["audio"]) == {"seed0", "seed1"}
    assert set(tags["images"]) == {"seed0/spectrogram", "seed1/spectrogram"}
    (picture,) = boards["unet"].Images("seed0/spectrogram")[-1:]
    assert min(picture.width, picture.height) > 50
    (sound,) = boards["unet"].Audio("seed0")[-1:]
    assert (sound.sample_rate, sound.length_frames) == (32000.0, 32000)


def test_each_preview_says_which_command_makes_it_again(chain: Path) -> None:
    for network in ("vae", "unet"):
        told = (chain / "runs" / network / "demos" / "00000004.txt").read_text()
        assert told == f"made by: dualdiff {network} train --preview 4\n"


def test_measures_of_the_first_records_are_read_by_their_keys_of_today(tmp_path: Path) -> None:
    for old, new in {
        "denoising at sigma 0.5": "denoising/sigma_0.5",
        "ema_beta at width 0.1": "ema_beta/width_0.1",
        "validation/held_out at Night at the Opera": "validation/held_out/game/Night at the Opera",
        "validation/held_out/game/Night at the Opera": "validation/held_out/game/Night at the Opera",
        "learning_rate": "learning_rate",
    }.items():
        assert current_key(old) == new


def test_a_game_is_one_group_whatever_its_name(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.scalars(1, {"validation/held_out/game/Night at the Opera": 0.5})
    board.close()
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"] == ["validation/held_out/game/Night at the Opera"]
