import struct
import unicodedata
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from piip.data import images as reading
from piip.data.formats.ade20k_files import read_map, size_of
from piip.data.images import find_images, read_image
from piip.data.sources import DataError


def saved(image, path, **more):
    image.save(path, **more)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_jpegs_of_every_mode_become_rgb(mode, tmp_path):
    colour = Image.new("RGB", (20, 10), (200, 200, 200)).convert(mode)

    pixels = read_image(saved(colour, tmp_path / "a.jpg", quality=95))

    assert pixels.shape == (3, 10, 20)
    assert (pixels.float() - 200).abs().max() < 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_pngs_of_every_mode_become_rgb(mode, tmp_path):
    if mode == "I;16":
        image = Image.fromarray(np.full((10, 20), 255 * 257, dtype=np.uint16))
    else:
        image = Image.new("RGB", (20, 10), (255, 255, 255)).convert(mode)

    pixels = read_image(saved(image, tmp_path / "a.png"))

    assert pixels.shape == (3, 10, 20)
    assert (pixels == 255).all()


def turned(path, orientation):
    """Stored 20 wide and 10 high, its left half white."""
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, :10] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    return saved(image, path, exif=exif, quality=95)


def test_an_image_annotated_upright_is_turned_as_exif_says(tmp_path):
    path = turned(tmp_path / "a.jpg", 6)  # 6: turn by 90 degrees clockwise

    pixels = read_image(path, (20, 10))

    assert pixels.shape == (3, 20, 10)
    assert pixels[:, :8].min() > 200  # the left has become the top


def test_an_image_annotated_as_stored_stays_as_it_is(tmp_path):
    path = turned(tmp_path / "a.jpg", 6)

    pixels = read_image(path, (10, 20))

    assert pixels.shape == (3, 10, 20)
    assert pixels[:, :, :8].min() > 200


def test_an_image_of_another_size_is_refused(tmp_path):
    path = turned(tmp_path / "a.jpg", 6)
    with pytest.raises(DataError, match=r"a\.jpg is \(10, 20\) .*annotations say \(10, 10\)"):
        read_image(path, (10, 10))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not an image"), (b"<html>404</html>", "not an image"), (None, "cannot be decoded")],
    ids=["empty", "html", "truncated"],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_broken_image_is_named(content, message, suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"broken.{suffix}")
    path.write_bytes(path.read_bytes()[:1500] if content is None else content)

    with pytest.raises(DataError, match=rf"broken\.{suffix}: {message}"):
        read_image(path)


def test_names_are_found_whatever_form_their_accents_have(tmp_path):
    (tmp_path / "sub").mkdir()
    stored = tmp_path / "sub" / unicodedata.normalize("NFD", "Café 猫.jpg")
    saved(Image.new("RGB", (4, 4)), stored)

    found, missing = find_images(tmp_path, ["sub/Café 猫.jpg", "other/a.jpg"])

    assert found is not None
    assert read_image(found).shape == (3, 4, 4)
    assert missing is None


def test_black_stays_black_in_16_bits(tmp_path):
    values = np.array([[0, 257, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")

    assert read_image(tmp_path / "grey.png", (1, 3))[0].tolist() == [[0, 1, 255]]


def with_exif(path, ifd: bytes):
    """A JPEG 20 wide and 10 high, its left half white, whose EXIF block holds these bytes after the header of a TIFF."""
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, :10] = 255
    Image.fromarray(pixels).save(path, quality=95)
    stored, block = path.read_bytes(), b"Exif\0\0II*\0\x08\0\0\0" + ifd
    path.write_bytes(stored[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + stored[2:])
    return path


def tag(number: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI4s", number, kind, count, value)


UPRIGHT_6 = tag(0x0112, 3, 1, b"\x06\0")
ODD = {
    "a resolution in letters": struct.pack("<H", 2) + UPRIGHT_6 + tag(0x011A, 2, 4, b"abc\0") + bytes(4),
    "a name in numbers": struct.pack("<H", 2) + UPRIGHT_6 + tag(0x010F, 3, 1, b"\x07\0") + bytes(4),
    "a resolution by zero": struct.pack("<H", 2) + UPRIGHT_6 + tag(0x011A, 5, 1, struct.pack("<I", 38)) + bytes(12),
}


@pytest.mark.parametrize("ifd", ODD.values(), ids=ODD.keys())
def test_the_orientation_is_read_whatever_else_the_camera_noted(ifd, tmp_path):
    path = with_exif(tmp_path / "a.jpg", ifd)

    assert read_image(path).shape == (3, 20, 10)
    assert read_image(path, (20, 10))[:, :8].min() > 200
    assert read_image(path, (10, 20)).shape == (3, 10, 20)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@given(st.binary(max_size=60))
@settings(max_examples=60)
def test_no_exif_block_loses_an_image(tmp_path_factory, ifd):
    path = with_exif(tmp_path_factory.getbasetemp() / "odd.jpg", ifd)

    assert read_image(path).shape in ((3, 10, 20), (3, 20, 10))


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_comes_upright(orientation, tmp_path):
    path = turned(tmp_path / "a.jpg", orientation)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))

    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    "error", [TypeError("no"), ZeroDivisionError, struct.error("unpack"), zlib.error, MemoryError, IndexError]
)
def test_whatever_a_decoder_raises_names_the_image(error, tmp_path, monkeypatch):
    path = saved(Image.new("RGB", (4, 4)), tmp_path / "a.png")

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", broken)
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        read_image(path)
    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        read_map(path)
    assert size_of(path) == (0, 0)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.full((4, 4), 0.5, dtype=np.float32), "floating point"),
        (np.full((4, 4), 300.0, dtype=np.float32), "floating point"),
        (np.full((4, 4), 70000, dtype=np.int32), "whole numbers of 32 bits"),
    ],
)
def test_pixels_without_a_range_are_refused_with_advice(values, kind, tmp_path):
    path = saved(Image.fromarray(values), tmp_path / "a.tif")

    with pytest.raises(DataError, match=rf"a\.tif: pixels are {kind}.*Save it with 8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_become_8_by_one_rule_for_dark_images_and_bright_ones(suffix, tmp_path):
    dark, bright = np.array([[0, 100, 255, 257]], np.uint16), np.array([[0, 100, 255, 65535]], np.uint16)
    for name, values in (("dark", dark), ("bright", bright)):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "pgm":
            path.write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
        else:
            Image.fromarray(values).save(path)

    assert read_image(tmp_path / f"dark.{suffix}")[0].tolist() == [[0, 0, 0, 1]]
    assert read_image(tmp_path / f"bright.{suffix}")[0].tolist() == [[0, 0, 0, 255]]


@pytest.mark.parametrize("by", ["ours", "Pillow's"])
def test_an_image_of_too_many_pixels_is_refused_with_advice(by, tmp_path, monkeypatch):
    path = saved(Image.new("L", (40, 50)), tmp_path / "large.png")
    if by == "ours":
        monkeypatch.setattr(reading, "MOST_PIXELS", 1999)
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999)

    for read in (read_image, read_map):
        with pytest.raises(
            DataError, match=r"large\.png: more than \d+ megapixels.*Cut it into tiles or make it smaller"
        ):
            read(path)


def test_names_that_cannot_be_folders_are_not_found(tmp_path):
    assert find_images(tmp_path, ["x" * 300 + "/a.jpg", "a\0b/c.jpg", "a\0.jpg", "x" * 300]) == [None] * 4
