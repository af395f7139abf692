"""LabelMe's JSON files, as its versions 5 to 7 write them: boxes and masks, joined parts, what is named."""

import numpy as np
import pytest
from PIL import Image

from labelme_files import CAR, SIZE, png, write
from sgformer.tasks import labelme, segmentation
from sgformer.tasks.detection.data import DetectionData
from sgformer.tasks.detection.options import DataOptions
from sgformer.tasks.detection.sources import SplitOptions
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing


def read(root, *, masks=False, splits=("train",), classes=None, **options):
    kept = DataOptions(source="labelme", root=str(root), shorter_side=32, max_side=64, workers=0, **options)
    return DetectionData(kept, masks=masks, splits=splits, classes=classes)


def objects(root, **options):
    (image,) = read(root, **options).found["train"].images
    return image.boxes.tolist(), image


def test_shapes(tmp_path):
    pytest.importorskip("pycocotools")
    part = np.zeros((5, 4))
    part[1:, 2:] = 1
    write(
        tmp_path / "train" / "a.json",
        CAR,
        {"label": "car", "points": [[50, 20], [40.5, 4]], "shape_type": "rectangle"},
        {"label": "car", "points": [[45, 30], [48, 34]], "shape_type": "circle"},
        {"label": "car", "points": [[20, 30], [23, 34]], "shape_type": "mask", "mask": png(part)},
        {"label": "car", "points": [[5, 0], [10, 5], [5, 10], [0, 5]], "shape_type": "oriented_rectangle"},
        {"label": "car", "points": [[1, 1], [3, 1], [3, 4], [1, 4]], "shape_type": "rectangle"},  # X-AnyLabeling
    )
    boxes, image = objects(tmp_path, masks=True)
    right = [[10.5, 8, 30, 28.25], [40.5, 4, 50, 20], [40, 25, 50, 35], [22, 31, 24, 35], [0, 0, 10, 10], [1, 1, 3, 4]]
    assert boxes == right
    assert image.masks()[3].sum() == 8
    assert image.masks()[3][31:35, 22:24].all()
    assert image.masks()[2].sum() == pytest.approx(np.pi * 25, rel=0.04)
    assert image.masks()[5].sum() == 6
    notes = read(tmp_path, masks=True).found["train"].notes
    assert notes["turned rectangles, whose boxes are upright"] == 1
    assert notes["rectangles, whose masks are all of them"] == 2


def test_circles_and_masks_end_at_the_edge(tmp_path):
    write(
        tmp_path / "train" / "a.json",
        {"label": "car", "points": [[60, 40], [60, 30]], "shape_type": "circle"},
        {"label": "car", "points": [[-2, -3], [3, 4]], "shape_type": "mask", "mask": png(np.ones((8, 6)))},
    )
    boxes, _ = objects(tmp_path)
    assert boxes == [[50, 30, 60, 40], [0, 0, 4, 5]]


def test_parts_of_a_group_are_one_object(tmp_path):
    pytest.importorskip("pycocotools")
    square = {"points": [[2, 2], [6, 2], [6, 6], [2, 6]], "shape_type": "polygon"}
    mask = {"points": [[20, 10], [22, 13]], "shape_type": "mask", "mask": png(np.ones((4, 3)))}
    write(
        tmp_path / "train" / "a.json",
        {"label": "car", "group_id": 0, **square},
        {"label": "dog", "group_id": 0, **square},  # of another label
        {"label": "car", **square, "points": [[40, 2], [44, 2], [44, 6]]},
        {"label": "car", "group_id": 0, **mask},
    )
    boxes, image = objects(tmp_path, masks=True)
    assert boxes == [[2, 2, 23, 14], [2, 2, 6, 6], [40, 2, 44, 6]]
    assert image.labels.tolist() == [0, 1, 0]
    assert image.masks()[0].sum() == 16 + 12
    notes = read(tmp_path).found["train"].notes
    assert notes["shapes of a label and group_id, which are parts of one object"] == 2


def test_what_is_no_object_is_named(tmp_path):
    write(
        tmp_path / "train" / "a.json",
        CAR | {"flags": {"truncated": True, "blurred": True, "old": False}, "description": "by the gate"},
        {"label": "car", "points": [[1, 2]], "shape_type": "point"},
        {"label": "car", "points": [[1, 2], [3, 4]], "shape_type": "line"},
        {"label": "car", "points": [[1, 2], [3, 4]], "shape_type": "line"},
        {**CAR, "label": "__ignore__"},
        {**CAR, "label": "_background_"},
        flags={"night": True, "rain": False},
        reviewer="me",
    )
    write(tmp_path / "train" / "empty.json")
    (tmp_path / "train" / "other.json").write_text('{"images": []}')
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "bare.png")
    data = read(tmp_path)
    assert data.classes == ("car",)
    assert "2 images, 1 objects" in str(data)
    for said in (
        "type point, which has no area, not used: 1",
        "type line, which has no area, not used: 2",
        "called __ignore__, left out: 1",
        "called _background_, left out: 1",
        "(blurred, description",
        "images with entries that are not used (night, reviewer): 1",
        "images without objects: 1",
        ".json files in train/ not used: 1",
        ".png files in train/ not used: 1",
    ):
        assert said in str(data), said


def test_no_shape_with_an_area(tmp_path):
    write(tmp_path / "train" / "a.json", {**CAR, "shape_type": "linestrip"})
    with pytest.raises(DataError, match="no categories; 1 shapes of the type linestrip, which has no area"):
        read(tmp_path)


def test_names_in_a_list(tmp_path):
    write(tmp_path / "train" / "a.json", CAR, {**CAR, "label": "ant", "points": [[1, 1], [9, 1], [5, 5]]})
    assert read(tmp_path).classes == ("ant", "car")
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncar\ndog\nant\n")
    data = read(tmp_path)
    assert data.classes == ("car", "dog", "ant")
    assert "no object of dog" in str(data)
    assert ".txt" not in str(data)
    (tmp_path / "labels.txt").write_text("car\ndog\n")
    with pytest.raises(DataError, match=r"a\.json, shape 2: unknown class 'ant'"):
        read(tmp_path)
    assert read(tmp_path, classes=("ant", "car", "dog")).classes == ("ant", "car", "dog")


@pytest.mark.parametrize(
    "path",
    ["a.png", "D:\\photos\\a.png", "..\\train\\a.png", "/elsewhere/a.png", "a.bmp", "", "..\\..\\other\\a.png"],
)
def test_the_image_is_found(tmp_path, path):
    write(tmp_path / "train" / "a.json", CAR, imagePath=path)
    boxes, image = objects(tmp_path)
    assert len(boxes) == 1
    assert image.path.samefile(tmp_path / "train" / "a.png")
    assert "not used" not in str(read(tmp_path))


def test_annotations_apart_from_images(tmp_path):
    for name, path in (("a", "..\\images\\a.png"), ("sub/b", "..\\..\\images\\sub\\b.png")):
        write(tmp_path / "labels" / f"{name}.json", CAR, imagePath=path)
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / f"{name}.png").rename(tmp_path / "images" / f"{name}.png")
    for images in (None, "images"):
        data = read(tmp_path, train=SplitOptions(images=images, annotations="labels"))
        assert [image.path.name for image in data.found["train"].images] == ["a.png", "b.png"]
        assert "not used" not in str(data)
    (tmp_path / "train.txt").write_text("labels/a.json\nlabels/sub/b.png\nlabels/a\n")
    data = read(tmp_path, train=SplitOptions(annotations="train.txt", images="images"))
    assert "2 images" in str(data)
    assert "lines listed twice, read once: 1" in str(data)


def test_a_file_in_a_folder_is_not_of_an_image_above(tmp_path):
    """Frames of several videos are called alike."""
    write(tmp_path / "train" / "one" / "0.json", CAR)
    write(tmp_path / "train" / "two" / "0.json", CAR)
    for name in ("one", "two"):
        image = tmp_path / "train" / name / "0.png"
        assert image.samefile(read(tmp_path).found["train"].images[name == "two"].path)
    (tmp_path / "train" / "two" / "0.png").rename(tmp_path / "train" / "0.png")
    with pytest.raises(DataError, match=r"two/0\.png.*no such file"):
        read(tmp_path)


def test_images_that_cannot_be_told(tmp_path):
    write(tmp_path / "train" / "a.json", CAR, imagePath="b.png", imageData="aGk=")
    Image.new("RGB", SIZE[::-1], 5).save(tmp_path / "train" / "b.png")
    with pytest.raises(DataError, match=r"imagePath says b\.png, the file's own name a\.png"):
        read(tmp_path)
    (tmp_path / "train" / "a.png").unlink()
    assert objects(tmp_path)[1].path.name == "b.png"
    (tmp_path / "train" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png is in imageData alone"):
        read(tmp_path)


def test_images_are_as_exif_data_turn_them(tmp_path):
    """LabelMe shows images so, and its points and sizes are of these."""
    write(tmp_path / "train" / "a.json", CAR, size=SIZE[::-1])
    with pytest.raises(DataError, match="the file has 60x40 pixels, the annotations 40x60"):
        read(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "train" / "a.png", exif=exif)
    boxes, image = objects(tmp_path)
    assert image.size == SIZE[::-1]
    assert boxes == [[10.5, 8, 30, 28.25]]
    write(tmp_path / "train" / "a.json", CAR, size=(None, None))  # as of version 3
    assert objects(tmp_path)[0] == boxes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": " "}, r"shape 1 has the label ' '"),
        ({"label": 3}, r"shape 1 has the label 3"),
        ({"group_id": "x"}, r"shape 1 has the group_id 'x'"),
        ({"points": [[1, 2], [3, True], [4, 5]]}, "shape 1 has no list of points"),
        ({"points": [[1, 2], [3, float("nan")], [4, 5]]}, "shape 1 has no list of points"),
        ({"points": [[1, 2], [3, 4]]}, "shape 1 is a polygon of 2 points"),
        ({"shape_type": "circle"}, "shape 1 is a circle of 3 points"),
        ({"shape_type": "mask", "points": [[1, 1], [3, 3]]}, "shape 1 has a mask that cannot be read"),
        (
            {"shape_type": "mask", "points": [[1, 1], [9, 9]], "mask": png(np.ones((3, 3)))},
            "shape 1 has a mask of .*3.* pixels for a box of 9x9",
        ),
        (
            {"shape_type": "mask", "points": [[1, 1], [3, 3]], "mask": png(np.zeros((3, 3)))},
            "shape 1.*has no width",
        ),
        ({"points": [[90, 90], [99, 90], [90, 99]]}, "lies outside the image"),
    ],
)
def test_faults_name_file_and_shape(tmp_path, change, said):
    write(tmp_path / "train" / "a.json", {**CAR, **change}, {**CAR, "points": [[1, 1], [9, 1], [5, 5]]})
    with pytest.raises(DataError, match=rf"a\.json, {said}" if said.startswith("shape") else said):
        read(tmp_path)
    assert len(objects(tmp_path, invalid="drop")[0]) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON file"),
        ('{"shapes": {}, "imagePath": "a.png"}', "shapes must be a list"),
        ('{"shapes": [], "imagePath": 3}', "imagePath text"),
        ('{"shapes": [], "imagePath": "a.png", "imageHeight": "40"}', "imageHeight '40'"),
        ('{"shapes": [], "shapes": [], "imagePath": "a.png"}', "twice"),
        ('{"images": []}', "no JSON file of .*train is LabelMe's"),
    ],
)
def test_files_that_are_none(tmp_path, text, said):
    write(tmp_path / "train" / "a.json", CAR)
    (tmp_path / "train" / "a.json").write_text(text)
    with pytest.raises(DataError, match=said):
        read(tmp_path)


def test_pixels_are_drawn_as_labelme_draws_them():
    """Those that an outline touches belong to a shape; the numbers are those of LabelMe's own function."""
    rows = [
        ({"points": [[2, 2], [6, 6]], "shape_type": "rectangle"}, 25),
        ({"points": [[10, 10], [13, 14]], "shape_type": "circle"}, 97),
        ({"points": [[1, 1], [9, 1], [5, 7]], "shape_type": "polygon"}, 35),
        ({"points": [[1, 1], [3.4, 3.6]], "shape_type": "mask", "mask": png(np.ones((4, 3)))}, 12),
    ]
    for row, number in rows:
        shape = labelme._shape({"label": "x", **row}, row["shape_type"], 1)
        assert shape.pixels((20, 20)).sum() == number, row


def test_a_rectangle_of_turned_corners_is_turned(tmp_path):
    pytest.importorskip("pycocotools")
    turned = {"label": "car", "points": [[20, 10], [30, 20], [20, 30], [10, 20]], "shape_type": "rectangle"}
    write(tmp_path / "train" / "a.json", turned)
    boxes, image = objects(tmp_path, masks=True)
    assert boxes == [[10, 10, 30, 30]]
    assert image.masks().sum() == pytest.approx(200, rel=0.06)
    told = "turned rectangles, whose boxes are upright"
    assert read(tmp_path).found["train"].notes[told] == 1
    rounded = {**turned, "points": [[10, 10], [30.0001, 10], [30, 30.2], [10.1, 30]]}
    write(tmp_path / "train" / "a.json", rounded)
    assert read(tmp_path).found["train"].notes[told] == 0


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_image_in_a_file_is_the_one_beside_it(tmp_path, task):
    def load():
        if task == "detection":
            return read(tmp_path)
        options = segmentation.options.DataOptions(source="labelme", root=str(tmp_path), image_size=32, workers=0)
        return segmentation.data.SegmentationData(options, Preprocessing(image_size=(32, 32)), splits=("train",))

    file = tmp_path / "train" / "a.json"
    write(file, CAR)
    beside = np.asarray(Image.open(file.with_suffix(".png")))
    write(file, CAR, imageData=png(beside))
    assert "another image" not in str(load())
    write(file, CAR, imageData=png(np.full_like(beside, 200)))
    assert "hold another image (imageData)" in str(load())
    write(file, CAR, imageData=png(beside[:30]))
    with pytest.raises(DataError, match=r"60x40|60x30"):
        load()
    write(file, CAR, imageData="no image")
    assert "files whose imageData cannot be read" in str(load())
    write(file, CAR, imageHeight=None)
    assert "files without imageHeight and imageWidth" in str(load())


def test_a_folder_called_valid_is_hinted_at(tmp_path):
    write(tmp_path / "valid" / "a.json", CAR)
    with pytest.raises(DataError, match=r"rename .*valid to .*val"):
        read(tmp_path, splits=("val",), classes=("car",))
