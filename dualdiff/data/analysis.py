"""What the files of a music folder are, whatever the settings: found, hashed and measured, in several processes."""

import os
import re
import threading
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TypeAlias

import torch

from dualdiff.audio import decoding, ffmpeg, midi, notes
from dualdiff.audio.cache import Cache, Copy, gain_for, identity
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.audio.loudness import Levels, Meter
from dualdiff.audio.notes import Renderer, Variation
from dualdiff.audio.reader import READABLE, open_stream, stereo_blocks
from dualdiff.audio.stream import REPAIR, Stream
from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import has_key, kind_of, sha256_of
from dualdiff.core.process import ignore_terminal
from dualdiff.data.fingerprint import BandMeter, Bands, fingerprint_of, to_text
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
    note: str = ""
    """What is odd about the file, though it was read: what its decoder warned of."""


LONGEST_TEXT = 200
"""Letters of a title or an album that are kept."""


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
            elif suffix in READABLE:
                found.append(_found(entry, path))
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


def _found(entry: "os.DirEntry[str]", path: str) -> Found:
    if _printable(path) != path:
        return Found(path=_printable(path), problem=f"{UNREADABLE}: its name is not valid UTF-8; rename it")
    try:
        status = entry.stat()
        if not entry.is_file():
            return Found(path=path, problem=f"{UNREADABLE}: it is not a regular file")
    except OSError as error:
        return Found(path=path, problem=f"{UNREADABLE}: {error.strerror or error}")
    return Found(path=path, bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def with_tunes(folder: Path, files: Iterable[Found], known: Mapping[tuple[str, int, int], int]) -> list[Found]:
    """The files, with each tune of those that hold several in the place of the file.

    `known` is how many tunes files have, by path, bytes and time of change; others are opened and counted.
    """
    files = list(files)
    unknown = [file for file in files if _may_hold_tunes(file) and _key(file) not in known]
    with ThreadPoolExecutor(_cores()) as pool:  # ffprobe does the work
        counts = dict(zip(map(_key, unknown), pool.map(lambda file: _tunes(folder / file.path), unknown), strict=True))
    found: list[Found] = []
    for file in files:
        count = counts.get(_key(file), known.get(_key(file), 1)) if _may_hold_tunes(file) else 1
        numbered = [replace(file, path=f"{file.path}#{tune + 1:02d}", tune=tune) for tune in range(count)]
        found += numbered if count > 1 else [file]
    return found


def _key(file: Found) -> tuple[str, int, int]:
    return file.file, file.bytes, file.mtime_ns


def _may_hold_tunes(file: Found) -> bool:
    suffix = os.path.splitext(file.path)[1].lower()
    return not file.problem and suffix in (*ffmpeg.CONSOLE_SUFFIXES, *ffmpeg.MODULE_SUFFIXES)


def _tunes(path: Path) -> int:
    """How many tunes a file holds; one where it cannot be read, for which it is named when it is measured."""
    try:
        return ffmpeg.count_tunes(path)
    except (OSError, DataError):
        return 1


def _printable(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def measure(
    folder: Path, file: Found, cache: Cache, rendering: Rendering, renderer: Renderer, has_ffmpeg: bool = True
) -> Facts:
    """Hash, decode and measure one file, or one of its tunes; what is wrong with it becomes the `error` of the facts.

    What cannot be read from its middle is copied into the cache, and MIDI files are played by the `renderer`; without
    what plays them files have that need for an error.
    """
    facts = Facts(path=file.path, bytes=file.bytes, mtime_ns=file.mtime_ns, error=file.problem)
    if file.problem:
        return facts
    path = folder / file.file
    try:
        if ffmpeg.needs_ffmpeg(path) and not has_ffmpeg:
            return replace(facts, error=f"{NEEDS_FFMPEG}: only ffmpeg plays {path.suffix.lower()[1:]} files")
        if notes.is_midi(path):
            return _played(path, facts, renderer)
        measured = _measured(folder / file.path, file, facts, cache, rendering)
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != (file.bytes, file.mtime_ns):
            return replace(facts, error=f"{UNREADABLE}: it changed while it was read; scan again when it is complete")
        return measured
    except DualdiffError as error:
        if not isinstance(error, DataError):  # the cache cannot be written to
            raise
        return replace(facts, error=f"{UNREADABLE}: {error.message.replace(str(path), 'it', 1)}")
    except OSError as error:
        return replace(facts, error=f"{UNREADABLE}: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - one file never ends a scan: the manifest has its reason
        return replace(facts, error=f"{UNREADABLE}: an unexpected {type(error).__name__}: {tidy(str(error))[:200]}")


def _played(path: Path, facts: Facts, renderer: Renderer) -> Facts:
    """The facts of a MIDI file, as it plays at its own pitch and tempo."""
    if not midi.has_fluidsynth():
        return replace(facts, error=f"{NEEDS_FLUIDSYNTH}: only fluidsynth plays MIDI files")
    if renderer.soundfont is None:
        return replace(facts, error=f"{NEEDS_SOUNDFONT}: MIDI files hold notes, and no soundfont is there to play them")
    rendered = renderer.render(path, Variation(soundfont=renderer.soundfont))
    return measure_audio(rendered, path, replace(facts, rendered=str(rendered)))


def measure_audio(path: Path, named: Path, facts: Facts) -> Facts:
    """The facts with all that is learned from a file that dualdiff has written; the file `named` gives the title."""
    with decoding.stream(path) as stream:
        return _described(stream, _surveyed(stream), named.stem, replace(facts, sha256=sha256_of(path)))


def _measured(path: Path, file: Found, facts: Facts, cache: Cache, rendering: Rendering) -> Facts:
    """The facts with all that is learned from the audio of a file or tune; without a title, its name gives one."""
    name = identity(path, rendering)
    facts, peak = replace(facts, sha256=name), 0.0
    with open_stream(path, rendering=rendering) as stream:
        if any(text.startswith('{"dualdiff"') for text in stream.tags.values()):
            return replace(facts, error=f"{OWN_CLIP}: its tags hold the recipe of a clip")
        copy_at = None if stream.is_seekable else cache.path(name)
        if copy_at is None or copy_at.exists():
            survey = _surveyed(stream)
        else:
            with cache.writing(name, stream) as copy:
                survey = _surveyed(stream, copy)
            peak = copy.peak
    if peak > 1:
        cache.store(name, path, rendering, gain_for(peak))
    title = Path(file.file).stem if file.tune is None else f"{Path(file.file).stem} {file.tune + 1:02d}"
    return _described(stream, survey, title, replace(facts, rendered=str(copy_at or "")))


Survey: TypeAlias = tuple[Levels, Bands, int]
"""The levels, bands and number of frames of a track."""


def _described(stream: Stream, survey: Survey, name: str, facts: Facts) -> Facts:
    """The facts with what a stream and its survey say; `name` is the title of a track without one."""
    levels, bands, frames = survey
    loop, duration_s = loop_of(bands), frames / stream.sample_rate
    return replace(
        facts,
        title=_shortened(stream.tags.get("title", "")) or _shortened(name),
        album=_shortened(stream.tags.get("game", "")) or _shortened(stream.tags.get("album", "")),
        duration_s=duration_s,
        sample_rate=stream.sample_rate,
        channels=stream.channels,
        fingerprint=to_text(fingerprint_of(bands)),
        loop_s=round(loop.period_s, 2) if loop else 0.0,
        unique_s=round(unique_duration_s(duration_s, loop), 2) if loop else duration_s,
        note=tidy("; ".join(stream.notes)),
        **asdict(levels),
    )


def _surveyed(stream: Stream, copy: Copy | None = None) -> Survey:
    """The levels, bands and frames of a stream, which is also written to a copy.

    Raises:
        DataError: it holds no audio.
    """
    meter, band_meter = Meter(stream.sample_rate), BandMeter(stream.sample_rate)
    for block in stereo_blocks(stream):
        if copy:
            copy.add(block.T.numpy())
        meter.update(block.numpy())
        band_meter.add(block[0].add(block[1]).mul_(0.5))
    if not meter.frames:
        raise DataError("it holds no audio", REPAIR)
    return meter.levels(), band_meter.finish(), meter.frames


def _shortened(name: str) -> str:
    """A tag, tidied, of a length that fits into a table."""
    text = tidy(name)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def tidy(name: str) -> str:
    """A name as it is shown: accents composed, without control characters, single spaces."""
    letters = (letter if letter.isprintable() else " " for letter in unicodedata.normalize("NFC", name))
    return " ".join("".join(letters).split())


def measure_all(
    folder: Path,
    files: Iterable[Found],
    measure: Callable[[Path, Found], Facts],
    processes: int | None = None,
    in_hand: Callable[[Found], None] = lambda _: None,
) -> Iterator[Facts]:
    """Measure files in several processes (None: as many as pay), yielding the facts as they come, in no order.

    `in_hand` is called with the file that has been worked on for longest, whenever it is another one. A file that kills
    the process which reads it gets an `error`; no other file suffers.
    """
    files = list(files)
    yield from (measure(folder, file) for file in files if file.problem)
    queue = deque(_ordered([file for file in files if not file.problem]))
    if processes is None:
        processes = min(_cores(), len(queue) // FILES_PER_PROCESS)
    if processes <= 1:
        for file in queue:
            in_hand(file)
            yield _on_one_thread(measure, folder, file)
        return
    while queue:
        suspects = yield from _until_a_process_dies(folder, queue, processes, measure, in_hand)
        for suspect in suspects:
            died = yield from _until_a_process_dies(folder, deque([suspect]), 1, measure, in_hand)
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
    folder: Path,
    queue: "deque[Found]",
    processes: int,
    measure: Callable[[Path, Found], Facts],
    in_hand: Callable[[Found], None],
) -> Generator[Facts, None, list[Found]]:
    """Measure what is in the queue; returns the files that were at work when a process died, if one did."""
    working: dict[Future[Facts], Found] = {}
    pool = ProcessPoolExecutor(processes, _context(), initializer=_start_process)
    try:
        while queue or working:
            while queue and len(working) < 2 * processes:
                working[pool.submit(measure, folder, queue[0])] = queue[0]
                queue.popleft()
            in_hand(next(iter(working.values())))
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
