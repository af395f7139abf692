"""What tools write in YOLO's and Pascal VOC's formats is read right, or named with its file and line."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from coco_files import PLAIN, make_rectangles, read
from sgformer.tasks.detection import coco, voc
from sgformer.tasks.detection.sources import SplitOptions
from sgformer.tasks.errors import DataError


@pytest.fixture
def root(tmp_path):
    return make_rectangles(tmp_path / "set")


def test_a_byte_order_mark_and_other_encodings(root):
    path = root / "annotations" / "instances_train.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for name in ("data.yaml", "labels/train/0.txt"):
        (root / name).write_bytes(b"\xef\xbb\xbf" + (root / name).read_bytes())
    assert str(read(root)) == str(read(root, "yolo")) == PLAIN
    (root / "labels/train/0.txt").write_bytes(b"# \xe9")
    with pytest.raises(DataError, match=r"labels/train/0\.txt is not UTF-8"):
        read(root, "yolo")


# ---- YOLO


def yaml(root, **entries):
    content = {"train": "images/train", "val": "images/val", "names": ["red", "blue"], **entries}
    (root / "data.yaml").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (5, "'5'"),
        ({"a": "b"}, "{'a': 'b'}"),
        ([], r"\[\]"),
        ([["images/train"]], "images/train"),
        ("images/other", "'images/other'"),
        (["images/train", "images/other"], "'images/other'"),
        ("https://example.org/a.zip", "example"),
    ],
)
def test_an_entry_of_data_yaml_that_is_no_folder_is_quoted(root, entry, message):
    yaml(root, train=entry)
    with pytest.raises(DataError, match=f"train.*{message}"):
        read(root, "yolo")


def test_folders_lists_and_files_of_images(root):
    for number in (2, 3):
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            (root / kind / "more").mkdir(exist_ok=True)
            shutil.move(root / kind / "train" / f"{number}.{suffix}", root / kind / "more")
    assert "2 + 2 images" in str(read(root, "yolo"))
    yaml(root, train=["images/train", "images/more"])
    assert str(read(root, "yolo")).startswith(PLAIN)
    yaml(root, path="..", train=["set/images/train", "set/images/more"])
    assert str(read(root, "yolo")).startswith(PLAIN)
    (root / "list.txt").write_text("\ufeff./images/more/2.jpg\r\nimages\\train\\1.jpg\nimages/train/1.jpg\n")
    yaml(root, train="list.txt")
    said = str(read(root, "yolo"))
    assert "2 + 2 images, 4 + 4 objects" in said
    assert "images listed twice in train, read once: 1" in said
    assert ".jpg files in images/train/ not used: 1" in said
    assert "set/ not used" not in said
    (root / "list.txt").write_text("images/more/2.jpg\n# images/train/1.jpg\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2 seems to be a comment"):
        read(root, "yolo")
    (root / "list.txt").write_text("images/more/9.jpg\n")
    with pytest.raises(DataError, match=r"list.txt: there is no image 'images/more/9.jpg'"):
        read(root, "yolo")


def test_images_in_both_splits_are_counted(root):
    yaml(root, train="images")
    assert "images that are also in val: 2" in str(read(root, "yolo"))


def test_entries_that_are_not_used_are_named(root):
    yaml(root, test="images/test", nc=2, colour=3)
    assert "entries of data.yaml not used (colour, test): 2" in str(read(root, "yolo"))


def test_a_path_of_another_machine_is_said(root):
    yaml(root, path="/content/datasets/set")
    assert "path of data.yaml that is no folder here; data.root is taken: 1" in str(read(root, "yolo"))


def test_names_are_text_as_they_stand(root):
    names = ["on", "off"]
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [on, off]\n")
    assert list(read(root, "yolo").classes) == names
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: no, 1: 1.0}\n")
    assert read(root, "yolo").classes == ("no", "1.0")
    (root / "data.yaml").unlink()
    (root / "obj.names").write_text("\ufeffred\nblue\n")
    with pytest.raises(DataError, match=r"--data\.train\.annotations obj\.names"):
        read(root, "yolo")
    splits = {split: SplitOptions(annotations="obj.names") for split in ("train", "val")}
    assert read(root, "yolo", **splits).classes == ("red", "blue")
    (root / "obj.names").write_text("# label:color_rgb:parts:actions\nred:0,1,2::\nblue:3,4,5::\n")
    assert read(root, "yolo", **splits).classes == ("red", "blue")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: [red, blue]\nnc: 3\n", "nc is 3"),
        ("names: {0: red, 0: blue}\n", "the key 0 is there twice"),
        ("names: {red: 0}\n", "no list of 'names'"),
        ("names: [red, [blue]]\n", "is no text"),
        ("names: [red, blue]\nkpt_shape: 3\n", "kpt_shape"),
    ],
)
def test_a_data_yaml_that_is_not_in_order(root, content, message):
    (root / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=f"data.yaml.*{message}"):
        read(root, "yolo")


def test_keypoints_are_no_polygons(root):
    yaml(root, kpt_shape=[2, 3])
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("".join(f"{line} 0.2 0.2 2 0.3 0.3 1\n" for line in path.read_text().splitlines()))
    module = read(root, "yolo")
    assert module.dataset("val")[0][1]["boxes"].numpy() == pytest.approx(
        np.array([[10, 12, 30, 36], [60, 30, 84, 48]]), abs=1e-3
    )
    path.write_text("0 0.5 0.5 0.1 0.1 0.2 0.2 2\n")
    with pytest.raises(DataError, match="line 1: after the class there are 7 numbers; by kpt_shape"):
        read(root, "yolo")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_keypoints_that_data_yaml_does_not_announce(root, number):
    behind = ["0.2", "0.2", "2.000000", "0.3", "0.3", "1", "0", "0", "0"][: 3 * number]
    for path in (root / "labels").rglob("*.txt"):
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{line} {' '.join(behind)}\n" for line in lines))
    with pytest.raises(DataError, match=rf"{number} keypoints each; write kpt_shape: \[{number}, 3\]"):
        read(root, "yolo")


@pytest.mark.parametrize("word", ["1.5", "-0.5", "-1", "inf", "nan", "1_0", "red", "\u0661"])
def test_a_class_that_is_no_whole_number(root, word):
    path = root / "labels" / "train" / "0.txt"
    path.write_text(f"{word} 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"labels/train/0\.txt, line 1"):
        read(root, "yolo")


def test_the_same_line_twice_counts_once(root):
    path = root / "labels" / "train" / "0.txt"
    path.write_text(2 * path.read_text())
    assert str(read(root, "yolo")) == f"{PLAIN}. train: objects annotated twice, read once: 2"


def test_labels_that_would_go_unseen(root):
    shutil.move(root / "labels" / "train" / "0.txt", root / "images" / "train")
    with pytest.raises(DataError, match=r"images/train/0\.txt lies beside its image"):
        read(root, "yolo")
    shutil.move(root / "images" / "train" / "0.txt", root / "labels" / "train")
    shutil.move(root / "images" / "train" / "0.jpg", root / "images" / "train" / "0.heic")
    with pytest.raises(DataError, match=r"labels/train/0\.txt: there is no such image in train, but 0\.heic"):
        read(root, "yolo")


# ---- Pascal VOC


def make_voc(root):
    """The training images as in the challenge; every XML file names its image."""
    shutil.copytree(root / "images" / "train", root / "JPEGImages")
    (root / "Annotations").mkdir()
    for number in range(4):
        (root / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename>"
            "<object><name>red</name><bndbox><xmin>11</xmin><ymin>13</ymin><xmax>30</xmax><ymax>36</ymax>"
            "</bndbox></object></annotation>"
        )
    return root


def read_voc(root):
    files = voc.find(root, "Annotations")
    return voc.read(root, files, root / "Annotations", images="JPEGImages", names=["red"])


def test_the_image_is_the_one_that_a_file_names(root):
    make_voc(root)
    shutil.copy(root / "JPEGImages" / "0.jpg", root / "JPEGImages" / "0.png")
    names = [row["file_name"] for row in read_voc(root).rows["images"]]
    assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    path = root / "Annotations" / "0.xml"
    for name in ("C:\\images\\0.jpg", "./0.jpg"):
        path.write_text(path.read_text().replace("0.jpg", name, 1).replace("././", "./"))
        assert read_voc(root).rows["images"][0]["file_name"] == "0.jpg"
        make = path.read_text().replace(name, "0.jpg")
        path.write_text(make)
    path.write_text(path.read_text().replace("<filename>0.jpg", "<filename>elsewhere.jpg"))
    assert "which image is it of, 0.jpg, 0.png" in read_voc(root).faults[0]
    path.write_text(path.read_text().replace("<filename>elsewhere.jpg", "<filename>1.jpg"))
    assert "<filename> says 1.jpg" in read_voc(root).faults[0]


def test_a_box_that_is_turned_is_counted(root):
    make_voc(root)
    path = root / "Annotations" / "0.xml"
    turned = "<attributes><attribute><name>rotation</name><value>30.0</value></attribute></attributes></object>"
    path.write_text(path.read_text().replace("</object>", turned))
    assert coco.check(read_voc(root), with_masks=False).notes == {"boxes that say they are rotated, read as upright": 1}


def test_pixels_may_count_from_zero(root):
    make_voc(root)
    path = root / "Annotations" / "0.xml"
    text = path.read_text()
    for edge, old, new in (("xmin", 11, 0), ("ymin", 13, 0), ("xmax", 30, 20), ("ymax", 36, 24)):
        text = text.replace(f"<{edge}>{old}<", f"<{edge}>{new}<")
    path.write_text(text)
    files = voc.find(root, "Annotations")
    for first, box in ((1, [-1, -1, 21, 25]), (0, [0, 0, 20, 24])):
        found = voc.read(root, files, root, images="JPEGImages", names=["red"], first_pixel=first)
        assert found.rows["annotations"][0]["bbox"] == box
        assert any("--data.first_pixel 0" in note for note in found.notes) == (first == 1)


def test_links_that_lead_in_circles_are_followed_once(root):
    (root / "images" / "train" / "circle").symlink_to(root / "images")
    (root / "images" / "train" / "other.md").write_text("")
    assert "train: .md files in images/train/ not used: 1" in str(read(root, "yolo"))


def test_pixels_are_no_shares(root):
    (root / "labels" / "train" / "0.txt").write_text("0 20 24 20 24\n")
    with pytest.raises(DataError, match=r"0\.txt, line 1: .* shares of the image, not pixels"):
        read(root, "yolo")


def test_a_file_of_xml_is_no_list_of_images(root):
    make_voc(root)
    (root / "annotations.xml").write_text('<?xml version="1.0"?>\n<annotations><image name="0.jpg"/></annotations>')
    with pytest.raises(DataError, match=r"annotations\.xml is no list of images but XML; name the folder"):
        voc.find(root, "annotations.xml")


def test_boxes_of_xml_are_not_told_to_have_width_and_height(root):
    make_voc(root)
    path = root / "Annotations" / "0.xml"
    points = "<polygon><x1>80</x1><y1>4</y1><x2>90</x2><y2>4</y2><x3>90</x3><y3>9</y3></polygon></object>"
    path.write_text(path.read_text().replace("</object>", points))
    assert coco.check(read_voc(root), with_masks=False).notes["boxes that do not fit their masks"] == 1


# ---- COCO


def changed(root, change):
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_points_in_a_wrong_order_are_counted(root):
    """As of corners of a box line by line; a hole that a bridge joins, and parts that touch, are right."""

    def change(content):
        for place, row in enumerate(content["annotations"][:3]):
            corners = np.reshape(row["segmentation"][0], (4, 2))
            inside = corners.mean(0) + (corners - corners.mean(0)) / 2
            bridged = [*corners, corners[0], *inside[[0, 3, 2, 1]], inside[0]]
            halves = [corners[0], corners.mean(0), corners[1], corners[2], corners.mean(0), corners[3]]
            points = [corners[[0, 2, 1, 3]], bridged, halves][place]
            row["segmentation"] = [np.ravel(points).tolist()]

    changed(root, change)
    assert "outlines cross themselves; are the corners in order?: 1" in str(read(root))


def test_a_panoptic_file_is_called_so(root):
    changed(root, lambda content: content["annotations"].append({"image_id": 1, "segments_info": []}))
    with pytest.raises(DataError, match=r"instances_train\.json is of panoptic segmentation"):
        read(root)


def test_the_folder_that_names_start_from_is_advised(root):
    changed(root, lambda content: [row.update(file_name=f"images/{row['file_name']}") for row in content["images"]])
    with pytest.raises(DataError, match=r"set --data\.train\.images, or val, to the folder .*set; image 2"):
        read(root)


def test_a_fifth_number_of_a_box_is_guessed(root):
    path = root / "labels" / "train" / "0.txt"
    path.write_text("0 0.5 0.5 0.2 0.2 7\n")
    with pytest.raises(DataError, match=r"0\.txt, line 1: .*5 numbers.*take the last away.*track.*four corners"):
        read(root, "yolo")


def test_lists_of_one_class_are_told(root):
    make_voc(root)
    (root / "list.txt").write_text("0 1\n1 -1\n")
    found = voc.read(root, voc.find(root, "list.txt"), root / "list.txt", images="JPEGImages", names=["red"])
    assert len(found.rows["images"]) == 2
    assert [count for note, count in found.notes.items() if "end in -1" in note] == [1]
