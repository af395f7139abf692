"""Masks and class names as tools write them: read right, or named before the run."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from mask_folders import CLASSES, make_mask_folders
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import ImageError, Preprocessing, read_image
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.mapping import read_classes, read_mapping
from sgformer.tasks.segmentation.masks import IGNORE, Coding
from sgformer.tasks.segmentation.options import DataOptions

SIX = Coding.plain([f"c{i}" for i in range(6)])
ORIENTATION = 0x0112


def data(root, **kwargs):
    options = DataOptions(root=str(root), image_size=32, batch_size=2, workers=0, **kwargs)
    return SegmentationData(options, Preprocessing(image_size=(32, 32)))


def change(root, edit):
    """Every mask becomes what ``edit`` makes of its array."""
    for path in (root / "annotations").rglob("*.png"):
        Image.fromarray(edit(np.array(Image.open(path)))).save(path)
    return root


def gray_png(path, ids, bits, kind=0):
    """A gray PNG of 1, 2, 4 or 8 bits, as pypng and ImageMagick write it; Pillow itself writes 8.

    Of another ``kind`` of PNG's, with ``ids`` of all channels one after another, it may have 16.
    """
    height, width = ids.shape
    width //= {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    packed = b""
    for row in ids:
        text = "".join(f"{value:0{bits}b}" for value in row.tolist())
        text += "0" * (-len(text) % 8)
        packed += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_of_few_bits_keeps_its_ids(tmp_path, bits):
    ids = np.arange(5 * 7).reshape(5, 7) % min(2**bits, 6)
    gray_png(tmp_path / "m.png", ids, bits)
    assert SIX.read(tmp_path / "m.png").tolist() == ids.tolist()


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_channels_of_16_bits_are_refused(tmp_path, kind):
    gray_png(tmp_path / "m.png", np.arange(5 * 12).reshape(5, 12) % 6, 16, kind)
    with pytest.raises(DataError, match=r"m\.png has channels of 16 bits"):
        SIX.read(tmp_path / "m.png")


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_channels_of_16_bits_in_tiff_are_refused(tmp_path, planes):
    tifffile = pytest.importorskip("tifffile", reason="writes TIFF of 16 bits")
    pixels = np.ones((3, 4, 5) if planes == "separate" else (4, 5, 3), np.uint16)
    tifffile.imwrite(tmp_path / "m.tif", pixels, photometric="rgb", planarconfig=planes)
    with pytest.raises(DataError, match=r"m\.tif has channels of 16 bits"):
        SIX.read(tmp_path / "m.tif")


def test_values_that_are_shares_of_white_are_refused(tmp_path):
    for head, right in ((b"P5 3 1 255\n", True), (b"P5 3 1 5\n", False)):
        (tmp_path / "m.pgm").write_bytes(head + bytes([0, 1, 5]))
        if right:
            assert SIX.read(tmp_path / "m.pgm").tolist() == [[0, 1, 5]]
        else:
            with pytest.raises(DataError, match=r"m\.pgm has 5 as white"):
                SIX.read(tmp_path / "m.pgm")


@pytest.mark.parametrize("bits", [2, 4])
def test_a_tiff_of_few_bits_keeps_its_ids(tmp_path, bits):
    ids = np.arange(4 * 8).reshape(4, 8) % min(2**bits, 6)
    packed = np.packbits(
        np.unpackbits(ids.astype(np.uint8)[..., None], axis=2)[..., -bits:].reshape(4, -1), axis=1
    ).tobytes()
    tags = [
        (256, 8),
        (257, 4),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 8 + 2 + 8 * 12 + 4),
        (278, 4),
        (279, len(packed)),
    ]
    entries = b"".join(struct.pack("<HHI", tag, 4, 1) + struct.pack("<I", value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 4
    (tmp_path / "m.tif").write_bytes(head + packed)
    assert SIX.read(tmp_path / "m.tif").tolist() == ids.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_ids_of_every_type(tmp_path, dtype, suffix):
    if suffix == "png" and dtype in (np.int32, np.float32):
        pytest.skip("PNG has no such numbers")
    ids = np.array([[0, 1, 5], [2, 255, 3]])
    Image.fromarray(ids.astype(dtype)).save(tmp_path / f"m.{suffix}")
    assert SIX.read(tmp_path / f"m.{suffix}").tolist() == ids.tolist()


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf, -1.0])
def test_values_that_are_no_ids(tmp_path, value):
    Image.fromarray(np.array([[0, value]], np.float32)).save(tmp_path / "m.tif")
    with pytest.raises(DataError, match=r"m\.tif holds"):
        SIX.read(tmp_path / "m.tif")


def test_gray_in_colour_channels(tmp_path):
    ids = np.array([[0, 1, 5], [2, 255, 3]], np.uint8)
    for mode in ("RGB", "RGBA", "LA"):
        Image.fromarray(ids).convert(mode).save(tmp_path / "m.png")
        assert SIX.read(tmp_path / "m.png").tolist() == ids.tolist()
    seen = Image.fromarray(ids).convert("RGBA")
    seen.putpixel((0, 0), (0, 0, 0, 0))
    seen.save(tmp_path / "m.png")
    with pytest.raises(DataError, match="transparent"):
        SIX.read(tmp_path / "m.png")


def test_palettes(tmp_path):
    ids = np.array([[0, 5, 5], [0, 0, 5]], np.uint8)

    def save(indices, colours):
        image = Image.fromarray(np.asarray(indices, np.uint8))
        image.putpalette([value for colour in colours for value in colour])
        image.save(tmp_path / "m.png")
        return SIX.read(tmp_path / "m.png").tolist()

    # A mask in gray that was quantized: the gray is the id.
    assert save(ids > 0, [(0, 0, 0), (5, 5, 5)]) == ids.tolist()
    assert save([[2, 0]], [(5, 5, 5), (255, 255, 255), (1, 1, 1)]) == [[1, 5]]
    # Black and white, or grays that are no ids, are for eyes: the place is the id.
    assert save([[0, 1]], [(0, 0, 0), (255, 255, 255)]) == [[0, 1]]
    assert save([[0, 1, 2]], [(0, 0, 0), (100, 100, 100), (200, 200, 200)]) == [[0, 1, 2]]
    assert save([[0, 1, 5]], [(0, 0, 0), (128, 0, 0), *[(9, 9, 9)] * 4]) == [[0, 1, 5]]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("m.webp", {"quality": 80}),
        ("m.webp", {"quality": 80, "icc_profile": b"odd"}),
        ("m.jp2", {"quality_mode": "rates", "quality_layers": [40]}),
        ("m.tif", {"compression": "jpeg"}),
    ],
)
def test_compression_with_losses_is_named_where_it_leaves_only_known_ids(tmp_path, name, options):
    ids = Image.new("L", (96, 64))
    ids.paste(3, (30, 20, 60, 40))
    ids.save(tmp_path / name, **options)
    with pytest.raises(DataError, match=rf"{name} .*no exact values"):
        Coding.plain([f"c{i}" for i in range(255)]).read(tmp_path / name)
    ids.save(tmp_path / "exact.webp", lossless=True)
    assert (SIX.read(tmp_path / "exact.webp") == np.asarray(ids)).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "GIF"])
def test_files_that_are_no_single_exact_mask(tmp_path, kind):
    image, more = Image.fromarray(np.eye(8, dtype=np.uint8)), {}
    if kind != "JPEG":
        more = {"save_all": True, "append_images": [Image.fromarray(np.ones((8, 8), np.uint8))]}
    image.save(tmp_path / "m", kind, **more)
    with pytest.raises(DataError, match="no exact values" if kind == "JPEG" else "2 pages"):
        SIX.read(tmp_path / "m")


def test_pages_of_images_are_counted_and_reduced_copies_are_none(tmp_path):
    root = make_mask_folders(tmp_path)
    page = Image.open(root / "images/train/0.png")
    page.save(root / "images/train/0.tif", save_all=True, append_images=[page.resize((9, 9))])
    (root / "images/train/0.png").unlink()
    assert "1 images are files of several pages or frames" in str(data(root))
    pages = io.BytesIO()
    page.save(pages, "TIFF", save_all=True, append_images=[page.resize((9, 9))], tiffinfo={254: 1})
    (root / "images/train/0.tif").write_bytes(pages.getvalue())
    assert "pages" not in str(data(root))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("mask", ["as seen", "raw", "with the same tag"])
def test_a_mask_goes_with_its_turned_image(tmp_path, orientation, suffix, mask):
    if mask == "raw" and orientation < 5:
        pytest.skip("of the same size both ways, so nobody can tell")
    root = make_mask_folders(tmp_path, num_train=2, num_val=1)
    pixels = np.full((48, 64, 3), 200, np.uint8)
    pixels[:24, :32] = 20
    ids = np.where(pixels[..., 0] < 99, 1, 0).astype(np.uint8)
    raw = Image.fromarray(pixels)
    exif = raw.getexif()
    exif[ORIENTATION] = orientation
    (root / "images/train/0.png").unlink()
    file, mask_file = root / f"images/train/0.{suffix}", root / "annotations/train/0.png"
    raw.save(file, exif=exif, quality=95)
    assert read_image(file).size == ((64, 48) if orientation < 5 else (48, 64))
    image = Image.fromarray(ids)
    if mask == "as seen":
        image.getexif()[ORIENTATION] = orientation
        image = ImageOps.exif_transpose(image)
    image.save(mask_file, exif=exif if mask == "with the same tag" else Image.Exif())
    module = data(root)
    seen, indices = module.images("train")[0]
    dark = np.asarray(seen.convert("L")) < 110
    assert (dark == (indices == 1)).mean() > 0.98
    assert ("turned as the EXIF data" in str(module)) == (mask == "raw")
    assert "EXIF data of their own" not in str(module)


def test_255_as_object_is_not_taken_for_ignored(tmp_path):
    root = change(make_mask_folders(tmp_path), lambda mask: np.where(mask == 1, 255, 0).astype(np.uint8))
    (root / "classes.txt").write_text("background\nobject\n")
    with pytest.raises(DataError, match=r"no mask of train holds object.*--data\.mapping.*object: 255"):
        data(root)
    (tmp_path / "map.yaml").write_text("classes: {background: 0, object: 255}\n")
    module = data(root, mapping=str(tmp_path / "map.yaml"))
    assert {*np.unique(module.images("train")[0][1])} == {0, 1}
    # Where somebody says that 255 is ignored, there is one class left.
    (root / "classes.txt").write_text("0 background\n1 object\n255 ignored\n")
    with pytest.raises(DataError, match="there must be two classes"):
        data(root)


def test_an_object_that_is_255_in_some_masks_alone_is_seen(tmp_path):
    root = change(make_mask_folders(tmp_path), lambda mask: (mask == 1).astype(np.uint8))
    (root / "classes.txt").write_text("background\nobject\n")
    assert "255" not in str(data(root))
    path = sorted((root / "annotations" / "train").iterdir())[0]
    mask = np.asarray(Image.open(path))
    Image.fromarray(mask * 255).save(path)
    number = len([*path.parent.iterdir()])
    assert f"of train is 255, which is ignored, in 1 of {number} masks" in str(data(root))
    for path in (root / "annotations" / "train").iterdir():
        mask = np.array(Image.open(path))
        mask[0] = 255
        Image.fromarray(mask).save(path)
    assert f"of train is 255, which is ignored, in {number} of {number} masks" in str(data(root))


def test_a_class_in_no_mask_while_pixels_are_ignored(tmp_path):
    root = change(make_mask_folders(tmp_path), lambda mask: np.where(mask == 2, 255, mask).astype(np.uint8))
    with pytest.raises(DataError, match=r"no mask of train holds brick.*are 255"):
        data(root)
    (root / "classes.txt").write_text("0 sky\n1 grass\n2 brick\n255 rest\n")
    assert "not in train: brick" in str(data(root))
    assert "35% of train is ignored" in str(data(root))


def test_one_class_left(tmp_path):
    root = change(make_mask_folders(tmp_path), np.zeros_like)
    with pytest.raises(DataError, match=r"pixels of train .* are sky"):
        data(root)
    options = DataOptions(root=str(root), image_size=32)
    only = SegmentationData(options, Preprocessing(image_size=(32, 32)), splits=("val",))
    assert "not in val: brick, grass" in str(only)


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {a: 1, b: [1, 2]}", "gives 1 to class a and to class b"),
        ("classes: {a: 1, b: 2}\nignore: [2]", "gives 2 to class b and to ignore"),
        ("classes: {a: 1.5, b: 2}", "1.5 is no id"),
        ("classes: {a: one, b: 2}", "one is no id"),
        ("classes: {a: , b: 2}", "None is no id"),
        ("classes: {a: [], b: 2}", "neither id nor colour"),
        ("classes: {a: 1, a: 2}", "the key a is there twice"),
        ("classes: {a: [1, 2, 3], b: [1, 2, 3]}", r"gives \(1, 2, 3\) to class a"),
        ("classes: {a: [[1, 2, 3]], b: [[1, 2, 300]]}", "300.* is no colour"),
        ("classes: {a: [[1, 2, 3]], b: [[1, 2]]}", "is no colour"),
        ("classes: {a: 1}\nclass: {b: 2}", "has class, which means nothing"),
        ("classes: [a, b]", "no mapping"),
        ("", "no mapping"),
    ],
)
def test_mappings_that_cannot_be(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_mapping(write(tmp_path / "map.yaml", text))


def test_ids_below_zero_and_far_above(tmp_path):
    coding = read_mapping(write(tmp_path / "map.yaml", "classes: {a: 1, b: [2, 300]}\nignore: [-1, 70000]\n"))
    ids = np.array([[1, 2, 300, 2], [-1, 70000, 255, 1]], np.int32)
    Image.fromarray(ids).save(tmp_path / "m.tif")
    assert coding.read(tmp_path / "m.tif").tolist() == [[0, 1, 1, 1], [IGNORE, IGNORE, IGNORE, 0]]
    # The table of Cityscapes: one class has the id -1, which no mask of 8 bits holds.
    coding = read_mapping(write(tmp_path / "map.yaml", "classes: {road: 7, plate: -1, person: 33}\n"))
    Image.fromarray(np.array([[7, 33]], np.uint8)).save(tmp_path / "m.png")
    assert coding.read(tmp_path / "m.png").tolist() == [[0, 2]]


def test_three_ids_are_no_colour_beside_an_id(tmp_path):
    coding = read_mapping(write(tmp_path / "map.yaml", "classes: {road: 0, plants: [1, 2, 3]}\n"))
    Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8)).save(tmp_path / "m.png")
    assert coding.read(tmp_path / "m.png").tolist() == [[0, 1, 1, 1]]
    coding = read_mapping(write(tmp_path / "map.yaml", "classes: {road: [4, 5, 6], plants: [1, 2, 3]}\n"))
    with pytest.raises(DataError, match=r"holds ids, not colours.*\[1, 2, 3, 3\]"):
        coding.read(tmp_path / "m.png")


def test_words_of_yaml_stay_words(tmp_path):
    coding = read_mapping(write(tmp_path / "map.yaml", "classes: {on: 1, off: 0, no: 2, null: 3, 007: 4}\n"))
    assert coding.classes == ("on", "off", "no", "null", "007")


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"


def test_labelmap_of_cvat(tmp_path):
    path = write(tmp_path / "labelmap.txt", LABELMAP)
    pixels = np.array([[(0, 0, 0), (250, 50, 83)]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    for coding in (read_classes(path), read_mapping(path)):
        assert coding.classes == ("background", "cat")
        assert coding.palette == ((0, 0, 0), (250, 50, 83))
        assert coding.read(tmp_path / "m.png").tolist() == [[0, 1]]
    Image.fromarray(pixels).quantize().save(tmp_path / "m.png")
    assert coding.read(tmp_path / "m.png").tolist() == [[0, 1]]
    for text in (LABELMAP + "dog:0,0,0::\n", LABELMAP + "dog\n", LABELMAP + "dog:1,2::\n"):
        with pytest.raises(DataError, match=r"labelmap\.txt"):
            read_mapping(write(path, text))


def test_class_tables_of_roboflow_and_labelme(tmp_path):
    path = write(tmp_path / "_classes.csv", "Pixel Value, Class\n0, background\n1, traffic light\n")
    assert read_classes(path).classes == ("background", "traffic light")
    path = write(tmp_path / "_classes.csv", 'Pixel Value, Class\n0, "sky, blue"\n1, car (left)\n2, car (right)\n')
    assert read_classes(path).classes == ("sky, blue", "car (left)", "car (right)")
    path = write(tmp_path / "labels.txt", "__ignore__\n_background_\ncat\n")
    assert read_classes(path).classes == ("_background_", "cat")
    assert not read_classes(path).by_custom
    for text in ("background\ncat\n255 ignore\n", "0 background\n1 cat\n255 ignore\n"):
        coding = read_classes(write(path, text))
        assert coding.classes == ("background", "cat")
        assert not coding.by_custom
    assert set(CLASSES) == set(read_classes(write(tmp_path / "c.txt", "\n".join(CLASSES))).classes)


def test_masks_beside_their_images(tmp_path):
    """As Roboflow exports: one folder for both, and a table of the classes in it."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for i in range(2):
            Image.new("RGB", (9, 7)).save(tmp_path / split / f"{i}_jpg.rf.1a.jpg")
            Image.fromarray(np.arange(63, dtype=np.uint8).reshape(7, 9) % 2).save(
                tmp_path / split / f"{i}_jpg.rf.1a_mask.png"
            )
        write(tmp_path / split / "_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n")
    module = data(tmp_path, images="{split}", masks="{split}", mask_ending="_mask", classes="train/_classes.csv")
    assert str(module).startswith("2 classes (background 50.8%, cat 49.2%), 2 + 2 images")
    assert set(np.unique(module.images("val")[1][1])) == {0, 1}


def test_images_without_a_mask_in_any_split_are_counted(tmp_path):
    root = make_mask_folders(tmp_path)
    for path in sorted((root / "images").rglob("*.png")):
        path.rename(root / "images" / path.name if path.parent.name == "train" else path)
    for path in (root / "annotations/val").iterdir():
        path.unlink()
    (root / "annotations/train/5.png").rename(root / "annotations/val/5.png")
    for path in [*(root / "images/val").iterdir(), root / "annotations/train/4.png"]:
        path.unlink()
    module = data(root, images="images")
    assert "4 + 1 images; " in str(module)
    assert f"; 1 images of {root / 'images'} have no mask in any split" in str(module)


def test_a_fourth_band_is_not_dropped(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for dtype in (np.uint8, np.uint16):
        bands = np.full((7, 9, 4), 99, dtype)
        tifffile.imwrite(tmp_path / "b.tif", bands, photometric="rgb", extrasamples=["unspecified"])
        with pytest.raises(ImageError, match="4 bands"):
            read_image(tmp_path / "b.tif")
        tifffile.imwrite(tmp_path / "b.tif", bands, photometric="rgb", extrasamples=["unassalpha"])
        assert read_image(tmp_path / "b.tif").size == (9, 7)
