"""What a comparison lets hear: files, and a page that needs nothing else, opened in a browser where there is one."""

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import UsageError
from dualdiff.evaluation.metrics import METRICS
from dualdiff.evaluation.roundtrip import Comparison, Excerpt
from dualdiff.pages.comparison_page import PAGE_EXCERPTS, ComparisonPage
from tests.pages.test_page import CHROMIUM, Elements, requests_of

RATE = 16000
NAME = "<b>tune & \u97f3"


def listened(folder, files: int = 1, **more) -> ComparisonPage:
    listening = ComparisonPage(folder, RATE, **more)
    waveform = torch.randn(2, RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    for number in range(files):
        excerpt = Excerpt(folder / f"{NAME}{number}.flac", 3.0, waveform)
        for way in ("mel", "original", "mp3-64"):
            listening(excerpt, way, waveform)
    values = {name: 0.25 for name in METRICS if name != "note_agreement"}
    listening.finish(f"beside {NAME}", [Comparison("mel", files, 1.0, 0.1, 0.2, values, None)])
    return listening


def test_takes_are_written_and_the_original_comes_first(tmp_path):
    listening = listened(tmp_path / "out")
    assert [path.name for path in listening.written] == [
        f"01-{NAME}0-{way}.flac" for way in ("mel", "original", "mp3-64")
    ]
    assert audio.probe(listening.written[0]).frames == RATE
    found = Elements(listening.page.read_text(encoding="utf-8"))
    assert found.names.count("audio") == found.names.count("img") == 3
    assert "b" not in found.names
    assert found.text.index("original") < found.text.index("mp3-64")
    assert all(value.startswith("data:") for name, value in found.attributes if name in ("src", "href"))
    assert "dualdiff[eval]" in found.text
    assert METRICS["log_mel_distance"].definition in found.text


def test_a_page_holds_a_few_excerpts_and_the_folder_all(tmp_path):
    listening = listened(tmp_path / "out", files=PAGE_EXCERPTS + 1)
    assert len(listening.written) == 3 * (PAGE_EXCERPTS + 1)
    assert listening.page.read_text(encoding="utf-8").count("<audio") == 3 * PAGE_EXCERPTS


def test_nothing_is_overwritten_without_force(tmp_path):
    listened(tmp_path)
    with pytest.raises(UsageError, match=r"comparison\.html exists already"):
        listened(tmp_path)
    (tmp_path / "comparison.html").unlink()
    with pytest.raises(UsageError, match="mel.flac exists already"):
        listened(tmp_path)
    listened(tmp_path, force=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_page_and_asks_for_nothing(tmp_path):
    asked, shown = requests_of(listened(tmp_path / "out").page, tmp_path)
    assert asked == set()
    assert shown.count("<audio") == 3
