"""Whatever lies in the data folder is used, is known junk, or is named with its number."""

import numpy as np
import pytest
from PIL import Image

from class_folders import make_class_folders
from mask_folders import make_mask_folders
from sgformer.commands import predict
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.errors import DataError
from sgformer.tasks.folders import describe_left_out, look_through
from sgformer.tasks.images import Preprocessing, read_image
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.options import DataOptions as MaskOptions

PREPROCESSING = Preprocessing(image_size=(32, 32))


def make_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9)).save(path, "PNG")


def fill(folder, elsewhere):
    """Two images, one behind a link, and all kinds of other things."""
    for name in ("a.png", "@eaDir/a.png/thumb.png", "__MACOSX/a.png", ".hidden/b.png", "._a.png", "Thumbs.db"):
        make_image(folder / name)
    for name in ("c.HEIC", "d.heic", "notes.txt", "noname", "thumbnails/a.png", "x/thumbs/b.png"):
        make_image(folder / name)
    make_image(elsewhere / "deep" / "b.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (folder / "elsewhere.png").symlink_to(folder / "nowhere.png")
    (elsewhere / "circle").symlink_to(folder)
    return folder


def test_a_folder_is_looked_through(tmp_path):
    found = look_through(fill(tmp_path / "f", tmp_path / "elsewhere"))
    assert [path.name for path in found.images] == ["a.png", "b.png"]
    assert found.left_out == {
        ".heic": 2,
        ".txt": 1,
        "without a suffix": 1,
        "in folders of thumbnails": 2,
        "broken links": 1,
        "folders linked twice": found.left_out["folders linked twice"],
    }
    assert found.left_out["folders linked twice"] == 2
    assert describe_left_out({".heic": 2, ".txt": 1}) == "2 .heic, 1 .txt (convert images to JPEG or PNG)"
    assert describe_left_out({".txt": 1}) == "1 .txt"


def test_images_of_several_views_are_read(tmp_path):
    image = Image.fromarray(np.full((20, 30, 3), (200, 30, 40), np.uint8))
    image.save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=[image.rotate(180)])
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.mpo").read_bytes())
    assert len(look_through(tmp_path).images) == 2
    assert read_image(tmp_path / "a.mpo").size == read_image(tmp_path / "b.jpg").size == (30, 20)


def classes(root, **kwargs):
    return ClassificationData(DataOptions(root=str(root), image_size=32, workers=0, **kwargs), PREPROCESSING)


def test_class_folders(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=1)
    assert str(classes(root)) == "3 classes (blue 2, green 2, red 2), 6 + 3 images"
    fill(root / "train" / "red", tmp_path / "elsewhere")
    for name in ("train/@eaDir/x.png", "train/red/y.heif", "train/stray.png", "test/red/x.png"):
        make_image(root / name)
    text = str(classes(root))
    assert text.startswith("3 classes (blue 2, green 2, red 4), 8 + 3 images")
    for words in ("2 .heic", "1 .heif", "1 .txt", "in no class folder of train: 1 .png", f"not used in {root}: test"):
        assert words in text
    for path in (root / "val" / "red").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"for red, but 1 \.heic \(convert"):
        classes(root)
    (root / "val").rename(root / "valid")
    with pytest.raises(DataError, match=r"no folder 'val'; rename .*valid"):
        classes(root)


def test_mask_folders(tmp_path):
    root = make_mask_folders(tmp_path / "set")
    for name in ("images/train/x.heic", "annotations/train/x.json", "images/train/@eaDir/0.png", "images/val/.x.png"):
        make_image(root / name)
    options = MaskOptions(root=str(root), image_size=32)
    text = str(SegmentationData(options, PREPROCESSING))
    assert text.startswith("3 classes (sky 32.8%, grass 33.9%, brick 33.3%), 6 + 3 images")
    assert "images/train: 1 .heic (convert" in text
    assert "annotations/train: 1 .json" in text
    for path in (root / "images/val").glob("*.png"):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"no images in .*images/val, but 3 \.heic"):
        SegmentationData(options, PREPROCESSING)


def test_predict_names_what_it_leaves_out(tmp_path, capsys):
    folder = fill(tmp_path / "f", tmp_path / "elsewhere")
    assert [path.name for path in predict.find([str(folder)])] == ["a.png", "b.png"]
    assert f"left out of {folder}: 2 .heic, 2 folders linked twice" in capsys.readouterr().err
    make_image(tmp_path / "g" / "c.heic")
    with pytest.raises(ValueError, match=r"no images in .*g, but 1 \.heic"):
        predict.find([str(tmp_path / "g")])


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_the_first_of_several_pages_is_counted(tmp_path, capsys, suffix):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    pages = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    path = root / "train" / "red" / f"pages.{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    said = "1 images are files of several pages or frames, of which the first is read"
    data = ClassificationData(DataOptions(root=str(root), workers=0), Preprocessing(image_size=(32, 32)))
    assert said in str(data)
    predict.predict("sgformer_t", [str(path)])
    assert f"{said}, such as {path}" in capsys.readouterr().err


def test_images_of_both_splits_are_counted_by_whatever_links(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    (root / "val" / "red" / "0.png").unlink()
    (root / "val" / "red" / "0.png").symlink_to(root / "train" / "red" / "0.png")
    data = ClassificationData(DataOptions(root=str(root), workers=0), PREPROCESSING)
    assert "1 images are in training and in validation" in str(data)
    masked = make_mask_folders(tmp_path / "masked", num_train=3, num_val=2)
    for kind in ("images", "annotations"):
        (masked / kind / "val" / "linked").symlink_to(masked / kind / "train")
    segmented = SegmentationData(MaskOptions(root=str(masked), image_size=32, workers=0), PREPROCESSING)
    assert "3 + 5 images" in str(segmented)
    assert "3 images are in training and in validation" in str(segmented)


def test_images_that_cannot_be_read_at_all_are_told_before_the_run(tmp_path, capsys):
    """TIFF in planes, a page of HTML called .jpg, and an empty file; a share that is allowed is counted."""
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    tiff = pytest.importorskip("tifffile", reason="needs the extra bands")
    broken = [root / "train" / "red" / name for name in ("planes.tif", "page.jpg", "empty.jpg")]
    tiff.imwrite(broken[0], np.zeros((6, 9, 9), np.float32), photometric="minisblack", planarconfig="separate")
    broken[1].write_text("<html>404</html>")
    broken[2].write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of 15 images are damaged.*empty\.jpg.*--data\.max_unreadable 0\.4"):
        ClassificationData(DataOptions(root=str(root), workers=0), PREPROCESSING)
    allowed = ClassificationData(DataOptions(root=str(root), workers=0, max_unreadable=0.4), PREPROCESSING)
    assert "3 images are damaged, or of a kind that cannot be read" in str(allowed)
    predict.predict("sgformer_t", list(map(str, [*broken, root / "val" / "red" / "0.png"])))
    assert "images are damaged" not in capsys.readouterr().err


def test_where_no_image_can_be_read_the_reason_is_told_and_no_share_is_advised(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=1, num_val=1)
    tiff = pytest.importorskip("tifffile", reason="needs the extra bands")
    for path in root.rglob("*.png"):
        tiff.imwrite(path.with_suffix(".tif"), np.zeros((9, 9, 4), np.uint16), photometric="minisblack", planarconfig=1)
        path.unlink()
    words = r"6 of 6 images are damaged.*0\.tif: is not an image.*convert it to JPEG or PNG.*--model\.in_chans$"
    with pytest.raises(DataError, match=words):
        ClassificationData(DataOptions(root=str(root), workers=0), PREPROCESSING)
