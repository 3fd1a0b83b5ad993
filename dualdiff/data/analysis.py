"""What the files of a music folder are, whatever the settings: found, hashed and measured, in several processes."""

import os
import re
import threading
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from pathlib import Path

import torch

from dualdiff import audio
from dualdiff.audio import chiptunes, ffmpeg, midi, notes
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.audio.loudness import BLOCK, Meter
from dualdiff.audio.notes import Renderer, Variation
from dualdiff.core.errors import DataError
from dualdiff.core.files import has_key, kind_of, sha256_of
from dualdiff.core.process import ignore_terminal
from dualdiff.data.fingerprint import BandMeter, fingerprint_of, to_text
from dualdiff.data.loop_detection import loop_of, unique_duration_s

UNREADABLE, NEEDS_FFMPEG, LINK, OWN_CLIP = "unreadable", "needs ffmpeg", "link", "generated"
NEEDS_FLUIDSYNTH, NEEDS_SOUNDFONT = "needs fluidsynth", "needs a soundfont"
"""The kinds of reason why a file could not be measured."""

_OLD_RENDERING = re.compile(r"[0-9a-f]{32}(-\d+)?(\.[0-9.e+-]+s)?\.flac")
"""The names in the cache of versions that did not mark their folders."""

FILES_PER_PROCESS = 12
"""A process takes about as long to start as it takes to measure a few tracks."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file with the name of an audio file, or a tune of one; `problem` is the reason why it is not even opened."""

    path: str
    """From the music folder; for one tune of several, with `#` and its number."""
    bytes: int = 0
    mtime_ns: int = 0
    tune: int | None = None
    problem: str = ""

    @property
    def file(self) -> str:
        """The file's path from the music folder."""
        return self.path if self.tune is None else self.path.rpartition("#")[0]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file is. With an `error`, what could not be learned of it stays empty."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str = ""
    error: str = ""
    """A reason: a kind, a colon, the details."""
    rendered: str = ""
    title: str = ""
    album: str = ""
    duration_s: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    loudness_lufs: float | None = None
    true_peak_db: float | None = None
    clipped_share: float | None = None
    silence_share: float | None = None
    bandwidth_hz: float | None = None
    dual_mono: bool = False
    dc: float | None = None
    loop_s: float = 0.0
    unique_s: float = 0.0
    """The length of the track without what it plays again."""
    fingerprint: str = ""
    """As `fingerprint.to_text` gives it; empty once it is kept elsewhere."""
    group: str = ""


def find(folder: Path) -> tuple[list[Found], dict[str, int], list[str]]:
    """The audio files below a folder by path, how many other files there are by suffix, and folders that are left out.

    Hidden files and folders are passed over, and those below `folder` that this program wrote are left out. Links are
    followed, but no folder is entered twice; real folders come before links to them, so that a track keeps its true
    path.
    """
    found: list[Found] = []
    left_out: list[str] = []
    ignored: Counter[str] = Counter()
    folders, links = deque([""]), deque[str]()
    entered: set[tuple[int, int]] = set()
    while folders or links:
        linked = not folders
        inside = links.popleft() if linked else folders.popleft()
        try:
            status = os.stat(folder / inside)
            if (status.st_dev, status.st_ino) in entered:
                if linked:
                    found.append(Found(path=_printable(inside), problem=f"{LINK}: it leads to a folder read already"))
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
        except OSError as error:
            problem = f"{UNREADABLE}: the folder cannot be read ({error.strerror})"
            found.append(Found(path=_printable(inside), problem=problem))
            continue
        if inside and is_own_folder(folder / inside, [entry.name for entry in entries]):
            left_out.append(_printable(inside))
            continue
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(path)
            elif suffix in audio.AUDIO_SUFFIXES or suffix in ffmpeg.DEMUXERS or suffix in midi.SUFFIXES:
                found += _found(entry, path, suffix)
            else:
                ignored[suffix] += 1
    return sorted(found, key=lambda file: file.path), dict(ignored.most_common()), sorted(left_out)


def is_own_folder(folder: Path, names: Sequence[str]) -> bool:
    """Whether this program wrote a folder with files of these names: it is marked, or is a run or an old cache."""
    if kind_of(folder) is not None:
        return True
    if "state.json" in names and has_key(folder / "state.json", "dualdiff_run"):
        return True
    return bool(names) and all(_OLD_RENDERING.fullmatch(name) for name in names)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _found(entry: "os.DirEntry[str]", path: str, suffix: str) -> list[Found]:
    """A file, or each of its tunes."""
    if _printable(path) != path:
        return [Found(path=_printable(path), problem=f"{UNREADABLE}: its name is not valid UTF-8; rename it")]
    try:
        status = entry.stat()
        if not entry.is_file():
            return [Found(path=path, problem=f"{UNREADABLE}: it is not a regular file")]
        tunes = chiptunes.count_tunes(Path(entry.path)) if suffix in ffmpeg.CONSOLE_SUFFIXES else 1
    except OSError as error:
        return [Found(path=path, problem=f"{UNREADABLE}: {error.strerror or error}")]
    if tunes == 1:
        return [Found(path=path, bytes=status.st_size, mtime_ns=status.st_mtime_ns)]
    return [
        Found(path=f"{path}#{tune + 1:02d}", bytes=status.st_size, mtime_ns=status.st_mtime_ns, tune=tune)
        for tune in range(tunes)
    ]


def _printable(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def measure(folder: Path, file: Found, rendering: Rendering | None = None, renderer: Renderer | None = None) -> Facts:
    """Hash, probe, decode and measure one file; what is wrong with it becomes the `error` of the facts.

    Files that need ffmpeg are rendered first, as `rendering` says, and MIDI files by the `renderer`; without what plays
    them they have that need for an error.
    """
    facts = Facts(path=file.path, bytes=file.bytes, mtime_ns=file.mtime_ns, error=file.problem)
    if file.problem:
        return facts
    path = folder / file.file
    try:
        if notes.is_midi(path):
            return _played(path, facts, renderer or Renderer(cache=folder))
        if not ffmpeg.needs_ffmpeg(path):
            return measure_audio(path, path, facts)
        if rendering is None:
            return replace(facts, error=f"{NEEDS_FFMPEG}: only ffmpeg plays {path.suffix.lower()[1:]} files")
        rendered, heard = ffmpeg.render(path, rendering, file.tune or 0)
        facts = replace(facts, rendered=str(rendered))
        return measure_audio(rendered, path, facts, heard.tags)
    except DataError as error:
        return replace(facts, rendered="", error=f"{UNREADABLE}: {error.message.replace(str(path), 'it', 1)}")
    except OSError as error:
        return replace(facts, rendered="", error=f"{UNREADABLE}: {error.strerror or error}")


def _played(path: Path, facts: Facts, renderer: Renderer) -> Facts:
    """The facts of a MIDI file, as it plays at its own pitch and tempo."""
    if not midi.has_fluidsynth():
        return replace(facts, error=f"{NEEDS_FLUIDSYNTH}: only fluidsynth plays MIDI files")
    if renderer.soundfont is None:
        return replace(facts, error=f"{NEEDS_SOUNDFONT}: MIDI files hold notes, and no soundfont is there to play them")
    rendered = renderer.render(path, Variation(soundfont=renderer.soundfont))
    return measure_audio(rendered, path, replace(facts, rendered=str(rendered)))


def measure_audio(path: Path, named: Path, facts: Facts, tags: Mapping[str, str] | None = None) -> Facts:
    """The facts with all that is learned from the audio at `path`; without a title, the file `named` gives one."""
    facts = replace(facts, sha256=sha256_of(path))
    info = audio.probe(path)
    if any(text.startswith('{"dualdiff"') for text in [*info.tags.values(), *(tags or {}).values()]):
        return replace(facts, error=f"{OWN_CLIP}: its tags hold the recipe of a clip")
    tags = tags or info.tags
    meter, band_meter = Meter(info.sample_rate), BandMeter(info.sample_rate)
    for block in audio.blocks(path, sample_rate=info.sample_rate, block_s=BLOCK / info.sample_rate):
        meter.update(block.numpy())
        band_meter.add(block[0].add(block[1]).mul_(0.5))
    bands = band_meter.finish()
    loop, duration_s = loop_of(bands), meter.frames / info.sample_rate  # what is there; headers may only guess
    number = facts.path.rpartition("#")[2] if facts.path.rpartition("/")[2] != named.name else ""
    return replace(
        facts,
        title=tidy(tags.get("title", "")) or tidy(f"{named.stem} {number}"),
        album=tidy(tags.get("game", "")) or tidy(tags.get("album", "")),
        duration_s=duration_s,
        sample_rate=info.sample_rate,
        channels=info.channels,
        fingerprint=to_text(fingerprint_of(bands)),
        loop_s=round(loop.period_s, 2) if loop else 0.0,
        unique_s=round(unique_duration_s(duration_s, loop), 2) if loop else duration_s,
        **asdict(meter.levels()),
    )


def tidy(name: str) -> str:
    """A name as it is shown: accents composed, without control characters, single spaces."""
    letters = (letter if letter.isprintable() else " " for letter in unicodedata.normalize("NFC", name))
    return " ".join("".join(letters).split())


def measure_all(
    folder: Path,
    files: Iterable[Found],
    processes: int | None = None,
    measure: Callable[[Path, Found], Facts] = measure,
) -> Iterator[Facts]:
    """Measure files in several processes (None: as many as pay), yielding the facts as they come, in no order.

    A file that kills the process which reads it gets an `error`; no other file suffers.
    """
    files = list(files)
    yield from (measure(folder, file) for file in files if file.problem)
    queue = deque(_ordered([file for file in files if not file.problem]))
    if processes is None:
        processes = min(_cores(), len(queue) // FILES_PER_PROCESS)
    if processes <= 1:
        yield from (_on_one_thread(measure, folder, file) for file in queue)
        return
    while queue:
        suspects = yield from _until_a_process_dies(folder, queue, processes, measure)
        for suspect in suspects:
            died = yield from _until_a_process_dies(folder, deque([suspect]), 1, measure)
            for file in died:
                error = f"{UNREADABLE}: the process that read it died: its audio is damaged, or memory ran out"
                yield Facts(path=file.path, bytes=file.bytes, mtime_ns=file.mtime_ns, error=error)


def _on_one_thread(measure: Callable[[Path, Found], Facts], folder: Path, file: Found) -> Facts:
    """Measure a file without more threads: the pieces are small, and threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure(folder, file)
    finally:
        torch.set_num_threads(threads)


def _ordered(files: list[Found]) -> list[Found]:
    """The largest files first, so that none is left at the end alone; the others as they come, for an honest ETA."""
    large = sorted(files, key=lambda file: -file.bytes)[: len(files) // 50]
    paths = {file.path for file in large}
    return [*large, *(file for file in files if file.path not in paths)]


def _until_a_process_dies(
    folder: Path, queue: "deque[Found]", processes: int, measure: Callable[[Path, Found], Facts]
) -> Generator[Facts, None, list[Found]]:
    """Measure what is in the queue; returns the files that were at work when a process died, if one did."""
    working: dict[Future[Facts], Found] = {}
    pool = ProcessPoolExecutor(processes, _context(), initializer=_start_process)
    try:
        while queue or working:
            while queue and len(working) < 2 * processes:
                working[pool.submit(measure, folder, queue[0])] = queue[0]
                queue.popleft()
            for done in wait(working, return_when=FIRST_COMPLETED).done:
                yield done.result()
                del working[done]
    except BrokenProcessPool:
        return list(working.values())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return []


def _context() -> BaseContext:
    """How processes are started: not as forks of this one, which has used threads and could hang.

    Where there is such a thing, they are forks of a process that has imported all they need, and does nothing else.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _start_process() -> None:
    torch.set_num_threads(1)
    ignore_terminal()  # Ctrl-C and a closed terminal reach every process; the main one decides
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """Leave as soon as the main process is gone, killed or not; else this one would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
