"""The content of `dualdiff.toml`: one dataclass made of the configs of those who own them, and the presets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dualdiff.core import config
from dualdiff.core.config import Source, Table, section, setting
from dualdiff.core.errors import ConfigError, UsageError, did_you_mean
from dualdiff.data.config import EncodeConfig
from dualdiff.data.manifest import DatasetConfig, Row, music_folder
from dualdiff.diffusion.config import NoiseConfig
from dualdiff.formats.config import FORMAT_CONFIGS
from dualdiff.generation.config import GenerateConfig
from dualdiff.losses.config import SpectralLoss1dConfig, SpectralLossConfig
from dualdiff.model_store.location import shipped_model
from dualdiff.models.config import UNetConfig, VAEConfig
from dualdiff.project.presets import PRESETS
from dualdiff.training.config import TrainConfig, UNetObjectiveConfig, VAEObjectiveConfig

FILE_NAME = "dualdiff.toml"
REMOVED = ("phase", "format.phase_model")
"""Sections and settings of earlier versions."""


@dataclass(frozen=True, kw_only=True)
class ProjectConfig:
    """What holds for the whole project."""

    name: str = setting("my-music", "name of the project, shown in models")
    seed: int = setting(0, "seed of every random choice", minimum=0)
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "where to compute")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "numbers inside the networks; auto: bfloat16 where it is fast"
    )
    compile: bool = setting(True, "compile the networks on a GPU (falls back where compiling fails)")


def _training(name: str, meaning: str, **defaults: Any) -> Any:
    return section(name, TrainConfig, meaning, defaults=defaults)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of a project, one field per section of the file."""

    project: ProjectConfig = section("project", ProjectConfig, "the project as a whole")
    dataset: DatasetConfig = section("dataset", DatasetConfig, "which music, and how it is labelled")
    format: Any = section("format", FORMAT_CONFIGS, "waveform to sample and back", default="multimel")
    vae: VAEConfig = section("vae", VAEConfig, "the size of the VAE")
    vae_loss: VAEObjectiveConfig = section("vae.loss", VAEObjectiveConfig, "what the VAE is trained for")
    vae_spectral: SpectralLossConfig = section("vae.spectral", SpectralLossConfig, "the spectral loss of the VAE")
    vae_spectral_1d: SpectralLoss1dConfig = section(
        "vae.spectral_1d", SpectralLoss1dConfig, "the spectral loss of waveforms"
    )
    vae_train: TrainConfig = _training(
        "vae.train",
        "the training of the VAE",
        run="vae",
        steps=60000,
        crop_s=4.096,
        batch_size=16,
        grad_accum_steps=4,
        num_workers=2,
        decay_after_steps=20000,
    )
    encode: EncodeConfig = section("encode", EncodeConfig, "tracks to latents")
    unet: UNetConfig = section("unet", UNetConfig, "the size of the UNet")
    unet_loss: UNetObjectiveConfig = section("unet.loss", UNetObjectiveConfig, "what the UNet is trained for")
    unet_noise: NoiseConfig = section("unet.noise", NoiseConfig, "the noise levels of training")
    unet_train: TrainConfig = _training(
        "unet.train",
        "the training of the UNet",
        run="unet",
        steps=200000,
        crop_s=40.96,
        batch_size=32,
        grad_accum_steps=4,
        num_workers=2,
        decay_after_steps=35000,
    )
    generate: GenerateConfig = section("generate", GenerateConfig, "how clips are written")


@dataclass(frozen=True)
class Project:
    """An opened project: its folder, its settings, and where each of them stands."""

    root: Path
    settings: Settings
    source: Source

    def path(self, relative: str) -> Path:
        """A path of the settings, taken from the project's folder unless it is absolute."""
        return self.root / Path(relative).expanduser()

    def music(self, rows: Sequence[Row]) -> Path:
        """The folder of the music that the manifest's rows are of; `--set dataset.folder` names another one."""
        return music_folder(self.root, self.settings.dataset, () if "dataset.folder" in self.source.overrides else rows)

    def model(self, name: str) -> Path:
        """A model folder of the settings, or the model of that name that travels with the package."""
        place = self.path(name)
        return place if place.exists() else shipped_model(name) or place

    @property
    def ledger(self) -> Path:
        """The ledger's path."""
        return self.root / "dataset.jsonl"

    def error(self, key: str, problem: str, hint: str = "") -> ConfigError:
        """A ConfigError about the setting `key`, naming file, line and key."""
        return ConfigError(f"{self.source.where(key)}: {key} {problem}", hint)


def preset(name: str) -> Settings:
    """The settings of a preset.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS) or f"presets: {', '.join(PRESETS)}"
        raise UsageError(f'there is no preset "{name}"', hint)
    return config.assemble(Settings, _nested(PRESETS[name][0]))


def _nested(sections: Table) -> Table:
    """A table of dotted sections as the nested tables that TOML reads them into."""
    nested: Table = {}
    for name, values in sections.items():
        for part in reversed(name.split(".")):
            values = {part: values}
        nested = config.merge(nested, values)
    return nested


def open_project(root: Path, overrides: Sequence[str] = ()) -> Project:
    """Read `dualdiff.toml` in the folder `root`, with `section.key=value` overrides on top.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it holds what cannot be.
    """
    path = root / FILE_NAME
    if not path.is_file():
        raise ConfigError(
            f"there is no {FILE_NAME} in {root.resolve()}",
            "`dualdiff init` writes one; or name its folder with --project",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "it must be a UTF-8 text file") from error
    settings, source = config.read(Settings, text, FILE_NAME if root == Path() else str(path), overrides, REMOVED)
    return Project(root, settings, source)


def example_toml() -> str:
    """The text of `dualdiff.toml.example`: every setting with its default and one line of meaning."""
    heading = (
        "Every setting of dualdiff with its default, which is the `small` preset.\n"
        "`dualdiff init` writes this file as dualdiff.toml; what you leave out keeps its default."
    )
    return config.write(Settings(), heading)


def project_toml(preset_name: str, name: str) -> str:
    """The text of a new project's `dualdiff.toml`."""
    settings = preset(preset_name)
    settings = replace(settings, project=replace(settings.project, name=name))
    heading = f"Settings of a dualdiff project, from the preset `{preset_name}`: {PRESETS[preset_name][1]}."
    return config.write(settings, heading)
