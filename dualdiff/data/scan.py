"""`dataset scan`: look at every file of the music folder and write the ledger.

Measuring is what takes time. Each measured file goes at once into a journal beside the ledger, so that an interrupted
scan goes on where it was; the ledger itself is written once, at the end, and stays whole until then.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dualdiff.data.ledger import LEDGER_NAME, DatasetConfig, Row, music_folder, read_ledger, write_ledger
from dualdiff.data.measure import Facts, Found, find, measure_all
from dualdiff.data.verdict import REMEDIES, commonest_reason, judge, with_splits
from dualdiff.errors import DataError, DualdiffError
from dualdiff.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a scan came to: the ledger's rows, how many files were measured now, and the files that are not audio."""

    rows: list[Row]
    measured: int
    ignored: dict[str, int]
    """Suffixes of other files, with how many there are; the commonest first."""


def scan(
    project: Path,
    config: DatasetConfig,
    *,
    rebuild: bool = False,
    progress: Progress = silent,
    processes: int | None = None,
) -> Scan:
    """Find, probe, measure, hash, label and split the music; write `dataset.jsonl` into the folder `project`.

    Files that the last scan measured and that have the same size and time since are not read again, and keep their
    split; `rebuild` forgets all that. The music is only read. `processes` is as for `measure_all`.

    Raises:
        DataError: the music folder is missing, holds no audio, or none that can be used (then the old ledger stays).
        DualdiffError: the project's folder cannot be written to.
    """
    folder = music_folder(project, config)
    files, ignored = _find(folder)
    ledger, journal = project / LEDGER_NAME, Journal(project / f".{LEDGER_NAME}.partial")
    before = read_ledger(ledger) if ledger.exists() and not rebuild else []
    if rebuild:
        journal.discard()
    known = {facts.path: facts for facts in [*map(_facts, before), *journal.read()] if not facts.error}
    facts = [known[file.path] for file in files if _is_unchanged(file, known.get(file.path))]
    reused = {own.path for own in facts}
    for own in measure_all(folder, [file for file in files if file.path not in reused], processes):
        journal.keep(own)
        facts.append(own)
        progress(len(facts), len(files), own.path)
    rows = judge(facts, config)
    _require_a_used_one(rows, folder)
    rows = with_splits(rows, before, config.validation_share)
    write_ledger(ledger, rows)
    journal.discard()
    return Scan(rows=rows, measured=len(files) - len(reused), ignored=ignored)


def _find(folder: Path) -> tuple[list[Found], dict[str, int]]:
    choose = "set dataset.folder in dualdiff.toml, or name it: dualdiff dataset scan FOLDER"
    if not folder.exists():
        raise DataError(f"there is no music folder {folder}", choose)
    if not folder.is_dir():
        raise DataError(f"the music folder {folder} is a file", choose)
    files, ignored = find(folder)
    if not files:
        others = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in list(ignored.items())[:3])
        holds = f"other files only ({others})" if others else "no files"
        raise DataError(
            f"the music folder {folder} holds no audio: {holds}", f"put music into it as game/track; {choose}"
        )
    return files, ignored


def _facts(row: Row) -> Facts:
    error = row.reason if row.state == "failed" else ""
    return Facts(
        error=error, **{field.name: getattr(row, field.name) for field in fields(Facts) if field.name != "error"}
    )


def _is_unchanged(file: Found, known: Facts | None) -> bool:
    return known is not None and (known.bytes, known.mtime_ns) == (file.bytes, file.mtime_ns) and not file.problem


def _require_a_used_one(rows: list[Row], folder: Path) -> None:
    if not any(row.state == "used" for row in rows):
        kind, count, example = commonest_reason(rows)
        problem = f"none of the {len(rows)} audio files in {folder} can be used"
        raise DataError(f"{problem}; for {count} of them the reason is: {example}", REMEDIES[kind])


class Journal:
    """What an unfinished scan has measured so far: a line per file, beside the ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, facts: Facts) -> None:
        """Put the facts of one file on record, at once.

        Raises:
            DualdiffError: the folder cannot be written to.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(asdict(facts))}\n")  # on a line of its own, even after a torn one
        except OSError as error:
            hint = "the ledger was not changed; check space and permissions"
            raise DualdiffError(f"{self.path} cannot be written: {error.strerror}", hint) from error

    def read(self) -> Iterator[Facts]:
        """The facts on record; a line that an interruption tore is passed over."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    yield Facts(**json.loads(line))
                except (ValueError, TypeError):
                    continue

    def discard(self) -> None:
        """Forget what is on record."""
        self.path.unlink(missing_ok=True)
