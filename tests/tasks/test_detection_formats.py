"""Boxes in YOLO's and Pascal VOC's formats are those of the same images in COCO's."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from coco_files import make_coco
from sgformer.tasks.detection import voc, yolo
from sgformer.tasks.detection.data import DataOptions, DetectionData
from sgformer.tasks.detection.sources import SplitOptions
from sgformer.tasks.errors import DataError


def contents(root):
    """Split, its content in COCO's format, and for each image its entry and its annotations."""
    for split in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        rows = [
            (entry, [one for one in content["annotations"] if one["image_id"] == entry["id"]])
            for entry in content["images"]
        ]
        yield split, names, rows


def make_yolo(coco, root):
    """As Ultralytics lays it out: boxes, but polygons for discs; an image without objects has no file."""
    for split, names, rows in contents(coco):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        places = {number: place for place, number in enumerate(sorted(names))}
        for entry, annotations in rows:
            shutil.copy(coco / "images" / entry["file_name"], root / "images" / split)
            lines = []
            width, height = entry["width"], entry["height"]
            for one in annotations:
                x, y, w, h = one["bbox"]
                values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
                if one["segmentation"] and isinstance(one["segmentation"], list):
                    polygon = one["segmentation"][0]
                    values = [value / (width, height)[place % 2] for place, value in enumerate(polygon)]
                lines.append(" ".join(map(str, [places[one["category_id"]], *values])))
            if lines:
                (root / "labels" / split / f"{Path(entry['file_name']).stem}.txt").write_text("\n".join(lines))
        (root / "data.yaml").write_text(json.dumps({"names": [names[number] for number in sorted(names)]}))
    return root


def make_voc(coco, root):
    """As the challenge lays it out."""
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    shutil.copytree(coco / "images", root / "JPEGImages")
    for split, names, rows in contents(coco):
        stems = []
        for entry, annotations in rows:
            things = ""
            for one in annotations:
                x, y, w, h = one["bbox"]
                edges = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
                box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items())
                things += f"<object><name>{names[one['category_id']]}</name><bndbox>{box}</bndbox></object>\n"
            stems.append(Path(entry["file_name"]).stem)
            size = f"<size><width>{entry['width']}</width><height>{entry['height']}</height></size>"
            (root / "Annotations" / f"{stems[-1]}.xml").write_text(
                f"<annotation><filename>elsewhere.jpg</filename>{size}\n{things}</annotation>"
            )
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
    return root


def test_what_a_mac_leaves_in_archives_is_passed_over(coco, tmp_path):
    root = make_voc(coco, tmp_path / "voc")
    wanted = voc.find(root, "Annotations")
    (root / "Annotations" / "._train0.xml").write_bytes(b"\0\5\x16\7")
    (root / "Annotations" / "__MACOSX").mkdir()
    (root / "Annotations" / "__MACOSX" / "train0.xml").write_bytes(b"\0\5\x16\7")
    assert voc.find(root, "Annotations") == wanted
    root = make_yolo(coco, tmp_path / "yolo")
    (root / "labels" / "train" / "._train0.txt").write_bytes(b"\0\5\x16\7")
    assert not yolo.read(root, "train", images=None, names="data.yaml").faults


def test_names_in_a_list_may_have_blanks(tmp_path):
    (tmp_path / "Annotations").mkdir()
    for name in ("my cat", "dog 1", "bird", "horse"):
        (tmp_path / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    (tmp_path / "list.txt").write_text("my cat\nmy cat -1\ndog 1\ndog 1  0\nbird  1\n\nhorse 2\n")
    found = [path.stem for path in voc.find(tmp_path, "list.txt")]
    assert found == ["my cat", "my cat", "dog 1", "dog 1", "bird", "horse"]
    (tmp_path / "list.txt").write_text("bird\n#Annotations/horse.xml\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2 seems to be a comment"):
        voc.find(tmp_path, "list.txt")
    (tmp_path / "list.txt").write_text("bird\nno cat  1\n")
    with pytest.raises(DataError, match=r"line 2: no cat has no .*no cat\.xml"):
        voc.find(tmp_path, "list.txt")


MAKE = {"yolo": make_yolo, "voc": make_voc}


@pytest.fixture
def coco(tmp_path):
    return make_coco(tmp_path / "coco")


def data(root, source, **kwargs):
    masks = kwargs.pop("masks", False)
    classes = kwargs.pop("classes", None)
    splits = kwargs.pop("splits", ("train", "val"))
    options = DataOptions(root=str(root), source=source, shorter_side=48, max_side=96, workers=0, **kwargs)
    return DetectionData(options, masks=masks, classes=classes, splits=splits)


def assert_same(one, other, *, ids):
    """The same objects in the same images, crowds aside, which COCO's format alone has."""
    assert sorted(one.classes) == sorted(other.classes)
    for split in ("train", "val"):
        images = {image.path.name: image for image in one.found[split].images}
        assert images.keys() == {image.path.name for image in other.found[split].images}
        for image in other.found[split].images:
            mine = images[image.path.name]
            assert mine.size == image.size
            names, others = [one.classes[i] for i in mine.labels], [other.classes[i] for i in image.labels]
            assert names == others
            torch.testing.assert_close(torch.from_numpy(mine.boxes), torch.from_numpy(image.boxes), atol=1e-2, rtol=0)
    assert one.category_ids == ids


@pytest.mark.parametrize(("source", "ids"), [("yolo", (0, 1)), ("voc", (1, 2))])
def test_the_same_boxes_as_in_cocos_format(coco, tmp_path, source, ids):
    root = MAKE[source](coco, tmp_path / source)
    assert_same(data(root, source), data(coco, "coco"), ids=ids)
    image, target = data(root, source).dataset("val")[0]
    assert image.shape[0] == 3
    assert len(target["boxes"]) == 2


@pytest.mark.parametrize(("source", "ids"), [("yolo", (0, 1, 2)), ("voc", (1, 2, 3))])
def test_a_real_set(tmp_path, source, ids):
    folder = Path(os.environ.get("SGFORMER_DATA", "")) / "bccd"
    if "SGFORMER_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("no bccd; set SGFORMER_DATA to the folder that holds it")
    root = MAKE[source](folder, tmp_path / source)
    assert_same(data(root, source), data(folder, "coco"), ids=ids)


def test_yolo_polygons_are_masks(coco, tmp_path):
    root = make_yolo(coco, tmp_path / "yolo")
    with pytest.raises(DataError, match=r"labels/train/train0\.txt, line 2 of image 1 .*has no mask"):
        data(root, "yolo", masks=True)
    module = data(root, "yolo", masks=True, invalid="drop")
    _, target = module.dataset("val")[0]
    assert target["masks"].sum() == target["area"].sum() == 400


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0", r"labels/train/train0\.txt, line 2: after the class there are 0 numbers"),
        ("0 0.5 0.5 0.1", r"labels/train/train0\.txt, line 2: after the class there are 3 numbers"),
        ("disc 0.5 0.5 0.1 0.1", r"train0\.txt, line 2: 'disc 0\.5 .*no numbers"),
        ("7 0.5 0.5 0.1 0.1", r"train0\.txt, line 2 of image 1 \(train0\.png\): unknown category id 7"),
        ("0 0.5 0.5 0 0.1", r"train0\.txt, line 2 of image 1 .*has no width"),
        ("0 50 50 10 10", r"train0\.txt, line 2: .*numbers above 1"),
        ("0 nan 0.5 0.1 0.1", r"train0\.txt, line 2: .*no numbers, 'nan'"),
    ],
)
def test_a_fault_in_yolos_format_is_named_by_file_and_line(coco, tmp_path, line, message):
    root = make_yolo(coco, tmp_path / "yolo")
    path = root / "labels" / "train" / "train0.txt"
    path.write_text(f"{path.read_text().splitlines()[0]}\n{line}\n")
    with pytest.raises(DataError, match=message) as error:
        data(root, "yolo")
    assert "\n" not in str(error.value)
    module = data(root, "yolo", invalid="drop")
    assert "train: 1 faults left out" in str(module)
    assert len(module.dataset("train")[0][1]["labels"]) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<name>bar</name>", "<name>bar</name", r"Annotations/train0\.xml: is no XML file.*line"),
        ("<xmin>11", "<xmin>left", r"Annotations/train0\.xml, object 2: bndbox needs numbers"),
        ("<xmin>11", "<xmin>99", r"Annotations/train0\.xml, object 2 of image 1 .*has no width"),
        ("<width>64", "<width>63", r"image 1 \(train0\.png\): the file has 64x48 pixels, the annotations 63x48"),
    ],
)
def test_a_fault_in_vocs_format_is_named_by_file_and_object(coco, tmp_path, old, new, message):
    root = make_voc(coco, tmp_path / "voc")
    path = root / "Annotations" / "train0.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message) as error:
        data(root, "voc")
    assert "\n" not in str(error.value)


def test_two_images_do_not_share_labels(coco, tmp_path):
    root = make_yolo(coco, tmp_path / "yolo")
    folder = root / "images" / "train"
    Image.open(folder / "train0.png").save(folder / "train0.bmp")
    with pytest.raises(DataError, match=r"images/train/train0\.png has the name of train0\.bmp"):
        data(root, "yolo")
    records = data(root, "yolo", invalid="drop").dataset("train").source.records
    assert [record.path.name for record in records] == ["train0.bmp", *(f"train{i}.png" for i in (1, 2, 3))]


def test_files_without_their_images(coco, tmp_path):
    yolo, voc = make_yolo(coco, tmp_path / "yolo"), make_voc(coco, tmp_path / "voc")
    (yolo / "images" / "train" / "train0.png").unlink()
    with pytest.raises(DataError, match=r"labels/train/train0\.txt: there is no such image"):
        data(yolo, "yolo")
    (voc / "JPEGImages" / "train0.png").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"image 1 \(train0\.png\): is no image"):
        data(voc, "voc")
    (voc / "Annotations" / "train0.xml").unlink()
    with pytest.raises(DataError, match=r"train\.txt, line 1: train0 has no"):
        data(voc, "voc")


@pytest.mark.parametrize(
    ("source", "file", "message"),
    [
        ("yolo", "data.yaml", r"no file .*data\.yaml with the names of the classes"),
        ("yolo", "images/val", r"no folder .*images.val.*'images/val'.*--data\.val\.images"),
        ("yolo", "labels/val", r"no folder .*labels.val with the labels"),
        ("voc", "ImageSets/Main/val.txt", r"no .*val\.txt; name a list of images"),
        ("voc", "JPEGImages", "no folder .*JPEGImages"),
    ],
)
def test_what_must_be_there(coco, tmp_path, source, file, message):
    root = MAKE[source](coco, tmp_path / source)
    (root / file).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=message) as error:
        data(root, source)
    assert "\n" not in str(error.value)


def test_other_layouts(coco, tmp_path):
    """Exporters put the name of the split first, and name a level too high in the YAML file."""
    root, again = make_yolo(coco, tmp_path / "yolo"), tmp_path / "again"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            shutil.copytree(root / kind / split, again / split / kind)
    names = {"names": {0: "disc", 1: "bar"}, "train": "../train/images", "val": "../val/images"}
    (again / "data.yaml").write_text(json.dumps(names).replace('"0"', "0").replace('"1"', "1"))
    assert_same(data(again, "yolo"), data(root, "yolo"), ids=(0, 1))
    (again / "classes.txt").write_text("disc\nbar\n")
    (again / "data.yaml").unlink()
    splits = {split: SplitOptions(images=f"{split}/images", annotations="classes.txt") for split in ("train", "val")}
    assert_same(data(again, "yolo", **splits), data(root, "yolo"), ids=(0, 1))

    voc, beside = make_voc(coco, tmp_path / "voc"), tmp_path / "beside"
    for split in ("train", "val"):
        (beside / split).mkdir(parents=True)
        for stem in (voc / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
            shutil.copy(voc / "Annotations" / f"{stem}.xml", beside / split)
            shutil.copy(voc / "JPEGImages" / f"{stem}.png", beside / split)
    splits = {split: SplitOptions(images=split, annotations=split) for split in ("train", "val")}
    assert_same(data(beside, "voc", **splits), data(voc, "voc"), ids=(1, 2))


def test_an_image_turned_by_its_exif_data(coco, tmp_path):
    root = make_yolo(coco, tmp_path / "yolo")
    path = root / "images" / "train" / "train0.png"
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(path, exif=exif)
    module = data(root, "yolo")
    assert module.found["train"].images[0].size == (48, 64)
    assert module.dataset("val")[0][0].shape[1:] == (48, 64)


def test_a_model_knows_its_classes_where_a_split_has_fewer(coco, tmp_path):
    root = make_voc(coco, tmp_path / "voc")
    for path in (root / "Annotations").glob("val*.xml"):
        path.write_text(path.read_text().replace("<name>disc</name>", "<name>bar</name>"))
    module = data(root, "voc", classes=("bar", "disc"), splits=("val",))
    assert module.classes == ("bar", "disc")
    with pytest.raises(DataError, match="unknown class 'bar'"):
        data(root, "voc", classes=("disc",), splits=("val",))
