"""Turn the weights of the `musicnn` wheel into what `dualdiff.evaluation.embedding` reads, without TensorFlow.

    pip download --no-deps musicnn==0.1.0
    python benchmarks/convert_musicnn.py musicnn-0.1.0-py3-none-any.whl dualdiff/assets/musicnn

It is how `dualdiff/assets/musicnn` was made. A TensorFlow checkpoint is one file of bare numbers and an index, which is
a sorted table of LevelDB: blocks of keys, each with its prefix shared with the key before left out, and values that are
protocol buffers (tensor_bundle.proto: dtype 1, shape 2, offset 4, size 5). Only what such an index uses is read here.
"""

import argparse
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dualdiff.core.tensors import save_tensors
from dualdiff.evaluation.embedding import WEIGHTS, Tagger

NETWORK = "musicnn/MSD_musicnn"
"""The network of that shape that learned from the Million Song Dataset."""
TAGS = "MSD_LABELS"
FOOTER, MAGIC = 48, 0xDB4775248B80FB57
FLOAT32 = 1

NOTICE = """The weights in msd.safetensors are those of MSD_musicnn in the Python package musicnn 0.1.0, by Jordi Pons
(Pons and Serra 2019, "musicnn: Pre-trained convolutional neural networks for music audio tagging"), under the licence
beside this file. Changed: the state of the optimizer is left out, and names and axes are PyTorch's.
"""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def entries(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block of a table."""
    if table[offset + size] != 0:
        raise ValueError("a block is compressed")
    block = table[offset : offset + size]
    end = size - 4 - 4 * struct.unpack_from("<I", block, size - 4)[0]
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        length, at = varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: numbers as int, what has a length as bytes."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = varint(message, at)
            yield number, value
            continue
        size = 4
        if kind == 2:
            size, at = varint(message, at)
        yield number, message[at : at + size]
        at += size


def read_checkpoint(index: bytes, data: bytes) -> dict[str, Tensor]:
    """The tensors of a checkpoint of one shard, by name."""
    if struct.unpack_from("<Q", index, len(index) - 8)[0] != MAGIC:
        raise ValueError("the index is no table")
    footer = index[-FOOTER:]
    at = 0
    for _ in range(2):  # where the block of meta data lies, which is empty
        _, at = varint(footer, at)
    offset, at = varint(footer, at)
    size, at = varint(footer, at)
    tensors = {}
    for _, handle in entries(index, offset, size):
        start, at = varint(handle, 0)
        for key, message in entries(index, start, varint(handle, at)[0]):
            entry = dict(fields(message))
            if not key or entry.get(1) != FLOAT32:
                continue
            sizes = [dict(fields(value)) for number, value in fields(entry.get(2, b"")) if number == 2]
            place = entry.get(4, 0)
            numbers = torch.frombuffer(bytearray(data[place : place + entry[5]]), dtype=torch.float32)
            tensors[key.decode()] = numbers.reshape([size[1] for size in sizes])
    return tensors


def in_torch(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names, and with the axes, of `Tagger`."""
    counts = {"timbral": 2, "temporal": 3, "middle": 3}
    convolutions = [f"{name}.{index}" for name, count in counts.items() for index in range(count)]
    made = {}
    for index, name in enumerate(convolutions):
        own = f"conv2d_{index}" if index else "conv2d"
        kernel = found[f"{own}/kernel"]  # (time, frequency or channels, 1, out)
        is_middle = name.startswith("middle")
        made[f"{name}.convolution.weight"] = (
            kernel[:, :, 0].permute(2, 1, 0) if is_middle else kernel.permute(3, 2, 0, 1)
        ).contiguous()
        made[f"{name}.convolution.bias"] = found[f"{own}/bias"]
    for own, name in (("dense", "dense"), ("dense_1", "tags")):
        made[f"{name}.weight"], made[f"{name}.bias"] = found[f"{own}/kernel"].T.contiguous(), found[f"{own}/bias"]
    norms = ["norm_in", *(f"{name}.norm" for name in convolutions), "norm_pooled", "norm_out"]
    for index, name in enumerate(norms):
        own = f"batch_normalization_{index}" if index else "batch_normalization"
        for theirs, ours in (
            ("gamma", "weight"),
            ("beta", "bias"),
            ("moving_mean", "running_mean"),
            ("moving_variance", "running_var"),
        ):
            made[f"{name}.{ours}"] = found[f"{own}/{theirs}"]
    return made


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        licence = next(name for name in wheel.namelist() if name.endswith("dist-info/LICENSE.md"))
        names = (f"{NETWORK}/.index", f"{NETWORK}/.data-00000-of-00001", licence)
        index, data, text = (wheel.read(name) for name in names)
    weights = in_torch(read_checkpoint(index, data))
    counters = {name for name in Tagger().state_dict() if name.endswith("num_batches_tracked")}
    assert weights.keys() == Tagger().state_dict().keys() - counters
    options.folder.mkdir(parents=True, exist_ok=True)
    save_tensors(options.folder / WEIGHTS.name, weights)
    (options.folder / "LICENSE").write_bytes(text)
    (options.folder / "NOTICE").write_text(NOTICE, encoding="utf-8")


if __name__ == "__main__":
    main()
