"""Segmentation on LabelMe's JSON files: shapes drawn one upon the other, and what is named."""

import json

import numpy as np
import pytest
from PIL import Image

from labelme_files import CAR, SIZE, png, write
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.masks import IGNORE
from sgformer.tasks.segmentation.options import DataOptions

PREPROCESSING = Preprocessing(image_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
LOW = {"label": "road", "points": [[0, 10], [59, 39]], "shape_type": "rectangle"}


def read(root, *, splits=("train",), classes=None, **options):
    kept = DataOptions(source="labelme", root=str(root), image_size=32, workers=0, **options)
    return SegmentationData(kept, PREPROCESSING, splits=splits, classes=classes)


def test_shapes_are_drawn_in_their_order(tmp_path):
    dot = {"points": [[4, 5], [5, 5]], "shape_type": "mask", "mask": png([[1, 0]])}
    write(
        tmp_path / "train" / "a.json",
        LOW,
        {"label": "car", "points": [[10, 5], [20, 15]], "shape_type": "rectangle"},
        {"label": "car", **dot},
        {"label": "__ignore__", **dot, "points": [[50, 30], [51, 30]]},
        {"label": "_background_", **dot, "points": [[12, 8], [13, 8]]},
    )
    data = read(tmp_path)
    assert data.classes == ("_background_", "car", "road")
    ((_, mask),) = [*data.images("train")]
    expected = np.zeros(SIZE, np.uint8)
    expected[10:40, :60] = 2
    expected[5:16, 10:21] = 1
    expected[5, 4], expected[30, 50], expected[8, 12] = 1, IGNORE, 0
    assert np.array_equal(mask, expected)


def test_a_shape_under_later_ones_is_named(tmp_path):
    small = {"label": "car", "points": [[10, 20], [20, 25]], "shape_type": "rectangle"}
    write(tmp_path / "train" / "a.json", small, LOW, {**small, "points": [[2, 12], [5, 15]]})
    assert "1 shapes lie wholly under later ones" in str(read(tmp_path))
    write(tmp_path / "train" / "a.json", LOW, small)
    assert "later" not in str(read(tmp_path))


def test_classes_of_a_list_and_of_a_model(tmp_path):
    write(tmp_path / "train" / "a.json", LOW, CAR)
    write(tmp_path / "val" / "b.json", CAR)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nroad\ncar\n")
    data = read(tmp_path, splits=("train", "val"))
    assert data.classes == ("_background_", "road", "car")
    assert "not used" not in str(data)
    other = read(tmp_path, classes=("car", "tree", "_background_", "road"))
    for one in (data, other):
        ((_, mask),) = [*one.images("train")]
        assert one.classes[mask[39, 0]] == "road"
        assert one.classes[mask[10, 15]] == "car"
    (tmp_path / "labels.txt").write_text("car\n")
    with pytest.raises(DataError, match=r"a\.json is not right: shape 1 is a 'road', which is no class"):
        read(tmp_path)


def test_what_is_not_used_is_named(tmp_path):
    point = {"label": "car", "points": [[1, 2]], "shape_type": "point"}
    write(
        tmp_path / "train" / "a.json",
        CAR,
        point,
        {**CAR, "flags": {"old": True, "new": False}},
        imagePath="..\\im\\a.png",
    )
    (tmp_path / "im").mkdir()
    (tmp_path / "train" / "a.png").rename(tmp_path / "im" / "a.png")
    write(tmp_path / "train" / "sub" / "c.json", CAR, flags={"night": True})
    (tmp_path / "train" / "x.json").write_text("[]")
    (tmp_path / "train" / "x.heic").write_text("?")
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "bare.png")
    write(tmp_path / "test" / "d.json", CAR)
    said = str(read(tmp_path))
    for one in (
        "2 images",
        "1 shapes of the type point, which has no area",
        "1 images have no file of LabelMe's",
        "1 JSON files are none of LabelMe's",
        "1 entries of shapes and images are not used: old",
        "flags of images are not used: night",
        "1 .heic",
        "test (1 .json, 1 .png)",
    ):
        assert one in said, one
    assert "im (" not in said


def test_an_image_turned_by_exif_data(tmp_path):
    """LabelMe's points are of the image so turned; those of raw pixels, by the size in the file, are turned."""
    write(tmp_path / "train" / "a.json", {**CAR, "points": [[0, 0], [5, 0], [5, 30], [0, 30]]}, size=SIZE[::-1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "train" / "a.png", exif=exif)
    ((image, mask),) = [*read(tmp_path).images("train")]
    assert (image.height, image.width) == mask.shape == SIZE[::-1]
    assert mask[:31, :6].all()
    assert mask.sum() == 31 * 6
    write(tmp_path / "train" / "a.json", {**CAR, "points": [[0, 34], [30, 34], [30, 39], [0, 39]]})
    data = read(tmp_path)
    assert "1 masks are turned as the EXIF data of their images say" in str(data)
    ((_, turned),) = [*data.images("train")]
    assert np.array_equal(turned, mask)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"imageHeight": 41}, "is about 60x41 pixels, and its image has 60x40"),
        ({"imagePath": "gone.png"}, None),  # that of its own name is taken
        ({"shapes": [{**CAR, "points": [[1, 2], [3, 4]]}]}, "shape 1 is a polygon of 2 points"),
        ({"shapes": {}}, "shapes must be a list"),
        ({"shapes": [{**CAR, "points": [[50, 20], [70, 20], [50, 30]]}]}, "shape 1 lies outside the image, 60x40"),
        ({"shapes": [{**LOW, "points": [[-9, -9], [-5, -5]]}]}, "shape 1 lies outside the image, 60x40"),
        ({"shapes": [{**CAR, "points": [[90, 90], [95, 90]], "shape_type": "circle"}]}, "shape 1 lies outside"),
    ],
)
def test_faults(tmp_path, change, said):
    write(tmp_path / "train" / "a.json", CAR)
    write(tmp_path / "train" / "b.json", CAR)
    content = json.loads((tmp_path / "train" / "a.json").read_text())
    (tmp_path / "train" / "a.json").write_text(json.dumps(content | change))
    if said is None:
        assert "2 images" in str(read(tmp_path))
        return
    with pytest.raises(DataError, match=rf"a\.json.* {said}"):
        read(tmp_path)
    data = read(tmp_path, faults="drop")
    assert "1 images, 1 dropped" in str(data)


def test_two_files_of_an_image(tmp_path):
    write(tmp_path / "train" / "a.json", CAR)
    write(tmp_path / "train" / "b.json", CAR, imagePath="a.png")
    (tmp_path / "train" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.json is about .*a\.png, as .*a\.json is"):
        read(tmp_path)


def test_no_files(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="has no files of LabelMe"):
        read(tmp_path)


def test_files_with_capitals_shapes_without_area_and_turned_rectangles(tmp_path):
    flat = [{"label": "car", "points": points} for points in ([[9, 2], [14, 2], [19, 2]], [[40, 3], [44, 7], [46, 9]])]
    spot = {"label": "car", "points": [[30, 5], [30, 5]], "shape_type": "rectangle"}
    turned = {"label": "car", "points": [[20, 20], [30, 30], [20, 39], [10, 30]], "shape_type": "rectangle"}
    write(tmp_path / "train" / "a.json", LOW, *flat, spot, turned)
    (tmp_path / "train" / "a.json").rename(tmp_path / "train" / "a.JSON")
    data = read(tmp_path)
    assert "train: 3 shapes have no area, and are drawn as a line or a point" in str(data)
    ((_, mask),) = [*data.images("train")]
    assert (mask[30, 20], mask[22, 12], mask[22, 28]) == (1, 2, 2)


def test_labels_that_are_no_text_are_named(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split / "0.json", CAR | {"label": 1})
    with pytest.raises(DataError, match=r"no shapes with an area in them: .*0\.json: shape 1 has the label 1"):
        read(tmp_path)


def test_files_without_shapes_are_told(tmp_path):
    write(tmp_path / "train" / "a.json", LOW, CAR)
    for name in "bc":
        write(tmp_path / "train" / f"{name}.json")
    assert "masks of train with one class alone: _background_ 2" in str(read(tmp_path))


def test_a_circle_far_larger_than_its_image(tmp_path):
    large = {"label": "car", "points": [[30, 2_000_000], [30, 20.5]], "shape_type": "circle"}
    write(tmp_path / "train" / "a.json", LOW, large)
    ((_, mask),) = [*read(tmp_path).images("train")]
    assert np.unique(mask[21:]).tolist() == [1]
    assert np.unique(mask[10:20]).tolist() == [2]
