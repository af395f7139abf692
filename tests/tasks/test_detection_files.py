"""What tools write in COCO's and YOLO's formats is read right, or named with its file, its id and the key."""

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from pycocotools import mask as coco_mask

from coco_files import PLAIN, change, make_rectangles, read
from sgformer.tasks.errors import DataError

BOXES = [[10, 12, 30, 36], [60, 30, 84, 48]]  # of the first image


@pytest.fixture
def root(tmp_path):
    return make_rectangles(tmp_path / "set")


def each(**values):
    return lambda content: [one.update(values) for one in content["annotations"]]


def first(**values):
    return lambda content: content["annotations"][0].update(values)


def image(**values):
    return lambda content: content["images"][0].update(values)


def squeezed(mask):
    """Compressed counts, as text."""
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


FEW = {"size": [64, 96], "counts": [100, 50]}
SHORT = {"size": [64, 96], "counts": squeezed(np.ones((10, 15)))}
AREA = "annotation 1 of image 1 .*: area"

REFUSED = {
    "crowds": (each(iscrowd=1), "nothing to learn from: all 8 annotations are crowds.*--data.crowds objects"),
    "no objects": (lambda c: c["annotations"].clear(), "nothing to learn from: there are 4 images and no objects"),
    "few counts": (each(segmentation=FEW), "annotation 1 of image 1 .*150 of 6144 pixels.*and 5 more"),
    "few compressed": (first(segmentation=SHORT), "annotation 1 of image 1 .*150 of 6144 pixels"),
    "negative counts": (first(segmentation={"size": [64, 96], "counts": [-5, 6149]}), "negative"),
    "fractions": (first(segmentation={"size": [64, 96], "counts": [0.5, 6143.5]}), "not whole numbers"),
    "cut string": (first(segmentation={"size": [64, 96], "counts": "hh"}), "cannot be read"),
    "no pixel": (first(segmentation=[[1, 1, 20, 1, 30, 1]]), "covers no pixel"),
    "polygon outside": (first(segmentation=[[-9, -9, -2, -9, -2, -2]]), "covers no pixel"),
    "polygon far outside": (first(segmentation=[[1, 1, 1e7, 1, 1, 9]]), "lies outside the image"),
    "empty rle": (first(segmentation={"size": [64, 96], "counts": [6144]}), "covers no pixel"),
    "points alone": (first(segmentation=[[5, 5], [7, 7, 9, 9]]), "needs three points"),
    "pairs": (first(segmentation=[[[1, 1], [9, 1], [9, 9]]]), r"is not \[x, y"),
    "no width in float32": (first(bbox=[95.99999, 1, 1e-9, 9]), "covers nothing"),
    "shares": (first(bbox=[0.1, 0.2, 0.3, 0.4]), "less than a pixel; write pixels, not shares"),
    "corners": (first(bbox=[30, 40, 80, 60]), "lies outside.*is it .left, top, right, bottom."),
    "width as text": (image(width="96"), r"image 1 \(train/0.jpg\): width '96' is text"),
    "width of half a pixel": (image(width=96.5), "width 96.5 is not a whole number"),
    "no height": (image(height=None), "height is missing"),
    "category as text": (lambda c: c["categories"][0].update(id="1"), "category '1': id '1' is text"),
    "name of a list": (lambda c: c["categories"][0].update(name=["a"]), "category 1: name .* is a list"),
    "file_name": (image(file_name=17), r"image 1 \(17\): file_name 17 is not text"),
    "image_id": (first(image_id=[1]), r"annotation 1: image_id \[1\] is a list"),
    "image_id as text": (first(image_id="one"), "annotation 1: there is no image of id 'one'"),
    "category_id": (first(category_id="1"), "category_id '1' is text"),
    "category_id of a fraction": (first(category_id=1.5), "category_id 1.5 is not a whole number"),
    "box as text": (first(bbox=["10", 12, 20, 24]), "bbox .*four numbers"),
    "box of truth": (first(bbox=[True, 12, 20, 24]), "bbox .*four numbers"),
    "area": (first(area="abc"), f"{AREA} 'abc' is text"),
    "area of NaN": (first(area=float("nan")), f"{AREA} nan is not a number"),
    "area below zero": (first(area=-4), f"{AREA} -4 is not"),
    "iscrowd": (first(iscrowd="0"), "annotation 1 of image 1 .*iscrowd '0' is neither 0 nor 1"),
    "iscrowd of a list": (first(iscrowd=[]), r"iscrowd \[\] is neither"),
    "empty area": (first(area=""), "area is empty"),
    "id": (first(id=[1]), r"id \[1\] is a list"),
    "empty name": (image(file_name=" "), "file_name is empty"),
    "iscrowd of two": (first(iscrowd=2), "iscrowd 2 is neither"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_cannot_be_learned_from_is_named(root, name):
    edit, message = REFUSED[name]
    change(root, edit)
    with pytest.raises(DataError, match=f"instances_train.json: .*{message}") as error:
        read(root)
    assert "\n" not in str(error.value)


def test_a_key_that_is_there_twice_is_named(root):
    file = next(root.rglob("*train*.json"))
    file.write_text(file.read_text().replace('"annotations"', '"annotations": [], "annotations"', 1))
    with pytest.raises(DataError, match="key 'annotations' twice"):
        read(root)


def test_what_drop_leaves_nothing_of_is_an_error(root):
    change(root, each(bbox=[1, 1, 0, 1]))
    with pytest.raises(DataError, match="nothing to learn from: all objects have faults: annotation 1"):
        read(root, invalid="drop")


def twice(content):
    content["annotations"].append({**content["annotations"][0], "id": 99})


def two_ids(content):
    content["images"].append({**content["images"][0], "id": 99, "file_name": "./" + content["images"][0]["file_name"]})
    content["annotations"][0]["image_id"] = 99


def root_category(content):
    content["categories"] = [{"id": 0, "name": "things", "supercategory": "none"}] + [
        {**one, "supercategory": "things"} for one in content["categories"]
    ]


def from_zero(content):
    for one in content["categories"]:
        one["id"] -= 1
    for one in content["annotations"]:
        one["category_id"] -= 1


READ = {
    "as it is": (lambda c: None, ""),
    "width of 96.0": (image(width=96.0), ""),
    "an id as text": (first(image_id="1"), "objects with the image's number as text"),
    "text ids": (lambda c: [image(id="a")(c), *(a.update(image_id="a") for a in c["annotations"][:2])], ""),
    "backslashes": (image(file_name="train\\0.jpg"), ""),
    "true and false": (each(iscrowd=False), ""),
    "null": (each(iscrowd=None, area=None), ""),
    "flat polygon": (first(segmentation=[10, 12, 30, 12, 30, 36, 10, 36]), ""),
    "stray point": (
        first(segmentation=[[10, 12, 30, 12, 30, 36, 10, 36], [50, 5], []]),
        "polygons of which parts with fewer than three points are left out: 1",
    ),
    "twice": (twice, "objects annotated twice, read once: 1"),
    "two ids": (two_ids, "images listed under two ids, read as one with the objects of both: 1"),
    "root": (root_category, "supercategory 'things' without objects"),
    "from zero": (from_zero, "category ids from 0 on"),
}


@pytest.mark.parametrize("name", READ)
def test_other_ways_to_write_the_same(root, name):
    edit, note = READ[name]
    for split in ("train", "val"):
        change(root, edit, split)
    module = read(root)
    assert str(module).startswith(PLAIN)
    assert note in str(module)
    _, target = module.dataset("val")[0]
    assert target["boxes"].tolist() == BOXES
    assert target["labels"].tolist() == [1, 2]
    assert target["area"].tolist() == [480, 432]
    assert target["masks"].flatten(1).sum(1).tolist() == [480, 432]
    assert target["masks"][0, 12:36, 10:30].all()


def test_a_root_category_may_be_called_like_the_only_class(root):
    def edit(content):
        content["categories"] = [
            {"id": 0, "name": "cell", "supercategory": "none"},
            {"id": 1, "name": "cell", "supercategory": "cell"},
        ]
        for one in content["annotations"]:
            one["category_id"] = 1

    for split in ("train", "val"):
        change(root, edit, split)
    module = read(root)
    assert str(module).startswith("1 classes") or module.classes == ("cell",)
    assert "supercategory 'cell' without objects" in str(module)


def test_crowds_are_counted_apart_or_taken_as_objects(root):
    change(root, first(iscrowd=1))
    assert "7 + 4 objects, 1 + 0 crowds" in str(read(root))
    assert "crowds no larger than most objects" not in str(read(root))
    change(root, first(area=9))
    assert "crowds no larger than most objects; if they are single objects, set --data.crowds objects: 1" in str(
        read(root)
    )
    assert str(read(root, crowds="objects")) == PLAIN


def test_objects_that_vanish_at_the_size_of_training_are_counted(root):
    change(root, first(bbox=[10, 12, 0.5, 24]))
    module = read(root)
    assert "7 + 4 objects" in str(module)
    assert "size of training, such as annotation 1 of image 1 (train/0.jpg): 1" in str(module)
    assert len(module.dataset("train")[0][1]["labels"]) == 1
    assert read(root, shorter_side=128, max_side=192).dataset("train")[0][1]["labels"].tolist() == [1, 2]
    # Between the pixels that are kept.
    dot = {"size": [64, 96], "counts": [65 * 31 - 1, 1, 64 * 96 - 65 * 31]}
    change(root, first(bbox=[10, 12, 20, 24], segmentation=dot))
    assert "7 + 4 objects" in str(read(root, shorter_side=32, max_side=48))


def corners(content):
    """Boxes of the left half, written as corners, fit into the image."""
    for row in content["annotations"]:
        left = 4 + row["category_id"]
        row.update(bbox=[left, 3, 25, 20], area=(25 - left) * 17)
        row["segmentation"] = [[left, 3, left + 25, 3, left + 25, 23, left, 23]]


@pytest.mark.parametrize(
    ("edit", "note"),
    [
        (first(attributes={"occluded": False, "rotation": 30.0}), "boxes that say they are rotated"),
        (first(id=2), "annotation ids that are there more than once: 1"),
        (
            lambda c: c["annotations"].append({**c["annotations"][0], "id": 99, "category_id": 2}),
            "boxes of another class at the same place, both kept: 1",
        ),
        (first(ignore=1), "objects marked ignore, taken as others: 1"),
        (first(attributes={"ignore": True}), "objects marked ignore, taken as others: 1"),
        (first(attributes={"difficult": "true"}), "objects marked difficult, taken as others: 1"),
        (first(attributes={"is_crowd": True}), "objects marked is_crowd, taken as single ones: 1"),
        (first(bbox=[77, 12, 20, 24]), "boxes cut at the edge of the image: 1"),
        (first(bbox=[10, 12, 60, 50]), "boxes that do not fit their masks"),
        (lambda c: c["annotations"].pop(0) and c["annotations"].pop(0), "images without objects: 1"),
        (corners, "boxes that are [left, top, right, bottom] by their areas; a box is [left, top, width, height]: 8"),
        (lambda c: c["categories"][1].update(name="Red "), "names of classes that differ in capitals"),
    ],
)
def test_what_is_not_followed_is_counted(root, edit, note):
    for split in ("train", "val"):
        change(root, edit, split)
    assert f"train: {note}" in str(read(root))


def test_a_file_that_is_elsewhere_is_hinted_at(root):
    change(root, image(file_name="0.jpg"))
    with pytest.raises(DataError, match=r"no such file in .*images, but .*images/(train|val)/0\.jpg"):
        read(root)


def test_a_class_without_objects_is_named(root):
    for split in ("train", "val"):
        change(root, lambda c: c["categories"].append({"id": 5, "name": "green"}), split)
    assert "train: no object of green" in str(read(root))


@pytest.mark.parametrize("edit", [lambda c: c["annotations"].clear(), each(iscrowd=1)])
def test_a_validation_without_objects_is_said(root, edit):
    change(root, edit, "val")
    assert "nothing can be evaluated" in str(read(root))


def test_areas_are_those_of_masks(root):
    thin = [[10, 12, 30, 35, 30, 36, 11, 12]]
    change(root, lambda c: [a.pop("area") for a in c["annotations"]], "val")
    change(root, first(segmentation=thin), "val")
    for masks in (True, False):
        _, target = read(root, masks=masks).dataset("val")[0]
        assert target["area"][0] < 60
        assert target["area"][1] == 432


def test_more_objects_than_can_be_found_are_said(root):
    change(
        root,
        lambda c: c.update(
            annotations=[{**c["annotations"][0], "id": i, "bbox": [i % 70, i // 70, 9, 9]} for i in range(150)]
        ),
    )
    assert "up to 150 objects an image, of which at most 100" in str(read(root, masks=False))


def test_files_that_are_not_used_are_counted(root):
    for name in ("train/a.heic", "train/b.HEIC", "c.png", "train/.hidden.jpg", "Thumbs.db"):
        (root / "images" / name).write_bytes(b"x")
    (root / "images" / "train" / "@eaDir").mkdir()
    (root / "images" / "train" / "@eaDir" / "0.jpg").write_bytes(b"x")
    said = str(read(root))
    assert ".heic files in images/ not used: 2" in said
    assert ".png files in images/ not used: 1" in said
    assert ".jpg" not in said
    change(root, lambda c: c["images"].pop())
    change(root, lambda c: c.update(annotations=c["annotations"][:6]))
    assert ".jpg files in images/ not used: 1" in str(read(root))
