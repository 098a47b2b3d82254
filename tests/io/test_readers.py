# SPDX-License-Identifier: MIT
"""Every reader of files over damaged copies of valid ones: each is read or rejected with its name.

`scripts/fuzz.py readers` searches further, guided by coverage; the cases that it saved are replayed here.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from readers import READERS, at_hand, attempt, seeds_of

CORPUS = Path(__file__).parents[1] / "fuzz-corpus"


def damaged(seeds: list[bytes], times: int) -> list[bytes]:
    """Copies with bytes flipped, removed, repeated, set to extremes, truncated or mixed with another seed."""
    rng = random.Random(0)
    made = []
    for _ in range(times):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at, length = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 4, 8, 40])
            other = rng.choice(seeds)
            number = str(rng.choice([-1, 2**31, 10**20])).encode()
            extreme = [b"", bytes(length), b"\xff" * length, b"\x7f" + bytes(length - 1), number]
            copied = [rng.randbytes(length), bytes(data[at : at + length]) * 2, other[at : at + length]]
            part = rng.choice(extreme + copied)
            data[at : at + length] = part
        made.append(bytes(data[: rng.randrange(1, len(data) + 1)] if rng.random() < 0.1 else data) or b"\0")
    return made


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_by_name(name: str) -> None:
    reader = READERS[name]
    pytest.importorskip({"nifti": "nibabel", "geotiff": "rasterio", "keras": "h5py"}.get(name, "torch"))
    seeds = seeds_of(reader)
    found = [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]
    with at_hand(reader) as (folder, path):
        for _ in reader.seeds(path):
            pass
        if name != "tflite":  # its seed is a valid file, but not a DeepLab model
            assert any(attempt(reader, folder, path, seed) for seed in seeds)
        outcomes = [attempt(reader, folder, path, content) for content in [*damaged(seeds, 60), *found]]
    assert not all(outcomes)
