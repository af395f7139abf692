"""Packed files say no more and no less than their images, labels and classes; each contradiction is named."""

import io
import tarfile

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


def images():
    """Bytes of an image of each kind."""
    plain, found = Image.new("RGB", (32, 32), "red"), {}
    for name, (image, kind, settings) in {
        "plain": (plain, "JPEG", {}),
        "clear": (plain.convert("RGBA"), "PNG", {}),
        "deep": (Image.fromarray(np.full((32, 32), 40_000, np.uint16)), "PNG", {}),
        "pages": (plain, "GIF", {"save_all": True, "append_images": [Image.new("RGB", (32, 32))]}),
    }.items():
        file = io.BytesIO()
        image.save(file, kind, **settings)
        found[name] = file.getvalue()
    return found | {"broken": b"no image"}


ODD = {
    "clear": "with a band for transparency",
    "deep": "of 16 bits a value",
    "pages": "of several pages or frames",
    "broken": "damaged, or of a kind that cannot be read",
}


@pytest.mark.parametrize("kind", ODD)
def test_packed_images_are_looked_at_as_files_are(tmp_path, kind):
    files = [images()[name] for name in (kind, "plain")] * 2
    content = {"jpeg": np.frombuffer(b"".join(files), np.uint8), "offset": np.cumsum([0, *map(len, files)])}
    pack(tmp_path / "train.npz", range(4), [0, 1] * 2)
    pack(tmp_path / "val.npz", range(4, 8), [0, 1] * 2)
    np.savez(tmp_path / "train.npz", **(dict(np.load(tmp_path / "train.npz")) | content))
    if kind == "broken":
        with pytest.raises(DataError, match=rf"2 of 8 images are {ODD[kind]}, such as image 0 of .*train\.npz"):
            read(tmp_path)
    else:
        assert f"2 images are {'files ' * (kind == 'pages')}{ODD[kind]}" in str(read(tmp_path))


def shards(folder, files):
    for split in ("train", "val"):
        with tarfile.open(folder / f"{split}-0.tar", "w") as tar:
            for name, content in files:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (folder / "classes.txt").write_text("cat\ndog\n")
    places = {f"{split}_shards": str(folder / f"{split}-0.tar") for split in ("train", "val")}
    options = DataOptions(source="shards", classes=str(folder / "classes.txt"), image_size=32, num_train=2, **places)
    return str(ClassificationData(options, PREPROCESSING))


@pytest.mark.parametrize("kind", ODD)
def test_images_in_shards_are_looked_at_as_files_are(tmp_path, kind):
    suffix = "jpg" if kind == "broken" else "gif" if kind == "pages" else "png"
    files = [(f"a.{suffix}", images()[kind]), ("a.cls", b"0"), ("b.jpg", images()["plain"]), ("b.cls", b"1")]
    told = shards(tmp_path, files)
    assert "2 images in shards of train; 1 images in shards of train are" in told
    assert ODD[kind] in told


def test_a_second_image_of_a_sample_is_not_counted(tmp_path):
    plain = images()["plain"]
    told = shards(tmp_path, [("a.jpg", plain), ("a.png", plain), ("a.cls", b"0"), ("b.jpg", plain), ("b.cls", b"1")])
    assert "2 images in shards of train, where not used: 1 .png" in told


def test_a_file_of_a_sample_twice_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"train-0\.tar:a\.jpg is there twice"):
        shards(tmp_path, [("a.jpg", images()["plain"]), ("a.cls", b"0")] * 2)
