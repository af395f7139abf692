"""What lies beside the files of a set is named with its number in training and in evaluation, in every task."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from class_folders import COLOURS, make_class_folders
from mask_folders import make_mask_folders
from sgformer.tasks import folders
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.pretrain.data import DataOptions as PretrainOptions
from sgformer.tasks.pretrain.data import PretrainData
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.options import DataOptions as MaskOptions

PREPROCESSING = Preprocessing(image_size=(32, 32))
BOTH, VAL = ("train", "val"), ("val",)


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def classes(root, splits=BOTH, **options):
    options = DataOptions(root=root and str(root), image_size=32, batch_size=2, workers=0, **options)
    return ClassificationData(options, PREPROCESSING, splits=splits).notes


def masked(root, splits=BOTH, **options):
    options = MaskOptions(root=str(root), image_size=32, batch_size=2, workers=0, **options)
    notes = SegmentationData(options, PREPROCESSING, splits=splits).notes
    return [note for note in notes if "255, which is ignored" not in note]  # the border of these masks


def test_files_that_nothing_uses(tmp_path):
    for name in ("a/x/1.png", "a/x/2.png", "a/y.txt", "b/z/1.png", "b/2.png", "c.csv", "used.png", "b/.h", "n/k.txt"):
        write(tmp_path / name)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    (tmp_path / "link.png").symlink_to(tmp_path / "used.png")
    write(tmp_path.parent / f"{tmp_path.name}-beside" / "o.txt")
    beside = tmp_path.parent / f"{tmp_path.name}-beside"
    used = [tmp_path / "used.png", tmp_path / "a" / "x" / "1.png"]
    found = folders.leftovers(tmp_path, used, [beside, tmp_path / "a"], aside=[tmp_path / "n"])
    names = {place: [path.name for path in paths] for place, paths in found.items()}
    assert names == {".": ["c.csv"], "a": ["y.txt", "2.png"], "b": ["2.png", "1.png"], str(beside): ["o.txt"]}
    found.pop(str(beside))
    said = f"not used in {tmp_path}: a (1 .png, 1 .txt), b (2 .png), c.csv"
    assert folders.describe_leftovers(tmp_path, found) == [said]
    many = {f"{number}": [tmp_path / "x.txt"] * 2 for number in range(7)}
    (said,) = folders.describe_leftovers(tmp_path, many)
    assert said.endswith("4 (2 .txt) and 2 more; 14 files in all")


@pytest.mark.parametrize("splits", [BOTH, VAL])
def test_beside_class_folders(tmp_path, splits):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    assert classes(root, splits) == []
    write(root / "test" / "red" / "0.png")
    assert classes(root, splits) == [f"not used in {root}: test (1 .png)"]
    assert classes(root, splits, source="imagenet") == [f"not used in {root}: test (1 .png)"]


@pytest.mark.parametrize("splits", [BOTH, VAL])
@pytest.mark.parametrize("root_given", [True, False])
def test_images_that_no_list_names(tmp_path, splits, root_given):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    tables = {}
    for split in BOTH:
        rows = [f"{root / split / name / '0.png'},{name}" for name in COLOURS]
        table = write(
            tmp_path / f"{split}.csv" if root_given else root / f"{split}.csv", "\n".join(["path,label", *rows])
        )
        tables[f"{split}_list"] = str(table)
    (note,) = classes(root if root_given else None, splits, source="list", **tables)
    places = [f"{split}/{name} (1 .png)" for split in BOTH for name in sorted(COLOURS)]
    assert note == f"not used in {root}: {', '.join(places[:5])} and 1 more; 6 files in all"


def test_pretraining_on_one_split_says_so(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=4, num_val=2)
    options = PretrainOptions(source="folders", root=str(root), image_size=32, batch_size=2, workers=0, num_val=2)
    assert f"not used in {root}: val (6 .png)" in str(PretrainData(options, PREPROCESSING))


@pytest.mark.parametrize("splits", [BOTH, VAL])
def test_beside_masks(tmp_path, splits):
    root = make_mask_folders(tmp_path / "set")
    assert masked(root, splits) == []
    for split in BOTH:
        for path in (root / "annotations" / split).iterdir():
            path.rename(path.with_name(f"{path.stem}_mask.png"))
    shutil.copy(root / "images" / "val" / "0.png", root / "annotations" / "val" / "0_color.png")
    write(root / "images" / "test" / "0.png")
    assert masked(root, splits, mask_ending="_mask") == [
        f"left out of {root / 'annotations' / 'val'}: 1 that do not end in _mask",
        f"not used in {root}: images/test (1 .png)",
    ]


@pytest.mark.parametrize("splits", [BOTH, VAL])
def test_beside_sets_as_released(tmp_path, splits):
    root = make_mask_folders(tmp_path / "set")
    for kind in ("images", "annotations"):
        for split, name in (("train", "training"), ("val", "validation")):
            (root / kind / split).rename(root / kind / name)
    (root / "classes.txt").unlink()
    write(root / "objectInfo150.txt", "\n".join(f"{i}\t0\t0\t0\tname{i}" for i in range(1, 151)))
    write(root / "sceneCategories.txt")
    for path in (root / "annotations").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) % 150).save(path)
    before = masked(root, splits, source="ade20k")
    assert "not used" not in "; ".join(before)
    write(root / "images" / "validation" / "x.heic")
    write(root / "photos" / "x.jpg")
    assert {*masked(root, splits, source="ade20k")} - {*before} == {
        f"left out of {root / 'images' / 'validation'}: 1 .heic (convert images to JPEG or PNG)",
        f"not used in {root}: photos (1 .jpg)",
    }


def test_cityscapes_own_files_are_known(tmp_path):
    for split in BOTH:
        image = tmp_path / "leftImg8bit" / split / "city" / "city_0_leftImg8bit.png"
        mask = tmp_path / "gtFine" / split / "city" / "city_0_gtFine_labelIds.png"
        image.parent.mkdir(parents=True)
        mask.parent.mkdir(parents=True)
        Image.new("RGB", (9, 7), (len(split), 0, 0)).save(image)
        Image.fromarray(np.arange(63, dtype=np.uint8).reshape(7, 9) % 34).save(mask)
        for end in ("color.png", "instanceIds.png", "polygons.json"):
            write(mask.with_name(f"city_0_gtFine_{end}"))
    assert not any("left out" in note for note in masked(tmp_path, source="cityscapes"))
    write(mask.with_name("city_0_other.png"))
    assert f"left out of {tmp_path / 'gtFine' / 'val'}: 1 that do not end in _gtFine_labelIds" in masked(
        tmp_path, source="cityscapes"
    )


def test_what_is_dropped_is_named(tmp_path):
    root = make_mask_folders(tmp_path / "set")
    (root / "annotations" / "train" / "0.png").unlink()
    Image.new("L", (5, 5)).save(root / "annotations" / "val" / "0.png")
    notes = masked(root, faults="drop")
    assert any(
        note.startswith("dropped from train: images/train/0.png; images/train/0.png has no mask") for note in notes
    )
    assert any(note.startswith("dropped from val: annotations/val/0.png; ") for note in notes)
    assert any("dropped from val" in note for note in masked(root, VAL, faults="drop"))


def test_colours_of_the_other_split_have_to_agree(tmp_path):
    colours = {"sky": (9, 9, 200), "grass": (9, 200, 9)}
    for split in BOTH:
        for kind in ("images", "SegmentationClass"):
            (tmp_path / split / kind).mkdir(parents=True)
        pixels = np.array([[*colours.values()]], np.uint8)
        Image.fromarray(pixels + 1 + (split == "val")).save(tmp_path / split / "images" / "0.png")
        Image.fromarray(pixels).save(tmp_path / split / "SegmentationClass" / "0.png")
    head = "# label:color_rgb:parts:actions\n"
    mapping = write(tmp_path / "train" / "labelmap.txt", head + "sky:9,9,200::\ngrass:9,200,9::\n")
    options = {"images": "{split}/images", "masks": "{split}/SegmentationClass", "mapping": str(mapping)}
    other = write(tmp_path / "val" / "labelmap.txt", mapping.read_text())
    assert masked(tmp_path, **options) == []
    write(other, head + "air:9,9,200::\ngrass:9,200,9::\nroad:1,1,1::\n")
    assert masked(tmp_path, **options) == [f"{other} calls [9, 9, 200] air, and it is learned as sky"]
    write(other, head + "grass:9,9,200::\nsky:9,200,9::\n")
    with pytest.raises(DataError, match=r"val/labelmap\.txt gives \[9, 9, 200\] to grass, and --data.mapping to sky"):
        masked(tmp_path, **options)
    own = write(tmp_path / "m.yaml", json.dumps({"classes": {name: [*rgb] for name, rgb in colours.items()}}))
    with pytest.raises(DataError, match=r"to grass, and --data\.mapping to sky"):
        masked(tmp_path, **{**options, "mapping": str(own)})


@pytest.mark.parametrize("make", [os.symlink, os.link, shutil.copy])
def test_one_image_in_two_classes(tmp_path, make):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    make(root / "train" / "red" / "0.png", root / "train" / "blue" / "9.png")
    assert classes(root) == ["1 images are copies of others, 1 in another class"]


def test_names_of_classes_that_are_no_folders(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    write(root / "classes.txt", "red rouge\ngreen vert\nblue bleu\n")
    assert classes(root) == []
    write(root / "classes.txt", "red rouge\ngreen vert\ngold or\n")
    assert classes(root) == [f"{root / 'classes.txt'} and the folders differ; in one alone: blue, gold"]


def test_folders_below_all_class_folders(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    for name in COLOURS:
        (root / "train" / name).rename(root / "train" / "rest")
        (root / "train" / "rest").rename((root / "train" / name).mkdir() or root / "train" / name / "deep")
        assert len(classes(root)) == (name == [*COLOURS][-1])
    assert classes(root) == [
        f"all images of train lie in folders below the class folders, such as {root / 'train' / 'blue' / 'deep'}"
    ]


def test_images_of_pretraining(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=4, num_val=2)
    shutil.copy(root / "train" / "red" / "0.png", root / "copy.png")
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(root / "frames.gif", save_all=True, append_images=frames[1:])
    options = PretrainOptions(root=str(root), image_size=32, batch_size=2, workers=0, num_val=2)
    assert PretrainData(options, PREPROCESSING).notes == [
        "1 images are files of several pages or frames, of which the first is read",
        "1 images are copies of others",
    ]


def test_folders_of_pretraining_that_overlap(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=4, num_val=2)
    roots = {str(root / "train" / "red"): 2.0}
    options = PretrainOptions(root=str(root), roots=roots, image_size=32, batch_size=2, workers=0, num_val=2)
    assert PretrainData(options, PREPROCESSING).notes == ["4 images are also in another of the folders, or linked"]


def test_folders_that_cannot_be_opened(tmp_path, monkeypatch):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    (root / "train" / "red" / "closed").mkdir()
    scan = os.scandir

    def refuse(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert classes(root) == ["left out of train: 1 folders that cannot be opened (Permission denied)"]


def test_a_class_that_may_be_a_heading(tmp_path):
    root = make_mask_folders(tmp_path / "set")
    write(root / "classes.txt", "#my classes\nsky\ngrass\nbrick\n255 ignore\n")
    assert "the class '#my classes', perhaps a heading" in masked(root)
    write(root / "classes.txt", "#1\n#2\n#3\n")
    assert masked(root) == []


# ---- Detection


def annotated(root, source="coco", **options):
    pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")
    from coco_files import read

    return str(read(root, source, **options))


@pytest.fixture
def root(tmp_path):
    pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")
    from coco_files import make_rectangles

    return make_rectangles(tmp_path / "set")


@pytest.mark.parametrize("splits", [BOTH, VAL])
def test_the_same_set_in_another_format_is_counted(root, splits):
    classes = ("red", "blue")
    assert "not used" not in annotated(root, splits=splits, classes=classes)
    assert "not used" not in annotated(root, "yolo", splits=splits, classes=classes)
    assert ".txt files in labels/ not used: 6" in annotated(root, splits=splits, alone=False)
    assert ".json files in annotations/ not used: 2" in annotated(root, "yolo", splits=splits, alone=False)


def test_evaluation_names_what_it_does_not_use(root):
    for name in ("images/val/x.heic", "images/val/9.jpg", "test/0.jpg"):
        write(root / name)
    said = annotated(root, splits=VAL)
    for note in (".heic files in images/", ".jpg files in images/", ".jpg files in test/"):
        assert f"{note} not used: 1" in said
    (root / "annotations" / "instances_train.json").unlink()
    assert ".jpg files in images/ not used: 5" in annotated(root, splits=VAL)


def test_folders_of_runs_are_passed_over(tmp_path, root):
    for folder, described in (
        (make_class_folders(tmp_path / "classes"), lambda: str(classes(tmp_path / "classes"))),
        (make_mask_folders(tmp_path / "masks"), lambda: str(masked(tmp_path / "masks"))),
        (root, lambda: annotated(root)),
    ):
        for name in ("recipe.yaml", "environment.json", "metrics.csv", "drawn/0.png"):
            write(folder / "results" / "smoke" / name)
        assert "results" not in described()
        (folder / "results" / "smoke" / "environment.json").unlink()
        assert "results" in described()
