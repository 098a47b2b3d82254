# SPDX-License-Identifier: MIT
from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from crfrnn.io import FileError, read_image
from crfrnn.io.images import as_rgb, upright_size

RGB = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_formats_round_trip(tmp_path, ending):
    Image.fromarray(RGB).save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    found = read_image(tmp_path / f"a.{ending}")
    assert found.dtype == np.uint8
    assert (found == RGB).all()
    found[0, 0] = 0  # the caller owns the memory


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    assert (read_image(tmp_path / "a.png") == upright).all()
    assert read_image(tmp_path / "a.png").shape == ((5, 7, 3) if orientation < 5 else (7, 5, 3))


@pytest.mark.filterwarnings("ignore:.*depth allows:UserWarning")  # a dark picture
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_rotated_grey_tiffs(tmp_path, orientation, dtype):
    values = np.arange(35).reshape(5, 7).astype(dtype) * (257 if dtype == "u2" else 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / "a.tif", exif=exif)
    Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7)).save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.tif"), upright)
    with Image.open(tmp_path / "a.tif") as picture:
        assert np.array_equal(as_rgb(picture), upright)
    for name in ("a.tif", "a.png"):
        assert upright_size(tmp_path / name) == upright.shape[:2]


def test_grey_palette_bits(tmp_path):
    for mode in ("L", "P", "1"):
        Image.fromarray(RGB).convert(mode).save(tmp_path / "a.png")
        assert (
            read_image(tmp_path / "a.png") == np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
        ).all()


def test_alpha_is_shown_on_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [100, 0, 200, 51]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :2].tolist() == [[255, 255, 255], [10, 20, 30]]
    blended = pixels[0, 2, :3] * 0.2 + 255 * 0.8
    assert np.abs(read_image(tmp_path / "a.png")[0, 2] - blended).max() <= 1
    Image.fromarray(np.array([[[9, 0], [9, 255]]], np.uint8)).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png")[0].tolist() == [[255] * 3, [9] * 3]


def test_sixteen_bits_are_scaled(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        assert read_image(tmp_path / name)[0, :, 1].tolist() == np.rint(values[0] / 257).astype(int).tolist()
    (tmp_path / "a.pgm").write_bytes(b"P5 6 1 65535\n" + values.astype(">u2").tobytes())
    assert read_image(tmp_path / "a.pgm")[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_unused_bits_cause_a_warning(tmp_path, bits, ending):
    """As written by cameras, microscopes and DICOM exports; the given scale converts them to 8 bits."""
    eight = np.arange(0, 250, 2, dtype=np.uint16).reshape(5, 25)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(eight << (bits - 8)).save(path)
    with pytest.warns(UserWarning, match=r"a\.\w+': numbers up to .* 65535.*--scale 0 (\d+)") as caught:
        assert read_image(path).max() <= 64
    top = int(str(caught[0].message).split("--scale 0 ")[1].split()[0])
    assert top == 2**bits - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image(path, scale=(0, top))
    assert np.abs(found[..., 0].astype(int) - eight).max() <= 1


def test_colour_of_sixteen_bits_keeps_its_upper_eight(tmp_path):
    """Pillow drops the low byte, so a scale cannot help, and a warning reports the loss of 12-bit data."""
    rgb = np.arange(0, 4080, 68, dtype=">u2").reshape(4, 5, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "a.png").write_bytes(png)
    with pytest.warns(UserWarning, match="its bit depth allows 65535.*scale them to 0..255"):
        assert read_image(tmp_path / "a.png").max() == 15
    with pytest.raises(FileError, match="16 bits per channel"):
        read_image(tmp_path / "a.png", scale=(0, 4095))


def test_a_scale_gives_the_range_of_any_numbers(tmp_path):
    values = np.array([[-1.0, 0.0, 0.5], [1.0, 2.0, 0.25]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(FileError, match="pass --scale LOW HIGH"):
        read_image(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", scale=(0, 1))[..., 1].tolist() == [[0, 0, 128], [255, 255, 64]]
    Image.fromarray(RGB).save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png", scale=(0, 51)) == np.minimum(5 * RGB.astype(int), 255)).all()
    for scale in ((1, 1), (2, 1), (0, np.inf)):
        with pytest.raises(ValueError, match="scale: expected two finite numbers"):
            read_image(tmp_path / "b.png", scale=scale)
    Image.fromarray(np.array([[np.nan, 1]], np.float32)).save(tmp_path / "c.tif")
    with pytest.raises(FileError, match="NaN"):
        read_image(tmp_path / "c.tif", scale=(0, 1))
    for dark in (np.zeros((3, 3), np.uint16), np.full((3, 3), 9, np.uint16)):  # no contrast in either case
        Image.fromarray(dark).save(tmp_path / "d.png")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_image(tmp_path / "d.png")


def test_cmyk(tmp_path):
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    picture.save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - [255, 0, 0]).max() <= 3


def test_unstated_ranges_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "f.tiff")
    Image.fromarray(np.zeros((2, 2), np.int32)).save(tmp_path / "i.tiff")
    for name in ("f.tiff", "i.tiff"):
        with pytest.raises(FileError, match="8 or 16 bits"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("zero_is", ["MINISBLACK", "MINISWHITE"])
def test_tiff_depths_are_right_or_refused(tmp_path, bits, zero_is):
    values = np.random.default_rng(bits).integers(0, 2**bits, (1, 5, 7)).astype("u2" if bits > 8 else "u1")
    save_tiff(tmp_path / "a.tif", values, photometric=zero_is, nbits=bits)
    if (bits, zero_is) == (12, "MINISWHITE"):  # Pillow cannot open this
        with pytest.raises(FileError, match=r"got 12 bits \(photometric interpretation 0\)"):
            read_image(tmp_path / "a.tif")
        return
    top = 2**bits - 1
    light = values[0] if zero_is == "MINISBLACK" else top - values[0]
    assert np.abs(read_image(tmp_path / "a.tif")[..., 1] - light * 255.0 / top).max() <= 0.5


@pytest.mark.parametrize(
    ("dtype", "nbits", "said"),
    [("u1", 7, "7 bits"), ("u2", 10, "10 bits"), ("u2", 14, "14 bits"), ("i1", 8, "signed"),
     ("i2", 16, "signed"), ("f4", 16, "16 bits floating-point"), ("u4", 24, "24 bits")],
)  # fmt: skip
def test_other_tiffs_are_refused_with_a_reason(tmp_path, dtype, nbits, said):
    save_tiff(tmp_path / "a.tif", np.ones((1, 5, 7), dtype), nbits=nbits)
    with pytest.raises(FileError, match=said):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("compress", ["none", "deflate"])
@pytest.mark.parametrize("tiled", [False, True])
def test_separate_channel_planes_are_right_or_refused(tmp_path, interleave, compress, tiled):
    read = 0
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    for bands, kind in ((1, "MINISBLACK"), (1, "MINISWHITE"), (2, "MINISBLACK"), (3, "RGB"), (4, "RGB")):
        for bits in (1, 4, 8, 16):
            top = 2**bits - 1
            values = np.random.default_rng(0).integers(0, top + 1, (bands, 35, 37))
            values = values.astype("u2" if bits > 8 else "u1")
            alpha = {"alpha": "YES"} if bands in (2, 4) else {}
            if alpha:
                values[-1] = top
            more = {**tiles, **alpha, "interleave": interleave, "compress": compress, "nbits": bits}
            save_tiff(tmp_path / "a.tif", values, photometric=kind, **more)
            try:
                found = read_image(tmp_path / "a.tif").transpose(2, 0, 1)
            except FileError as error:
                assert "interleaved" in str(error) or "a TIFF of 1, 2, 4, 8 or 16 bits" in str(error)
                continue
            light = top - values if kind == "MINISWHITE" else values
            shown = light[: 3 if bands > 2 else 1] * 255.0 / top
            assert np.abs(found - shown).max() <= 1, (kind, bits)  # Pillow keeps the high byte
            read += 1
    assert read >= (12 if interleave == "pixel" else 3)


def save_tiff(path, values, **more):
    rasterio = pytest.importorskip("rasterio")
    if more.get("nbits") == 8 * values.dtype.itemsize:
        del more["nbits"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
        with rasterio.open(path, "w", driver="GTiff", dtype=values.dtype.name, **shape, **more) as file:
            file.write(values)


def test_several_frames_are_refused(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(FileError, match="2 frames"):
        read_image(tmp_path / "a.gif")


@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "bmp", "webp", "gif", "ppm"])
def test_truncated(tmp_path, ending):
    name = tmp_path / f"a.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(name)
    whole = name.read_bytes()
    for share in (0.9, 0.5, 0.02):
        name.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(FileError, match=r"a.*picture"):
            read_image(name)


def _png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (30_000, 30_000), (9000, 9000), (10_000, 10_000)])
def test_huge_headers_are_refused_before_decoding(tmp_path, size):
    (tmp_path / "a.png").write_bytes(_png(*size))
    with pytest.raises(FileError, match="at most 67108864 pixels"):
        read_image(tmp_path / "a.png")


def test_the_caller_sets_the_limit(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=35).shape == (5, 7, 3)
    with pytest.raises(FileError, match=r"at most 34 pixels, got 7 × 5 = 35.*max_pixels"):
        read_image(tmp_path / "a.png", max_pixels=34)


def test_invalid_pictures(tmp_path):
    with pytest.raises(FileError, match="nothing under that name"):
        read_image(tmp_path / "a.png")
    with pytest.raises(FileError, match="a folder"):
        read_image(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(FileError, match="an empty file"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )  # EPS would start Ghostscript
    with pytest.raises(FileError, match="expected a picture"):
        read_image(tmp_path / "a.png")
