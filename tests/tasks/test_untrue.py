"""What is wrong is called what it is, and what nobody would see is named."""

import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from class_folders import make_class_folders
from coco_files import change, make_rectangles, read
from mask_folders import make_mask_folders
from sgformer.engine import recipe
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.options import DataOptions as ClassOptions
from sgformer.tasks.classification.sources import folders
from sgformer.tasks.detection import coco, voc, yolo
from sgformer.tasks.detection.data import DataOptions as ObjectOptions
from sgformer.tasks.detection.data import DetectionData
from sgformer.tasks.detection.sources import SplitOptions
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.layouts import CITYSCAPES
from sgformer.tasks.segmentation.masks import Coding
from sgformer.tasks.segmentation.options import DataOptions


@pytest.fixture
def root(tmp_path):
    return make_rectangles(tmp_path / "set")


ROTATED = "0 .3 .1 .5 .3 .3 .5 .1 .3\n"
UPRIGHT = "1 .2 .2 .6 .2 .6 .8 .2 .8\n"


@pytest.mark.parametrize(
    ("text", "number"),
    [(ROTATED + UPRIGHT, 4), (UPRIGHT + "0 .5 .5 .2 .2\n", 0), (ROTATED + "1 .2 .2 .6 .2 .6 .8 .4 .9 .2 .8\n", 0)],
)
def test_rotated_boxes_of_yolo_are_counted(root, text, number):
    for path in (root / "labels" / "train").glob("*.txt"):
        path.write_text(text)
    note = "lines of four corners, as of rotated boxes (OBB), read as polygons whose boxes are upright"
    assert (f"{note}: {number}" in str(read(root, "yolo"))) == (number > 0)


def test_boxes_among_polygons_are_counted(root):
    """Some tools write a mask by its two corners, which is a line of four numbers."""
    note = "boxes among polygons, which may be two corners of a mask"
    assert note not in str(read(root, "yolo"))
    (root / "labels" / "train" / "0.txt").write_text(UPRIGHT + "0 .4 .4 .6 .6\n")
    assert f"train: {note}: 7" in str(read(root, "yolo"))
    (root / "labels" / "train" / "1.txt").write_text("0 .5 .5\n")
    assert "train: 1 faults left out: labels/train/1.txt, line 1: after the class there are 2 numbers" in str(
        said := read(root, "yolo", invalid="drop")
    )
    assert f"{note}: 5" in str(said)


def test_ids_that_count_from_nought_beside_names_that_count_from_one(root):
    change(root, lambda c: [one.update(category_id=one["category_id"] - 1) for one in c["annotations"]])
    with pytest.raises(DataError, match=r"unknown category id 0.*ids count from 0, and the names from 1"):
        read(root)


def test_names_of_yolo_with_a_gap(root):
    (root / "data.yaml").write_text("names: {0: red, 1: blue, 3: cup}\n")
    (root / "labels/train/0.txt").write_text("2 .5 .5 .2 .2\n")
    with pytest.raises(DataError, match="unknown category id 2; there are names for 0, 1, 3"):
        read(root, "yolo")


def test_one_row_for_an_image_twice_is_no_other_image(root):
    change(root, lambda c: c["images"].append(c["images"][0]))
    assert "train: images listed twice, read once: 1" in str(read(root))


@pytest.mark.parametrize("name", ["train/a%20b.jpg", "train/A b.JPG", "a b.jpeg"])
def test_an_image_of_nearly_the_name_is_hinted_at(root, name):
    (root / "images/train/0.jpg").rename(root / "images/train/a b.jpg")
    change(root, lambda c: c["images"][0].update(file_name=name))
    with pytest.raises(DataError, match=r"no such file in .*, but .*images/train/a b\.jpg"):
        read(root)


def test_evaluation_keeps_no_weights(root):
    change(root, lambda c: c.update(annotations=[]), "val")
    said = {splits: str(read(root, splits=splits)) for splits in (("val",), ("train", "val"))}
    assert all("nothing can be evaluated" in one for one in said.values())
    assert ["weights are kept" in one for one in said.values()] == [False, True]


@pytest.mark.parametrize("first_pixel", [0, 1])
@pytest.mark.parametrize(("edges", "shares"), [((0.1, 0.2, 0.5, 0.75), True), ((1, 1, 1, 1), False)])
def test_voc_boxes_as_shares(root, first_pixel, edges, shares):
    box = "".join(
        f"<{edge}>{value}</{edge}>" for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    )
    thing = f"<object><name>red</name><bndbox>{box}</bndbox></object>"
    (root / "a.xml").write_text(f"<annotation><filename>0.jpg</filename>{thing}</annotation>")
    found = voc.read(root, [root / "a.xml"], root, images="images/train", names=["red"], first_pixel=first_pixel)
    assert [("write pixels" in fault) for fault in found.faults] == [True] * shares


def masks(root, ids, names):
    """A set in the layout of Cityscapes, with CVAT's list of colours."""
    for split in ("train", "val"):
        for kind, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            (root / kind / split).mkdir(parents=True)
            values = np.resize(np.array(ids, np.uint8), (8, 9)) if kind == "gtFine" else np.zeros((8, 9, 3), np.uint8)
            values[0] += split == "val" and kind != "gtFine"
            Image.fromarray(values).save(root / kind / split / f"a_{end}.png")
    lines = [f"{place} {place} 0 {name}\n" for place, name in enumerate(names)]
    (root / "label_colors.txt").write_text("".join(lines))
    options = DataOptions(root=str(root), source="cityscapes", image_size=32, workers=0)
    return SegmentationData(options, Preprocessing(image_size=(32, 32)))


def test_own_ids_in_the_layout_of_cityscapes(tmp_path):
    with pytest.raises(DataError, match=r"label_colors\.txt calls id 7 l7, and it is read as road"):
        masks(tmp_path / "own", (7, 8), [f"l{place}" for place in range(10)])
    known = {id_: name.replace(" ", "") for name, id_ in CITYSCAPES.items()}
    right = masks(tmp_path / "right", (7, 8), [known.get(place, f"other{place}") for place in range(34)])
    assert "label_colors" not in str(right)


def test_masks_that_pillow_cannot_read_are_no_broken_images(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="writes TIFF of other kinds")
    coding = Coding.plain(["a", "b"])
    for name, values, message in (
        ("a.tif", np.ones((4, 5), np.int64), "of a kind that Pillow cannot read"),
        ("b.tif", np.ones((4, 5), np.float64), "of a kind that Pillow cannot read"),
    ):
        tifffile.imwrite(tmp_path / name, values)
        with pytest.raises(DataError, match=message):
            coding.read(tmp_path / name)
    Image.fromarray(np.ones((4, 5, 4), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(DataError, match="a band for each class"):
        coding.read(tmp_path / "c.png")


def test_masks_beside_images_of_a_class_are_counted(tmp_path):
    root = make_class_folders(tmp_path, num_train=2, num_val=1)
    assert folders(root, "train").notes == ()
    for name in ("0_mask.png", "1_mask_1.png", "1-Segmentation.png", "mask.png", "9_mask.png"):
        (root / "train" / "red" / name).write_bytes((root / "train" / "red" / "0.png").read_bytes())
    (note,) = folders(root, "train").notes
    assert note.startswith("3 images are called like others and may be their masks")


@pytest.mark.parametrize("inner", [[14, 16, 20, 16, 20, 26, 14, 26], [34, 16, 40, 16, 40, 26, 34, 26], None])
def test_holes_written_as_polygons_are_counted(root, inner):
    def edit(content):
        one = content["annotations"][0]
        one["segmentation"].append(inner or one["segmentation"][0])

    change(root, edit)
    hole = inner is None or inner[0] == 14
    assert ("objects with a polygon inside another, as of a hole, which is filled: 1" in str(read(root))) == hole
    assert "hole" not in str(read(root, masks=False))


@pytest.mark.parametrize(("groups", "number"), [((5, 5), 2), ((5, 6), 0), ((None, None), 0), ((0, 0), 0)])
def test_objects_of_one_group_are_counted(root, groups, number):
    def edit(content):
        one, other = content["annotations"][:2]
        one["group_id"], other["category_id"] = groups[0], one["category_id"]
        other["attributes"] = {"group_id": groups[1]}

    change(root, edit)
    note = "objects that share a group_id with others of their class and image, all kept"
    assert (f"{note}: {number}" in str(read(root))) == (number > 0)


@pytest.mark.parametrize(("limit", "said"), [(1, True), (2, False), (None, False)])
def test_more_objects_than_regions_are_told(root, limit, said):
    read(root)
    options = ObjectOptions(root=str(root), source="yolo", workers=0, shorter_side=64, max_side=96)
    told = str(DetectionData(options, masks=False, num_proposals=limit))
    assert ("at most 1 can be found; set --heads.num_proposals 2" in told) == said


def test_names_with_dots_in_a_list_of_voc(tmp_path):
    for name in ("train", "train.0", "a"):
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    (tmp_path / "list.txt").write_text("train.0  1\ntrain.0.xml\nsome/a.jpg\nC:\\b\\a.png 1\n")
    assert [path.stem for path in voc.find(tmp_path, "list.txt")] == ["train.0", "train.0", "a", "a"]
    (tmp_path / "list.txt").write_text("train.1\n")
    with pytest.raises(DataError, match=r"line 1: train\.1 has no"):
        voc.find(tmp_path, "list.txt")


def test_a_gray_among_colours_of_a_palette_is_a_number(tmp_path):
    names = [str(number) for number in range(150)]
    palette = [0, 0, 0, 128, 128, 128, 90, 0, 0]
    mask = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
    for colours, ids in ((palette, [[0, 1, 1]]), (palette[:6], [[0, 128, 128]])):
        mask.putpalette(colours)
        mask.save(tmp_path / "m.png")
        assert Coding.plain(names).read(tmp_path / "m.png").tolist() == ids


def test_an_id_of_a_geotiff_that_is_no_value_is_told(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="writes tags")
    root = make_mask_folders(tmp_path)

    def said(nothing):
        for path in sorted((root / "annotations" / "val").iterdir())[:2]:
            ids = np.asarray(Image.open(path)) if path.suffix == ".png" else tifffile.imread(path)
            path.unlink()
            tags = [(42113, 2, len(nothing) + 1, nothing, True)]
            tifffile.imwrite(path.with_suffix(".tif"), ids, extratags=tags)
        options = DataOptions(root=str(root), image_size=32, workers=0)
        return str(SegmentationData(options, Preprocessing(image_size=(32, 32))))

    assert "2 masks say that 2 is no value, and it is learned as brick" in said("2")
    assert "no value" not in said("255")
    assert "no value" not in said("-9999")


def test_inverted_masks_of_a_split_are_told(tmp_path):
    root = make_mask_folders(tmp_path)
    (root / "classes.txt").write_text("background\nobject\n")
    for split, value in (("train", 0), ("val", 1)):
        for path in (root / "annotations" / split).iterdir():
            ids = np.full_like(np.asarray(Image.open(path)), value)
            ids[: len(ids) // 5] = 1 - value
            Image.fromarray(ids).save(path)
    options = DataOptions(root=str(root), image_size=32, workers=0)
    said = str(SegmentationData(options, Preprocessing(image_size=(32, 32))))
    assert said.startswith("2 classes (background 80.8%, object 19.2%), 6 + 3 images")
    assert "background is 80.8% of train and 19.3% of val; object is 19.2% of train and 80.7% of val" in said


def test_folders_outside_of_the_root_are_told(root, tmp_path):
    assert "outside" not in str(read(root))
    other = shutil.copytree(root, tmp_path / "other")
    places = {"train": {"images": str(other / "images")}, "val": {"images": str(root / "images")}}
    options = {split: SplitOptions(**place) for split, place in places.items()}
    note = f"train: images outside of data.root {root}, such as {other}/images/train/0.jpg"
    assert f"{note}: 4" in str(read(root, **options))
    change(root, lambda c: c["images"][0].update(file_name=f"{other}/images/train/0.jpg"))
    assert f"{note}: 1" in str(read(root))
    sets = make_mask_folders(tmp_path / "masks")
    options = DataOptions(root=str(root), image_size=32, workers=0, images=str(sets / "images/{split}"))
    options.masks, options.classes = str(sets / "annotations/{split}"), str(sets / "classes.txt")
    said = str(SegmentationData(options, Preprocessing(image_size=(32, 32))))
    assert f"images or masks lie outside of data.root {root}: {sets}/annotations/train, " in said


@pytest.mark.parametrize("source", ["yolo", "voc", "coco"])
def test_images_that_exif_data_turn_are_told_where_annotations_do_not_say_their_size(root, source):
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (root / "images/train/0.jpg", root / "images/val/1.jpg"):
        Image.open(path).save(path, exif=exif)
    turned = "images whose sides EXIF data exchange; annotations are taken as of the image so turned: 1"
    if source == "coco":
        for split, place in (("train", 0), ("val", 1)):
            change(root, lambda c, place=place: c["images"][place].update(width=64, height=96), split)
            change(
                root,
                lambda c, place=place: c.update(
                    annotations=[a for a in c["annotations"] if a["image_id"] != place + 1]
                ),
                split,
            )
        assert "EXIF" not in str(read(root))
    elif source == "yolo":
        assert f"train: {turned}. val: {turned}" in str(read(root, "yolo"))
    else:
        thing = (
            "<object><name>red</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        )
        (root / "a.xml").write_text(f"<annotation><filename>0.jpg</filename>{thing}</annotation>")
        notes = voc.read(root, [root / "a.xml"], root, images="images/train", names=["red"]).notes
        assert +notes == {turned.rpartition(":")[0]: 1}


@pytest.mark.parametrize("flip", [0.5, 0.0])
def test_mirrored_images_of_left_and_right_are_told(root, tmp_path, flip):
    change(
        root,
        lambda c: [
            one.update(name=f"Turn {side}") for one, side in zip(c["categories"], ("left", "right"), strict=True)
        ],
    )
    change(
        root,
        lambda c: [
            one.update(name=f"Turn {side}") for one, side in zip(c["categories"], ("left", "right"), strict=True)
        ],
        "val",
    )
    objects = ObjectOptions(root=str(root), workers=0, shorter_side=64, max_side=96)
    objects.augment.flip = flip
    folders = make_class_folders(tmp_path / "set", num_train=2, num_val=1)
    for split in ("train", "val"):
        for old, new in (("red", "hand left"), ("blue", "hand right")):
            (folders / split / old).rename(folders / split / new)
    classes = ClassOptions(root=str(folders), workers=0)
    classes.augment.flip = flip
    masks = make_mask_folders(tmp_path / "masks")
    (masks / "classes.txt").write_text("sky\nlane (links)\nlane (rechts)\n")
    stripes = DataOptions(root=str(masks), workers=0)
    stripes.augment.flip = flip
    preprocessing = Preprocessing(image_size=(32, 32))
    made = (
        DetectionData(objects, masks=True),
        ClassificationData(classes, preprocessing),
        SegmentationData(stripes, preprocessing),
    )
    assert [("--data.augment.flip 0" in str(data)) for data in made] == [flip > 0] * 3


@pytest.mark.parametrize(
    "text", ["optim:\n  lr: 0.1\n  lr: 0.2\n", "optim: {lr: 0.1}\nseed: 1\noptim: {weight_decay: 0}\n"]
)
def test_a_key_of_a_recipe_that_is_there_twice(tmp_path, text):
    from sgformer.tasks.classification.task import Recipe

    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(recipe.RecipeError, match=r"own\.yaml .*the key (lr|optim) is there twice"):
        recipe.parse(tmp_path / "own.yaml", Recipe)


@pytest.mark.parametrize("name", ["data.yaml", "classes.txt", "notes.json", "labelmap.txt", "obj.names"])
def test_lists_of_another_format_beside_a_set_are_named(root, name):
    shutil.rmtree(root / "labels")
    (root / "data.yaml").unlink()
    (root / name).write_text("x")
    suffix = "." + name.partition(".")[2]
    assert f"{suffix} files in set/ not used: 1" in str(read(root, alone=False))


def test_evaluation_opens_no_image_of_training(root, monkeypatch):
    opened = []
    monkeypatch.setattr(yolo, "image_size", lambda path, notes: opened.append(path) or (64, 96))
    (root / "images" / "train" / "9.heic").write_bytes(b"")
    assert "val: .heic files in images/train/ not used: 1" in str(read(root, "yolo", splits=("val",)))
    assert {path.parent.name for path in opened} == {"val"}


OWN = {"type": "truck", "pose": "left", "source": "drone", "orientation": "left", "rotation": 0.0, "occluded": True}


@pytest.mark.parametrize("source", ["coco", "voc"])
def test_attributes_of_ones_own_are_named_whatever_they_are_called(root, source):
    note = "objects with entries that are not used (orientation, pose, source, type)"
    if source == "coco":
        change(root, lambda c: c["annotations"][0].update(attributes=OWN, pose="x", source="y"))
        assert f"train: {note}: 1" in str(read(root))
        return
    own = "".join(f"<attribute><name>{key}</name><value>{value}</value></attribute>" for key, value in OWN.items())
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    thing = f"<object><name>red</name><pose>x</pose>{box}<attributes>{own}</attributes></object>"
    (root / "a.xml").write_text(f"<annotation><filename>0.jpg</filename>{thing}</annotation>")
    found = voc.read(root, [root / "a.xml"], root, images="images/train", names=["red"])
    assert coco.check(found, with_masks=False).notes[note] == 1


def test_a_name_in_a_list_of_voc_is_not_sought_in_another_folder(tmp_path):
    (tmp_path / "Annotations" / "a").mkdir(parents=True)
    for name in ("0", "1", "a/1"):
        (tmp_path / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    (tmp_path / "list.txt").write_text("a/1.jpg\nJPEGImages/0.jpg\n/data/set/1\n")
    found = [path.relative_to(tmp_path / "Annotations") for path in voc.find(tmp_path, "list.txt")]
    assert [str(path) for path in found] == ["a/1.xml", "0.xml", "1.xml"]
    (tmp_path / "list.txt").write_text("a/0\n")
    with pytest.raises(DataError, match="line 1: a/0 has no"):
        voc.find(tmp_path, "list.txt")
