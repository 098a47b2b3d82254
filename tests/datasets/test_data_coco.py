# SPDX-License-Identifier: MIT
"""COCO annotations as labels of VOC, against hand-made pictures, skimage and the annotated areas."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import polygon2mask

import devkits
from crfrnn.datasets.coco import OVERLAPS, ShapeError, coco_pictures, encode, voc_labels
from crfrnn.io import VOC_CLASSES

# pycocotools 2.0.11 does this under numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (30, 40)
PERSON, SOFA, BANANA = 1, 63, 52
CATEGORIES = [
    {"id": PERSON, "name": "person"},
    {"id": SOFA, "name": "couch"},
    {"id": BANANA, "name": "banana"},
]


def box(x: int, y: int, width: int, height: int) -> list[list[int]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def runs(inside: np.ndarray) -> dict[str, Any]:
    """Run lengths down the columns, zeros first, by a plain loop."""
    counts, value = [0], False
    for pixel in inside.T.reshape(-1):
        if pixel != value:
            counts, value = [*counts, 0], not value
        counts[-1] += 1
    return {"size": list(inside.shape), "counts": counts}


def note(picture: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": picture, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


@pytest.fixture
def content():
    crowd = np.zeros(SIZE, bool)
    crowd[20:, 5:9] = crowd[:3, 39] = True
    return {
        "categories": CATEGORIES,
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": 9, "file_name": "b.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": 8, "file_name": "c.jpg", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": [
            note(7, PERSON, box(6, 4, 5, 10)),
            note(7, SOFA, box(2, 2, 20, 16)),
            note(7, BANANA, box(0, 0, 40, 30)),
            note(7, PERSON, runs(crowd), iscrowd=1),
            note(9, PERSON, box(0, 0, 20, 10)),
            note(8, PERSON, box(0, 0, 20, 9)),
            note(8, PERSON, box(10, 0, 10, 9)),
            note(8, PERSON, box(20, 0, 19, 1)),
            note(8, BANANA, box(0, 0, 40, 30)),
            note(8, SOFA, box(0, 20, 40, 10), ignore=1),
        ],
    }


@pytest.fixture
def root(tmp_path):
    (tmp_path / "annotations").mkdir()
    for k, name in enumerate("abc"):
        devkits.picture(tmp_path / f"train2014/{name}.jpg", k, SIZE)
    return tmp_path


def read(root, content, **options):
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "annotations/instances_train2014.json").write_text(text)
    return coco_pictures(root, "train2014", **options)


def test_masks(root, content):
    item = read(root, content)[0]
    expected = np.zeros(SIZE, np.uint8)
    expected[20:, 5:9] = expected[:3, 39] = 255
    expected[2:18, 2:22] = 18
    expected[4:14, 6:11] = 15
    assert np.array_equal(item.mask, expected)
    expected[4:14, 6:11] = 255
    assert np.array_equal(read(root, content, overlap="void")[0].mask, expected)
    assert np.array_equal(pickle.loads(pickle.dumps(item)).mask, item.mask)
    assert item.tensors()[1].shape == SIZE


def test_two_hundred_pixels(root, content):
    # c: 20 × 9 persons, 19 more, no banana, no ignored sofa: 199 pixels, however often they are covered.
    seen = []
    pictures = read(root, content, progress=lambda done, total: seen.append((done, total)))
    assert (pictures.ids, seen) == (("a", "b"), [(1, 3), (2, 3), (3, 3)])
    assert pictures.class_names == VOC_CLASSES
    assert read(root, content, min_pixels=199).ids == ("a", "b", "c")
    assert read(root, content, min_pixels=201).ids == ("a",)
    assert read(root, content, min_pixels=0).ids == ("a", "b", "c")
    assert pictures.check() == []


def test_run_lengths_as_text(root, content):
    import pycocotools.mask

    inside = np.random.default_rng(0).random(SIZE) < 0.3
    inside[10:20] = False
    encoded: Any = pycocotools.mask.encode(np.asfortranarray(inside.astype(np.uint8)))
    for segmentation in ({"size": list(SIZE), "counts": encoded["counts"].decode()}, runs(inside)):
        content["annotations"] = [note(9, PERSON, segmentation)]
        (item,) = read(root, content)
        assert np.array_equal(item.mask == 15, inside)


def broken(path: tuple[Any, ...], value: Any) -> Any:
    def change(content: dict[str, Any]) -> dict[str, Any]:
        content = copy.deepcopy(content)
        place = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return content

    return change


SHAPE = ("annotations", 4, "segmentation")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (broken(SHAPE, [[0, 0, 1e9, 0, 1e9, 1e9]]), "near 0..40 along x"),
        (broken(SHAPE, [[0, 0, float("nan"), 0, 3, 3]]), "finite numbers"),
        (broken(SHAPE, [[0, 0, "x", 0, 3, 3]]), "finite numbers"),
        (broken(SHAPE, [[0, 0, 10**999, 0, 3, 3]]), "near 0..40 along x"),
        (broken(SHAPE, [[0, 0, 1, 0, 3]]), "polygons"),
        (broken(SHAPE, [7]), "polygons"),
        (broken(SHAPE, "text"), "polygons or run lengths, got str"),
        (broken(SHAPE, {"size": [30, 40], "counts": [3, 2]}), "add up to 1200, got 5"),
        (broken(SHAPE, {"size": [30, 40], "counts": [3, 10**9]}), "add up to 1200"),
        (broken(SHAPE, {"size": [30, 40], "counts": [-3, 1203]}), "run lengths of 0 and more"),
        (broken(SHAPE, {"size": [40, 30], "counts": [1200]}), r"of size \[30, 40\]"),
        (broken(SHAPE, {"size": [30, 40], "counts": "~~\x7f"}), "compressed run lengths"),
        (broken(SHAPE, {"size": [30, 40], "counts": "T"}), "complete compressed"),
        (broken(("images", 1, "file_name"), "../../etc/passwd"), "plain file name"),
        (broken(("images", 1, "height"), -3), "a height and a width"),
        (broken(("images", 1, "width"), 2**40), "at most 67108864 pixels"),
        (broken(("images",), {}), "a list of objects 'images', got dict"),
        (broken(("annotations",), [3]), "a list of objects 'annotations'"),
        (broken(("categories",), [{"id": 1, "name": "cell"}]), "none of VOC's 20"),
        (lambda _: "{", "JSON"),
        (lambda _: "[" * 100_000, "JSON"),
        (lambda _: "", "an empty file"),
    ],
)
def test_invalid_files(root, content, change, said):
    with pytest.raises(ValueError, match=said) as caught:
        read(root, change(content))
    assert "instances_train2014.json" in str(caught.value)


def test_all_problems_at_once(root, content):
    content = broken(SHAPE, "text")(broken(("annotations", 0, "segmentation"), 3)(content))
    with pytest.raises(ValueError, match="2 problems") as caught:
        read(root, content)
    assert "picture 7" in str(caught.value)
    assert "picture 9" in str(caught.value)
    (root / "train2014/a.jpg").unlink()
    (root / "train2014/b.jpg").unlink()
    content["annotations"] = content["annotations"][5:]
    with pytest.raises(ValueError, match="2 missing") as caught:
        read(root, content, min_pixels=0)
    assert "a.jpg" in str(caught.value)


@pytest.mark.parametrize("write", [str, float, "{:012d}".format])
def test_ids_of_any_form(root, content, write):
    content = copy.deepcopy(content)  # the categories are shared by the tests
    content["categories"][1]["name"] = " Couch"
    for entry in (*content["images"], *content["categories"], *content["annotations"]):
        for name in ("id", "image_id", "category_id", "height", "width", "iscrowd", "ignore"):
            if name in entry:
                entry[name] = write(entry[name])
    test_masks(root, content)
    test_two_hundred_pixels(root, content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (broken(("images", 1, "id"), 7.5), "'id' in every entry of 'images', got 7.5 in entry 1"),
        (broken(("images", 1, "id"), None), "'id' in every entry of 'images', got None"),
        (broken(("images", 1, "id"), True), "'id' in every entry of 'images', got True"),
        (broken(("images", 1, "id"), 1e300), "'id' in every entry of 'images'"),
        (broken(("images", 1, "id"), "x9"), "'id' in every entry of 'images', got 'x9'"),
        (broken(("images", 1, "id"), "7"), "each 'id' once in 'images', got 1 of them twice"),
        (broken(("categories", 1, "id"), 1.0), "each 'id' once in 'categories'"),
        (broken(("categories", 2, "id"), "fruit"), "'id' in every entry of 'categories', got 'fruit'"),
        (broken(("categories", 2), {"name": "banana"}), "'id' in every entry of 'categories', got none"),
        (broken(("annotations", 3, "image_id"), [7]), r"'image_id' in every entry .*got \[7\] in entry 3"),
        (
            broken(("annotations", 3), {"image_id": 7}),
            "'category_id' in every entry of 'annotations', got none",
        ),
        (
            broken(("annotations", 3), {"category_id": 1}),
            "'image_id' in every entry of 'annotations', got none",
        ),
        (broken(("annotations", 3, "category_id"), 99), r"that 'categories' lists .*got 99 \(1 such"),
        (broken(("annotations", 3, "iscrowd"), "no"), "picture 7: expected 0 or 1 as 'iscrowd'.*got 'no'"),
        (broken(("annotations", 9, "ignore"), 2), "picture 8: expected 0 or 1 as 'ignore'"),
        (broken(("images", 1, "width"), "wide"), "a height and a width, got 30 and 'wide'"),
    ],
)
def test_invalid_ids(root, content, change, said):
    with pytest.raises(ValueError, match=said) as caught:
        read(root, change(content))
    assert "instances_train2014.json" in str(caught.value)


def test_annotations_of_pictures_that_are_not_listed_are_counted(root, content):
    del content["images"][2]
    with pytest.warns(UserWarning, match=r"5 of 10 annotations are ignored.*\(1 ids, such as 8\)"):
        assert read(root, content).ids == ("a", "b")


def test_odd_entries_do_no_harm(root, content):
    content["annotations"] += [
        note(9, PERSON, [[1, 1, 5, 5]]),  # two corners: no area, and not a box either
        note(9, PERSON, []),
    ]
    assert read(root, content).ids == ("a", "b")
    assert int((read(root, content)[1].mask == 15).sum()) == 200


NUMBERS = st.one_of(st.integers(-60, 100), st.floats(-60, 100), st.floats(), st.integers(), st.none())


@pytest.mark.slow
@given(
    st.one_of(
        st.lists(st.lists(NUMBERS, max_size=9), max_size=3),
        st.fixed_dictionaries(
            {
                "size": st.just([6, 9]),
                "counts": st.one_of(st.lists(NUMBERS), st.text("0123PQRSTo~", max_size=9)),
            }
        ),
    )
)
def test_any_input_is_refused_or_gives_a_shape_of_the_right_size(segmentation):
    import pycocotools.mask as tools

    try:
        counts = encode(segmentation, (6, 9), tools)
    except ShapeError:
        return
    if counts is not None:
        painted = tools.decode({"size": [6, 9], "counts": counts})
        assert painted.shape == (6, 9)
        assert painted.max() <= 1  # larger values would be uninitialised memory


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_round_trip(seed, share):
    import pycocotools.mask as tools

    inside = np.random.default_rng(seed).random((37, 23)) < share
    encoded: Any = tools.encode(np.asfortranarray(inside.astype(np.uint8)))
    for counts in (encoded["counts"].decode(), runs(inside)["counts"]):
        assert encode({"size": [37, 23], "counts": counts}, (37, 23), tools) == encoded["counts"]


def test_usage(root, content, monkeypatch):
    with pytest.raises(ValueError, match="overlap: expected one of 'smaller', 'void'"):
        read(root, content, overlap="first")
    with pytest.raises(ValueError, match=r"instances_val2014\.json"):
        coco_pictures(root, "val2014")
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(ImportError, match="package pycocotools, got none; pip install"):
        read(root, content)


@pytest.mark.slow
@pytest.mark.real
def test_real_pictures(shared):
    root = shared / "data/coco-mini"
    notes = json.loads((root / "annotations/instances_train2017.json").read_text())
    everything = coco_pictures(root, "train2017", min_pixels=0)
    assert len(everything) == 494
    chosen = coco_pictures(root, "train2017")
    # The paper kept 66,099 of the 82,783 pictures of train2014; these 494 are a sample of the same pictures.
    share = 66_099 / 82_783
    assert abs(len(chosen) / 494 - share) < 3 * np.sqrt(share * (1 - share) / 494)
    labels = voc_labels(notes["categories"])
    assert sorted(labels.values()) == list(range(1, 21))
    by_name = {item.id: item for item in everything}
    checked = 0
    for picture in notes["images"][::10]:
        item = by_name[picture["file_name"].removesuffix(".jpg")]
        own = [a for a in notes["annotations"] if a["image_id"] == picture["id"]]
        image, mask = item.tensors()
        assert image.shape[1:] == mask.shape
        shapes = [a for a in own if a["category_id"] in labels]
        assert (item.id in chosen.ids) == (item.mask_loader.pixels() >= 200)  # type: ignore[union-attr]
        assert set(np.unique(mask)) - {0, 255} <= {labels[a["category_id"]] for a in shapes}
        assert bool((mask == 255).any()) == any(a["iscrowd"] for a in shapes)
        for label in set(np.unique(mask)) - {0, 255}:
            drawn = np.zeros(mask.shape, bool)
            for a in shapes:
                if labels[a["category_id"]] == label and not a["iscrowd"]:
                    for p in a["segmentation"]:
                        # pycocotools' corners differ from skimage's by half a pixel
                        drawn |= polygon2mask(mask.shape, np.array(p).reshape(-1, 2)[:, ::-1] - 0.5)
            painted = mask.numpy() == label
            assert (
                painted & ~drawn
            ).sum() <= 0.02 * drawn.sum() + 40  # hidden parts may be missing, not more
            checked += 1
    assert checked > 40
    alone = [a for a in notes["annotations"] if a["category_id"] in labels and not a["iscrowd"]]
    lonely = {a["image_id"] for a in alone if sum(b["image_id"] == a["image_id"] for b in alone) == 1}
    for a in (a for a in alone if a["image_id"] in lonely):
        item = by_name[f"{a['image_id']:012d}"]
        count = item.mask_loader.pixels()  # type: ignore[union-attr]
        assert abs(count - a["area"]) <= 0.03 * a["area"] + 60


@pytest.mark.slow
@pytest.mark.real
def test_overlaps_of_real_pictures_are_few(shared):
    root = shared / "data/coco-mini"
    first, second = (coco_pictures(root, "train2017", overlap=overlap) for overlap in OVERLAPS)
    kept = lost = 0
    for one, other in list(zip(first, second, strict=True))[::8]:
        a, b = one.mask, other.mask
        assert np.array_equal(a[b != 255], b[b != 255])
        kept, lost = kept + int(((a > 0) & (a < 255)).sum()), lost + int(((b == 255) & (a != 255)).sum())
    assert 0 < lost < 0.05 * kept
