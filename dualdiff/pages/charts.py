"""Charts as SVG inside HTML: drawn with the page's own colours, without a script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

import numpy as np

from dualdiff import audio
from dualdiff.inspection.report_data import Bars, Chart, Histogram, Lines, PlayedWaveform, Recording, Scatter
from dualdiff.pages.embed import data_uri, picture_of, playable, player

WIDTH, HEIGHT = 640, 240
"""Of a chart, in its own units: it is scaled to the page."""

LEFT, RIGHT, ABOVE, BELOW = 58, 16, 14, 24
"""Margins of charts with axes."""

BAR_ROWS = 16
"""Bars that are shown; the rest is one bar."""

TALL_ROWS = 8
"""A chart of more bars is as high as two others."""

BAR_HEIGHT = 28
LABEL_WIDTH, VALUE_WIDTH = 190, 92
LETTERS = 24
"""Of a label."""

LABEL_MARGIN = 150
"""On both sides of a scatter, for names."""

COLOURS = 6
"""That the page has for lines; see `report`."""

POINTS = 400
"""Of a line: more would not be seen."""

LOG_SPAN = 100.0
"""A measure that is positive and spans more than this is drawn on a logarithmic axis."""


@dataclass(frozen=True, kw_only=True)
class SpectrogramImage:
    """A picture, as the bytes of a PNG file, and what it shows in words."""

    title: str
    png: bytes
    words: str


@dataclass(frozen=True, kw_only=True)
class AudioPlayer:
    """Audio to play: the bytes of a file, what kind of file (`embed.MEDIA`), and what it is in words."""

    title: str
    content: bytes
    suffix: str
    words: str


Drawing: TypeAlias = Bars | Histogram | Lines | SpectrogramImage | Scatter | AudioPlayer


def figures(charts: Sequence[Chart]) -> str:
    """Charts as HTML figures; a recording becomes a spectrogram and a player."""
    return "".join(map(figure, (own for chart in charts for own in _drawn(chart))))


def _drawn(chart: Chart) -> list[Drawing]:
    if isinstance(chart, PlayedWaveform):
        content, suffix = playable(None, chart.waveform, chart.sample_rate)
        return [AudioPlayer(title=chart.title, content=content, suffix=suffix, words=chart.words)]
    if not isinstance(chart, Recording):
        return [chart]
    start_s, end_s = chart.part or (0.0, None)
    rate = audio.probe(chart.path).sample_rate
    length_s = None if end_s is None else end_s - start_s
    waveform = audio.read(chart.path, sample_rate=rate, start_s=start_s, duration_s=length_s)
    content, suffix = playable(None if chart.part else chart.path, waveform, rate)
    words = "levels over time and frequency, in dB below the loudest point"
    return [
        SpectrogramImage(title="spectrogram", png=picture_of(waveform, rate), words=words),
        AudioPlayer(title="listen", content=content, suffix=suffix, words=""),
    ]


def figure(chart: Drawing) -> str:
    """A chart as an HTML figure."""
    drawers = {
        Bars: _bars,
        Histogram: _histogram,
        Lines: _lines,
        SpectrogramImage: _picture,
        Scatter: _scatter,
        AudioPlayer: _sound,
    }
    body: str = drawers[type(chart)](chart)  # type: ignore[operator]
    is_tall = isinstance(chart, Bars) and len(chart.values) > TALL_ROWS
    shape = ' class="wide"' if isinstance(chart, SpectrogramImage) else ' class="tall"' if is_tall else ""
    unit = _beside_the_title(chart)
    caption = escape(chart.title) + (f" <small>{escape(unit)}</small>" if unit else "")
    return f"<figure{shape}><figcaption>{caption}</figcaption>{body}</figure>"


def _beside_the_title(chart: Drawing) -> str:
    if isinstance(chart, Bars | Histogram):
        return chart.unit
    if isinstance(chart, Lines):
        return "by step"
    return "" if isinstance(chart, SpectrogramImage) else chart.words


def number(value: float) -> str:
    """A number to three figures or so, without an exponent where that can be read."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count`."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _svg(height: float, parts: Sequence[str], words: str) -> str:
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(words)}">{inside}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _shortened(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _bars(chart: Bars) -> str:
    """A bar per name, from the left; those beyond `BAR_ROWS` together in the last."""
    items = list(chart.values.items())
    if len(items) > BAR_ROWS:
        rest = items[BAR_ROWS - 1 :]
        items = [*items[: BAR_ROWS - 1], (f"{len(rest):,} others", sum(value for _, value in rest))]
    most = max((value for _, value in items), default=0.0) or 1.0
    scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / most
    parts = []
    for index, (name, value) in enumerate(items):
        y = index * BAR_HEIGHT + 4
        words = f"{number(value)} {chart.unit}".strip()
        is_rest = index == BAR_ROWS - 1 and len(chart.values) > BAR_ROWS
        width = max(1.0, value * scale)
        parts.append(
            f"<g><title>{escape(name)}: {words}</title>"
            + _text(LABEL_WIDTH - 10, y + 15, _shortened(name), "end", "label")
            + f'<rect class="{"rest" if is_rest else "bar"}" x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" '
            + f'height="{BAR_HEIGHT - 8}" rx="2"/>'
            + _text(LABEL_WIDTH + width + 7, y + 15, words)
            + "</g>"
        )
    return _svg(len(items) * BAR_HEIGHT + 8, parts, chart.title)


class _Axes:
    """The plane of a chart with axes: where values lie, and the grid that shows it."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], is_log: bool = False) -> None:
        self.x_range, self.y_range, self.is_log = x, y, is_log

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / ((high - low) or 1.0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        if self.is_log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return HEIGHT - BELOW - (value - low) / ((high - low) or 1.0) * (HEIGHT - ABOVE - BELOW)

    def grid(self) -> list[str]:
        low, high = self.y_range
        if self.is_log:
            powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
            levels = [10.0**power for power in powers] or [low, high]
        else:
            levels = ticks(low, high, 4)
        parts = []
        for level in levels:
            y = self.y(level)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(_text(LEFT - 8, y + 4, number(level), "end"))
        for place in ticks(*self.x_range, 7):
            parts.append(_text(self.x(place), HEIGHT - BELOW + 17, number(place), "middle"))
        bottom = HEIGHT - BELOW
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
        return parts


def _histogram(chart: Histogram) -> str:
    """How many values lie in each of up to 30 equal ranges."""
    values = np.asarray(chart.values, dtype=float)
    bins = int(np.clip(math.sqrt(len(values)) * 2, 6, 30))
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    axes = _Axes((low, high), (0.0, float(counts.max()) * 1.05))
    parts = axes.grid()
    for count, first, last in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            left, right, top = axes.x(float(first)), axes.x(float(last)), axes.y(float(count))
            parts.append(
                f'<rect class="bar" x="{left + 0.75:.1f}" y="{top:.1f}" width="{max(1.0, right - left - 1.5):.1f}" '
                f'height="{HEIGHT - BELOW - top:.1f}"><title>{number(first)} to {number(last)} {escape(chart.unit)}: '
                f"{count} tracks</title></rect>"
            )
    middle = float(np.median(values))
    parts.append(
        f'<line class="mark" x1="{axes.x(middle):.1f}" x2="{axes.x(middle):.1f}" y1="{ABOVE}" y2="{HEIGHT - BELOW}"/>'
    )
    side = "end" if axes.x(middle) > WIDTH * 0.75 else "start"
    parts.append(_text(axes.x(middle) + (6 if side == "start" else -6), ABOVE + 10, f"median {number(middle)}", side))
    return _svg(HEIGHT, parts, chart.title)


def _lines(chart: Lines) -> str:
    """A line per series, with a legend and the last value of each."""
    series = {name: [point for point in points if math.isfinite(point[1])] for name, points in chart.series.items()}
    series = {name: _thinned(points) for name, points in series.items() if points}
    if not series:
        return "<p>no finite values</p>"
    steps = [x for points in series.values() for x, _ in points]
    values = [y for points in series.values() for _, y in points]
    low, high = min(values), max(values)
    is_log = low > 0 and high / low > LOG_SPAN
    if not is_log:
        margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
    axes = _Axes((min(steps), max(steps)), (low, high), is_log)
    parts, legend = axes.grid(), []
    for index, (name, points) in enumerate(series.items()):
        colour = f"s{index % COLOURS}"
        words = f"{name}: {number(points[-1][1])} at step {points[-1][0]:g}"
        places = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="{colour}" points="{places}"><title>{escape(words)}</title></polyline>')
        x, y = points[-1]
        parts.append(f'<circle class="{colour}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3.5"/>')
        legend.append(f'<li class="{colour}">{escape(name)} <b>{number(y)}</b></li>')
    return _svg(HEIGHT, parts, chart.title) + f'<ul class="legend">{"".join(legend)}</ul>'


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` of the points, the last one among them."""
    every = math.ceil(len(points) / POINTS)
    return list(points[::-1][::every][::-1])


def _picture(chart: SpectrogramImage) -> str:
    return f'<img alt="{escape(chart.words)}" src="{data_uri(chart.png, ".png")}">'


def _sound(chart: AudioPlayer) -> str:
    return player(chart.content, chart.suffix, f"{chart.title} {chart.words}".strip())


def _scatter(chart: Scatter) -> str:
    """A dot per name on axes of one scale; a name is left out where another stands, and always shown on pointing."""
    if not chart.places:
        return "<p>no places</p>"
    xs, ys = zip(*chart.places.values(), strict=True)
    half = max(max(xs) - min(xs), (max(ys) - min(ys)) * WIDTH / (2 * HEIGHT)) * 0.55 or 1.0
    scale = (WIDTH / 2 - LABEL_MARGIN) / half
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for name, (x, y) in chart.places.items():
        across, down = WIDTH / 2 + (x - middle_x) * scale, HEIGHT - (y - middle_y) * scale
        parts.append(
            f'<circle class="s0" cx="{across:.1f}" cy="{down:.1f}" r="4"><title>{escape(name)}</title></circle>'
        )
        box = (across + 8, down, across + 8 + 7 * min(len(name), LETTERS))
        if not any(abs(box[1] - other[1]) < 14 and box[0] < other[2] and other[0] < box[2] for other in taken):
            taken.append(box)
            parts.append(_text(box[0], down + 4, _shortened(name), kind="label"))
    return _svg(2 * HEIGHT, parts, chart.title)
