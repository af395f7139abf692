"""Files and folders that are meant for something else than they are given for: read right, or named."""

import numpy as np
import pytest
from PIL import Image

from class_folders import make_class_folders
from mask_folders import make_mask_folders
from sgformer.tasks.classification import sources
from sgformer.tasks.classification.tables import read_table
from sgformer.tasks.detection import coco, voc
from sgformer.tasks.errors import DataError
from sgformer.tasks.folders import find_copies
from sgformer.tasks.segmentation.mapping import read_classes, read_mapping
from sgformer.tasks.segmentation.masks import Coding
from sgformer.tasks.text import read_names


@pytest.fixture
def classes(tmp_path):
    return make_class_folders(tmp_path, num_train=2, num_val=1)


def test_class_folders_that_hold_others(classes):
    (classes / "train/animals/cat").mkdir(parents=True)
    for name in ("cat/a.png", "dog.b/a.png"):
        (classes / "train/animals" / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(classes / "train/animals" / name)
    (classes / "train/red").rename(classes / "train/_unlabeled")
    notes = "; ".join(sources.folders(classes, "train").notes)
    assert "classes of train whose images all lie in folders below: animals (of cat, dog.b)" in notes
    assert "_unlabeled in train is taken as a class" in notes


def test_folders_that_are_in_all_classes_are_no_classes(classes):
    for folder in [*(classes / "train").iterdir()]:
        for number, name in enumerate(("day", "night")):
            (folder / name).mkdir()
            (folder / f"{number}.png").rename(folder / name / "a.png")
    assert "(of " not in "; ".join(sources.folders(classes, "train").notes)


def test_folders_of_another_task_are_no_classes(classes):
    (classes / "train/red").rename(classes / "train/images")
    (classes / "train/blue").rename(classes / "train/Masks")
    assert sources.folders(classes, "train").classes == ("Masks", "green", "images")
    (classes / "train/green").rename(classes / "train/labels")
    with pytest.raises(DataError, match=r"train has Masks, images, labels, .*<class>"):
        sources.folders(classes, "train")


@pytest.mark.parametrize("labels", [("red,blue", "blue,green", "green,red"), ("red", "blue", "red | blue")])
def test_several_labels_in_a_cell_are_named(classes, labels):
    paths = sorted((classes / "train").rglob("*.png"))
    rows = [f'{path},"{label}"\n' for path, label in zip(paths, labels, strict=False)]
    table = classes / "train.csv"
    table.write_text("path,label\n" + "".join(rows))
    with pytest.raises(DataError, match=r"row \d of .*train\.csv .*one class"):
        read_table(str(table), "train", None)
    table.write_text(f'path,label\n{paths[0]},"tench, Tinca"\n{paths[1]},"maillot, suit"\n{paths[2]},maillot\n')
    assert [label for _, label in read_table(str(table), "train", None)[0]] == [
        "tench, Tinca",
        "maillot, suit",
        "maillot",
    ]


@pytest.mark.parametrize("content", [b'[\n {"path": "a.png"}]', b'\xef\xbb\xbf{"path": "a.png"}\n', b"PK\3\4\0\0"])
def test_tables_of_other_formats_are_named(tmp_path, content):
    (tmp_path / "list.json").write_bytes(content)
    with pytest.raises(DataError, match=r"list\.json .*save it as CSV, or as Parquet"):
        read_table(str(tmp_path / "list.json"), "train", None)


@pytest.mark.parametrize("lines", ["name\nred\nblue", "3\nred\nblue\ngreen", "Classes:\nred"])
def test_headings_of_lists_are_named(tmp_path, lines):
    (tmp_path / "classes.txt").write_text(lines)
    with pytest.raises(DataError, match=r"classes\.txt: line 1 seems to be a heading"):
        read_names(tmp_path / "classes.txt")
    (tmp_path / "classes.txt").write_text("\n".join("1203"))
    assert read_names(tmp_path / "classes.txt") == [*"1203"]


VOC = (
    "<annotation><filename>a.png</filename><object><name>Red</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>5</xmax>"
    "<ymax>6</ymax></bndbox></object></annotation>"
)


@pytest.mark.parametrize(
    "text",
    [
        VOC,
        VOC.replace("<annotation>", '<annotation xmlns="http://example.org/voc">'),
        VOC.replace("object>", "Object>").replace("xmin>", "XMin>").replace("name>", "NAME>"),
    ],
)
def test_xml_with_namespaces_and_capitals(tmp_path, text):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(text)
    files = voc.find(tmp_path, ".")
    assert voc.classes(files) == ("Red",)
    found = voc.read(tmp_path, files, tmp_path, images=".", names=["Red"])
    assert [row["bbox"] for row in found.rows["annotations"]] == [[1, 2, 4, 4]]
    assert not found.faults


def test_what_xml_says_of_its_image_and_tracks_of_objects_is_named(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    outside = "<attributes><attribute><name>outside</name><value>true</value></attribute></attributes></object>"
    text = VOC.replace("</object>", outside).replace("<object>", "<split>test</split><deleted>0</deleted><object>")
    (tmp_path / "a.xml").write_text(text)
    found = voc.read(tmp_path, voc.find(tmp_path, "."), tmp_path, images=".", names=["Red"])
    notes = coco.check(found, with_masks=False).notes
    assert notes["objects marked outside, taken as others"] == 1
    assert notes["images with entries that are not used (split)"] == 1


def test_xml_of_other_kinds_is_named(tmp_path):
    (tmp_path / "a.xml").write_text("<annotations><image name='a.png'><box label='Red'/></image></annotations>")
    (tmp_path / "b.xml").write_text("<project/>")
    found = voc.read(tmp_path, voc.find(tmp_path, "."), tmp_path, images=".", names=["Red"])
    assert not found.rows["images"]
    assert [fault.split(":")[0] for fault in found.faults] == ["a.xml", "b.xml"]
    assert "export as Pascal VOC" in found.faults[0]
    assert "<project>" in found.faults[1]


def test_the_first_mask_that_is_dropped_is_said_in_words(tmp_path):
    from sgformer.tasks.images import Preprocessing
    from sgformer.tasks.segmentation.data import SegmentationData
    from sgformer.tasks.segmentation.options import DataOptions

    root = make_mask_folders(tmp_path, num_train=1, num_val=1)
    (root / "annotations/train/0.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"is left: [^(]*0\.png is no image"):
        SegmentationData(DataOptions(root=str(root), faults="drop"), Preprocessing(image_size=(32, 32)))


def test_colours_of_16_bits_are_named(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="writes TIFF of 16 bits a channel")
    tifffile.imwrite(tmp_path / "m.tif", np.ones((4, 5, 3), np.uint16), photometric="rgb")
    with pytest.raises(DataError, match=r"m\.tif has channels of 16 bits"):
        Coding.plain(["a", "b"]).read(tmp_path / "m.tif")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("label_colors.txt", "0 0 0 background\n70 70 70 tall building\n"),
        ("class_mapping.csv", "class_name,class_color\nbackground,0 0 0\ntall building,70 70 70\n"),
        ("class_dict.csv", "name,r,g,b\nbackground, 0, 0, 0\ntall building, 70, 70, 70\n"),
        ("labelmap.txt", "background:0,0,0::\ntall building:70,70,70::\n"),
    ],
)
def test_lists_of_colours(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    for read in (read_mapping, read_classes):
        coding = read(tmp_path / file)
        assert coding.classes == ("background", "tall building")
        assert coding.colours == {(0, 0, 0): 0, (70, 70, 70): 1}


def test_variants_of_one_source_are_counted(tmp_path):
    for number, name in enumerate(
        ("train/a_jpg.rf.1f.jpg", "val/a_jpg.rf.2c.jpg", "val/b_jpg.rf.3d.jpg", "val/a_jpg.png")
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(number))
    found = find_copies(*(sorted((tmp_path / split).iterdir()) for split in ("train", "val")))
    assert found.variants == 1
    assert found.notes() == ["1 images of validation are variants of images in training, by their names before .rf."]
