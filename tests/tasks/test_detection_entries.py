"""What annotation files say of an object beside box, mask and class is followed or named; merged files are, too."""

import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from coco_files import PLAIN, change, make_rectangles, read
from sgformer import tasks
from sgformer.engine import recipe
from sgformer.tasks.detection import sources
from sgformer.tasks.detection.options import DataOptions
from sgformer.tasks.detection.task import build
from sgformer.tasks.errors import DataError


@pytest.fixture
def root(tmp_path):
    return make_rectangles(tmp_path / "set")


def first(**entries):
    return lambda content: content["annotations"][0].update(entries)


@pytest.mark.parametrize("place", ["entry", "attribute"])
@pytest.mark.parametrize("key", ["rotation", "angle", "theta", "orientation"])
@pytest.mark.parametrize(
    ("value", "is_turned"),
    [(30.0, True), ("12deg", True), ("-0,5", True), ("0°", False), ("none", False), (360, False), ([0, 0], False)],
)
def test_angles(root, place, key, value, is_turned):
    change(root, first(**({key: value} if place == "entry" else {"attributes": {key: value}})))
    assert str(read(root)) == PLAIN + ". train: boxes that say they are rotated, read as upright: 1" * is_turned


def test_entries_that_are_not_used_are_named(root):
    known = {"attributes": {"occluded": True, "keyframe": True, "color": "", "rotation": 0.0}, "num_keypoints": 2}
    change(root, lambda content: [row.update(known) for row in content["annotations"]])
    assert str(read(root)) == PLAIN
    change(root, first(keypoints=[3, 4, 2], attributes={"isgroupof": 1, "color": "none"}))
    change(root, lambda content: content["annotations"][1].update(score=0.3))
    assert "train: objects with entries that are not used (isgroupof, keypoints, score): 2" in str(read(root))


@pytest.mark.parametrize("value", [False, 0, "no", "0"])
def test_an_entry_may_say_no(root, value):
    change(root, first(visible=value, attributes={"valid": value}, iscrowd=0, num_keypoints=0))
    assert str(read(root)) == PLAIN + ". train: objects with entries that are not used (valid, visible): 1"
    change(root, first(visible=None, attributes={"valid": []}))
    assert str(read(root)) == PLAIN
    change(root, lambda content: content["images"][0].update(usable=value, deleted=value))
    assert str(read(root)) == PLAIN + ". train: images with entries that are not used (usable): 1"


@pytest.mark.parametrize(("by", "category", "is_noted"), [(1, 1, True), (1, 2, True), (0, 2, False), (2, 1, False)])
def test_objects_of_two_annotators(root, by, category, is_noted):
    def edit(content):
        x, y, *rest = content["annotations"][0]["bbox"]
        again = {"id": 99, "category_id": category, "bbox": [x + by, y + by, *rest], "segmentation": []}
        content["annotations"].append(content["annotations"][0] | again)

    change(root, edit)
    assert (
        "nearly those of others, all kept; are they of several annotators?: 1" in str(read(root, masks=False))
    ) == is_noted


def test_objects_that_have_left_their_image(root):
    change(root, first(attributes={"outside": True}))
    assert str(read(root)) == PLAIN + ". train: objects marked outside, taken as others: 1"
    change(root, first(attributes={"outside": False}))
    assert str(read(root)) == PLAIN


def test_objects_of_two_images_of_one_id(root):
    change(root, lambda content: content["images"][2].update(id=1))
    with pytest.raises(DataError, match=r"1 \(train/2\.jpg\): another image has this id.*1 \(train/0\.jpg\)"):
        read(root)
    data = read(root, invalid="drop")
    assert [(image.path.name, len(image.labels)) for image in data.found["train"].images] == [
        ("1.jpg", 2),
        ("3.jpg", 2),
    ]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("drop", [False, True])
def test_a_merged_part_with_its_own_order_of_names_is_an_error(tmp_path, listed, drop):
    (tmp_path / "data.yaml").write_text(
        "names: [red, blue]\ntrain: " + ("train.txt" if listed else "[one/train/images, two/train/images]") + "\n"
    )
    images = []
    for part, names in (("one", "red, blue"), ("two", "blue, red")):
        for folder in ("images", "labels"):
            (tmp_path / part / "train" / folder).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / part / "train" / "images" / "a.png")
        (tmp_path / part / "train" / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.25\n")
        (tmp_path / part / "data.yaml").write_text(f"names: [{names}]\n")
        images.append(f"{part}/train/images/a.png\n")
    (tmp_path / "train.txt").write_text("".join(images))
    options = DataOptions(source="yolo", invalid="drop" if drop else "error")
    with pytest.raises(DataError, match="class 0 is blue in two/data"):
        sources.read(tmp_path, options, masks=False, splits=("train",))


@pytest.mark.parametrize(("limit", "said"), [(1, True), (2, False)])
def test_more_objects_than_anchors_of_all_maps_are_told(root, limit, said):
    """RetinaNet keeps so many of each of its five."""
    change(root, lambda content: content["annotations"].extend(many(content)))
    parsed = recipe.parse(
        recipe.find("detection/smoke"),
        tasks.get("detection").Recipe,
        {
            "data.source": "coco",
            "data.root": str(root),
            "data.workers": 0,
            "heads.masks": False,
            "heads.kind": "retinanet",
            "heads.num_proposals": limit,
        },
    )
    _, data = build(parsed)
    assert ("8 objects an image, of which at most 5 can be found; set --heads.num_proposals 2" in str(data)) == said


def many(content):
    image = content["images"][0]["id"]
    count = sum(row["image_id"] == image for row in content["annotations"])
    return [
        {"id": 90 + i, "image_id": image, "category_id": 1, "bbox": [9 * i, 40, 8, 8], "iscrowd": 0}
        for i in range(8 - count)
    ]
