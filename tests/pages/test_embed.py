"""Audio inside a page."""

import base64
import re

import pytest
import torch

from dualdiff import audio
from dualdiff.pages.embed import COMPACT, compact, data_uri, player


def test_a_player_holds_the_whole_file():
    text = player(b"\x00fLaC\xff", ".FLAC", 'a "clip" <b>')
    assert base64.b64decode(re.search(r'src="data:audio/flac;base64,([^"]+)"', text)[1]) == b"\x00fLaC\xff"
    assert "a &quot;clip&quot; &lt;b&gt;" in text


def test_what_browsers_do_not_play_has_no_address():
    with pytest.raises(KeyError):
        data_uri(b"", ".exe")


def test_compact_is_small_and_the_same_music(tmp_path):
    rate = 32000
    waveform = 1.5 * torch.sin(torch.arange(rate) * 0.05).expand(2, -1)  # too loud for a file
    content = compact(waveform, rate)
    path = tmp_path / f"clip{COMPACT}"
    path.write_bytes(content)
    again = audio.read(path, sample_rate=rate)
    assert again.shape == waveform.shape
    assert torch.nn.functional.cosine_similarity(again[0], waveform[0], dim=0) > 0.99
    assert len(content) < 2 * rate
