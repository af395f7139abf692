"""What stands in tables and lists of classification and is not followed is named."""

import pytest

from class_folders import COLOURS, make_class_folders
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing


def said(root, **options):
    options = DataOptions(root=str(root), image_size=32, batch_size=2, workers=0, **options)
    return str(ClassificationData(options, Preprocessing(image_size=(32, 32))))


def test_columns_and_labels_of_a_table(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    tables = {f"{split}_list": str(root / f"{split}.csv") for split in ("train", "val")}

    def write(head, rest, label=str):
        for split in ("train", "val"):
            rows = [f"{split}/{name}/{i}.png,{label(name)}{rest}" for name in COLOURS for i in range(2)]
            (root / f"{split}.csv").write_text("\n".join([head, *rows]) + "\n")

    write("path,label,id", ",7")
    assert said(root, source="list", **tables) == "3 classes (blue 2, green 2, red 2), 6 + 6 images"
    write("path,label,split,fold", ",test,3")
    assert f"columns of {root / 'train.csv'} not used: fold, split" in said(root, source="list", **tables)
    for label in ('"{""choices"": [""red"", ""blue""]}"', "['red']"):
        write("path,label", "", label=lambda name, label=label: label)
        with pytest.raises(DataError, match=r"row 1 of .*train\.csv .*one class"):
            said(root, source="list", **tables)


def test_a_list_of_classes_that_names_no_folder(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=2, num_val=2)
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    assert said(root).count("classes.txt is not used") == 1
    (root / "classes.txt").write_text("red rouge\n")
    assert "not used" not in said(root)
