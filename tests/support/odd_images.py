"""Image files of the kinds that are met, good and odd, in tests of data."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)

MODES = ("1", "L", "P", "PA", "LA", "RGBA", "CMYK", "16 bits", "turned", "odd notes", "other suffix", "moving")
"""Such that Pillow reads them as RGB."""
BROKEN = ("float", "32 bits", "cut off", "no bytes", "text", "huge", "gone", "folder", "link to nothing")


def save_image(path: Path, size: tuple[int, int], how: str) -> None:
    """An image of `size` (height, width) as a file, whatever its name ends in; of other kinds than the above a plain one."""
    pixels = PIXELS[: size[0], : size[1]]
    match how:
        case "1" | "L" | "RGBA" | "LA" | "PA" | "P":
            Image.fromarray(pixels).convert(how).save(path, format="TIFF" if how == "PA" else "PNG")
        case "CMYK":
            Image.fromarray(pixels).convert("CMYK").save(path, format="JPEG")
        case "16 bits":
            Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path, format="PNG")
        case "turned" | "odd notes":
            exif = Image.Exif()
            exif[0x0112] = 6
            turned, notes = (pixels.transpose(1, 0, 2), exif) if how == "turned" else (pixels, b"Exif\0\0II*\0\0")
            Image.fromarray(turned).save(path, format="JPEG", exif=notes)
        case "other suffix":
            Image.fromarray(pixels).save(path, format="JPEG")
        case "moving":
            frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
            frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])
        case "float":
            Image.fromarray(pixels[..., 0].astype(np.float32) / 255).save(path, format="TIFF")
        case "32 bits":
            Image.fromarray(pixels[..., 0].astype(np.int32)).save(path, format="TIFF")
        case "other size":
            Image.fromarray(pixels[:-1]).save(path, format="PNG")
        case "cut off":
            Image.fromarray(pixels).save(path, format="PNG")
            path.write_bytes(path.read_bytes()[:200])
        case "no bytes" | "text":
            path.write_text("" if how == "no bytes" else "version https://git-lfs.github.com/spec/v1\n")
        case "huge":
            path.write_bytes(_header_alone(60_000, 60_000))
        case "gone":
            pass
        case "folder":
            path.mkdir()
        case "link to nothing":
            path.symlink_to("nothing")
        case _:
            Image.fromarray(pixels).save(path, format="PNG")


def _header_alone(height: int, width: int) -> bytes:
    """A PNG that promises pixels and has none."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
