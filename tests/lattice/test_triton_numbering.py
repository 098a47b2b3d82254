# SPDX-License-Identifier: MIT
"""Two ways to number the vertices of a lattice, on a GPU or in the interpreter, give the same tables."""

from __future__ import annotations

import pytest
import torch

from conformance import TRITON_DEVICE
from crfrnn.lattice.quality import get_quality

pytest.importorskip("triton")
from crfrnn.lattice.triton import build, numbering

pytestmark = pytest.mark.usefixtures("on_chip")


def by_hand(keys: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Distinct keys, the number of every sorted one, the stable order, in plain Python."""
    distinct = sorted(set(keys))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return distinct, [distinct.index(keys[i]) for i in order], order


KEYS = {
    "one": [5],
    "all equal": [7] * 300,
    "all different": list(range(400, 0, -1)),
    "the largest marks masked corners": [3, 2**31 - 1, 0, 3, 2**31 - 1, 9],
    "one chain, half full": [2**20 * i for i in range(128)] * 2,
}


@pytest.mark.parametrize("how", numbering.NUMBERINGS)
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS.keys())
def test_equals_plain_python(keys: list[int], kind: torch.dtype, how: str) -> None:
    out = numbering.number_keys(torch.tensor(keys, dtype=kind), how)
    assert [t.tolist() for t in out] == list(by_hand(keys))
    assert out[0].dtype == kind and out[1].dtype == out[2].dtype == torch.int64


def test_wide_keys_and_collisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs, and keys with the same hash: probing continues, also around the end of the table."""
    monkeypatch.setattr(numbering, "block", lambda fast, count: 32)
    random = torch.Generator().manual_seed(1)
    pool = torch.randint(2**61, (60,), generator=random, device="cpu")
    last = 2**61 - 1 - 2**40 * torch.arange(20, device="cpu")
    keys = torch.cat([pool, last])[torch.randint(80, (700,), generator=random, device="cpu")]
    out = numbering.number_keys(keys.to(TRITON_DEVICE), "hash")
    assert [t.tolist() for t in out] == list(by_hand(keys.tolist()))
    product = (keys.unique() * 0x1E3779B97F4A7C15) >> (63 - 11) & 2047
    assert len(product.unique()) < len(product)  # the case contains collisions


@pytest.mark.parametrize("quality", ["classic", "high"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_lattice_is_the_same(quality: str, masked: bool) -> None:
    features = 1.5 * torch.randn(2, 60, 3)
    mask = torch.rand(2, 60) > 0.3 if masked else None
    setting = get_quality(quality)
    sort, hashed = (build.build(features, mask, *setting[:4], numbering=how) for how in numbering.NUMBERINGS)
    for a, b in zip(sort, hashed, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
