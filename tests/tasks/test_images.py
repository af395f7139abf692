import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sgformer.tasks.folders import find_images
from sgformer.tasks.images import MAX_PIXELS_SETTING, ImageError, Preprocessing, read_image

RED = (200, 30, 40)


def encode(image, kind, **kwargs):
    file = io.BytesIO()
    image.save(file, kind, **kwargs)
    return file.getvalue()


def close(image, colour, tolerance=6):
    assert image.mode == "RGB"
    difference = np.abs(np.asarray(image, int) - np.array(colour))
    assert difference.max() <= tolerance, np.asarray(image)[0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_formats(kind):
    close(read_image(encode(Image.new("RGB", (40, 30), RED), kind)), RED)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_every_mode_of_white_is_white(mode):
    values = {"1": 1, "I": 65535, "F": 1.0}
    if mode in values:
        image = Image.new(mode, (40, 30), values[mode])
    elif mode == "PA":
        image = Image.new("RGBA", (40, 30), "white").convert("PA")
    else:
        image = Image.new("RGB", (40, 30), "white").convert(mode)
    close(read_image(image), (255, 255, 255))


def test_negative_values_of_8_bits_are_not_taken_for_bright_ones(tmp_path):
    values = np.arange(40 * 30).reshape(30, 40) % 100
    for least in (0, -5):
        image = Image.fromarray((values + least).astype(np.int8).view(np.uint8))
        image.save(tmp_path / f"{least}.tif", tiffinfo={339: 2})
    assert (np.asarray(read_image(tmp_path / "0.tif"))[..., 0] == values).all()
    with pytest.raises(ImageError, match=r"-5\.tif: has negative"):
        read_image(tmp_path / "-5.tif")


def test_transparency_is_laid_over_white():
    half = Image.new("RGBA", (40, 30), (200, 0, 0, 0))
    half.paste((*RED, 255), (0, 0, 20, 30))
    for image in (
        half,
        half.convert("P"),
        half.convert("PA"),
        encode(half, "PNG"),
        encode(half, "WEBP", lossless=True),
    ):
        read = read_image(image)
        close(read.crop((0, 0, 20, 30)), RED, tolerance=16)
        close(read.crop((20, 0, 40, 30)), (255, 255, 255))
    key = encode(Image.new("L", (40, 30), 7), "PNG", transparency=7)
    close(read_image(key), (255, 255, 255))


def test_16_bits_become_8_and_not_black_or_white():
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    expected = np.round(ramp / 257)
    for kind in ("PNG", "TIFF"):
        read = np.asarray(read_image(encode(Image.fromarray(ramp), kind)))[..., 0]
        assert np.abs(read - expected).max() <= 1
    colour = read_image(np.stack([ramp, ramp[::-1], ramp], -1))
    assert np.abs(np.asarray(colour)[..., 0] - expected).max() <= 1


def test_16_bit_colour_png():
    rows = np.full((8, 8, 3), (0x8000, 0x4000, 0xFFFF), ">u2")
    raw = b"".join(b"\x00" + row.tobytes() for row in rows)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    close(read_image(png), (128, 64, 255))


def test_orientation_is_applied():
    image = Image.new("RGB", (40, 30), "white")
    image.paste("black", (0, 0, 40, 15))  # the top
    exif = image.getexif()
    exif[0x0112] = 6  # hold the camera upright: turn clockwise
    read = read_image(encode(image, "JPEG", exif=exif))
    assert read.size == (30, 40)
    close(read.crop((20, 5, 28, 35)), (0, 0, 0), tolerance=20)  # the top is on the right now


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32, np.float64, bool])
@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 1), (40, 30, 3), (40, 30, 4)])
def test_arrays(dtype, shape):
    highest = {np.uint16: 65535, np.float32: 1, np.float64: 1, bool: 1}.get(dtype, 255)
    read = read_image(np.full(shape, highest, dtype))
    assert read.size == (30, 40)
    close(read, (255, 255, 255))


@pytest.mark.parametrize("shape", [(3, 40, 30), (0, 5), (40,), (2, 3, 4, 5), (4, 4, 2)])
def test_arrays_of_other_shapes_are_refused(shape):
    with pytest.raises(ImageError, match="expected"):
        read_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("values", [[-1.0], [np.nan], [300.0]])
def test_arrays_out_of_range_are_refused(values):
    with pytest.raises(ImageError):
        read_image(np.array(values).reshape(1, 1).repeat(9, 0))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_cut_off_is_one_clear_error(tmp_path, kind, share):
    rng = np.random.default_rng(0)
    content = encode(Image.fromarray(rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)), kind)
    path = tmp_path / "cut.bin"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 1000, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    for image in (content, tmp_path / "x.jpg", str(tmp_path / "x.jpg")):
        with pytest.raises(ImageError):
            read_image(image)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)
    with pytest.raises(TypeError, match="expected a path"):
        read_image(3)


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    bomb = encode(Image.new("1", (30_000, 30_000)), "PNG")
    with pytest.raises(ImageError, match=rf"30000 x 30000 pixels.*{MAX_PIXELS_SETTING}"):
        read_image(bomb)
    # 100 million pixels are a photograph.
    assert read_image(encode(Image.new("1", (12_000, 8_400)), "PNG")).size == (12_000, 8_400)
    small = encode(Image.new("RGB", (20, 20)), "PNG")
    # A caller's own limit can only be lower, and its message names no setting that would not help.
    assert read_image(small, max_pixels=400).size == (20, 20)
    with pytest.raises(ImageError, match=r"shrink it$"):
        read_image(small, max_pixels=399)
    monkeypatch.setenv(MAX_PIXELS_SETTING, "100")
    with pytest.raises(ImageError):
        read_image(small)


def test_a_large_jpeg_is_decoded_smaller_but_never_too_small():
    image = encode(Image.effect_noise((1600, 1200), 50), "JPEG")
    assert read_image(image).size == (1600, 1200)
    for side in (40, 100, 224, 599, 601, 2000):
        read = read_image(image, shorter_side=side)
        assert min(read.size) >= min(side, 1200)
    assert read_image(image, shorter_side=100).size == (400, 300)


def test_the_error_survives_the_way_from_a_data_worker():
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "is empty")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "is empty", "a.jpg: is empty")


def test_find_images_leaves_out_hidden_and_other_files(tmp_path):
    for name in ("b.JPG", "a/c.png", ".hidden.png", ".cache/d.png", "notes.txt", "a/e.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)] == ["a/c.png", "a/e.webp", "b.JPG"]


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 64), (33, 200)])
@pytest.mark.parametrize("image", [(1, 1), (500, 20), (20, 500), (64, 64)])
def test_preprocessing_gives_the_size_it_promises(size, image):
    transform = Preprocessing(image_size=size).transform()
    tensor = transform(Image.new("RGB", image, RED))
    assert tensor.shape == (3, *size)
    assert tensor.isfinite().all()


@pytest.mark.parametrize("size", [(31, 64), (64, 0), (-5, 64)])
def test_sizes_below_32_are_refused(size):
    with pytest.raises(ValueError, match="at least 32x32"):
        Preprocessing(image_size=size)


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_views_are_the_centre_then_the_corners_then_their_mirror_images(size):
    preprocessing = Preprocessing(image_size=size, crop_fraction=0.8, mean=(0, 0, 0), std=(1, 1, 1))
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (100, 150, 3), dtype=np.uint8))
    one = preprocessing.transform()(image)
    two, five, ten = (preprocessing.transform(views)(image) for views in (2, 5, 10))
    assert ten.shape == (10, 3, *size)
    assert torch.equal(two, torch.stack([one, one.flip(-1)]))
    assert torch.equal(ten, torch.cat([five, five.flip(-1)]))
    assert torch.equal(five[0], one)
    # Corners of the resized image: one that is brighter to the right and to the bottom tells them apart.
    ramp = np.add.outer(np.arange(100), np.arange(150)).astype(np.uint8)
    crops = preprocessing.transform(5)(Image.fromarray(ramp).convert("RGB")).mean((1, 2, 3))
    centre, bottom_right, bottom_left, top_right, top_left = crops.tolist()
    assert top_left < bottom_left < centre < bottom_right
    assert top_left < top_right < bottom_right


def test_pillows_own_limit_does_not_hold_for_masks_and_sizes(tmp_path, monkeypatch):
    from sgformer.tasks.errors import DataError
    from sgformer.tasks.segmentation.masks import Coding, header_of

    path = tmp_path / "mask.png"
    Image.new("L", (30, 20)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert header_of(path) == ((20, 30), [])
    assert Coding.plain(["a"]).read(path).shape == (20, 30)
    monkeypatch.setenv(MAX_PIXELS_SETTING, "599")
    with pytest.raises(DataError, match=rf"30 x 20 pixels.*{MAX_PIXELS_SETTING}=600"):
        header_of(path)


def test_pillows_own_limit_does_not_hold_for_detection(tmp_path, monkeypatch):
    pytest.importorskip("pycocotools")
    from sgformer.tasks.detection.checks import Fault, image_row, image_size

    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert image_size(tmp_path / "a.png") == (20, 30)
    entry = {"id": 1, "file_name": "a.png", "width": 30, "height": 20}
    assert image_row(entry, tmp_path).size == (20, 30)
    monkeypatch.setenv(MAX_PIXELS_SETTING, "599")
    with pytest.raises(Fault, match=f"{MAX_PIXELS_SETTING}=600"):
        image_row(entry, tmp_path)
