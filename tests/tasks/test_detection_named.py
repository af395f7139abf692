"""What annotation files say twice, in another way than their format, or of other files than those read, is named."""

import json
import shutil
import unicodedata

import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from coco_files import PLAIN, change, make_rectangles, read
from sgformer.tasks.detection import voc
from sgformer.tasks.detection.sources import SplitOptions
from sgformer.tasks.errors import DataError


@pytest.fixture
def root(tmp_path):
    return make_rectangles(tmp_path / "set")


# ---- Boxes and areas beside masks

READINGS = {
    "are [left, top, right, bottom]": lambda x, y, w, h: [x, y, x + w, y + h],
    "are around [x, y]": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "are [top, left, height, width]": lambda x, y, w, h: [y, x, h, w],
    "are [top, left, bottom, right]": lambda x, y, w, h: [y, x, y + h, x + w],
}


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("kind", ["polygons", "run lengths"])
def test_boxes_that_their_masks_contradict(root, masks, reading, kind):
    def edit(content):
        for number, one in enumerate(content["annotations"][:5]):
            x, y, w, h = 8 + number, 6, 12, 10
            one.update(bbox=READINGS[reading](x, y, w, h), area=w * h / 2)
            one["segmentation"] = [[x, y, x + w, y, x, y + h]]
            if kind == "run lengths":
                before = 64 * x + y
                counts = [before, *[h, 64 - h] * (w - 1), h]
                one["segmentation"] = {"size": [64, 96], "counts": [*counts, 64 * 96 - sum(counts)]}

    change(root, edit)
    assert f"boxes that {reading}" in (said := str(read(root, masks=masks)))
    assert f"{said.partition(f'boxes that {reading}')[2].partition(': ')[2][0]}" == "5"


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("factor", [1 / 6144, 0.01, 16, 1e6])
def test_areas_in_another_unit(root, masks, factor):
    def edit(content):
        for one in content["annotations"]:
            one["area"] *= factor
            if not masks:
                one["segmentation"] = []

    for split in ("train", "val"):
        change(root, edit, split)
    module = read(root, masks=masks)
    assert "areas that are not in pixels by masks or boxes, whose own are taken: 8" in str(module)
    assert module.dataset("val")[0][1]["area"].tolist() == [480, 432]


def test_areas_as_tools_count_them_stay(root):
    def edit(content):
        for one in content["annotations"]:
            x, y, w, h = one["bbox"]
            one.update(segmentation=[[x, y, x + w, y, x, y + h]], area=w * h)  # as Roboflow writes them

    for split in ("train", "val"):
        change(root, edit, split)
    module = read(root)
    assert str(module) == PLAIN
    assert module.dataset("val")[0][1]["area"].tolist() == [480, 432]


@pytest.mark.parametrize("masks", [True, False])
def test_annotations_of_smaller_images(root, masks):
    def edit(content):
        for one in content["images"]:
            file = root / "images" / one["file_name"]
            Image.open(file).resize((192, 128)).save(file)
            one.update(width=192, height=128)

    change(root, edit)
    assert "train: objects, all in the left and upper part of their images" in str(read(root, masks=masks))


def test_ids_of_64_bits(root):
    def edit(content):
        for key, rows in (("id", "images"), ("image_id", "annotations")):
            for one in content[rows]:
                one[key] += 1234567890123456789

    change(root, edit)
    assert str(read(root)) == PLAIN
    change(root, lambda c: c["annotations"][0].update(image_id=1.2345678901234568e18))
    with pytest.raises(DataError, match=r"image_id .*not exact"):
        read(root)


# ---- Files beside those that are read


@pytest.mark.parametrize(
    ("file", "note"),
    [
        ("annotations/instances_train2.json", ".json files in annotations/ not used: 1"),
        ("test/9.jpg", ".jpg files in test/ not used: 1"),
        ("other.json", ".json files in set/ not used: 1"),
        ("images/9.heic", ".heic files in images/ not used: 1"),
    ],
)
def test_what_lies_beside_is_counted(root, file, note):
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text("{}")
    (root / "README.md").write_text("")
    assert str(read(root)) == f"{PLAIN}. train: {note}"


def test_masks_that_boxes_do_not_need(root):
    def edit(content):
        for one, wrong in zip(content["annotations"], ([[]], [[0.1, 0.2, 0.3, 0.2, 0.3, 0.4]]), strict=False):
            one["segmentation"] = wrong

    change(root, edit)
    assert "masks that cannot be read or cover no pixel, and that boxes alone do not need: 2" in str(
        read(root, masks=False)
    )


@pytest.mark.parametrize("source", ["coco", "yolo"])
def test_paths_may_be_relative_or_absolute(root, source, monkeypatch):
    (root / "more").mkdir()
    (root / "more" / "a.heic").write_text("")
    monkeypatch.chdir(root)
    images = "images" if source == "coco" else "images/train"
    for where in (".", "images/..", f"{root}/"):
        for named in (None, images, f"./{images}/", str(root / images)):
            said = str(read(where, source, train=SplitOptions(images=named)))
            assert said == f"{PLAIN}. train: .heic files in more/ not used: 1"


def test_accents_of_a_mac(root):
    for path in (root / "images/train/0.jpg", root / "labels/train/0.txt"):
        form = "NFD" if path.suffix == ".jpg" else "NFC"
        path.rename(path.with_name(unicodedata.normalize(form, f"\u00e9{path.suffix}")))
    change(root, lambda c: c["images"][0].update(file_name="train/\u00e9.jpg"))
    assert str(read(root)) == str(read(root, "yolo")) == PLAIN


def test_all_files_of_a_name_are_hinted_at(root):
    change(root, lambda c: c["images"][0].update(file_name="0.jpg"))
    with pytest.raises(DataError, match=r"but .*images/train/0\.jpg and .*images/val/0\.jpg"):
        read(root)


# ---- YOLO


def of_file(name):
    return {split: SplitOptions(annotations=name) for split in ("train", "val")}


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("#red\nblue\n", ("#red", "blue")),
        ("0 red\n1 blue\n", ("red", "blue")),
        ("1: red\n0: blue\n", ("blue", "red")),
        ("a:b:c:d\nblue", ("a:b:c:d", "blue")),
        ("# label:color_rgb:parts:actions\n#red:1,2,3::\na:b:4,5,6::\n", ("#red", "a:b")),
        ("red\nblue\n\n \n", ("red", "blue")),
    ],
)
def test_lists_of_names(root, text, classes):
    (root / "data.yaml").unlink()
    (root / "obj.names").write_text(text)
    assert read(root, "yolo", **of_file("obj.names")).classes == classes


def test_an_empty_line_between_names_is_named(root):
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("red\n\nblue\n")
    with pytest.raises(DataError, match=r"classes\.txt: line 2 is empty"):
        read(root, "yolo", **of_file("classes.txt"))


@pytest.mark.parametrize(
    "file",
    [
        "classes.txt",
        "labels/train/classes.txt",
        "images/classes.txt",
        "images/val/classes.txt",
        "notes.json",
        "labels/obj.names",
    ],
)
def test_lists_of_names_that_contradict_each_other(root, file):
    for names in (["red", "blue", "green"], ["blue", "red"]):
        rows = [{"id": number, "name": name} for number, name in enumerate(names)]
        text = json.dumps({"categories": rows}) if file.endswith("json") else "\n".join(names)
        (root / file).write_text(text)
        if names[0] == "red":
            assert f"names in {file} beyond those of data.yaml, not used: 1" in str(read(root, "yolo"))
    with pytest.raises(DataError, match=rf"class 0 is blue in {file}, and red in data\.yaml"):
        read(root, "yolo")


def test_a_number_of_classes_that_contradicts_the_names(root):
    (root / "obj.data").write_text("classes = 2\nnames = data/obj.names\n")
    assert str(read(root, "yolo")) == PLAIN
    (root / "obj.data").write_text("classes = 3\nnames = data/obj.names\n")
    with pytest.raises(DataError, match=r"obj\.data counts 3 classes, but there are 2 names in data\.yaml"):
        read(root, "yolo")


@pytest.mark.parametrize("kinds", [("Images", "Labels"), ("Images", "labels"), ("IMAGES", "LABELS")])
def test_folders_in_capitals(root, kinds):
    for old, new in zip(("images", "labels"), kinds, strict=True):
        (root / old).rename(root / new)
    options = {split: SplitOptions(images=f"{kinds[0]}/{split}") for split in ("train", "val")}
    assert str(read(root, "yolo", **options)) == PLAIN


@pytest.mark.parametrize("labels", ["labels/more", "labels2", "txt"])
def test_labels_apart_from_their_images(root, labels):
    (root / "more").mkdir()
    (root / labels).mkdir()
    for number in (2, 3):
        shutil.move(root / f"images/train/{number}.jpg", root / "more")
        shutil.move(root / f"labels/train/{number}.txt", root / labels)
    text = "train: [images/train, more]\nval: images/val\nnames: [red, blue]\n"
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"{labels}/2\.txt lies apart from more/2\.jpg; labels are read from more"):
        read(root, "yolo")
    for number in (2, 3):
        shutil.move(root / f"{labels}/{number}.txt", root / "more")
    assert str(read(root, "yolo")).startswith(PLAIN)


def test_a_training_without_any_labels_says_where_they_are_looked_for(root):
    shutil.rmtree(root / "labels")
    (root / "images").rename(root / "imgs")
    options = {split: SplitOptions(images=f"imgs/{split}") for split in ("train", "val")}
    with pytest.raises(DataError, match=r"nothing to learn from: none of 4 .*looked for as imgs/train/0\.txt"):
        read(root, "yolo", **options)


def test_what_ultralytics_found_is_no_label(root):
    found = root / "runs/detect/labels"
    found.mkdir(parents=True)
    shutil.move(root / "labels/train/0.txt", found)
    assert "images without objects: 1" in str(read(root, "yolo"))


@pytest.mark.parametrize("flags", ["11", "10", "22"])
@pytest.mark.parametrize("plain", [True, False])
def test_keypoints_beside_plain_boxes(root, flags, plain):
    for path in (root / "labels").rglob("*.txt"):
        one, other = path.read_text().splitlines()
        behind = f" .3 .4 {flags[0]} .5 .6 {flags[1]}"
        path.write_text(f"{one}{behind}\n{other}{'' if plain else behind}\n")
    with pytest.raises(DataError, match=r"boxes with 2 keypoints each; write kpt_shape: \[2, 3\]"):
        read(root, "yolo")
    path.write_text("0 .1 .1 .4 .1 .4 .4\n")
    if flags != "22":
        note = f"lines that look like a box and its keypoints, read as polygons: {1 if plain else 2}"
        assert note in str(read_rest(root))


def read_rest(root):
    for path in (root / "labels/train").glob("*.txt"):
        path.write_text("0 .5 .5 .2 .2\n")
    return read(root, "yolo")


def test_keypoints_of_two_numbers(root):
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("0 .5 .5 .4 .4 .4 .4 .6 .6 0 0\n1 .7 .7 .2 .2 .7 .7 .75 .75 .7 .8\n0 .5 .5 .2 .2\n")
    note = "lines that may be a box and its keypoints (then write kpt_shape), read as polygons: 8"
    assert f"train: {note}" in str(read(root, "yolo"))
    path = root / "labels" / "train" / "0.txt"
    path.write_text("1 .7 .7 .9 .7 .9 .9 .8 .95 .7 .9\n")
    assert "train: lines that may" not in str(read(root, "yolo"))


def test_a_polygon_that_touches_the_edges_is_no_box_with_keypoints(root):
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("0 0 0 1 0 1 1 0 1 0 0\n")
    said = str(read(root, "yolo"))
    assert "4 + 2 objects" in said
    assert "keypoints" not in said


def test_thumbnails_are_called_so(root):
    for folder, name in (("images", "0.jpg"), ("labels", "0.txt")):
        (root / folder / "train/thumbnails").mkdir()
        shutil.move(root / folder / "train" / name, root / folder / "train/thumbnails")
    with pytest.raises(DataError, match=r"no such image in train, but 0\.jpg, which is left out as a thumbnail"):
        read(root, "yolo")


# ---- Pascal VOC

BOX = "<bndbox><xmin>11</xmin><ymin>13</ymin><xmax>30</xmax><ymax>36</ymax></bndbox>"
CORNERS = "<x1>11</x1><y1>13</y1><x2>30</x2><y2>13</y2><x3>30</x3><y3>36</y3>"


def read_object(root, content, **options):
    """The data of VOC files with one object each."""
    for split in ("train", "val"):
        (root / split).mkdir(exist_ok=True)
        for path in (root / "images" / split).glob("*.jpg"):
            shutil.copy(path, root / split)
            text = f"<annotation><filename>{path.name}</filename><object>{content}</object></annotation>"
            (root / split / f"{path.stem}.xml").write_text(text)
    splits = {split: SplitOptions(images=split, annotations=split) for split in ("train", "val")}
    return read(root, "voc", **{**splits, **options})


@pytest.mark.parametrize(
    ("tag", "more"), [("name", "<name>blue</name>"), ("bndbox", BOX), ("xmax", BOX), ("filename", "")]
)
def test_what_an_xml_file_says_twice(root, tag, more):
    content = f"<name>red</name>{BOX}{more}"
    if tag == "xmax":
        content = content.replace(f"</bndbox>{BOX}", "<xmax>50</xmax></bndbox>")
    if tag == "filename":
        content += "</object><filename>1.jpg</filename><object>"
    with pytest.raises(DataError, match=rf"0\.xml.* has two {tag}"):
        read_object(root, content)


@pytest.mark.parametrize(
    "more",
    [
        "<rotation>0.7</rotation>",
        "<angle>-30</angle>",
        "<robndbox><cx>20</cx></robndbox>",
        "<type>robndbox</type>",
        "<attributes><attribute><name>rotation</name><value>0,5</value></attribute></attributes>",
    ],
)
def test_boxes_that_are_turned(root, more):
    content = f"<name>red</name>{BOX}"
    note = "boxes that say they are rotated, read as upright: 4"
    assert note in str(read_object(root, content + more))
    assert note not in str(read_object(root, content + "<rotation>0.0</rotation>"))


def test_objects_that_are_marked(root):
    content = f"<name>red</name>{BOX}<deleted>1</deleted><difficult>1</difficult>"
    said = str(read_object(root, content))
    assert "objects marked difficult, taken as others: 4; objects marked deleted, taken as others: 4" in said


def test_what_an_xml_file_says_of_its_image(root):
    said = "</object><deleted>1</deleted><split>test</split><tags><tag>night</tag></tags><folder>x</folder><object>"
    note = "images with entries that are not used (deleted, split, tags): 4"
    assert note in str(read_object(root, f"<name>red</name>{BOX}{said}<name>blue</name>{BOX}"))


def test_shares_in_place_of_pixels_are_named(root):
    shares = BOX
    for number in ("11", "13", "30", "36"):
        shares = shares.replace(f">{number}<", f">0.{number}<")
    with pytest.raises(DataError, match=r"object 1: its edges are less than a pixel; write pixels, not shares.*1 more"):
        read_object(root, f"<name>red</name>{shares}")


def test_names_that_differ_in_accents_alone(root):
    def edit(content):
        for one, name in zip(content["categories"], ("\u00e9", "e\u0301"), strict=True):
            one["name"] = name

    for split in ("train", "val"):
        change(root, edit, split)
    assert "names of classes that differ in capitals or blanks alone: 2" in str(read(root))


def test_polygons_beside_boxes_are_their_masks(root):
    content = f"<name>red</name>{BOX}<polygon>{CORNERS}</polygon>"
    assert "boxes that" not in str(read_object(root, content))
    wide = BOX.replace("30</xmax>", "20</xmax>").replace("36</ymax>", "24</ymax>")
    assert "boxes that have width and height in place of right and bottom by their masks" in str(
        read_object(root, content.replace(BOX, wide))
    )
    files = voc.find(root, "train")
    rows = voc.read(root, files, root, images="train", names=["red"]).rows["annotations"]
    assert rows[0]["segmentation"] == [[10, 12, 29, 12, 29, 35]]
