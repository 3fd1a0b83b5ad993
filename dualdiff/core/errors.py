"""What can go wrong in a way the user can mend: one sentence that says what, where and why, and one hint.

Every error that is the user's to mend is a `DualdiffError`; anything else that escapes is a bug of ours. The exit
codes are those of the commands: 0 ok, 1 failed, 2 usage, 3 bad data, 4 bad config, 130 interrupted with state saved.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class DualdiffError(Exception):
    """A failure in one sentence, with a hint: the command or the edit that mends it."""

    exit_code = 1
    is_everyones = True
    """Whether, of several processes of one training, each meets it: then the first one tells, else the one itself."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DualdiffError):
    """The command line asks for something that cannot be: an unknown game, a length of -1."""

    exit_code = 2


class DataError(DualdiffError):
    """Files of the user (music, ledger, latents, models, runs) are missing, broken or do not belong together."""

    exit_code = 3


class ConfigError(DualdiffError):
    """`dualdiff.toml`, or a `--set`, holds an unknown key, a wrong type, a bad value or a bad combination."""

    exit_code = 4


class Interrupted(DualdiffError):  # noqa: N818 - not a failure: the state is saved
    """The user stopped a run and its state was saved."""

    exit_code = 130


def closest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The candidates most like `name`, best first, compared without regard to case."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    return [by_folded[key] for key in get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.5)]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A hint such as `did you mean "steps"?`, or an empty string when nothing is close."""
    found = closest(name, candidates, count=1)
    return f'did you mean "{found[0]}"?' if found else ""
