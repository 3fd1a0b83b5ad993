"""Changing one value in TOML text without touching anything else: comments, order and spaces stay as they are."""

import json
import re

from dualdiff.core.config import line_of, parse_toml
from dualdiff.core.errors import ConfigError

_VALUE = r"""("(?:[^"\\]|\\.)*"|'[^']*'|[^\s#"'][^#]*?)"""
_ASSIGNMENT = re.compile(rf"(\s*[^=]+?\s*=\s*){_VALUE}(\s*(?:#.*)?)")


def with_text(toml: str, key: str, value: str, file: str) -> str:
    """The TOML text with the dotted `key` set to the text `value`: in its line, else in its table, else at the end.

    Raises:
        ConfigError: the text is not TOML, or the key's line is too unusual to be changed safely.
    """
    table, _, name = key.rpartition(".")
    quoted = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # a TOML string but for this one
    lines = toml.splitlines()
    number, above = line_of(toml, key), line_of(toml, table)
    if number:
        lines[number - 1] = _ASSIGNMENT.sub(lambda found: found[1] + quoted + found[3], lines[number - 1], count=1)
    elif above:
        lines.insert(above, f"{name} = {quoted}")
    else:
        lines += ["", f"[{table}]", f"{name} = {quoted}"]
    changed = "\n".join(lines) + "\n"
    if not _holds(changed, key, value):
        raise ConfigError(f"{file}, line {number or above}: {key} cannot be set from here", f"write {name} = {quoted}")
    return changed


def _holds(toml: str, key: str, value: str) -> bool:
    try:
        found: object = parse_toml(toml, "")
    except ConfigError:
        return False
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found == value
