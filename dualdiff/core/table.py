"""Tables of text as spreadsheets write them: with commas, semicolons or tabs, in several encodings."""

import codecs
import csv
from pathlib import Path

DELIMITERS = ",;\t"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Read text in UTF-8, with or without a byte order mark, in UTF-16 with one, or else in Windows-1252.

    Raises:
        OSError: the file cannot be read.
        UnicodeError: it is not text.
    """
    content = path.read_bytes()
    if content.startswith(_UTF16):
        return content.decode("utf-16")
    if b"\0" in content:
        raise UnicodeError("it is not text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def read_rows(text: str) -> tuple[list[tuple[int, list[str]]], str]:
    """The rows that are not empty, each with the number of its last line, its cells stripped; and the delimiter.

    The delimiter is what the first line has most of; a first line such as `sep=;` names it.

    Raises:
        ValueError: a row is not CSV; the message names its line.
    """
    lines = text.splitlines(keepends=True)
    first = lines[0].rstrip("\r\n") if lines else ""
    is_named = first.lower().startswith("sep=") and len(first) == 5
    delimiter, skipped = (first[4], 1) if is_named else (max(DELIMITERS, key=first.count), 0)
    reader = csv.reader(lines[skipped:], delimiter=delimiter, strict=True)
    rows = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num + skipped, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num + skipped}: not CSV: {error}") from error
    return rows, delimiter
