"""What of images and of annotation files is not read as it stands is named with its number, in every task."""

import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from class_folders import make_class_folders
from mask_folders import make_mask_folders
from sgformer.commands import inputs, predict
from sgformer.tasks import images
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.options import DataOptions as MaskOptions

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from coco_files import change, make_rectangles, read
from sgformer.tasks.detection import voc
from sgformer.tasks.errors import DataError

PREPROCESSING = Preprocessing(image_size=(32, 32))


def save(path, size, kind):
    """An image of one kind that is not read as it stands."""
    path.unlink(missing_ok=True)
    if isinstance(kind, int):  # an orientation
        exif = Image.Exif()
        exif[0x0112] = kind
        Image.new("RGB", size, (9, 90, kind)).save(path, exif=exif)
        return
    if kind in ("colour", "clear"):
        tifffile = pytest.importorskip("tifffile", reason="writes TIFF of 16 bits a channel")
        shape, more = (
            ((*size[::-1], 3), {}) if kind == "colour" else ((*size[::-1], 4), {"extrasamples": ["unassalpha"]})
        )
        values = np.full(shape, 200, np.uint16 if kind == "colour" else np.uint8)
        if path.suffix == ".png":
            Image.fromarray(values).save(path)
        else:
            tifffile.imwrite(path, values, photometric="rgb", **more)
        return
    values = np.full(size[::-1], 200, kind)
    if path.suffix == ".tif":
        values[0, 0] = 400 if kind == np.int32 else 201
    Image.fromarray(values).save(path)


KINDS = [
    (np.uint16, ".png", images.DEEP),
    (np.uint16, ".tif", images.DEEP),
    (np.int32, ".tif", images.WIDE),
    (np.float32, ".tif", images.WIDE),
    ("colour", ".tif", images.DEEP),
    ("clear", ".tif", images.CLEAR),
    ("clear", ".png", images.CLEAR),
]
TURNS = [(orientation, ".png", images.TURNED) for orientation in (2, 3, 4)]


@pytest.mark.parametrize(("kind", "suffix", "what"), KINDS)
def test_classification_and_predict(tmp_path, capsys, kind, suffix, what):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    path = root / "train" / "red" / f"x{suffix}"
    save(path, (40, 40), kind)
    data = ClassificationData(DataOptions(root=str(root), workers=0), PREPROCESSING)
    assert data.notes == [f"1 images are {what}"]
    for command in (partial(predict.predict, "sgformer_t"), inputs.find):
        command([str(path)])
        said = capsys.readouterr().err
        assert f"1 images are {what.split('; ')[0]}, such as {path}" in said
        assert "--model.in_chans" not in said  # a key of training


def beside_borders(data):
    """What is noted of images and masks, but for the masks' border of 255."""
    return [note for note in data.notes if "255, which is ignored" not in note]


@pytest.mark.parametrize(("kind", "suffix", "what"), [*KINDS, *TURNS])
def test_masked_images(tmp_path, kind, suffix, what):
    root = make_mask_folders(tmp_path / "set")
    path = root / "images" / "val" / "1.png"
    path.unlink()
    save(path.with_suffix(suffix), (64, 48), kind)
    data = SegmentationData(MaskOptions(root=str(root), image_size=32, workers=0), PREPROCESSING)
    assert beside_borders(data) == [f"val: 1 images are {what}"]


@pytest.fixture
def root(tmp_path):
    return make_rectangles(tmp_path / "set")


@pytest.mark.parametrize(("kind", "suffix", "what"), [*KINDS, *TURNS])
def test_annotated_images(root, kind, suffix, what):
    path = root / "images" / "train" / "0.jpg"
    path.unlink()
    save(path.with_suffix(suffix), (96, 64), kind)
    assert f"train: images that are {what}: 1" in str(read(root, "yolo"))


def test_sides_that_tell_how_an_image_is_turned_need_no_word(tmp_path):
    root = make_mask_folders(tmp_path / "set")
    for number, size in ((1, (48, 64)), (3, (64, 64))):
        save(root / "images" / "train" / f"{number}.png", size, 6)
        mask = np.resize(np.arange(3, dtype=np.uint8), size)
        mask[0] = 255
        Image.fromarray(mask).save(root / "annotations" / "train" / f"{number}.png")
    data = SegmentationData(MaskOptions(root=str(root), image_size=32, workers=0), PREPROCESSING)
    assert beside_borders(data) == [f"train: 1 images are {images.TURNED}"]


# ---- Annotation files


@pytest.mark.parametrize(
    ("edit", "note"),
    [
        (
            lambda c: c["images"][0].update(deleted=True, split="test", flickr_url="x", license=1, milliseconds=0),
            "images with entries that are not used (deleted, split): 1",
        ),
        (
            lambda c: c["categories"][0].update(keypoints=["nose"], skeleton=[], color="#fff"),
            "categories with entries that are not used (keypoints): 1",
        ),
        (
            lambda c: c.update(tracks=[{"id": 1}], videos=[{"id": 1}], segment_info=[], info={"year": 1}),
            "lists of the file that are not used (tracks, videos): 2",
        ),
    ],
)
def test_entries_of_a_coco_file(root, edit, note):
    change(root, edit)
    assert str(read(root)).endswith(f"train: {note}")


def test_keypoints_of_yolo_are_said_not_to_be_learned(root):
    (root / "data.yaml").write_text("names: [red, blue]\nkpt_shape: [1, 3]\n")
    for path in (root / "labels").rglob("*.txt"):
        one, other = path.read_text().splitlines()
        path.write_text(f"{one} .3 .4 2\n{other}\n")
    assert "train: boxes with keypoints, which are not learned: 4. val: boxes with keypoints" in str(read(root, "yolo"))


@pytest.mark.parametrize(("last", "number"), [("1", 8), ("0.9", 0)])
def test_results_of_a_tracker_may_be_no_polygons(root, last, number):
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("".join(f"{line} 0.9 {last}\n" for line in path.read_text().splitlines()))
    note = "train: lines that may be a box, its score and a number, read as polygons"
    assert (f"{note}: {number}" in str(read(root, "yolo"))) == (number > 0)


def test_two_entries_for_one_split(root):
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nvalid: other/images\nnames: [red, blue]\n")
    assert "train: entries of data.yaml not used (valid): 1" in str(read(root, "yolo"))
    (root / "data.yaml").write_text("train: images/train\nval:\nvalid: images/val\nnames: [red, blue]\n")
    assert "not used" not in str(read(root, "yolo"))


def test_a_path_to_another_set_is_said(root):
    other = shutil.copytree(root, root.parent / "other")
    lines = "train: images/train\nval: images/val\nnames: [red, blue]\n"
    (root / "data.yaml").write_text(f"path: {other}\n{lines}")
    assert f"path of data.yaml, {other}, that is followed in place of data.root: 1" in str(read(root, "yolo"))
    for path in (".", root, root / "images" / ".."):
        (root / "data.yaml").write_text(f"path: {path}\n{lines}")
        assert "followed" not in str(read(root, "yolo"))


@pytest.mark.parametrize(("edge", "number"), [("9.5", 1), ("9.00", 1), ("9", 0)])
def test_decimal_points_in_voc_files(root, edge, number):
    edges = f"<xmin>{edge}</xmin><ymin>11</ymin><xmax>30</xmax><ymax>36</ymax>"
    thing = f"<object><name>red</name><bndbox>{edges}</bndbox></object>"
    (root / "a.xml").write_text(f"<annotation><filename>0.jpg</filename>{thing}</annotation>")
    for first in (0, 1):
        found = voc.read(root, [root / "a.xml"], root, images="images/train", names=["red"], first_pixel=first)
        note = "boxes with decimal points, as of edges from 0 on; if so, set --data.first_pixel 0"
        assert +found.notes == ({note: 1} if first and number else {})


def test_a_folder_without_xml_files_is_named(root):
    with pytest.raises(DataError, match=r"no XML files in .*/images"):
        voc.find(root, "images")


def test_files_of_names_that_were_taken_are_told(tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    for number in range(2):
        predict.predict("sgformer_t", [str(tmp_path / "a.png")], draw=str(tmp_path / "drawn"))
        said = "1 files have a number in their names, such as" in capsys.readouterr().err
        assert said == (number == 1)
