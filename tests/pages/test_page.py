"""The report: one page that needs nothing else, with every name escaped; opened in a browser where one is installed."""

import base64
import hashlib
import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dualdiff.core.errors import UsageError
from dualdiff.inspection.report_data import Bars, Histogram, Lines, Report, ReportTable, Scatter
from dualdiff.pages.charts import BAR_ROWS, COLOURS, POINTS, AudioPlayer, SpectrogramImage, figure, number, ticks
from dualdiff.pages.page import MOST_ROWS, OPEN_ROWS, STYLE, document, page
from dualdiff.pages.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSERS_OWN = re.compile(r"https?://[\w.-]+\.(google|googleapis)\.com/")
"""What the browser asks for by itself, whatever the page."""
NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
EVIL = '<script>fetch("http://127.0.0.1:9/x")</script> & "quotes" \u202e\u0007 é 音'
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
CHARTS = [
    Bars(title=EVIL, unit="min", values={EVIL: 3.0, "other": 1.5}),
    Histogram(title="lengths", unit="s", values=[1.0, 2.0, 2.5, 9.0]),
    Lines(title="loss", series={EVIL: [(1, 1.0), (2, 0.5)], "other": [(2, 0.7), (4, 0.2)]}),
    SpectrogramImage(title="picture", png=PNG, words=EVIL),
    Scatter(title="map", words=EVIL, places={EVIL: (1.0, 2.0), "other": (-1.0, 0.5)}),
    AudioPlayer(title="sound", content=b"fLaC", suffix=".flac", words=EVIL),
]


def finding(**changes) -> Report:
    values = {
        "kind": "data set",
        "path": Path("/music") / EVIL.replace("/", "-"),
        "facts": {"hours": 4.25, EVIL: EVIL, "list": [1, 2], "none": None},
        "notes": [EVIL],
        "sheets": [ReportTable(title=EVIL, columns=("game", "tracks"), rows=[(EVIL, 3), ("other", 1200)])],
        "charts": CHARTS,
        "next": f"dualdiff {EVIL}",
    }
    return Report(**{**values, **changes})


class Elements(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_a_page_has_no_script_and_nothing_from_elsewhere():
    found = Elements(page(finding()))
    assert "script" not in found.names
    assert "link" not in found.names
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "href"]
    assert [value[:15] for name, value in found.attributes if name == "src"] == ["data:image/png;", "data:audio/flac"]
    assert not re.search(r"url\(|@import", STYLE)
    assert "default-src 'none'" in page(finding())


def test_names_are_shown_as_they_are():
    found = Elements(page(finding()))
    assert found.text.count("<script>fetch(") >= 9
    assert "音" in found.text
    assert page(finding(path=Path("/music/\udcff.ogg"))).encode("utf-8")


def test_numbers_lists_and_nothing_are_written_for_people():
    text = Elements(page(finding())).text
    assert "1,200" in text
    assert "4.25" in text
    assert "1, 2" in text
    assert "None" not in text


@pytest.mark.parametrize(("count", "tag"), [(OPEN_ROWS, "section"), (OPEN_ROWS + 1, "details")])
def test_a_long_table_is_folded(count, tag):
    sheet = ReportTable(title="games", columns=("game", "tracks"), rows=[("a", n) for n in range(count)])
    assert tag in Elements(page(finding(sheets=[sheet]))).names


def test_a_very_long_table_is_cut_and_says_so():
    sheet = ReportTable(title="files", columns=("file",), rows=[(f"{n}.ogg",) for n in range(MOST_ROWS + 5)])
    text = page(finding(sheets=[sheet]))
    assert f"{MOST_ROWS - 1}.ogg" in text
    assert f"{MOST_ROWS}.ogg" not in text
    assert "the first 2,000 of 2,005" in text


def test_a_page_replaces_another_only_when_told_to(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, finding(facts={"hours": 1.5}))
    with pytest.raises(UsageError, match="exists already"):
        write_report(path, finding(facts={"hours": 2.5}))
    assert "1.5" in path.read_text(encoding="utf-8")
    write_report(path, finding(facts={"hours": 2.5}), force=True)
    assert "2.5" in path.read_text(encoding="utf-8")


def test_many_bars_become_a_few_and_the_rest():
    chart = figure(Bars(title="t", unit="min", values={f"game {n}": 1.0 for n in range(100)}))
    assert chart.count("<rect") == BAR_ROWS
    assert f"{100 - BAR_ROWS + 1} others" in chart


def test_bars_are_as_long_as_their_values():
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height', figure(CHARTS[0]))]
    assert widths[0] == pytest.approx(2 * widths[1])


@pytest.mark.parametrize("values", [[5.0], [5.0] * 9, [0.0, 1e-9], [-70.0, -12.0, -9.0]])
def test_any_spread_is_drawn_with_all_its_values(values):
    counts = re.findall(r": (\d+) tracks", figure(Histogram(title="t", unit="LUFS", values=values)))
    assert sum(map(int, counts)) == len(values)


def test_lines_keep_their_last_point_and_leave_out_what_is_not_finite():
    points = [(step, 1.0 / step) for step in range(1, 5000)]
    chart = figure(Lines(title="t", series={"a": points, "b": [(1, float("nan"))]}))
    assert chart.count("<polyline") == 1
    assert len(re.search(r'points="([^"]*)"', chart)[1].split()) <= POINTS
    assert "at step 4999" in chart
    assert "no finite values" in figure(Lines(title="t", series={"b": [(1, float("inf"))]}))


def test_a_measure_over_many_powers_of_ten_has_a_logarithmic_axis():
    chart = figure(Lines(title="t", series={"a": [(1, 1.0), (2, 0.1), (3, 0.01), (4, 0.001)]}))
    heights = [float(point.split(",")[1]) for point in re.search(r'points="([^"]*)"', chart)[1].split()]
    steps = [after - before for before, after in itertools.pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.11)


def test_the_style_has_every_colour_of_the_lines():
    assert all(STYLE.count(f"--s{index}:") == 2 for index in range(COLOURS))


def test_a_scatter_keeps_directions_and_shows_names_that_do_not_cover_each_other():
    chart = figure(Scatter(title="t", words="", places={"a": (0.0, 0.0), "b": (0.0, 1e-6), "c": (2.0, 1.0)}))
    xs, ys = (
        [float(value) for value in re.findall(rf'<circle[^>]* {axis}="([\d.]+)"', chart)] for axis in ("cx", "cy")
    )
    assert xs[0] == xs[1] < xs[2]
    assert ys[2] < ys[0] == pytest.approx(ys[1], abs=0.1)
    assert (xs[2] - xs[0]) == pytest.approx(2 * (ys[0] - ys[2]), abs=0.5)
    assert re.findall(r"<text[^>]*>(.)</text>", chart) == ["a", "c"]
    assert chart.count("<title>") == 3


def test_one_script_may_run_and_no_other():
    text = document("t", "<p>body", script="let x = '音'")
    digest = base64.b64encode(hashlib.sha256("let x = '音'".encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert Elements(text).names.count("script") == 1
    assert "script" not in document("t", "<p>body")


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-27.4, -9.4, 4) == [-25, -20, -15, -10]
    assert ticks(3, 3) == [3]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12345.6, "12,346"), (0.12345, "0.123"), (2.5e-5, "2.5e-5"), (-18.04, "-18")]
)
def test_numbers_have_three_figures(value, text):
    assert number(value) == text


def requests_of(path: Path, folder: Path) -> tuple[set[str], str]:
    """The addresses outside the page that a browser asks for when it opens a page, and the page as it then is."""
    log = folder / "net.json"
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-extensions --dump-dom --virtual-time-budget=2000"
    )
    done = subprocess.run(
        [
            str(CHROMIUM),
            *flags.split(),
            NO_NAMES,
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            path.as_uri(),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    asked = re.findall(r'"url":"([^"]+)"', log.read_text(encoding="utf-8", errors="replace"))
    return {url for url in asked if not BROWSERS_OWN.match(url)}, done.stdout.decode("utf-8", "replace")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_page_and_asks_for_nothing(tmp_path):
    write_report(tmp_path / "report.html", finding(path=tmp_path / "dataset.jsonl"))
    asked, shown = requests_of(tmp_path / "report.html", tmp_path / "one")
    assert asked == set()
    assert "<h1>dataset.jsonl</h1>" in shown
    assert shown.count("<svg") == 4

    careless = tmp_path / "careless.html"
    careless.write_text('<img src="http://127.0.0.1:9/x.png">')
    assert requests_of(careless, tmp_path / "two")[0] == {"http://127.0.0.1:9/x.png"}, "a request would be seen"
