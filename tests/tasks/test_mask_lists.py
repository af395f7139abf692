"""Lists of classes for masks, as tools and people write them; and what lies beside images and masks."""

import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from mask_folders import CLASSES, make_mask_folders
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.layouts import folders
from sgformer.tasks.segmentation.mapping import read_classes, read_mapping
from sgformer.tasks.segmentation.options import DataOptions

COLOURS = np.array([[0, 0, 0], [250, 50, 83]], np.uint8)


def data(root, **kwargs):
    options = DataOptions(root=str(root), image_size=32, batch_size=2, workers=0, **kwargs)
    return SegmentationData(options, Preprocessing(image_size=(32, 32)))


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text", ["0: sky\n1: grass\n2: brick\n", "0,sky\n1,grass\n2,brick", "0\tsky\n1 grass\n2 brick"]
)
def test_numbers_before_names(tmp_path, text):
    assert read_classes(write(tmp_path / "classes.txt", text)).classes == CLASSES


def test_an_empty_line_between_names_is_named(tmp_path):
    with pytest.raises(DataError, match=r"classes\.txt: line 2 is empty"):
        read_classes(write(tmp_path / "classes.txt", "sky\n\ngrass\nbrick\n"))


def test_labels_of_cvat_may_have_any_sign(tmp_path):
    text = "# label:color_rgb:parts:actions\n#1:0,0,0::\na:b: 250, 50, 83:head,arm:walk\n"
    assert read_classes(write(tmp_path / "labelmap.txt", text)).classes == ("#1", "a:b")


def test_a_spreadsheet_may_part_cells_by_semicolons(tmp_path):
    text = "Pixel Value;Class\n0;background\n\n1;cat\n"
    assert read_classes(write(tmp_path / "_classes.csv", text)).classes == ("background", "cat")
    with pytest.raises(DataError, match="no name for class 0"):
        read_classes(write(tmp_path / "_classes.csv", "Pixel Value, Class\n0, \n1, cat\n"))


def roboflow(root, val="0, background\n1, cat\n"):
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (9, 7), (0, 90 * i, 90 * (split == "val"))).save(root / split / f"{i}.jpg")
            ids = np.arange(63, dtype=np.uint8).reshape(7, 9) % 2
            Image.fromarray(ids).save(root / split / f"{i}_mask.png")
        rows = val if split == "val" else "0, background\n1, cat\n"
        write(root / split / "_classes.csv", f"Pixel Value, Class\n{rows}")
    return {"images": "{split}", "masks": "{split}", "mask_ending": "_mask", "classes": "train/_classes.csv"}


def test_the_list_of_each_split_has_to_agree(tmp_path):
    options = roboflow(tmp_path / "a")
    assert str(data(tmp_path / "a", **options)) == "2 classes (background 50.8%, cat 49.2%), 2 + 2 images"
    options = roboflow(tmp_path / "b", "0, cat\n1, background\n")
    with pytest.raises(DataError, match=r"val/_classes\.csv has the classes cat, background, and .*train/_classes"):
        data(tmp_path / "b", **options)


def test_hidden_colours_of_transparent_pixels(tmp_path):
    mapping = write(tmp_path / "map.yaml", "classes: {background: [0, 0, 0], cat: [250, 50, 83]}\n")
    coding, ids = read_mapping(mapping), np.array([[0, 1, 1, 0]])
    for seen, good in ((ids, True), (1 - ids, False), (0 * ids, False)):
        pixels = np.dstack([COLOURS[ids], (255 * seen).astype(np.uint8)])
        Image.fromarray(pixels).save(tmp_path / "m.png")
        if good:
            assert coding.read(tmp_path / "m.png").tolist() == ids.tolist()
        else:
            with pytest.raises(DataError, match="transparent in part"):
                coding.read(tmp_path / "m.png")


@pytest.mark.parametrize(
    "text",
    [
        "classes: {background: [0, 0, 0, 255], cat: [250, 50, 83, 255]}",
        "classes: {background: [[0, 0, 0, 255]], cat: [[250, 50, 83, 255], [1, 1, 1, 255]]}",
    ],
)
def test_colours_of_four_numbers(tmp_path, text):
    coding = read_mapping(write(tmp_path / "map.yaml", text))
    Image.fromarray(COLOURS[None]).save(tmp_path / "m.png")
    assert coding.read(tmp_path / "m.png").tolist() == [[0, 1]]


def test_a_mask_that_is_turned_without_its_image_is_named(tmp_path):
    root = make_mask_folders(tmp_path, num_train=2, num_val=1)
    file = root / "annotations/train/0.png"
    mask, exif = Image.open(file), Image.Exif()
    exif[0x0112] = 3
    mask.save(file, exif=exif)
    assert "1 masks are turned or mirrored by EXIF data of their own, and their images are not" in str(data(root))


def test_negative_ids_of_8_bits(tmp_path):
    root = make_mask_folders(tmp_path, num_train=2, num_val=1)
    file = root / "annotations/train/0.png"
    ids = np.array(Image.open(file)).astype(np.int8)
    ids[0] = -1
    file.unlink()
    Image.fromarray(ids.view(np.uint8)).save(file.with_suffix(".tif"), tiffinfo={339: 2})
    with pytest.raises(DataError, match=r"0\.tif holds the ids -1, which are no classes"):
        data(root)


def test_palettes_in_another_order_are_counted(tmp_path):
    root = make_mask_folders(tmp_path)
    colours = [(0, 0, 0), (250, 50, 83), (1, 2, 3)]
    for number, path in enumerate(sorted((root / "annotations").rglob("*.png"))):
        image = Image.open(path)
        order = colours[::-1] if number == 1 else colours
        image.putpalette([value for colour in order for value in colour] + [9] * (768 - 9))
        image.save(path)
    assert "1 masks have the colours of others in another order" in str(data(root))


def test_ids_in_quotes(tmp_path):
    coding = read_mapping(write(tmp_path / "map.json", '{"classes": {"background": "0", "cat": ["1", "255"]}}'))
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "m.png")
    assert coding.read(tmp_path / "m.png").tolist() == [[0, 1, 1]]


def test_images_are_no_masks(tmp_path):
    root = make_mask_folders(tmp_path)
    with pytest.raises(DataError, match=r"annotations/train has images and masks by --data\.images and --data\.masks"):
        data(root, images="annotations/{split}")
    shutil.copy(root / "annotations/train/1.png", root / "images/train/1.png")
    with pytest.raises(DataError, match=r"1\.png is the same file as its image"):
        data(root)


def test_accents_of_a_mac(tmp_path):
    root = make_mask_folders(tmp_path)
    for path, form in ((root / "images/train/0.png", "NFD"), (root / "annotations/train/0.png", "NFC")):
        path.rename(path.with_name(unicodedata.normalize(form, "\u00e9.png")))
    assert str(data(root)).startswith("3 classes (sky 32.8%, grass 33.9%, brick 33.3%), 6 + 3 images")


@pytest.mark.parametrize(
    ("name", "note"),
    [("images/test/0.png", "images/test (1 .png)"), ("test/0.png", "test (1 .png)"), ("other.csv", "other.csv")],
)
def test_what_lies_beside_is_named(tmp_path, name, note):
    root = make_mask_folders(tmp_path)
    (root / "README.txt").write_text("")
    assert "not used" not in str(data(root))
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("")
    assert str(data(root)).endswith(f"; not used in {root}: {note}")


def test_paths_may_be_relative_or_absolute(tmp_path, monkeypatch):
    root = make_mask_folders(tmp_path)
    monkeypatch.chdir(root)
    for images in ("images/{split}", str(root / "images/{split}")):
        assert "not used" not in str(data(".", images=images))


@pytest.mark.parametrize(
    "text",
    [
        "id,name\n0,sky\n1,grass\n2,brick\n",
        "classes\n1 sky\n2 grass\n3 brick\n",
        "name\nsky\ngrass\nbrick\n",
        "Class Names:\nsky\ngrass\nbrick\n",
        "class_name\nsky\ngrass\nbrick\n",
        "4\nsky\ngrass\nbrick\n",
        "3\n0 sky\n1 grass\n2 brick\n",
    ],
)
def test_a_heading_is_no_class(tmp_path, text):
    with pytest.raises(DataError, match=r"classes\.txt: line 1 seems to be a heading"):
        read_classes(write(tmp_path / "classes.txt", text))


@pytest.mark.parametrize(
    "text", ["sky: 0\ngrass: 1\nbrick: 2\n", "sky,0\ngrass,1\nbrick,2", "sky\t0\ngrass=1\nbrick;2"]
)
def test_numbers_behind_names(tmp_path, text):
    assert read_classes(write(tmp_path / "classes.txt", text)).classes == CLASSES
    with pytest.raises(DataError, match="must be 0, 1, 2"):
        read_classes(write(tmp_path / "classes.txt", "grass: 1\nsky: 0\nbrick: 2\n"))


def test_names_that_look_like_numbers_and_marks(tmp_path):
    for names in (("#1", "#2"), ("#1",), ("sedan", "2 doors", "4 doors"), ("class 1", "class 0"), ("2", "1", "a")):
        assert read_classes(write(tmp_path / "classes.txt", "\n".join(names))).classes == names


def test_a_list_above_the_masks_of_a_split_has_to_agree(tmp_path):
    root = tmp_path / "set"
    for split, names in (("train", "background\ncat\n"), ("val", "cat\nbackground\n")):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        write(root / split / "names.txt", names)
        Image.new("RGB", (9, 7), (0, 0, 90 * (split == "val"))).save(root / split / "images" / "0.png")
        Image.fromarray(np.arange(63, dtype=np.uint8).reshape(7, 9) % 2).save(root / split / "masks" / "0.png")
    options = {"images": "{split}/images", "masks": "{split}/masks", "classes": "train/names.txt"}
    with pytest.raises(DataError, match=r"val/names\.txt has the classes cat, background"):
        data(root, **options)
    write(root / "val" / "names.txt", "background\ncat\n")
    assert str(data(root, **options)).startswith("2 classes (background 50.8%, cat 49.2%), 1 + 1 images")


def test_palettes_of_the_splits_are_compared(tmp_path):
    root = make_mask_folders(tmp_path / "set")
    for split, palette in (("train", [0, 0, 0, 9, 9, 0, 0, 9, 9]), ("val", [0, 0, 0, 0, 9, 9, 9, 9, 0])):
        for path in (root / "annotations" / split).glob("*.png"):
            mask = Image.fromarray(np.asarray(Image.open(path)), "P")
            mask.putpalette([*palette, *[7] * (768 - 9)])
            mask.save(path)
    assert "3 masks have the colours of others in another order" in str(data(root))


def test_an_ending_that_all_masks_have_is_advised(tmp_path):
    root = make_mask_folders(tmp_path / "set", num_train=12, num_val=2)
    for ending in ("_mask", ".jpg"):
        for path in (root / "annotations").rglob("*.png"):
            path.rename(path.with_name(f"{path.name.removesuffix('.png').removesuffix('_mask')}{ending}.png"))
        with pytest.raises(DataError, match=rf"has no image in .*--data\.mask_ending {ending}; 23 more"):
            data(root)
        assert len(data(root, mask_ending=ending).samples["train"]) == 12


def test_a_list_is_no_folder_of_masks(tmp_path):
    root = make_mask_folders(tmp_path / "set")
    for split in ("train", "val"):
        write(root / f"{split}.txt", "0\n1\n")
    with pytest.raises(DataError, match=r"train\.txt is a file, and lists are not read"):
        data(root, masks="{split}.txt")


def test_a_folder_that_stands_for_val_is_advised(tmp_path):
    root = make_mask_folders(tmp_path / "set")
    (root / "images" / "val").rename(root / "images" / "valid")
    with pytest.raises(DataError, match=r"images/val is not there; rename .*images/valid to .*images/val, or link"):
        data(root)


def voc(root):
    """Masks all in one folder with a list for each split, as VOC and CVAT lay them out."""
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    made = make_mask_folders(root / "made")
    for kind, name in (("images", "JPEGImages"), ("annotations", "SegmentationClass")):
        (root / name).mkdir()
        for path in (made / kind).rglob("*.png"):
            path.rename(root / name / f"{path.parent.name}_{path.name}")
    shutil.move(made / "classes.txt", root / "classes.txt")
    shutil.rmtree(made)
    write(root / "ImageSets/Segmentation/train.txt", "".join(f"train_{i}\n" for i in range(6)))
    write(root / "ImageSets/Segmentation/val.txt", "JPEGImages/val_0.png\n\nC:\\set\\JPEGImages\\val_1\nval_2.png\n")
    lists = {"lists": "ImageSets/Segmentation/{split}.txt"}
    return {"images": "JPEGImages", "masks": "SegmentationClass", **lists}


def test_lists_of_the_images_of_a_split(tmp_path):
    options = voc(tmp_path)
    found = data(tmp_path, **options)
    assert "6 + 3 images" in str(found)
    assert [one.image.name for one in found.samples["val"]] == ["val_0.png", "val_1.png", "val_2.png"]
    for suffix in ("png", "bmp"):  # of one name, and in no list
        shutil.copy(tmp_path / "JPEGImages/val_0.png", tmp_path / f"JPEGImages/other.{suffix}")
    assert f"2 images of {tmp_path / 'JPEGImages'} are in no list" in str(data(tmp_path, **options))
    shutil.copy(tmp_path / "JPEGImages/val_0.png", tmp_path / "JPEGImages/val_0.bmp")
    with pytest.raises(DataError, match=r"val_0\.png has the name of .*val_0\.bmp"):
        data(tmp_path, **options)
    for name in ("other.png", "other.bmp", "val_0.bmp"):
        (tmp_path / "JPEGImages" / name).unlink()
    write(tmp_path / "ImageSets/Segmentation/train.txt", "train_0\ntrain_1\n")
    assert f"4 images of {tmp_path / 'JPEGImages'} are in no list" in str(data(tmp_path, **options))
    write(tmp_path / "ImageSets/Segmentation/val.txt", "val_0\n#JPEGImages/val_1.png\n")
    with pytest.raises(DataError, match=r"val\.txt, line 2 seems to be a comment"):
        data(tmp_path, **options)
    write(tmp_path / "ImageSets/Segmentation/val.txt", "val_0\nval_7\n")
    with pytest.raises(DataError, match=r"val\.txt, line 2 names val_7, of which there is neither image nor mask"):
        data(tmp_path, **options)
    (tmp_path / "SegmentationClass/val_0.png").unlink()
    write(tmp_path / "ImageSets/Segmentation/val.txt", "val_0\n")
    with pytest.raises(DataError, match=r"val_0\.png has no mask in .*SegmentationClass"):
        data(tmp_path, **options)
    with pytest.raises(DataError, match=r"no file .*train\.csv .*--data\.lists"):
        data(tmp_path, **{**options, "lists": "{split}.csv"})


def test_lists_may_name_images_of_other_bands(tmp_path):
    options = voc(tmp_path)
    for path in (tmp_path / "JPEGImages").iterdir():
        path.rename(path.with_suffix(".npy"))
    write(tmp_path / "ImageSets/Segmentation/train.txt", "train_0.npy\n")
    samples, faults, _ = folders(tmp_path, **options, classes="classes.txt", mapping=None).find(
        tmp_path, "train", {".npy"}
    )
    assert [one.image.name for one in samples] == ["train_0.npy"]
    assert not faults


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"masks": "annotations/{name}"}, r"data\.masks annotations/\{name\}: .*only \{split\}"),
        ({"lists": "train.txt"}, r"data\.lists train\.txt is one list for both splits"),
    ],
)
def test_patterns_of_folders_and_lists_are_checked(keys, said, tmp_path):
    with pytest.raises(DataError, match=said):
        data(make_mask_folders(tmp_path / "set"), **keys)
