"""Renders of notes: each MIDI file and module of the training split played again in other keys, tempos and timbres.

Only pieces that are trained on are rendered again, so that no render of a held-out piece exists that could be trained
on. A piece counts for as much music as without renders: they share its weight.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dualdiff.audio import midi, modules, notes, openmpt
from dualdiff.audio.notes import Renderer, Variation
from dualdiff.core.errors import DataError
from dualdiff.core.rng import Stream
from dualdiff.data.analysis import UNREADABLE, Facts, Found, measure_audio
from dualdiff.data.manifest import Row

SEMITONES = (-3, -2, -1, 1, 2, 3)
TEMPOS = (0.9, 1.1)

MARK = "@"
"""What stands between a piece's path and the number of its render."""


@dataclass(frozen=True)
class Render:
    """A piece played again: which one, and how."""

    piece: Row
    number: int
    variation: Variation

    @property
    def path(self) -> str:
        """What the manifest calls it."""
        return f"{self.piece.path}{MARK}{self.number}"

    @property
    def found(self) -> Found:
        """What is measured: the file that the piece is in, by the render's path."""
        return Found(path=self.path, bytes=self.piece.bytes, mtime_ns=self.piece.mtime_ns)

    def is_unchanged(self, folder: Path, known: Facts | None, renderer: Renderer) -> bool:
        """Whether the facts are of this render, and its file is in the cache."""
        if known is None or (known.bytes, known.mtime_ns) != (self.piece.bytes, self.piece.mtime_ns):
            return False
        source = folder / file_of(self.piece.path)
        return renderer.has(Path(known.rendered), source, self.variation, tune_of(self.piece.path))


def soundfonts(project: Path, named: Sequence[str]) -> tuple[Path, ...]:
    """The soundfonts that the settings name, from the project's folder; for "auto" the machine's own, or none.

    Raises:
        DataError: one that is named is not there.
    """
    if tuple(named) == ("auto",):
        found = midi.find_soundfont()
        return (found,) if found else ()
    paths = tuple(project.absolute() / Path(name).expanduser() for name in named)
    for path in paths:
        if not path.is_file():
            raise DataError(f"there is no soundfont {path}", "install or fetch it, or change dataset.soundfonts")
    return paths


def variations(content_hash: str, count: int, fonts: Sequence[Path]) -> list[Variation]:
    """How a piece is played again, `count` times: another key each time, tempos spread over `TEMPOS`, fonts in turn.

    It depends on the piece's content alone; the first `count` of more are the same. The piece itself has the first of
    the soundfonts, at its own pitch and tempo.
    """
    numbers = Stream(0).at("renders", content_hash).numpy("variations")
    keys, offset = numbers.permutation(SEMITONES), float(numbers.random())
    low, high = TEMPOS
    found = []
    for number in range(1, count + 1):
        golden = (offset + number * (math.sqrt(5) - 1) / 2) % 1  # evenly spread, however many there are
        soundfont = fonts[number % len(fonts)] if fonts else None
        semitones = int(keys[(number - 1) % len(keys)])
        found.append(Variation(semitones=semitones, tempo=round(low + (high - low) * golden, 3), soundfont=soundfont))
    return found


def plan(rows: Iterable[Row], count: int, fonts: Sequence[Path]) -> list[Render]:
    """The renders of the used pieces to train on that hold notes: `count` times each in all, with the piece itself."""
    pieces = [
        row
        for row in rows
        if row.state == "used" and row.split == "train" and not row.piece and notes.can_vary(Path(file_of(row.path)))
    ]
    return [
        Render(piece, number, variation)
        for piece in pieces
        for number, variation in enumerate(variations(piece.sha256, count - 1, fonts), start=1)
    ]


def file_of(path: str) -> str:
    """The file of a row's path, without the number of a tune."""
    return path.rpartition("#")[0] if "#" in path.rpartition("/")[2] else path


def remarks(rows: Sequence[Row], count: int, played: Iterable[Facts]) -> list[str]:
    """What to say of renders that are asked for and cannot be made: a line each."""
    files = [Path(file_of(row.path)) for row in rows if row.state == "used" and not row.piece]
    failed = [own for own in played if own.error]
    found = [f"{len(failed)} renders cannot be made; {failed[0].path}: {failed[0].error}"] if failed else []
    if count > 1 and any(path.suffix.lower() in modules.TRANSPOSABLE for path in files) and not openmpt.has_library():
        found.append(f"dataset.renders = {count} needs libopenmpt for modules: {openmpt.GET_LIBRARY}")
    if count > 1 and not any(map(notes.holds_notes, files)):
        found.append(
            f"dataset.renders = {count} changes nothing: the music here is recordings, and only MIDI and modules can be"
            " played in other ways"
        )
    return found


def rows_of(rows: Sequence[Row], renders: Mapping[str, Render], played: Iterable[Facts]) -> list[Row]:
    """The rows, and those of the renders behind them; a piece and its renders share its weight equally.

    A render takes game, group and split from its piece. `played` are the renders' facts; one that could not be made is
    left out, and its piece keeps more of its weight.
    """
    made = [(renders[own.path], own) for own in played if not own.error]
    shares = Counter(render.piece.path for render, _ in made)
    pieces = [replace(row, weight_s=row.weight_s / (1 + shares[row.path])) for row in rows]
    return pieces + [_row(render, own, render.piece.weight_s / (1 + shares[render.piece.path])) for render, own in made]


_MEASURED = (
    *("duration_s", "sample_rate", "channels", "loudness_lufs", "true_peak_db", "clipped_share", "silence_share"),
    *("bandwidth_hz", "dual_mono", "dc", "loop_s", "unique_s", "sha256", "rendered"),
)
"""What a render's own audio says; all else of its row is its piece's."""


def _row(render: Render, facts: Facts, weight_s: float) -> Row:
    measured = {name: getattr(facts, name) for name in _MEASURED}
    variation = render.variation
    soundfont = variation.soundfont.name if variation.soundfont and notes.is_midi(Path(render.piece.path)) else ""
    return replace(
        render.piece,
        **measured,
        path=render.path,
        piece=render.piece.path,
        semitones=variation.semitones,
        tempo=variation.tempo,
        soundfont=soundfont,
        weight_s=weight_s,
    )


def measure_render(folder: Path, file: Found, renders: Mapping[str, Render], renderer: Renderer) -> Facts:
    """Play a render into the cache unless it is there, and measure it; what goes wrong becomes the facts' error."""
    render = renders[file.path]
    facts = Facts(path=file.path, bytes=file.bytes, mtime_ns=file.mtime_ns)
    source = folder / file_of(render.piece.path)
    try:
        target = renderer.render(source, render.variation, tune_of(render.piece.path))
        return measure_audio(target, source, replace(facts, rendered=str(target)))
    except (DataError, OSError) as error:
        return replace(facts, error=f"{UNREADABLE}: {error}")


def tune_of(path: str) -> int | None:
    """The number of the tune that a row's path names, from 0; None where it names a whole file."""
    number = path.rpartition("#")[2] if file_of(path) != path else ""
    return int(number) - 1 if number else None
