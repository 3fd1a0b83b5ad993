"""Tags in audio files: ID3 (v2.2 to v2.4, v1), Vorbis comments in FLAC and Ogg, INFO chunks in WAV.

By hand, since mutagen, the library for it, is under the GPL, and libsndfile drops long tags, reads few names and writes
UTF-8 as Latin-1. Names are in small letters. Whatever a program calls the text that a recipe stands in, it is also
under `comment`: ffmpeg writes it as DESCRIPTION into Ogg and FLAC files and as TXXX:comment into MP3 files.
"""

import struct
from pathlib import Path
from typing import BinaryIO

from dualdiff.core.files import editing

LONGEST = 1 << 24
_FLAC_COMMENTS = 4  # the type of that block
_COMMENT_NAMES = ("comment", "description", "txxx:comment", "txxx:description")
_ID3_NAMES = {
    **{"TIT2": "title", "TPE1": "artist", "TALB": "album", "TCON": "genre", "TDRC": "date", "TYER": "date"},
    **{"TT2": "title", "TP1": "artist", "TAL": "album", "TCO": "genre", "TYE": "date"},
    **{"TRCK": "tracknumber", "TRK": "tracknumber", "TSSE": "software"},
}
_ID3_WRITTEN = {"title": b"TIT2", "comment": b"COMM", "artist": b"TPE1", "album": b"TALB"}
_INFO_WRITTEN = {"title": b"INAM", "comment": b"ICMT", "artist": b"IART", "album": b"IPRD"}
_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


def with_comment(tags: dict[str, str]) -> dict[str, str]:
    """The tags, with the text of a clip's recipe under `comment` whatever name it has."""
    texts = [tags[name] for name in _COMMENT_NAMES if name in tags]
    if not texts:
        return tags
    comment = next((text for text in texts if text.startswith("{")), texts[0])
    return {name: text for name, text in tags.items() if name not in _COMMENT_NAMES} | {"comment": comment}


def read_comments(content: bytes) -> dict[str, str]:
    """The list of a Vorbis comment header: the maker, then `NAME=text` each, all with their lengths before them."""
    tags: dict[str, str] = {}
    position = 8 + int.from_bytes(content[:4], "little")
    while position + 4 <= len(content):
        size = int.from_bytes(content[position : position + 4], "little")
        name, equals, text = content[position + 4 :][:size].decode("utf-8", "replace").partition("=")
        if equals:
            tags.setdefault(name.lower(), text)
        position += 4 + size
    return tags


def comments_with(content: bytes, more: dict[str, str]) -> bytes:
    """A list of Vorbis comments with entries added at its end."""
    entries = [f"{name}={text}".encode() for name, text in more.items()]
    position = 4 + int.from_bytes(content[:4], "little")
    count = int.from_bytes(content[position : position + 4], "little")
    end = position + 4
    for _ in range(count):
        end += 4 + int.from_bytes(content[end : end + 4], "little")
    added = b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)
    return content[:position] + struct.pack("<I", count + len(entries)) + content[position + 4 : end] + added


def flac_comments(file: BinaryIO, start: int = 0) -> dict[str, str]:
    """The tags of a FLAC file (RFC 9639, section 8)."""
    place = _flac_comment_block(file, start)
    if place is None:
        return {}
    file.seek(place[0])
    return read_comments(file.read(min(place[1], LONGEST)))


def _flac_comment_block(file: BinaryIO, start: int) -> tuple[int, int] | None:
    """Where the content of the block of comments begins, and its size."""
    file.seek(start)
    if file.read(4) != b"fLaC":
        return None
    while len(header := file.read(4)) == 4:
        size = int.from_bytes(header[1:], "big")
        if header[0] & 0x7F == _FLAC_COMMENTS:
            return file.tell(), size
        if header[0] & 0x80:  # the last block
            break
        file.seek(size, 1)
    return None


def add_flac_comments(path: Path, more: dict[str, str]) -> None:
    """Add entries to the comments of a FLAC file of `staged` that has some."""
    with editing(path) as file:
        place = _flac_comment_block(file, 0)
        assert place is not None  # the encoder writes one with its own name
        start, size = place
        file.seek(start)
        block, rest = comments_with(file.read(size), more), file.read()
        file.seek(start - 3)
        file.write(len(block).to_bytes(3, "big") + block + rest)


def id3_end(file: BinaryIO, start: int = 0) -> int:
    """Where the ID3v2 tags end that begin at a position; that position where there are none."""
    while True:
        file.seek(start)
        header = file.read(10)
        if len(header) < 10 or header[:3] != b"ID3" or max(header[6:10]) > 0x7F:
            return start
        start += 10 + _unsynced(header[6:10]) + (10 if header[5] & 0x10 else 0)


def read_id3(file: BinaryIO, start: int = 0) -> dict[str, str]:
    """The texts of an ID3v2 tag at a position: known frames by their names, TXXX frames as `txxx:<description>`."""
    file.seek(start)
    header = file.read(10)
    if header[:3] != b"ID3" or len(header) < 10 or header[3] not in (2, 3, 4):
        return {}
    content = file.read(min(_unsynced(header[6:10]), LONGEST))
    version, flags = header[3], header[5]
    if flags & 0x80 and version < 4:
        content = content.replace(b"\xff\x00", b"\xff")
    if flags & 0x40 and version > 2:  # an extended header
        size = _unsynced(content[:4]) if version == 4 else 4 + int.from_bytes(content[:4], "big")
        content = content[size:]
    return _id3_frames(content, version)


def _id3_frames(content: bytes, version: int) -> dict[str, str]:
    tags: dict[str, str] = {}
    letters, head = (3, 6) if version == 2 else (4, 10)
    position = 0
    while position + head <= len(content) and content[position]:
        name = content[position : position + letters].decode("latin-1")
        length = content[position + letters : position + 2 * letters]
        size = _unsynced(length) if version == 4 else int.from_bytes(length, "big")
        body = content[position + head : position + head + size]
        if version == 4 and content[position + 9] & 2:
            body = body.replace(b"\xff\x00", b"\xff")
        if version == 4 and content[position + 9] & 1:  # its length without that
            body = body[4:]
        tags = _id3_text(name, body) | tags
        position += head + size
    return tags


def _id3_text(name: str, body: bytes) -> dict[str, str]:
    """The text of one frame: T***, a comment or a user's own."""
    if not body or body[0] > 3 or (name[0] != "T" and name not in ("COMM", "COM")):
        return {}
    encoding = _ENCODINGS[body[0]]
    if name in ("COMM", "COM"):
        _, text = _split_text(body[4:], encoding)
        return {"comment": text}
    if name in ("TXXX", "TXX"):
        what, text = _split_text(body[1:], encoding)
        return {f"txxx:{what.lower()}": text}
    known = _ID3_NAMES.get(name)
    return {known: _decoded(body[1:], encoding)} if known else {}


def _split_text(content: bytes, encoding: str) -> tuple[str, str]:
    """A description and a text, between which a zero stands."""
    step = 2 if encoding.startswith("utf-16") else 1
    for position in range(0, len(content) - step + 1, step):
        if content[position : position + step] == bytes(step):
            return _decoded(content[:position], encoding), _decoded(content[position + step :], encoding)
    return "", _decoded(content, encoding)


def _decoded(content: bytes, encoding: str) -> str:
    text = content.decode(encoding, "replace").strip("\0\ufeff")
    if encoding == "latin-1":  # some programs, libsndfile one of them, write UTF-8 there
        try:
            return text.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return text
    return text.replace("\0", ", ")


def read_id3v1(file: BinaryIO) -> dict[str, str]:
    """The tags of the last 128 bytes of a file, of 30 letters at most."""
    length = file.seek(0, 2)
    file.seek(max(0, length - 128))
    content = file.read(128)
    if content[:3] != b"TAG" or len(content) < 128:
        return {}
    places = {"title": (3, 33), "artist": (33, 63), "album": (63, 93), "date": (93, 97), "comment": (97, 127)}
    texts = {name: _decoded(content[first:last].split(b"\0")[0], "latin-1") for name, (first, last) in places.items()}
    return {name: text.strip() for name, text in texts.items() if text.strip()}


def append_wave_tags(path: Path, tags: dict[str, str]) -> None:
    """Add tags (keys title, comment, artist, album) to the end of a WAV file that has none, as one LIST INFO chunk."""
    texts = b"".join(_chunk(_INFO_WRITTEN[name], text.encode() + b"\0") for name, text in tags.items())
    append_wave_chunk(path, b"LIST", b"INFO" + texts)


def append_wave_chunk(path: Path, name: bytes, content: bytes) -> None:
    """Add a chunk to the end of a WAV file."""
    with editing(path) as file:
        length = file.seek(0, 2)
        file.write(b"\0" * (length % 2) + _chunk(name, content))
        length = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", length - 8))


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def prepend_id3_tags(path: Path, tags: dict[str, str]) -> None:
    """Put tags (keys title, comment, artist, album) before an MP3 file that has none, in UTF-8, as ID3v2.4 says.

    libsndfile writes UTF-8 but says that it is Latin-1, so that players show every accent as two other letters.
    """
    frames = b"".join(_id3_frame(_ID3_WRITTEN[name], text) for name, text in tags.items())
    with editing(path) as file:
        audio = file.read()
        file.seek(0)
        file.write(b"ID3\x04\x00\x00" + _syncsafe(len(frames)) + frames + audio)


def _id3_frame(name: bytes, text: str) -> bytes:
    language = b"und\0" if name == b"COMM" else b""  # undetermined, and no name of the comment
    content = b"\x03" + language + text.encode()
    return name + _syncsafe(len(content)) + b"\0\0" + content


def _syncsafe(size: int) -> bytes:
    """28 bits as four bytes of seven, none of which looks like the start of audio."""
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def _unsynced(four: bytes) -> int:
    """The number that four bytes of seven bits are."""
    value = 0
    for byte in four:
        value = value << 7 | byte & 0x7F
    return value
