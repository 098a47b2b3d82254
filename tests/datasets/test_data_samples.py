# SPDX-License-Identifier: MIT
"""Joint augmentation of pictures and labels, padded batches, dependence on seed, epoch and index only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Generator
from torch.utils.data import DataLoader

import devkits
from crfrnn import CRFRNN
from crfrnn.datasets import RandomTransform, SegmentationDataset, collate, folder_pictures, voc_pictures
from crfrnn.datasets import samples as T
from crfrnn.io import write_label_png

SIDES = st.integers(1, 24)


def marked(height, width):
    """Colours that encode row and column, and labels that encode them too."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack((y, x, (y + x) // 2)).to(torch.uint8)
    return T.sample_of("a", image, ((y * 5 + x) % 200).to(torch.uint8))


def seeded(seed=0):
    return Generator().manual_seed(seed)


def test_a_sample_keeps_0_to_255():
    sample = T.sample_of("a", torch.full((3, 2, 2), 255, dtype=torch.uint8), torch.zeros(2, 2).byte())
    assert (sample.image.dtype, sample.labels.dtype, sample.mask.dtype) == (
        torch.float32,
        torch.int64,
        torch.bool,
    )
    assert sample.image.max() == 255
    assert sample.mask.all()


@pytest.mark.parametrize("size", [(20, 30), (5, 40), (13, 7), (80, 60)])
def test_resizing_agrees_with_pillow(size):
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((30, 20), Image.Resampling.BICUBIC)
    labels = np.random.default_rng(1).integers(0, 255, (20, 30), np.uint8)
    sample = T.sample_of("a", torch.from_numpy(np.array(picture)).permute(2, 0, 1), torch.from_numpy(labels))
    small = T.resize(sample, size)
    theirs = np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR), np.float32)
    assert np.abs(small.image.permute(1, 2, 0).numpy() - theirs).max() < 1.1  # they round to bytes
    own = np.array(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))
    assert np.array_equal(small.labels.numpy(), own)
    assert small.mask.all()
    assert small.mask.shape == size


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 99))
def test_crop(height, width, rows, columns, seed):
    sample = marked(height, width)
    part = T.random_crop(sample, (rows, columns), seeded(seed))
    assert part.labels.shape == part.mask.shape == part.image.shape[1:] == (rows, columns)
    assert int(part.mask.sum()) == min(height, rows) * min(width, columns)
    assert (part.labels[~part.mask] == 255).all()
    assert torch.allclose(part.image[:, ~part.mask], torch.tensor(T.MEAN_COLOUR)[:, None])
    # Picture and labels still encode the same position, and the window is contiguous.
    y, x = part.image[0][part.mask].long(), part.image[1][part.mask].long()
    assert torch.equal(part.labels[part.mask], (y * 5 + x) % 200)
    where = part.mask.nonzero()
    assert torch.equal(where - where[0], torch.stack((y, x), 1) - torch.stack((y[0], x[0])))


def test_crops_reach_every_position():
    places = {int(T.random_crop(marked(6, 1), (4, 1), seeded(k)).image[0, 0, 0]) for k in range(60)}
    assert places == {0, 1, 2}
    tops = {int(T.random_crop(marked(2, 1), (4, 1), seeded(k)).mask.nonzero()[0, 0]) for k in range(60)}
    assert tops == {0, 1, 2}


def test_flip():
    sample = marked(3, 5)
    turned = T.flip(sample)
    assert torch.equal(turned.image[1, 0], torch.arange(4.0, -1, -1))
    assert torch.equal(turned.labels, sample.labels.flip(1))
    assert torch.equal(T.flip(turned).image, sample.image)
    count = sum(bool(T.random_flip(sample, 0.3, seeded(k)).image[1, 0, 0] == 4) for k in range(400))
    assert abs(count - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5
    assert T.random_flip(sample, 0.0, seeded()) is sample


def test_scale():
    sides = [T.random_scale(marked(24, 12), 0.5, 2.0, seeded(k)).labels.shape for k in range(300)]
    assert all(12 <= h <= 48 and abs(h - 2 * w) <= 1 for h, w in sides)
    assert abs(sum(h < 24 for h, _ in sides) - 147) < 40  # enlarged as often as reduced
    assert T.random_scale(marked(1, 1), 0.1, 0.1, seeded()).labels.shape == (1, 1)


def test_colours():
    sample = T.pad(marked(6, 8), (7, 9))
    assert torch.allclose(T.colour_jitter(sample, 0, 0, 0, seeded()).image, sample.image, atol=1e-4)
    for k in range(20):
        changed = T.colour_jitter(sample, 0.9, 0.9, 0.9, seeded(k))
        assert changed.image.min() >= 0
        assert changed.image.max() <= 255
        assert torch.equal(changed.image[:, ~sample.mask], sample.image[:, ~sample.mask])
        assert changed.labels is sample.labels
    grey = T.sample_of("a", torch.full((3, 2, 2), 100, dtype=torch.uint8), torch.zeros(2, 2).byte())
    bright = torch.stack([T.colour_jitter(grey, 0.2, 0.5, 0.5, seeded(k)).image for k in range(200)])
    assert 80 <= bright.min() < 85  # contrast and saturation do not change a uniform grey
    assert 115 < bright.max() <= 120
    one = T.sample_of("a", torch.tensor([180, 120, 90]).byte()[:, None, None], torch.zeros(1, 1).byte())
    luma = 0.299 * 180 + 0.587 * 120 + 0.114 * 90
    for k in range(10):
        after = T.colour_jitter(one, 0, 0, 0.5, seeded(k)).image.flatten()
        factor = (after - luma) / (torch.tensor([180.0, 120, 90]) - luma)
        assert torch.allclose(factor, factor[0].expand(3), atol=1e-4)
        assert 0.5 <= factor[0] <= 1.5


def test_the_same_seed_changes_in_the_same_way():
    change = RandomTransform((0.5, 2), 0.5, (16, 16), 0.3, 0.3, 0.3)
    first, again, other = (change(marked(20, 30), seeded(k)) for k in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first[1:], again[1:], strict=True))
    assert not torch.equal(first.image, other.image)
    sample = marked(4, 4)
    assert RandomTransform()(sample, seeded()) is sample


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RandomTransform(flip=2), "flip: expected a probability"),
        (lambda: RandomTransform(scale=(2, 1)), "scale: expected 0 < low <= high"),
        (lambda: T.random_scale(marked(2, 2), 0, 1, seeded()), "scale: expected 0 < low"),
        (lambda: T.random_crop(marked(2, 2), (0, 3), seeded()), "crop: expected at least"),
        (lambda: T.resize(marked(2, 2), (0, 3)), "size: expected at least"),
        (lambda: T.pad(marked(2, 2), (3, 1)), "size: expected room"),
        (lambda: T.colour_jitter(marked(2, 2), 0, 7, 0, seeded()), "contrast: expected 0..1, got 7"),
        (lambda: collate([]), "samples: expected at least one"),
        (lambda: collate([marked(2, 2)], 0), "multiple: expected at least 1"),
    ],
)
def test_usage(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=4), st.integers(1, 9))
def test_batches_of_different_sizes(sizes, multiple):
    samples = [marked(*size) for size in sizes]
    batch = collate(samples, multiple)
    height, width = batch.labels.shape[1:]
    for side, largest in zip((height, width), map(max, zip(*sizes, strict=True)), strict=True):
        assert side % multiple == 0
        assert largest <= side < largest + multiple
    for k, ((h, w), sample) in enumerate(zip(sizes, samples, strict=True)):
        assert torch.equal(batch.image[k, :, :h, :w], sample.image)
        assert torch.equal(batch.labels[k, :h, :w], sample.labels)
        assert batch.mask[k, :h, :w].all()
        assert int(batch.mask[k].sum()) == h * w
        assert int((batch.labels[k] != 255).sum()) == h * w


def test_a_padded_batch_gives_what_each_picture_gives():
    samples = [marked(6, 9), marked(11, 5)]
    batch = collate(samples, 4)
    crf = CRFRNN(3, theta_alpha=4.0, theta_beta=20.0, theta_gamma=2.0)
    unary = torch.randn(2, 3, *batch.labels.shape[1:])
    together = crf(unary, batch.image, mask=batch.mask)
    for k, sample in enumerate(samples):
        h, w = sample.labels.shape
        alone = crf(unary[k : k + 1, :, :h, :w].contiguous(), sample.image[None])
        assert torch.allclose(together[k, :, :h, :w], alone[0], atol=1e-5)


@pytest.fixture
def pictures(tmp_path):
    for k in range(5):
        size = (6 + k, 9 - k)
        devkits.picture(tmp_path / f"images/p{k}.png", k, size)
        (tmp_path / "masks").mkdir(exist_ok=True)
        write_label_png(tmp_path / f"masks/p{k}.png", np.full(size, k))
    return folder_pictures(tmp_path, num_labels=5)


def test_data_set(pictures):
    data = SegmentationDataset(pictures)
    assert len(data) == 5
    assert data[2].id == "p2"
    assert torch.equal(data[2].image, torch.from_numpy(pictures[2].image).permute(2, 0, 1).float())
    assert data[-1].id == "p4"
    bare = folder_pictures(pictures[0].image_path.parents[1], masks=None)
    with pytest.raises(ValueError, match="expected all with masks, got 'p0' without"):
        SegmentationDataset(bare)


def test_workers_and_epochs(pictures):
    change = RandomTransform((0.5, 2), 0.5, (8, 8), 0.3)
    data = SegmentationDataset(pictures, change, seed=3)
    loaders = [
        DataLoader(data, 2, collate_fn=collate),
        DataLoader(data, 2, collate_fn=collate, num_workers=2, persistent_workers=True),
    ]
    seen = []
    for epoch in (0, 1):
        data.set_epoch(epoch)
        alone, shared = ([batch.image for batch in loader] for loader in loaders)
        assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
        seen.append(torch.cat(alone))
    assert not torch.equal(*seen)
    again = SegmentationDataset(pictures, change, seed=3)
    again.set_epoch(1)
    assert torch.equal(again[4].image, seen[1][4])
    assert not torch.equal(SegmentationDataset(pictures, change, seed=4)[4].image, seen[0][4])


def test_a_pair_that_does_not_fit(pictures):
    path = pictures[0].mask_path
    write_label_png(path, np.zeros((2, 2), int))
    with pytest.raises(ValueError, match=r"p0\.png.*\(6, 9\) as picture 'p0' has, got \(2, 2\)"):
        SegmentationDataset(pictures)[0]


@pytest.mark.real
def test_real_batch(shared):
    found = voc_pictures(shared / "data/voc2012-person", "val")
    batch = next(iter(DataLoader(SegmentationDataset(found), 3, collate_fn=collate)))
    assert batch.ids == found.ids[:3]
    assert [int(m.sum()) for m in batch.mask] == [found[k].mask.size for k in range(3)]
    assert all((batch.labels[k] == 15).any() for k in range(3))
