"""Decoders that hang, crash, fail or are interrupted; files that change while they are read."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dualdiff import audio
from dualdiff.audio import isolation
from dualdiff.core.errors import DataError


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    audio.write(path, 0.1 * torch.randn(2, 32000 * 20, generator=torch.Generator().manual_seed(0)), 32000)
    return path


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Let a line of Python run in the decoding process instead of the decoder."""
    isolation.close_idle()

    def fail(line: str) -> None:
        lines = [
            "import os, signal, sys, time; sys.path[:] = {path!r}",
            "from dualdiff.audio import decoding",
            "def stream(path, *_):",
            f"    {line}",
            "decoding.stream = stream",
            "from dualdiff.audio.decoding_process import serve; serve()",
        ]
        monkeypatch.setattr(isolation, "_CODE", "\n".join(lines))

    yield fail
    isolation.close_idle()


def test_a_decoder_that_hangs_is_ended_and_the_next_file_is_read(
    tone: Path, faulty: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "BASE_S", 0.2)
    monkeypatch.setattr(isolation, "BYTES_PER_S", 10_000_000)
    faulty("while True: pass")
    began = time.monotonic()
    with pytest.raises(DataError, match="keeps its decoder busy for more than"):
        audio.probe(tone)
    faulty("time.sleep(1000)")  # which costs no computing
    with pytest.raises(DataError, match="keeps its decoder busy for more than"):
        audio.probe(tone)
    assert time.monotonic() - began < 60
    monkeypatch.undo()
    assert audio.probe(tone).frames == 32000 * 20


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", rf"crash \(signal {signal.SIGSEGV.value}\)"),
        ("os._exit(3)", r"crash \(exit code 3\)"),
        ("raise MemoryError('7 TiB')", "cannot be decoded: MemoryError: 7 TiB"),
        ("return 1 / 0", "cannot be decoded: ZeroDivisionError"),
    ],
)
def test_a_decoder_that_crashes_or_fails_is_that_files_fault(
    tone: Path, faulty: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, line: str, words: str
) -> None:
    faulty(line)
    with pytest.raises(DataError, match=words) as caught:
        audio.read(tone, sample_rate=32000)
    assert str(tone) in caught.value.message
    monkeypatch.undo()
    isolation.close_idle()
    assert audio.read(tone, sample_rate=32000).shape == (2, 32000 * 20)


def test_the_process_is_reused_also_after_a_broken_file(tone: Path, tmp_path: Path) -> None:
    isolation.close_idle()
    audio.probe(tone)
    (process,) = isolation._idle
    (tmp_path / "a.ogg").write_bytes(b"OggS and nothing")
    with pytest.raises(DataError):
        audio.probe(tmp_path / "a.ogg")
    audio.read(tone, sample_rate=16000, start_s=1.0, duration_s=2.0)
    assert isolation._idle == [process]


def test_two_files_are_read_at_once_and_one_that_is_left_early_does_no_harm(tone: Path) -> None:
    first = audio.blocks(tone, sample_rate=32000, block_s=1.0)
    second = audio.blocks(tone, sample_rate=32000, block_s=1.0)
    for _ in range(3):
        assert torch.equal(next(first), next(second))
    first.close()  # in the middle
    rest = torch.cat(list(second), -1)
    assert torch.equal(rest, audio.read(tone, sample_rate=32000)[:, 3 * 32000 :])


def test_a_file_that_becomes_shorter_or_longer_while_it_is_read_is_named(tone: Path) -> None:
    for change in (lambda file: file.truncate(500_000), lambda file: file.write(bytes(500_000))):
        size = tone.stat().st_size
        blocks = audio.blocks(tone, sample_rate=32000, block_s=1.0)
        next(blocks)
        with open(tone, "ab") as file:
            change(file)
        os.utime(tone, (1, 1))
        with pytest.raises(DataError, match="changed while it was read"):
            list(blocks)
        assert tone.stat().st_size != size
        audio.write(tone, torch.zeros(2, 32000 * 20), 32000)


def test_an_interruption_comes_through_and_leaves_no_process(
    tone: Path, faulty: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty("while True: time.sleep(0.1)")
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        audio.probe(tone)
    assert not isolation._idle


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_the_process_ends_with_its_parent_even_where_its_decoder_hangs(tone: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        process = isolation._Process()
        os.write(write, str(process._process.pid).encode())
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)
    pid = int(os.read(read, 20))
    os.waitpid(child, 0)
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} is still there")


def test_what_libraries_write_to_the_standard_error_becomes_a_note(
    tone: Path, faulty: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    hard = Path(__file__).parents[1] / "hard" / "vbr-without-xing.mp3"
    content = hard.read_bytes()
    broken = tone.with_suffix(".mp3")
    broken.write_bytes(content[:5000] + content[5400:])
    from dualdiff.audio.reader import open_stream

    with open_stream(broken) as stream:
        assert sum(map(len, stream.blocks)) > 10 * 32000
    assert stream.notes
    assert capfd.readouterr().err == ""
