"""Tiny files of the kinds that ffmpeg plays: a tracker module, SNES and NES music."""

import struct

import numpy as np


def module(rows: int = 16) -> bytes:
    """A ProTracker module (MOD) whose only sample is a looping square wave; it plays `rows` rows of 0.12 s."""
    wave = bytes([40] * 16 + [216] * 16)
    sample = b"square".ljust(22, b"\0") + struct.pack(">HBBHH", 16, 0, 64, 0, 16)
    header = b"Rows of Squares".ljust(20, b"\0") + sample + (bytes(22) + struct.pack(">HBBHH", 0, 0, 0, 0, 1)) * 30
    pattern = bytearray(1024)
    for row in range(0, rows, 4):  # a note on the first channel: sample 1, periods of C-2 and G-2 in turn
        period = 428 if row % 8 == 0 else 285
        pattern[16 * row : 16 * row + 4] = struct.pack(">HBB", period, 0x10, 0)
    pattern[16 * (rows - 1) + 6 : 16 * (rows - 1) + 8] = b"\x0d\x00"  # on the second channel: break, here to the end
    return header + bytes([1, 127]) + bytes(128) + b"M.K." + bytes(pattern) + wave


def spc(length_s: int | None = 2, fade_ms: int = 500, binary: bool = False, extended: bytes = b"") -> bytes:
    """SNES music (SPC): a BRR sample of one block that loops, a square of 2 kHz, for ever."""
    header = bytearray(0x100)
    header[:37] = b"SNES-SPC700 Sound File Data v0.30" + bytes([26, 26, 26 if length_s is not None else 27, 30])
    header[0x25:0x27] = struct.pack("<H", 0x500)  # where the program goes on
    header[0x2B] = 0xEF  # the stack
    header[0x2E:0x37] = b"The Title"
    header[0x4E:0x56] = b"The Game"
    if length_s is not None and binary:
        header[0xA9:0xB0] = struct.pack("<HBI", length_s, 0, fade_ms)
    elif length_s is not None:
        header[0xA9:0xB1] = f"{length_s:03d}{fade_ms:05d}".encode()
    ram = bytearray(0x10000)
    ram[0x200:0x204] = struct.pack("<HH", 0x300, 0x300)  # the directory: start and loop of sample 0
    ram[0x300:0x309] = bytes([0xB3, *[0x77] * 4, *[0x99] * 4])  # 16 samples: shift 11, loop, end
    ram[0x500:0x508] = bytes([0x8F, 0x4C, 0xF2, 0x8F, 0x01, 0xF3, 0x2F, 0xFE])  # key on voice 0, then wait for ever
    dsp = bytearray(0x80)
    dsp[0:8] = bytes([0x60, 0x60, 0x00, 0x10, 0, 0, 0, 0x7F])  # volumes, pitch 1, sample 0, no envelope, full gain
    dsp[0x0C] = dsp[0x1C] = 0x7F
    dsp[0x5D], dsp[0x6C] = 0x02, 0x20
    tag = b"xid6" + struct.pack("<I", len(extended)) + extended if extended else b""
    return bytes(header + ram + dsp + bytes(0x80)) + tag


def nsf(tunes: int = 2) -> bytes:
    """NES music (NSF) of some tunes: tune k is a square wave, lower the higher k, for ever."""
    header = b"NESM\x1a\x01" + bytes([tunes, 1]) + struct.pack("<HHH", 0x8000, 0x8000, 0x8020)
    header += b"The NES Game".ljust(32, b"\0") + bytes(64) + struct.pack("<H", 16639) + bytes(8)
    header += struct.pack("<H", 19997) + bytes([0, 0]) + bytes(4)
    start = bytes.fromhex(  # of the 6502; A is the number of the tune: it becomes the timer's high bits
        "48 A901 8D1540 A9BF 8D0040 A980 8D0240 68 18 6901 8D0340 60"
    )
    return header + start.ljust(0x20, b"\0") + bytes([0x60])


def vgm(intro_s: float, loop_s: float) -> bytes:
    """Console music as a log of writes (VGM): a square wave of the Master System, with a loop or without."""
    notes = bytes([0x50, 0x8E, 0x50, 0x0F, 0x50, 0x90])  # the first channel of the PSG: period, then full volume
    parts = [bytes([0x61]) + struct.pack("<H", 4410) for _ in range(round(10 * (intro_s + loop_s)))]
    before = len(notes) + 3 * round(10 * intro_s)
    content = notes + b"".join(parts) + b"\x66"
    header = bytearray(0x40)
    header[:12] = b"Vgm " + struct.pack("<II", 0x40 + len(content) - 4, 0x150)
    header[0x0C:0x10] = struct.pack("<I", 3579545)
    header[0x18:0x1C] = struct.pack("<I", 4410 * len(parts))
    if loop_s:
        header[0x1C:0x24] = struct.pack("<II", 0x40 - 0x1C + before, 4410 * round(10 * loop_s))
    header[0x34:0x38] = struct.pack("<I", 0x40 - 0x34)
    return bytes(header) + content


def level(waveform: np.ndarray) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(waveform))))
