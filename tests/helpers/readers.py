# SPDX-License-Identifier: MIT
"""Every reader of files, with small valid files of its format: what fuzzers start from.

A reader may take any bytes. It returns, or it raises the ValueError of its docstring, which names the file.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import foreign
from crfrnn import CRFRNN
from crfrnn.datasets import coco_pictures
from crfrnn.datasets.coco import mask_tools
from crfrnn.io import (
    Raster,
    load_parameters,
    read_array,
    read_arrays,
    read_cams,
    read_image,
    read_label_png,
    read_mat,
    read_nifti,
    read_scribbles,
    read_unary,
    save_parameters,
)
from crfrnn.io.manifest import MANIFEST, Entry, Manifest, Run
from crfrnn.io.weights import read_tensors
from crfrnn.models.importers.caffe import read_caffemodel
from crfrnn.models.importers.deeplab import read_tflite
from crfrnn.models.importers.keras import read_h5
from crfrnn.training.recipe import load_recipe

PIXELS = 1 << 16  # larger pictures are refused here, so that a header alone does not take seconds
BYTES = 1 << 20


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        file: the name under which its bytes lie, with folders where the reader expects them.
        read: takes the folder and the path of the file.
        seeds: writes valid files to the given path, one after the other.
    """

    file: str
    read: Callable[[Path, Path], Any]
    seeds: Callable[[Path], Iterator[None]]


ARRAY = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)


def _npy(path: Path) -> Iterator[None]:
    for values in (ARRAY, ARRAY.astype(">f8"), ARRAY.astype(np.float16), np.asfortranarray(ARRAY[0] > 0)):
        np.save(path, values)
        yield


def _npz(path: Path) -> Iterator[None]:
    np.savez(path, a=ARRAY)
    yield
    np.savez_compressed(path, a=ARRAY, b=np.arange(5, dtype=np.uint8))
    yield


def _cams(path: Path) -> Iterator[None]:
    np.savez(path, keys=np.array([3, 7]), high_res=np.abs(ARRAY) / 2)
    yield
    np.savez_compressed(path, **{"3": np.abs(ARRAY[0]) / 2, "7": np.abs(ARRAY[1]) / 2})
    yield


def _pt(path: Path) -> Iterator[None]:
    torch.save({"a.weight": torch.from_numpy(ARRAY)}, path)
    yield
    torch.save(
        {"state_dict": {"a.weight": torch.ones(2, 3), "b": torch.zeros(1, dtype=torch.bfloat16)}}, path
    )
    yield


def _pictures(path: Path) -> Iterator[None]:
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 255, (6, 5), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 255, (6, 5, 3), dtype=np.uint8))
    indexed = grey.convert("P")
    for picture, form, how in (
        (colour, "PNG", {}),
        (grey, "PNG", {}),
        (indexed, "PNG", {"transparency": 3}),
        (grey.convert("1"), "PNG", {}),
        (grey.convert("I;16"), "PNG", {}),
        (colour, "JPEG", {}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "TIFF", {}),
        (grey, "TIFF", {"compression": "tiff_lzw"}),
        (indexed, "GIF", {}),
        (colour, "BMP", {}),
        (colour, "PPM", {}),
        (colour, "WEBP", {"lossless": True}),
    ):
        picture.save(path, form, **how)
        yield


def _label_maps(path: Path) -> Iterator[None]:
    labels = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5) % 4)
    for picture in (labels, labels.convert("P"), labels.convert("I;16"), labels.convert("1")):
        picture.save(path, "PNG")
        yield


def _mat(path: Path) -> Iterator[None]:
    from scipy.io import savemat

    masks = {"GTcls": {"Segmentation": np.arange(12, dtype=np.uint8).reshape(3, 4)}}
    for compressed in (False, True):
        savemat(path, masks, do_compression=compressed)
        yield


def _nifti(path: Path) -> Iterator[None]:
    import nibabel

    for values in (np.arange(24, dtype=np.int16).reshape(2, 3, 4), ARRAY[..., None].repeat(2, 3)):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 3.0, 1.0])), path)
        yield


def _parameters(path: Path) -> Iterator[None]:
    for crf in (CRFRNN(2), CRFRNN(3, label_weights="matrix")):
        save_parameters(path, crf)
        yield


def _caffe(path: Path) -> Iterator[None]:
    made = {"conv1_1": [np.ones((2, 3, 1, 1), np.float32), np.ones(2, np.float32)]}
    for v1 in (False, True):
        foreign.caffemodel(path, made, v1=v1)
        yield


def _h5(path: Path) -> Iterator[None]:
    import h5py

    with h5py.File(path, "w") as file:
        layer = file.create_group("conv1_1")
        layer.attrs["weight_names"] = [b"kernel:0"]
        layer.create_dataset("kernel:0", data=ARRAY)
        file.attrs["layer_names"] = [b"conv1_1"]
    yield


def _tflite(path: Path) -> Iterator[None]:
    import flatbuffers
    import tflite

    builder = flatbuffers.Builder(256)
    held = builder.CreateNumpyVector(np.arange(8, dtype=np.uint8))
    tflite.BufferStart(builder)
    tflite.BufferAddData(builder, held)
    buffer = tflite.BufferEnd(builder)
    shape = builder.CreateNumpyVector(np.array([1, 2, 2, 2], "<i4"))
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, tflite.TensorType.UINT8)
    tensor = tflite.TensorEnd(builder)
    inputs = builder.CreateNumpyVector(np.array([0, 0, 0], "<i4"))
    tflite.OperatorStart(builder)
    tflite.OperatorAddInputs(builder, inputs)
    operator = tflite.OperatorEnd(builder)
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, 3)
    code = tflite.OperatorCodeEnd(builder)

    def several(start: Callable[[Any, int], Any], one: int) -> int:
        start(builder, 1)
        builder.PrependUOffsetTRelative(one)
        return builder.EndVector()

    tensors, operators = (
        several(tflite.SubGraphStartTensorsVector, tensor),
        several(tflite.SubGraphStartOperatorsVector, operator),
    )
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensors)
    tflite.SubGraphAddOperators(builder, operators)
    graph = tflite.SubGraphEnd(builder)
    graphs, buffers, codes = (
        several(tflite.ModelStartSubgraphsVector, graph),
        several(tflite.ModelStartBuffersVector, buffer),
        several(tflite.ModelStartOperatorCodesVector, code),
    )
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, buffers)
    tflite.ModelAddOperatorCodes(builder, codes)
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    path.write_bytes(builder.Output())
    yield


def _geotiff(path: Path) -> Iterator[None]:
    import rasterio

    for bands, how in ((3, {}), (1, {"nodata": 0, "compress": "deflate"})):
        shape = {"width": 5, "height": 6, "count": bands, "dtype": "uint8"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path, "w", driver="GTiff", **shape, **how) as file:
                file.write(np.arange(30 * bands, dtype=np.uint8).reshape(bands, 6, 5))
        yield


def _read_geotiff(folder: Path, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raster = Raster(path)
        bands, height, width = raster.shape
        assert raster.indexed in (False, True)
        if bands <= 64:  # thousands take GDAL seconds
            raster.read(slice(0, min(height, 64)), slice(0, min(width, 64)))


def _coco(path: Path) -> Iterator[None]:
    inside = np.asfortranarray(np.arange(30, dtype=np.uint8).reshape(6, 5) > 17, np.uint8)
    packed = mask_tools().encode(inside)["counts"].decode()
    shape = {"id": 1, "image_id": 5, "category_id": 1, "iscrowd": 0, "area": 12.0, "bbox": [0, 0, 4, 4]}
    listing = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 6, "width": 5}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {**shape, "segmentation": [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]]},
            {**shape, "id": 2, "iscrowd": 1, "segmentation": {"size": [6, 5], "counts": [2, 8, 20]}},
            {
                **shape,
                "id": 3,
                "segmentation": {"size": [6, 5], "counts": packed},
            },
        ],
    }
    (path.parent.parent / "s").mkdir(exist_ok=True)
    Image.new("RGB", (5, 6)).save(path.parent.parent / "s" / "a.jpg")
    path.write_text(json.dumps(listing))
    yield


def _read_coco(folder: Path, path: Path) -> None:
    for item in coco_pictures(folder, "s", min_pixels=0):
        assert item.image.size


def _manifest(path: Path) -> Iterator[None]:
    before = Entry("1", "ab", (3, 4), "cd")
    Manifest(
        path.parent,
        {"1": Run("refine", {"kind": "logits"})},
        {"a.png": Entry("1", "ab", (5, 6), "ef", (3, 4), before)},
    ).write()
    yield


def _recipe(path: Path) -> Iterator[None]:
    recipes = Path(__file__).resolve().parents[2] / "src/crfrnn/training/recipes"
    path.write_text((recipes / "deeplab.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    yield


READERS = {
    "npy": Reader("a.npy", lambda _, path: read_array(path, max_bytes=BYTES), _npy),
    "npz": Reader("a.npz", lambda _, path: read_array(path, key="a", max_bytes=BYTES), _npz),
    "npz-all": Reader("a.npz", lambda _, path: read_arrays(path, max_bytes=BYTES), _npz),
    "unary": Reader("a.npy", lambda _, path: read_unary(path, kind="logits", axes="lhw", size=(3, 4)), _npy),
    "cams": Reader("a.npz", lambda _, path: read_cams(path, size=(3, 4)), _cams),
    "pt": Reader("a.pt", lambda _, path: read_array(path, key="a.weight", max_bytes=BYTES), _pt),
    "weights": Reader("a.pth", lambda _, path: read_tensors(path), _pt),
    "picture": Reader("a.png", lambda _, path: read_image(path, max_pixels=PIXELS), _pictures),
    "labels": Reader("a.png", lambda _, path: read_label_png(path, max_pixels=PIXELS), _label_maps),
    "scribbles": Reader("a.png", lambda _, path: read_scribbles(path, 21), _label_maps),
    "mat": Reader("a.mat", lambda _, path: read_mat(path, "GTcls", "Segmentation"), _mat),
    "nifti": Reader("a.nii", lambda _, path: read_nifti(path, max_voxels=PIXELS), _nifti),
    "geotiff": Reader("a.tif", _read_geotiff, _geotiff),
    "parameters": Reader("a.safetensors", lambda _, path: load_parameters(path), _parameters),
    "caffe": Reader("a.caffemodel", lambda _, path: read_caffemodel(path), _caffe),
    "keras": Reader("a.h5", lambda _, path: read_h5(path), _h5),
    "tflite": Reader("a.tflite", lambda _, path: read_tflite(path), _tflite),
    "coco": Reader("annotations/instances_s.json", _read_coco, _coco),
    "manifest": Reader(MANIFEST, lambda folder, _: Manifest.read(folder), _manifest),
    "recipe": Reader("a.yaml", lambda _, path: load_recipe(path), _recipe),
}


@contextmanager
def at_hand(reader: Reader) -> Iterator[tuple[Path, Path]]:
    """A folder of its own, in memory where the system has one, and the file's path in it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        path = Path(folder) / reader.file
        path.parent.mkdir(exist_ok=True)
        yield Path(folder), path


def seeds_of(reader: Reader) -> list[bytes]:
    found = []
    with at_hand(reader) as (_, path):
        for _ in reader.seeds(path):
            found.append(path.read_bytes())
    return found


def attempt(reader: Reader, folder: Path, path: Path, content: bytes) -> bool:
    """Whether the reader accepts these bytes; only its own type of error is caught."""
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(folder, path)
    except ValueError as error:
        if type(error) is ValueError or path.name in str(error):
            return False
        raise
    return True
