"""What the files of a music folder are, whatever the settings: found, hashed and measured, in several processes."""

import math
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process
from pathlib import Path, PurePosixPath

import torch

from dualdiff import audio
from dualdiff.errors import DataError
from dualdiff.files import sha256_of

SILENCE_LUFS = -70.0
"""The absolute gate of BS.1770: what lies below it has no loudness, and is given this one."""

SILENCE_DB = -150.0
"""The true peak that digital silence is given: below the last bit of 24."""

PIECE_S = 600.0
"""Loudness is exact up to this length; longer tracks are measured in pieces of it, to bound memory."""

FILES_PER_PROCESS = 4
"""A process takes about as long to start as it takes to measure a few tracks."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file with the name of an audio file; `problem` says why it cannot even be opened."""

    path: str
    bytes: int = 0
    mtime_ns: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file is. With an `error`, what could not be learned of it stays empty."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str = ""
    error: str = ""
    title: str = ""
    album: str = ""
    duration_s: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    loudness_lufs: float | None = None
    true_peak_db: float | None = None


def find(folder: Path) -> tuple[list[Found], dict[str, int]]:
    """The audio files below a folder, ordered by path, and how many other files there are, by suffix.

    Hidden files and folders are passed over. Links are followed, but no folder is entered twice; real folders come
    before links to them, so that a track keeps its true path.
    """
    found: list[Found] = []
    ignored: Counter[str] = Counter()
    folders, links = deque([""]), deque[str]()
    entered: set[tuple[int, int]] = set()
    while folders or links:
        inside = folders.popleft() if folders else links.popleft()
        try:
            status = os.stat(folder / inside)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
        except OSError as error:
            found.append(Found(path=_printable(inside), problem=f"the folder cannot be read ({error.strerror})"))
            continue
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif PurePosixPath(entry.name).suffix.lower() in audio.AUDIO_SUFFIXES:
                found.append(_found(entry, path))
            else:
                ignored[PurePosixPath(entry.name).suffix.lower()] += 1
    return sorted(found, key=lambda file: file.path), dict(ignored.most_common())


def _found(entry: "os.DirEntry[str]", path: str) -> Found:
    if _printable(path) != path:
        return Found(path=_printable(path), problem="its name is not valid UTF-8; rename it")
    try:
        status = entry.stat()
    except OSError as error:
        return Found(path=path, problem=error.strerror or str(error))
    problem = "" if entry.is_file() else "it is not a regular file"
    return Found(path=path, bytes=status.st_size, mtime_ns=status.st_mtime_ns, problem=problem)


def _printable(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def measure(folder: Path, file: Found) -> Facts:
    """Hash, probe, decode and measure one file; what is wrong with it becomes the `error` of the facts."""
    facts = Facts(path=file.path, bytes=file.bytes, mtime_ns=file.mtime_ns, error=file.problem)
    if file.problem:
        return facts
    path = folder / file.path
    try:
        facts = replace(facts, sha256=sha256_of(path))
        info = audio.probe(path)
        loudness_lufs, true_peak_db = _levels(path, info.sample_rate)
    except DataError as error:
        return replace(facts, error=error.message.replace(str(path), "it", 1))
    except OSError as error:
        return replace(facts, error=error.strerror or str(error))
    return replace(
        facts,
        title=info.tags.get("title", "").strip() or path.stem,
        album=(info.tags.get("game") or info.tags.get("album", "")).strip(),
        duration_s=info.duration_s,
        sample_rate=info.sample_rate,
        channels=info.channels,
        loudness_lufs=loudness_lufs,
        true_peak_db=true_peak_db,
    )


def _levels(path: Path, sample_rate: int) -> tuple[float, float]:
    """Loudness and true peak of a file as stereo, to 0.001 dB.

    Of a track of several pieces, the loudness is the mean power of the pieces within 10 LU of their mean: the gate of
    BS.1770 applied to pieces whose own quiet parts are gated out already.
    """
    pieces = [
        (piece.shape[-1], audio.loudness_lufs(piece, sample_rate), audio.true_peak_db(piece, sample_rate))
        for piece in audio.blocks(path, sample_rate=sample_rate, block_s=PIECE_S)
    ]
    loudness = _mean_lufs([(length, lufs) for length, lufs, _ in pieces])
    loudness = _mean_lufs([(length, lufs) for length, lufs, _ in pieces if lufs > loudness - 10])
    peak = max(peak_db for _, _, peak_db in pieces)
    return round(max(loudness, SILENCE_LUFS), 3), round(max(peak, SILENCE_DB), 3)


def _mean_lufs(pieces: list[tuple[int, float]]) -> float:
    heard = [(length, 10 ** (lufs / 10)) for length, lufs in pieces if lufs > SILENCE_LUFS]
    if not heard:
        return -math.inf
    return 10 * math.log10(sum(length * power for length, power in heard) / sum(length for length, _ in heard))


def measure_all(
    folder: Path,
    files: Iterable[Found],
    processes: int | None = None,
    measure: Callable[[Path, Found], Facts] = measure,
) -> Iterator[Facts]:
    """Measure files in several processes (None: as many as pay), yielding the facts as they come, in no order.

    A file that kills the process which reads it gets an `error`; no other file suffers.
    """
    queue = deque(sorted(files, key=lambda file: -file.bytes))  # the long ones first, so that all end together
    if processes is None:
        processes = min(_cores(), len(queue) // FILES_PER_PROCESS)
    if processes <= 1:
        yield from (measure(folder, file) for file in queue)
        return
    while queue:
        suspects = yield from _until_a_process_dies(folder, queue, processes, measure)
        for suspect in suspects:
            died = yield from _until_a_process_dies(folder, deque([suspect]), 1, measure)
            for file in died:
                error = "the process that read it died: its audio is damaged, or memory ran out"
                yield Facts(path=file.path, bytes=file.bytes, mtime_ns=file.mtime_ns, error=error)


def _until_a_process_dies(
    folder: Path, queue: "deque[Found]", processes: int, measure: Callable[[Path, Found], Facts]
) -> Generator[Facts, None, list[Found]]:
    """Measure what is in the queue; returns the files that were at work when a process died, if one did."""
    working: dict[Future[Facts], Found] = {}
    # Processes are spawned: forking one that has used threads, as torch has, can hang.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_start_process)
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


def _start_process() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main one decides
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
