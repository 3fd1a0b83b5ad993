"""A comparison to listen to: audio files in a folder, and one page with players and spectrograms side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dualdiff import __version__, audio
from dualdiff.core.files import own_folder, refuse_existing, write_text_atomically
from dualdiff.core.types import Waveform
from dualdiff.evaluation.metrics import METRICS
from dualdiff.evaluation.roundtrip import ORIGINAL, Comparison, Excerpt
from dualdiff.evaluation.spectrogram_image import SpectrogramRow, png, spectrogram_picture
from dualdiff.pages.embed import COMPACT, compact, data_uri, player
from dualdiff.pages.page import document, shown

PAGE_EXCERPTS = 4
"""A page lets hear so many excerpts,"""
PAGE_S = 15.0
"""and at most so much of each: it holds all of its audio itself."""
PAGE_COLOURS = 64
"""Of a spectrogram on the page: a third of the bytes."""
ANOTHER_OUT = "add --force to overwrite it, or give another --out"
STYLE = """
.takes { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(500px, 100%), 1fr)); gap: 18px; }
td:first-child { white-space: nowrap; }
"""


@dataclass
class ComparisonPage:
    """Keeps what ways made of excerpts: as files of a folder, and for a page; a `roundtrip.Listener`."""

    folder: Path
    sample_rate: int
    force: bool = False
    written: list[Path] = field(default_factory=list)
    _takes: dict[Path, list[tuple[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_existing([self.page], self.force, ANOTHER_OUT)

    @property
    def page(self) -> Path:
        """Where the page is written to."""
        return self.folder / "comparison.html"

    def __call__(self, excerpt: Excerpt, way: str, waveform: Waveform) -> None:
        """Write a take, and keep it for the page."""
        number = list(self._takes).index(excerpt.path) if excerpt.path in self._takes else len(self._takes)
        target = self.folder / f"{number + 1:02d}-{excerpt.path.stem}-{way}.flac"
        refuse_existing([target], self.force, ANOTHER_OUT)
        if not self.folder.exists():
            own_folder(self.folder, "comparison")
        audio.write(target, audio.below_full_scale(waveform), self.sample_rate, title=f"{excerpt.path.stem}, {way}")
        self.written.append(target)
        takes = self._takes.setdefault(excerpt.path, [])
        if number < PAGE_EXCERPTS:
            takes.append((way, self._card(excerpt, way, waveform)))

    def _card(self, excerpt: Excerpt, way: str, waveform: Waveform) -> str:
        """A take as a figure: what it is, a player, its spectrogram."""
        heard = waveform[:, : math.ceil(PAGE_S * self.sample_rate)]
        picture = spectrogram_picture([SpectrogramRow(way, heard)], self.sample_rate, excerpt.start_s).quantize(
            PAGE_COLOURS
        )
        words = f"{excerpt.path.stem}, {way}"
        image = f'<img alt="Spectrogram of {shown(words)}" src="{data_uri(png(picture), ".png")}">'
        sound = player(compact(heard, self.sample_rate), COMPACT, words)
        return f"<figure><figcaption>{shown(way)}</figcaption>{sound}{image}</figure>"

    def finish(self, title: str, rows: Sequence[Comparison]) -> Path:
        """Write the page: the table of the comparison, what it measures, and the takes of each excerpt."""
        sections = [
            f'<h2>{shown(path.name)}</h2><div class="takes">{"".join(card for _, card in _in_order(takes))}</div>'
            for path, takes in self._takes.items()
            if takes
        ]
        body = "\n".join(
            [
                f"<header><p class=kind>round trips</p><h1>{shown(title)}</h1></header>",
                table(rows),
                *sections,
                f"<h2>what is measured</h2>{definitions(rows)}",
                f"<footer>dualdiff {__version__}</footer>",
            ]
        )
        write_text_atomically(self.page, document(title, body, STYLE))
        return self.page


def _in_order(takes: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    return sorted(takes, key=lambda take: take[0] != ORIGINAL)


def table(rows: Sequence[Comparison]) -> str:
    """The comparison as an HTML table, a line for each way."""
    measured = [METRICS[name] for name in METRICS if name in rows[0].metrics]
    heads = ["way", *(f"{one.title}{', ' + one.unit if one.unit else ''} ({one.best})" for one in measured)]
    heads += ["excerpts", "kbit/s", "seconds per second"]
    lines = []
    for row in rows:
        cells = [row.name, *(row.metrics[name] for name in METRICS if name in row.metrics)]
        cells += [row.files, row.bitrate_kbps, row.real_time_factor]
        lines.append(f"<tr>{''.join(f'<td>{shown(cell)}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{shown(text)}</th>" for text in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{"".join(lines)}</table></div>'


def definitions(rows: Sequence[Comparison]) -> str:
    """What each measure is, as an HTML list; and what to do for those that are missing."""
    there = rows[0].metrics
    said = {metric.title: metric.definition if name in there else metric.missing for name, metric in METRICS.items()}
    lines = "".join(f"<tr><td>{shown(title)}</td><td>{shown(words)}</td></tr>" for title, words in said.items())
    return f'<div class="scroll"><table>{lines}</table></div>'
