import unicodedata

import numpy as np
import pytest
from PIL import Image

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
