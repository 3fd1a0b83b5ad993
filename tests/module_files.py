"""Tracker modules made by hand: a melodic sample that loops and a short hit, each in one channel, over one pattern.

The melodic note plays from row 0 on, the hit at rows 8, 24, 40 and 56, at speed 6 and tempo 125: 0.12 s a row.
"""

import struct
from collections.abc import Callable

import numpy as np

ROWS = 64
HIT_ROWS = (8, 24, 40, 56)
TONE = (100 * np.sin(2 * np.pi * np.arange(32) / 32)).astype(np.int8)
"""One period: at C-5, 8363 Hz, it sounds at 261 Hz."""
HIT = (90 * np.random.default_rng(0).uniform(-1, 1, 800) * np.linspace(1, 0, 800)).astype(np.int8)


def mod() -> bytes:
    """4 channels, as ProTracker writes them."""
    samples = struct.pack(">22sHBBHH", b"tone", len(TONE) // 2, 0, 64, 0, len(TONE) // 2)
    samples += struct.pack(">22sHBBHH", b"hit", len(HIT) // 2, 0, 64, 0, 1)
    samples += 29 * struct.pack(">22sHBBHH", b"", 0, 0, 0, 0, 1)
    cells = bytearray(ROWS * 16)
    cells[0:4] = bytes([428 >> 8, 428 & 0xFF, 1 << 4, 0])
    for row in HIT_ROWS:
        cells[row * 16 + 4 : row * 16 + 8] = bytes([428 >> 8, 428 & 0xFF, 2 << 4, 0])
    header = struct.pack("20s", b"a module") + samples + bytes([1, 127]) + bytes(128) + b"M.K."
    return header + bytes(cells) + TONE.tobytes() + HIT.tobytes()


def xm() -> bytes:
    """2 channels, linear periods."""
    header = struct.pack("<17s20sB20sHI", b"Extended Module: ", b"a module", 0x1A, b"by hand", 0x0104, 276)
    header += struct.pack("<8H", 1, 0, 2, 1, 2, 1, 6, 125) + bytes(256)
    cells = b""
    for row in range(ROWS):
        cells += bytes([0x83, 49, 1]) if row == 0 else b"\x80"
        cells += bytes([0x83, 49, 2]) if row in HIT_ROWS else b"\x80"
    pattern = struct.pack("<IBHH", 9, 0, ROWS, len(cells)) + cells
    return header + pattern + _xm_instrument(TONE, loops=True) + _xm_instrument(HIT, loops=False)


def _xm_instrument(data: np.ndarray, loops: bool) -> bytes:
    head = struct.pack("<I22sBHI", 263, b"", 0, 1, 40) + bytes(263 - 33)
    sample = struct.pack("<IIIBbBBbB22s", len(data), 0, len(data) if loops else 0, 64, 0, int(loops), 128, 0, 0, b"")
    return head + sample + np.diff(data, prepend=np.int8(0)).astype(np.int8).tobytes()


def it() -> bytes:
    """Samples without instruments, linear slides."""
    header = struct.pack("<4s26s2B8H", b"IMPM", b"a module", 4, 16, 2, 0, 2, 1, 0x0214, 0x0200, 9, 0)
    header += struct.pack("<6BHI4s", 128, 48, 6, 125, 128, 0, 0, 0, b"") + bytes([32] * 64) + bytes([64] * 64)
    first = 0xC0 + 2 + 12
    offsets = (first, first + 0x50, first + 0xA0)
    cells = b""
    for row in range(ROWS):
        cells += bytes([0x81, 3, 60, 1]) if row == 0 else b""
        cells += (bytes([0x82, 3, 60, 2]) if row in HIT_ROWS else b"") + b"\0"
    data = first + 0xA0 + 8 + len(cells)
    samples = _it_sample(TONE, data, loops=True) + _it_sample(HIT, data + len(TONE), loops=False)
    pattern = struct.pack("<HHI", len(cells), ROWS, 0) + cells
    content = header + bytes([0, 255]) + struct.pack("<3I", *offsets) + samples + pattern
    return content + TONE.tobytes() + HIT.tobytes()


def _it_sample(data: np.ndarray, at: int, loops: bool) -> bytes:
    flags = 1 | (0x10 if loops else 0)
    head = struct.pack("<4s12s4B26s2B", b"IMPS", b"", 0, 64, flags, 64, b"", 1, 32)
    return head + struct.pack("<7I4B", len(data), 0, len(data) if loops else 0, 8363, 0, 0, at, 0, 0, 0, 0)


def s3m() -> bytes:
    """2 channels, samples unsigned."""
    header = struct.pack(
        "<28sBBH6H4s6B8sH", b"a module", 0x1A, 16, 0, 2, 2, 1, 0, 0x1320, 2, b"SCRM", *(64, 6, 125, 176, 16, 0), b"", 0
    )
    header += bytes([0, 8] + [255] * 30) + bytes([0, 255])
    at = (len(header) + 6 + 15) // 16 * 16
    cells = b""
    for row in range(ROWS):
        cells += bytes([0x20, 0x40, 1]) if row == 0 else b""
        cells += (bytes([0x21, 0x40, 2]) if row in HIT_ROWS else b"") + b"\0"
    pattern_at = at + 160
    data_at = (pattern_at + 2 + len(cells) + 15) // 16 * 16
    hit_at = (data_at + len(TONE) + 15) // 16 * 16
    content = header + struct.pack("<3H", at // 16, (at + 80) // 16, pattern_at // 16)
    content = content.ljust(at, b"\0") + _s3m_sample(TONE, data_at, True) + _s3m_sample(HIT, hit_at, False)
    content = (content + struct.pack("<H", 2 + len(cells)) + cells).ljust(data_at, b"\0")
    content = (content + (TONE.astype(np.int16) + 128).astype(np.uint8).tobytes()).ljust(hit_at, b"\0")
    return content + (HIT.astype(np.int16) + 128).astype(np.uint8).tobytes()


def _s3m_sample(data: np.ndarray, at: int, loops: bool) -> bytes:
    end = len(data) if loops else 0
    head = struct.pack(
        "<B12sBHIIIBBBB", 1, b"", (at // 16) >> 16, (at // 16) & 0xFFFF, len(data), 0, end, 64, 0, 0, int(loops)
    )
    return head + struct.pack("<I12s28s4s", 8363, b"", b"", b"SCRS")


MODULES: dict[str, Callable[[], bytes]] = {".mod": mod, ".xm": xm, ".it": it, ".s3m": s3m}
