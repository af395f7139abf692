"""Packed files say no more and no less than their images, labels and classes; each contradiction is named."""

import io

import numpy as np
import pytest
from PIL import Image

from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing

PREPROCESSING = Preprocessing(image_size=(32, 32))
WORDS = {
    "starts alone": ({"offset": lambda x: x[:-1]}, r"offset must rise from 0 .* in 7 numbers, .* it has 6"),
    "overlapping": ({"offset": lambda x: np.sort([*x[:3], x[4], *x[4:]])[:7]}, "offset must rise"),
    "not all bytes": ({"offset": lambda x: x - x[0] - (x == x[-1])}, "offset must rise"),
    "fewer labels": ({"label": lambda x: x[:-2]}, "offset must rise from 0 .* in 5 numbers"),
    "halves": ({"label": lambda x: x + 0.5}, "lists of whole numbers"),
    "names": ({"label": lambda x: np.array(["cat", "dog"])[x]}, "lists of whole numbers"),
    "one-hot": ({"label": lambda x: np.eye(2, dtype=int)[x]}, "lists of whole numbers"),
    "no images": ({"label": lambda x: x[:0], "offset": lambda x: x[:1]}, "none empty"),
    "negative": ({"label": lambda x: x - 1}, "labels up to 0, but 2 classes from 0 on"),
    "a class twice": ({"classes": lambda x: x[[0, 0]]}, "several classes called cat"),
}


def pack(path, seeds, labels, names=("cat", "dog"), **changes):
    files = []
    for seed in seeds:
        file = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(file, "JPEG")
        files.append(file.getvalue())
    content = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0, *map(len, files)]),
        "label": np.array(labels),
        "classes": np.array(names),
    }
    np.savez(path, **{name: changes.get(name, np.asarray)(array) for name, array in content.items()})


def read(folder):
    return ClassificationData(DataOptions(source="npz", root=str(folder), image_size=32, batch_size=2), PREPROCESSING)


@pytest.mark.parametrize("name", WORDS)
def test_a_contradiction_is_named(tmp_path, name):
    changes, words = WORDS[name]
    pack(tmp_path / "val.npz", range(10, 14), [0, 1, 0, 1])
    pack(tmp_path / "train.npz", range(6), [0, 1, 0, 1, 0, 1], **changes)
    with pytest.raises(DataError, match=rf"train\.npz.*{words}"):
        read(tmp_path)


def test_classes_are_counted_and_copies_told(tmp_path):
    pack(tmp_path / "train.npz", [0, 1, 2, 0, 4], [0, 1, 0, 1, 0], names=("cat", "dog", "owl"))
    pack(tmp_path / "val.npz", [10, 1], [0, 0], names=("owl", "dog", "cat"))
    data = read(tmp_path)
    told = str(data)
    assert "3 classes (cat 3, dog 2, owl 0), 5 + 2 images" in told
    assert "not in train: owl; not in val: cat, dog" in told
    assert "1 images are in training and in validation, 1 in another class" in told
    assert "1 images are copies of others, 1 in another class" in told
    np.savez(tmp_path / "val.npz", **np.load(tmp_path / "val.npz"), weights=np.ones(2))
    assert f"not used in {tmp_path / 'val.npz'}: weights" in str(read(tmp_path))
    assert data.train_labels().tolist() == [0, 1, 0, 1, 0]


def test_what_lies_beside_is_named(tmp_path):
    for split, seeds in (("train", range(4)), ("val", range(10, 14))):
        pack(tmp_path / f"{split}.npz", seeds, [0, 1, 0, 1])
    assert "not used" not in str(read(tmp_path))
    for split in ("train", "val"):  # as where a folder was packed, and then changed
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / split / "cat" / "new.jpg")
    (tmp_path / "classes.txt").write_text("cat Katze\n")
    words = str(read(tmp_path))
    assert all(word in words for word in ("classes.txt", "train (1 .jpg)", "val (1 .jpg)"))


def test_packed_files_of_another_kind_are_counted(tmp_path):
    for split, seeds in (("train", range(4)), ("val", range(10, 14))):
        pack(tmp_path / f"{split}.npz", seeds, [0, 1, 0, 1])
    assert "no JPEG" not in str(read(tmp_path))
    file = io.BytesIO()
    Image.new("RGBA", (32, 32), (9, 9, 9, 99)).save(file, "PNG")
    png = np.frombuffer(file.getvalue(), np.uint8)
    pack(
        tmp_path / "val.npz",
        range(10, 14),
        [0, 1, 0, 1, 1],
        jpeg=lambda x: np.append(x, png),
        offset=lambda x: np.append(x, x[-1] + len(png)),
    )
    assert "1 images of" in str(read(tmp_path))
    assert "val.npz are no JPEG files" in str(read(tmp_path))
