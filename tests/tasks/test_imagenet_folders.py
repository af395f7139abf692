"""ImageNet's forms of a validation split: class folders, or a folder of all images and a list of labels."""

import pytest

from class_folders import make_class_folders
from sgformer.tasks.classification.sources import folders, imagenet
from sgformer.tasks.errors import DataError


@pytest.fixture
def root(tmp_path):
    return make_class_folders(tmp_path / "set", num_train=2, num_val=2)


def test_a_list_of_labels_beside_class_folders_is_refused(root, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("a.png green\n")
    assert len(imagenet(root, "val", None).items) == 6
    with pytest.raises(DataError, match=r"class folders.*leave --data\.val_labels out"):
        imagenet(root, "val", str(labels))


def test_images_in_a_folder_that_is_no_class_are_read_by_the_list(root, tmp_path):
    lines, expected = [], {}
    images = root / "val" / "images"
    images.mkdir()
    for number, path in enumerate(sorted(root.glob("val/*/*.png"))):
        lines.append(f"val_{number}.png\t{path.parent.name}\t0\t0\t62\t62")
        expected[f"val_{number}.png"] = path.parent.name
        path.rename(images / f"val_{number}.png")
    for folder in {root / "val" / name for name in expected.values()}:
        folder.rmdir()
    labels = root / "val" / "val_annotations.txt"
    labels.write_text("\n".join(lines))
    found = imagenet(root, "val", str(labels))
    assert {path.name: found.classes[index] for path, index in found.items} == expected


def test_names_that_several_classes_have_are_told(root):
    names = sorted(path.name for path in (root / "train").iterdir())
    (root / "classes.txt").write_text("\n".join(f"{name} bird" for name in names))
    assert "names that several classes have: bird" in folders(root, "train").notes
