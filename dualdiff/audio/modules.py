"""Tracker modules transposed in their own bytes: melodic samples are retuned, percussion stays as it is.

XM, IT and S3M store the pitch of each sample, which is changed; MOD does not, so its pattern notes are. Byte layouts:
XM ("The XM module file format", Triton 1994), IT (ITTECH.TXT), S3M (TECH.DOC of Scream Tracker 3.20), MOD (ProTracker).
"""

import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace

from dualdiff.audio.openmpt import opened
from dualdiff.core.errors import DataError

TRANSPOSABLE = (".it", ".mod", ".s3m", ".xm")
"""Suffixes of modules that `transposed` knows."""

_DRUM = re.compile(
    "bd|sn|sd|hh|kik|kick|rim|rimshot|hat|hihat|clap|clave|cowbell|crash|cym|cymbal|ride|splash|tom|tomtom|conga|bongo"
    "|perc|percussion|shaker|tamb|tambourine|drums|drumloop|break|breakbeat|.*drum|.*snare"
)
"""A word of a sample's name that makes it percussion."""

LONGEST_HIT_S = 0.5
MOST_PITCHES = 2
"""A sample without a loop that is no longer, and plays at no more pitches, is percussion."""

_C5, _AMIGA_RATE = 61, 8363
_PERIODS: tuple[int, ...] = tuple(
    round(period / (1 << octave))
    for octave in range(5)
    for period in (1712, 1616, 1524, 1440, 1356, 1280, 1208, 1140, 1076, 1016, 960, 907)
)
"""Amiga periods of the notes C-0 to B-4 (ProTracker's table, and an octave on either side)."""


@dataclass(frozen=True)
class Sample:
    """A sample of a module; `offset` is where its pitch is stored, `number` counts from 1."""

    number: int
    name: str
    loops: bool
    frames: int
    rate: float
    """Frames a second at the note C-5 (61)."""
    offset: int = 0


def transposed(content: bytes, suffix: str, semitones: int) -> bytes:
    """A module whose melodic samples sound so many semitones higher (below 0: lower); percussion is not touched.

    Raises:
        DataError: it is damaged, or of a kind that is not one of `TRANSPOSABLE`.
    """
    layout = _LAYOUTS.get(suffix)
    if layout is None:
        raise DataError(f"a module {suffix} cannot be transposed", f"only {' '.join(TRANSPOSABLE)} can")
    try:
        samples, sample_of = layout(content)
        with opened(content, f"a module {suffix}") as module:
            played = [(sample_of.get((instrument, note), instrument), note) for instrument, note in module.notes()]
        melodic = {sample.number for sample in samples} - percussion(samples, played)
        retuned = bytearray(content)
        if suffix == ".mod":
            _move_notes(retuned, melodic, semitones)
        else:
            for sample in samples:
                if sample.number in melodic:
                    _retune(retuned, suffix, sample.offset, semitones)
    except (struct.error, IndexError) as error:
        raise DataError(f"a module {suffix} is cut short", "fetch it again, or remove it") from error
    return bytes(retuned)


def percussion(samples: list[Sample], played: list[tuple[int, int]]) -> set[int]:
    """The numbers of the samples that are percussion, given all notes that are played (sample, note).

    A sample is percussion if its name is that of a drum, or if it is a short hit without a loop that plays at one or
    two pitches only. Where the rule errs, it transposes: a drum three semitones higher is still a drum, while a tune
    that stays where it is makes a wrong chord.
    """
    pitches: dict[int, set[int]] = defaultdict(set)
    for number, note in played:
        pitches[number].add(note)
    return {sample.number for sample in samples if _is_drum(sample.name) or _is_hit(sample, pitches[sample.number])}


def _is_drum(name: str) -> bool:
    words = re.findall("[a-z]+", name.lower().replace("hi-hat", "hihat").replace("hi hat", "hihat"))
    return any(_DRUM.fullmatch(word) for word in words)


def _is_hit(sample: Sample, pitches: Set[int]) -> bool:
    if sample.loops or not 0 < len(pitches) <= MOST_PITCHES or not sample.rate:
        return False
    return sample.frames / (sample.rate * 2 ** ((min(pitches) - _C5) / 12)) <= LONGEST_HIT_S


Layout = tuple[list[Sample], Mapping[tuple[int, int], int]]
"""The samples of a module, and the sample of each (instrument, note) where instruments choose one by the note."""


def _xm(content: bytes) -> Layout:
    """Samples are numbered through all instruments."""
    (header,), (patterns, instruments) = struct.unpack_from("<I", content, 60), struct.unpack_from("<HH", content, 70)
    position = 60 + header
    for _ in range(patterns):
        own_header, _, _, packed = struct.unpack_from("<IBHH", content, position)
        position += own_header + packed
    samples: list[Sample] = []
    sample_of: dict[tuple[int, int], int] = {}
    for instrument in range(1, instruments + 1):
        size, raw_name, _, count = struct.unpack_from("<I22sBH", content, position)
        if not count:
            position += size
            continue
        (sample_header,), keys = (
            struct.unpack_from("<I", content, position + 29),
            content[position + 33 : position + 129],
        )
        first, position = len(samples) + 1, position + size
        sample_of |= {(instrument, key + 13): first + keys[key] for key in range(96)}
        data = 0
        for index in range(count):
            at = position + index * sample_header
            length, kind, name = (*struct.unpack_from("<I", content, at), content[at + 14], content[at + 18 : at + 40])
            fine, pitch = struct.unpack_from("<bxxb", content, at + 13)
            rate = _AMIGA_RATE * 2 ** ((pitch + fine / 128) / 12)
            frames = length // 2 if kind & 16 else length
            samples.append(
                Sample(first + index, f"{_text(name)} {_text(raw_name)}", bool(kind & 3), frames, rate, at + 16)
            )
            data += length
        position += count * sample_header + data
    return samples, sample_of


def _it(content: bytes) -> Layout:
    orders, instruments, count = struct.unpack_from("<HHH", content, 0x20)
    uses_instruments = content[0x2C] & 4
    pointers = struct.unpack_from(f"<{instruments + count}I", content, 0xC0 + orders)
    samples = [
        Sample(
            number,
            _text(content[at + 0x14 : at + 0x2E]),
            bool(content[at + 0x12] & 0x10),
            _long(content, at + 0x30),
            _long(content, at + 0x3C),
            at + 0x3C,
        )
        for number, at in enumerate(pointers[instruments:], start=1)
    ]
    sample_of: dict[tuple[int, int], int] = {}
    for instrument, at in enumerate(pointers[:instruments] if uses_instruments else (), start=1):
        name, keys = _text(content[at + 0x20 : at + 0x3A]), content[at + 0x40 : at + 0x40 + 240]
        sample_of |= {(instrument, key + 1): keys[2 * key + 1] for key in range(120)}
        own = set(keys[1::2])
        samples = [replace(one, name=f"{one.name} {name}") if one.number in own else one for one in samples]
    return samples, sample_of


def _s3m(content: bytes) -> Layout:
    orders, instruments = struct.unpack_from("<HH", content, 0x20)
    pointers = struct.unpack_from(f"<{instruments}H", content, 0x60 + orders)
    return [
        Sample(
            number,
            _text(content[at + 0x30 : at + 0x4C]),
            bool(content[at + 0x1F] & 1),
            _long(content, at + 0x10),
            _long(content, at + 0x20),
            at + 0x20,
        )
        for number, at in enumerate((16 * pointer for pointer in pointers), start=1)
        if content[at] == 1
    ], {}


def _mod(content: bytes) -> Layout:
    """MOD with 31 samples; a pitch has no offset."""
    return [
        Sample(
            number,
            _text(content[at : at + 22]),
            struct.unpack_from(">H", content, at + 28)[0] > 1,
            2 * struct.unpack_from(">H", content, at + 22)[0],
            _AMIGA_RATE,
        )
        for number, at in enumerate(range(20, 20 + 31 * 30, 30), start=1)
    ], {}


_LAYOUTS = {".xm": _xm, ".it": _it, ".s3m": _s3m, ".mod": _mod}


def _long(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 4], "little")


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("cp437").strip()


def _retune(content: bytearray, suffix: str, offset: int, semitones: int) -> None:
    if suffix == ".xm":  # the number of semitones, a signed byte
        (pitch,) = struct.unpack_from("<b", content, offset)
        struct.pack_into("<b", content, offset, max(-96, min(95, pitch + semitones)))
    else:  # the sample rate at which it plays C-5
        (rate,) = struct.unpack_from("<I", content, offset)
        struct.pack_into("<I", content, offset, min(round(rate * 2 ** (semitones / 12)), 0xFFFFFFFF))


def _move_notes(content: bytearray, melodic: Set[int], semitones: int) -> None:
    """Move the notes of melodic samples in the cells of a MOD, pattern by pattern in the order that they play in."""
    channels = _channels_of(bytes(content[1080:1084]))
    length, orders = content[950], content[952:1080]
    last: dict[int, int] = {}
    moved: set[int] = set()
    for pattern in [*orders[:length], *range(max(orders) + 1)]:
        for cell, at in _cells(pattern, channels):
            high, low, mixed = content[at], content[at + 1], content[at + 2]
            number, period = (high & 0xF0) | (mixed >> 4), ((high & 0x0F) << 8) | low
            last[cell] = number or last.get(cell, 0)
            if at not in moved and period and last[cell] in melodic:
                moved.add(at)
                period = _moved(period, semitones)
                content[at], content[at + 1] = (high & 0xF0) | (period >> 8), period & 0xFF


def _cells(pattern: int, channels: int) -> Iterator[tuple[int, int]]:
    """The channel and the position of each cell of a pattern."""
    start = 1084 + pattern * 64 * channels * 4
    yield from ((index % channels, start + 4 * index) for index in range(64 * channels))


def _channels_of(mark: bytes) -> int:
    """How many channels a MOD has, by the mark at its byte 1080.

    Raises:
        DataError: there is no mark that is known.
    """
    if mark in (b"M.K.", b"M!K!", b"M&K!", b"N.T.", b"FLT4"):
        return 4
    digits = re.fullmatch(rb"(\d)CHN|(\d\d)C[HN]", mark)
    if digits is None:
        raise DataError("a module .mod of an unknown kind cannot be transposed", "it is used as it is")
    return int(digits[1] or digits[2])


def _moved(period: int, semitones: int) -> int:
    """An Amiga period so many semitones higher; at an end of the table, an octave back."""
    note = min(range(len(_PERIODS)), key=lambda index: abs(_PERIODS[index] - period)) + semitones
    note += 12 if note < 0 else -12 if note >= len(_PERIODS) else 0
    return _PERIODS[note]
