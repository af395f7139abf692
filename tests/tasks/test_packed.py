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
