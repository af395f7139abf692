"""Classification by the flags that LabelMe's files set for their images."""

import pytest
from PIL import Image

from labelme_files import CAR, write
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing


def read(root):
    options = DataOptions(source="labelme", root=str(root), image_size=32, batch_size=2, workers=0)
    return ClassificationData(options, Preprocessing(image_size=(32, 32)))


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for name, flag in (("a", "cat"), ("sub/b", "dog"), ("c", "cat")):
            write(tmp_path / split / f"{name}.json", flags={one: one == flag for one in ("cat", "dog", "cow")})
    return tmp_path


def test_the_flag_that_is_set_is_the_class(root):
    data = read(root)
    assert data.classes == ("cat", "dog")
    found = {path.name: data.classes[label] for path, label in data.samples["train"].items}
    assert found == {"a.png": "cat", "b.png": "dog", "c.png": "cat"}
    assert "(cat 2, dog 1), 3 + 3 images" in str(data)
    assert "not used" not in str(data)


def test_what_is_not_used_is_named(root):
    write(root / "train" / "none.json", CAR, flags={"cat": False})
    Image.new("RGB", (9, 9)).save(root / "train" / "bare.png")
    (root / "labels.txt").write_text("car")
    said = str(read(root))
    for one in (
        "3 + 3 images",
        "train: 1 images whose files set no flag are not used",
        "train: 1 shapes are not used",
        "train: 1 images have no file of LabelMe's",
        "labels.txt",
    ):
        assert one in said, one


def test_a_missing_folder_names_the_remedy(root):
    (root / "val").rename(root / "valid")
    with pytest.raises(DataError, match=r"no folder .*val with images and files of LabelMe; rename .*valid to .*val,"):
        read(root)
    (root / "valid").rename(root / "other")
    with pytest.raises(DataError, match=r"no folder .*val .*--data\.root"):
        read(root)


def test_faults(root):
    write(root / "train" / "a.json", flags={"cat": True, "dog": True})
    with pytest.raises(DataError, match=r"a\.json sets cat, dog; an image has one class"):
        read(root)
    write(root / "train" / "a.json", flags={"cow": True})
    assert "not in " + str(root / "val") + ": cow" in str(read(root))
    write(root / "train" / "a.json", flags={"cat": True})
    write(root / "val" / "a.json", flags={"cow": True})
    with pytest.raises(DataError, match="val has labels that are no class: cow"):
        read(root)
    for file in (root / "train").rglob("*.json"):
        write(file, CAR)
    with pytest.raises(DataError, match=r"no file of LabelMe in .*train sets a flag"):
        read(root)
