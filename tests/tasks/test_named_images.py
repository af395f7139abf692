"""Files that name images by ids, by absolute paths and in quotes; and masks among images to predict."""

import json

import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from coco_files import change, make_rectangles, read
from sgformer.commands import inputs
from sgformer.tasks.detection import voc
from sgformer.tasks.detection.results import Ids
from sgformer.tasks.errors import DataError


@pytest.fixture
def root(tmp_path):
    return make_rectangles(tmp_path / "set")


def ids(root):
    images = sorted((root / "images" / "train").iterdir())
    return Ids(root / "annotations" / "instances_train.json", ("red", "blue"), images)


def test_a_category_above_all_others_is_no_class(root):
    change(root, lambda c: [one.update(supercategory="red") for one in c["categories"]])
    change(root, lambda c: c["categories"].append({"id": 0, "name": "red", "supercategory": "none"}))
    assert ids(root).categories == {"red": 1, "blue": 2}


def test_an_image_under_two_ids_is_refused(root):
    change(root, lambda c: c["images"].append({**c["images"][0], "id": 77}))
    with pytest.raises(DataError, match=r"image 77: train/0\.jpg has another id, too"):
        ids(root)
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    content["images"][-1]["id"] = content["images"][0]["id"]
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    assert set(ids(root).images.values()) == {1, 2, 3, 4}


def test_masks_among_images_are_told(tmp_path, capsys):
    for name in ("a.png", "a_mask.png", "b_mask.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    assert len(inputs.find([str(tmp_path)])) == 3
    assert "1 images are called like others and may be their masks" in capsys.readouterr().err


def test_names_in_quotes_and_absolute_ones_in_voc(tmp_path):
    (tmp_path / "Annotations").mkdir()
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / folder / "a b.png")
    text = f"<annotation><filename>{tmp_path}/A/a b.png</filename></annotation>"
    (tmp_path / "Annotations" / "a b.xml").write_text(text)
    (tmp_path / "list.txt").write_text('"a b"\n"a b"  1\n')
    (file, again) = voc.find(tmp_path, "list.txt")
    assert file == again
    found = voc.read(tmp_path, [file], tmp_path, images="B", names=["red"])
    assert [row["file_name"] for row in found.rows["images"]] == ["a b.png"]


def test_an_image_called_like_a_list_of_classes(root):
    for kind, end in (("images", "jpg"), ("labels", "txt")):
        (root / kind / "train" / f"0.{end}").rename(root / kind / "train" / f"classes.{end}")
    assert "names in" not in str(read(root, "yolo"))
    (root / "labels" / "val" / "classes.txt").write_text("car\ndog\n")
    assert "names in labels/val/classes.txt that are none of data.yaml, not used: 2" in str(read(root, "yolo"))


@pytest.mark.parametrize("less", [1, 0])
def test_polygons_through_the_centres_of_pixels_are_counted(root, less):
    def edit(content):
        for one in content["annotations"]:
            x, y, w, h = one["bbox"]
            right, bottom = x + w - less, y + h - less
            one["segmentation"] = [[x, y, right, y, right, bottom, x, bottom]]

    change(root, edit)
    note = "masks that end a pixel before their boxes, right and below, as polygons of cv2.findContours: 8"
    assert (note in str(read(root))) == (less == 1)
    assert "end a pixel" not in str(read(root, masks=False))


@pytest.mark.parametrize("first_pixel", [0, 1])
def test_files_of_label_studio_count_pixels_from_nought(root, first_pixel):
    said = "<owner><name>Label Studio</name></owner><source><database>MyDatabase</database></source>"
    (root / "a.xml").write_text(f"<annotation><filename>0.jpg</filename>{said}</annotation>")
    found = voc.read(root, [root / "a.xml"], root, images="images/train", names=["red"], first_pixel=first_pixel)
    note = "files of Label Studio, whose edges count from 0; set --data.first_pixel 0"
    assert +found.notes == ({note: 1} if first_pixel else {})
