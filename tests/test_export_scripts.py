"""The scripts in docs/export.md read every kind of image as `predict` does."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgformer.tasks.images import read_image

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
READERS = re.findall(r"^def read\(path\):.*?^    return [^\n]*$", PAGE.read_text("utf-8"), re.M | re.S)


def make(kind, path):
    """Write an image of a kind; all pixels differ, so that nothing can be exchanged."""
    values = np.arange(12 * 20).reshape(12, 20)
    gray = Image.fromarray(values.astype(np.uint8))
    colour = Image.merge("RGB", (gray, gray.rotate(180), Image.new("L", gray.size, 90)))
    if kind.startswith("turned"):
        exif = Image.Exif()
        exif[0x0112] = int(kind[-1])
        colour.save(path.with_suffix(".jpg"), exif=exif)
        return path.with_suffix(".jpg")
    if kind in ("float", "float of 255"):
        scale = 1 / 255 if kind == "float" else 1
        Image.fromarray((values * scale).astype(np.float32)).save(path.with_suffix(".tif"))
        return path.with_suffix(".tif")
    if kind == "CMYK":
        colour.convert("CMYK").save(path.with_suffix(".jpg"))
        return path.with_suffix(".jpg")
    images = {
        "RGB": colour,
        "gray": gray,
        "bits": gray.convert("1"),
        "16 bits": Image.fromarray((values * 270).astype(np.uint16)),
        "transparent": Image.merge("RGBA", (*colour.split(), gray)),
        "transparent gray": Image.merge("LA", (gray, gray.rotate(180))),
        "palette": colour.quantize(16),
    }
    if kind == "transparent palette":
        colour.quantize(16).save(path, transparency=3)
    else:
        images[kind].save(path)
    return path


KINDS = [f"turned {n}" for n in (2, 3, 6, 8)]
KINDS += ["RGB", "gray", "bits", "16 bits", "transparent", "transparent gray", "palette", "transparent palette"]
KINDS += ["float", "float of 255", "CMYK"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 1], ids=["classifier", "detector"])
def test_it_is_read_as_predict_reads_it(tmp_path, number, kind):
    from PIL import ImageOps

    scope = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec(READERS[number], scope)
    path = make(kind, tmp_path / "image.png")
    found, expected = scope["read"](path), read_image(path)
    assert found.mode == expected.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(expected))
