"""Labelled images from anywhere come out the same: the classes, and the right label with each image."""

import io
import os
import pickle
import tarfile
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from class_folders import COLOURS, make_class_folders
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.classification.sources import listing
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing

PREPROCESSING = Preprocessing(image_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1), crop_fraction=1.0)
NAMES = tuple(COLOURS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_class_folders(tmp_path_factory.mktemp("sources"), num_train=4, num_val=2)


def module(known=None, **kwargs):
    options = DataOptions(image_size=32, batch_size=4, workers=kwargs.pop("workers", 0), **kwargs)
    return ClassificationData(options, PREPROCESSING, classes=known)


def assert_right(data, num_train=12, num_val=6):
    """Every image has the label of its colour."""
    for loader, num in ((data.train_dataloader(), num_train), (data.val_dataloader(), num_val)):
        images, targets = zip(*((batch.images, batch.targets) for batch in loader), strict=True)
        images, targets = torch.cat(images), torch.cat(targets)
        assert len(images) == num
        brightest = images.float().mean((2, 3)).argmax(1)  # 0 red, 1 green, 2 blue
        names = ["red", "green", "blue"]
        assert [data.classes[t] for t in targets] == [names[b] for b in brightest]


def make_images(root, split):
    return sorted((path, path.parent.name) for path in (root / split).rglob("*.png"))


def test_folders(root):
    assert_right(module(root=str(root)))
    # A model that knows more classes, in another order.
    data = module(root=str(root), known=("red", "yellow", "green", "blue"))
    assert data.classes == ("red", "yellow", "green", "blue")
    assert_right(data)


def test_odd_names_links_in_circles_and_a_small_split(root, tmp_path):
    for split, num in (("train", 2), ("val", 1)):
        for name in NAMES:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for path in sorted((root / split / name).iterdir())[:num]:
                (folder / path.name).write_bytes(path.read_bytes())  # the same file names in each class
    (tmp_path / "train" / "red" / "circle").symlink_to(tmp_path / "train", target_is_directory=True)
    (tmp_path / "train" / "red" / "itself.png").symlink_to(tmp_path / "train" / "red" / "itself.png")
    odd = os.fsencode(tmp_path / "val" / "red") + b"/caf\xe9.png"
    with open(odd, "wb") as file:  # no UTF-8
        file.write((root / "val" / "red" / "0.png").read_bytes())
    assert_right(module(root=str(tmp_path)), num_train=4, num_val=4)
    with open(odd, "wb"):
        pass
    (unreadable,) = [
        bad for batch in module(root=str(tmp_path), max_unreadable=0.2).val_dataloader() for bad in batch.unreadable
    ]
    unreadable.path.encode()
    assert "caf" in unreadable.path


def test_names_for_people(root, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(root / split, target_is_directory=True)
    (tmp_path / "classes.txt").write_text("red fire_engine\nblue sea, deep\n")
    data = module(root=str(tmp_path))
    assert data.classes == NAMES
    assert data.names == {"red": "fire engine", "blue": "sea"}
    assert "the names in" not in str(data)
    (tmp_path / "classes.txt").write_text("rot fire_engine\n")
    assert "of other folders, such as rot" in str(module(root=str(tmp_path)))


@pytest.mark.parametrize("style", ["names", "kaggle", "order"])
def test_imagenet_with_a_list_of_labels(root, tmp_path, style):
    (tmp_path / "val").mkdir()
    (tmp_path / "train").symlink_to(root / "train")
    lines = []
    for i, (path, name) in enumerate(reversed(make_images(root, "val"))):
        (tmp_path / "val" / f"ILSVRC2012_val_{i:08}.png").write_bytes(path.read_bytes())
        word = f"ILSVRC2012_val_{i:08}"
        lines.append({"names": f"{word}.png {name}", "kaggle": f"{word},{name} 1 2 3 4", "order": name}[style])
    if style == "kaggle":
        lines.insert(0, "ImageId,PredictionString")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(lines) + "\n")
    assert_right(module(source="imagenet", root=str(tmp_path), val_labels=str(labels)))
    with pytest.raises(DataError, match=r"--data\.val_labels"):
        module(source="imagenet", root=str(tmp_path))
    labels.write_text("\n".join(lines[: len(lines) // 2]))
    with pytest.raises(DataError, match=r"no label for|has \d+ lines"):
        module(source="imagenet", root=str(tmp_path), val_labels=str(labels))
    labels.write_text("\n".join(line.replace("green", "violet") for line in lines))
    with pytest.raises(DataError, match="no class: violet"):
        module(source="imagenet", root=str(tmp_path), val_labels=str(labels))


def test_lists(root, tmp_path):
    for split in ("train", "val"):
        rows = [f"{path.relative_to(root)},{name}" for path, name in make_images(root, split)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
    lists = {f"{split}_list": str(tmp_path / f"{split}.csv") for split in ("train", "val")}
    assert_right(module(source="list", root=str(root), **lists))
    (tmp_path / "val.csv").write_text("file,class\na.png,red\n")
    with pytest.raises(DataError, match="must have `path` and `label`"):
        module(source="list", root=str(root), **lists)
    (tmp_path / "val.csv").write_bytes(b"path,label\ncaf\xe9.png,red\n")
    with pytest.raises(DataError, match=r"val\.csv is not UTF-8"):
        module(source="list", root=str(root), **lists)
    (tmp_path / "val.csv").write_text("path,label\nval/red/0.png,violet\n")
    with pytest.raises(DataError, match=r"no class: violet; the classes are blue, green, red"):
        module(source="list", root=str(root), **lists)
    (tmp_path / "val.csv").unlink()
    with pytest.raises(DataError, match=r"check --data\.val_list"):
        module(source="list", root=str(root), **lists)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: [*rows, "train/red/0.png,blue"], r"calls .*red/0\.png both red and blue; .* remove a line"),
        (lambda rows: [rows[0].split(",")[0] + ",", *rows[1:]], r"row 1 of .*train\.csv has no label"),
        (lambda rows: [*rows, ",red"], r"row 13 of .*train\.csv has no path"),
        (lambda rows: [f"elsewhere/{row}" for row in rows], r"do not exist, such as .*set --data\.root"),
        (lambda rows: [*rows, "train/red,red"], r"do not exist, such as .*train/red"),  # a folder
        (lambda rows: [row for row in rows if row.endswith("red")], r"only the class red"),
    ],
)
def test_a_list_that_does_not_hold_together(root, tmp_path, spoil, message):
    for split in ("train", "val"):
        rows = [f"{path.relative_to(root)},{name}" for path, name in make_images(root, split)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
        if split == "train" or "only" in message:
            (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *spoil(rows)]))
    lists = {f"{split}_list": str(tmp_path / f"{split}.csv") for split in ("train", "val")}
    with pytest.raises(DataError, match=message) as error:
        module(source="list", root=str(root), **lists)
    assert "\n" not in str(error.value)


def test_a_list_may_repeat_itself(root, tmp_path):
    rows = [f"{path},{name}" for path, name in make_images(root, "train")]
    (tmp_path / "twice.csv").write_text("\n".join(["path,label", *rows, rows[0]]))
    table = str(tmp_path / "twice.csv")
    text = str(module(source="list", train_list=table, val_list=table))
    assert text.startswith("3 classes (blue 5, green 4, red 4), 13 + 13 images; 1 rows of")
    assert "12 images are in training and in validation" in text


def test_tables_as_tools_write_them(root, tmp_path):
    rows = [(str(path.relative_to(root)), name) for path, name in make_images(root, "train")]
    table = tmp_path / "t.csv"
    for text in (
        "\n".join(["label ; path", *(f"{name} ; {path}" for path, name in rows)]),
        "\ufeffpath\tlabel\textra\n" + "\n".join(f"{path}\t{name}\t1" for path, name in rows),
        "path,label\r\n" + "\r\n".join(f"{path.replace('/', chr(92))},{name}" for path, name in rows),
    ):
        table.write_text(text)
        found = listing(str(table), "train", root, None)
        assert found.classes == NAMES
        assert [(os.path.relpath(str(path), root), found.classes[label]) for path, label in found.items] == rows
    table.write_text(f"path,label\n{rows[0][0]},red, small\n")
    with pytest.raises(DataError, match=r"line 2 of .* more cells"):
        listing(str(table), "train", root, None)
    table.write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in rows) + "gone.png,red\n")
    with pytest.raises(DataError, match=r"names 1 of 13 images that do not exist, such as .*gone\.png"):
        listing(str(table), "train", root, None)
    found = listing(str(table), "train", root, (*NAMES, "violet"), max_missing=0.1)
    assert len(found.items) == 12
    assert "1 images of" in found.notes[0]
    assert f"not in {table}: violet" in found.notes
    table.write_text(f"path,label\n{rows[0][0]},red\ntrain/red/../{rows[0][0][6:]},blue\n")
    with pytest.raises(DataError, match="an image has one class"):
        listing(str(table), "train", root, None)


def test_tables_out_of_spreadsheets(root, tmp_path):
    images = [str(path.relative_to(root)) for path, _ in make_images(root, "train")]
    (root / images[0]).rename((root / images[0]).parent / unicodedata.normalize("NFD", "\u00e9.png"))
    images[0] = images[0].rpartition("/")[0] + "/\u00e9.png"
    table, labels = tmp_path / "t.csv", ["1", "1E0", *["cat"] * 9, "Cat "]
    rows = "".join(f"{path},{label}\n" for path, label in zip(images, labels, strict=True))
    table.write_text(f"path,label\n{rows},\n , \n")
    data = module(source="list", root=str(root), train_list=str(table), val_list=str(table))
    assert len(data.samples["train"].items) == 12
    assert "4 names of classes differ in capitals or blanks alone" in str(data)
    wrong = {f"path,label\n{images[0]},{label}": "row 1" for label in ("#N/A", "null")}
    for text, message in (wrong | {"path,label,label\na,b,c": "'label' twice"}).items():
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            listing(str(table), "train", root, None)


def test_a_class_folder_whose_name_is_no_text(root, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "red").symlink_to(root / split / "red", target_is_directory=True)
        os.symlink(os.fsencode(root / split / "blue"), os.fsencode(tmp_path / split) + b"/bl\xe9u")
    with pytest.raises(DataError, match=r"'bl\\udce9u' .* no UTF-8; rename it") as error:
        module(root=str(tmp_path))
    str(error.value).encode()


def test_parquet_lists(root, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    lists = {}
    for split in ("train", "val"):
        rows = [(str(path), name) for path, name in make_images(root, split)]
        pandas.DataFrame(rows, columns=["path", "label"]).to_parquet(tmp_path / f"{split}.parquet")
        lists[f"{split}_list"] = str(tmp_path / f"{split}.parquet")
    assert_right(module(source="list", **lists))


@pytest.mark.parametrize(
    ("labels", "classes"), [([0, 1], ("0", "1")), ([0.0, 1.0], ("0", "1")), (["cat", None], None), ([1, None], None)]
)
def test_labels_of_parquet_lists(root, tmp_path, labels, classes):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    paths = [str(path) for path, _ in make_images(root, "train")[:2]]
    table = tmp_path / "train.parquet"
    pandas.DataFrame({"path": paths, "label": labels}).to_parquet(table)
    if classes:
        assert listing(str(table), "train", None, None).classes == classes
    else:
        with pytest.raises(DataError, match=r"row 2 of .*train\.parquet has no label"):
            listing(str(table), "train", None, None)


def packed(path, samples, classes=NAMES):
    files = [jpeg(image) for image, _ in samples]
    np.savez(
        path,
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offset=np.cumsum([0, *map(len, files)]),
        label=np.array([NAMES.index(name) for _, name in samples], np.uint8),
        classes=np.array(classes),
    )


def jpeg(path):
    file = io.BytesIO()
    Image.open(path).save(file, "JPEG")
    return file.getvalue()


def test_packed_files(root, tmp_path):
    for split in ("train", "val"):
        packed(tmp_path / f"{split}.npz", make_images(root, split))
    assert_right(module(source="npz", root=str(tmp_path)))
    packed(tmp_path / "val.npz", make_images(root, "val"), classes=NAMES[:1])
    with pytest.raises(DataError, match="labels up to 2, but 1 classes"):
        module(source="npz", root=str(tmp_path))
    (tmp_path / "val.npz").write_bytes(b"not numpy")
    with pytest.raises(DataError, match="cannot be read"):
        module(source="npz", root=str(tmp_path))


def test_torchvision_sets(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="did you mean 'CIFAR10'"):
        module(source="torchvision", dataset="CIFAR_10", root=str(tmp_path))
    with pytest.raises(DataError, match=r"--data\.download true"):
        module(source="torchvision", dataset="CIFAR10", root=str(tmp_path))

    def no_connection(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_connection)
    with pytest.raises(DataError, match=r"CIFAR10 cannot be fetched \(Name or service not known\)"):
        module(source="torchvision", dataset="CIFAR10", root=str(tmp_path), download=True)


def test_torchvision_s_cifar10(tmp_path, monkeypatch):
    """In the files that it is published as, with a few images of one colour each."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data = np.zeros((3, 3, 32, 32), np.uint8)
        for label in range(3):  # blue, green, red
            data[label, 2 - label] = 200
        (folder / name).write_bytes(pickle.dumps({"data": data.reshape(3, -1), "labels": [0, 1, 2]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(NAMES)}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = module(source="torchvision", dataset="CIFAR10", root=str(tmp_path))
    assert data.classes == NAMES
    assert_right(data, num_train=12, num_val=3)  # of 15, in batches of 4


def test_a_set_of_torchvision_with_named_splits(root, tmp_path):
    (tmp_path / "country211").mkdir()
    for split, name in (("train", "train"), ("val", "test")):
        (tmp_path / "country211" / name).symlink_to(root / split, target_is_directory=True)
    data = module(source="torchvision", dataset="Country211", root=str(tmp_path))
    assert_right(data)
    assert "val is the split test of Country211" in data.notes


def shards(folder, split, samples, num_shards):
    for i in range(num_shards):
        with tarfile.open(folder / f"{split}-{i}.tar", "w") as tar:
            for n, (path, name) in enumerate(samples[i::num_shards]):
                label = name if i % 2 else str(NAMES.index(name))  # names and numbers both do
                for suffix, content in (("jpg", jpeg(path)), ("cls", label.encode())):
                    info = tarfile.TarInfo(f"{i}-{n}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def test_shards(root, tmp_path):
    pytest.importorskip("webdataset")
    for split in ("train", "val"):
        shards(tmp_path, split, make_images(root, split), 3)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    settings = {
        "source": "shards",
        "train_shards": f"{tmp_path}/train-*.tar",
        "val_shards": f"{tmp_path}/val-{{0..2}}.tar",
        "classes": str(tmp_path / "classes.txt"),
        "num_train": 16,  # more than there are: a second pass begins
    }
    assert_right(data := module(**settings), num_train=16)
    assert str(data).startswith(
        "3 classes (blue, green, red), 16 images an epoch; 12 images in shards of train; 6 images"
    )
    loader = module(**settings).train_dataloader()
    first, second = (torch.cat([batch.images for batch in loader]) for _ in range(2))
    assert not torch.equal(first, second)  # epochs differ
    again = torch.cat([batch.images for batch in module(**settings).train_dataloader()])
    assert torch.equal(first, again)  # and repeat
    with_workers = module(**settings, workers=2).train_dataloader()
    assert len(list(with_workers)) == len(with_workers) == 4
    with pytest.raises(DataError, match="16 samples an epoch are fewer than 32"):
        module(**settings, workers=8).train_dataloader()
    with pytest.raises(DataError, match="too few for 4 readers"):
        list(module(**settings, workers=4).train_dataloader())
    for label in ("violet", "3"):
        with tarfile.open(tmp_path / "odd-0.tar", "w") as tar:
            for suffix, content in (("jpg", b""), ("cls", label.encode())):
                info = tarfile.TarInfo(f"x.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        with pytest.raises(DataError, match=f"'{label}', which is none of the 3 classes"):
            list(module(**{**settings, "val_shards": f"{tmp_path}/odd-*.tar"}).val_dataloader())
    with pytest.raises(DataError, match="no shards"):
        module(**{**settings, "val_shards": f"{tmp_path}/nothing-*.tar"})
    for address in (f"pipe:touch {tmp_path}/ran", f"https://x/'; touch {tmp_path}/ran '.tar"):
        with pytest.raises(DataError, match="is no address of a shard"):
            module(**{**settings, "val_shards": f"{{{address},{address}}}"})
    whole = (tmp_path / "train-0.tar").read_bytes()
    tarfile.open(tmp_path / "bad-empty.tar", "w").close()
    with tarfile.open(tmp_path / "bad-twice.tar", "w") as tar:
        for _ in range(2):
            info = tarfile.TarInfo("x.jpg")
            tar.addfile(info, io.BytesIO())
    (tmp_path / "bad-cut.tar").write_bytes(whole[:700])
    (tmp_path / "bad-other.tar").write_bytes(b"hello" * 300)
    for name, message in {
        "empty": r"no samples in .*bad-empty\.tar",
        "twice": r"bad-twice\.tar:x\.jpg is there twice",
        "cut": r"bad-cut\.tar: unexpected end of data; make or copy it again",
        "other": r"bad-other\.tar: invalid header",
    }.items():
        with pytest.raises(DataError, match=message) as error:
            list(module(**{**settings, "train_shards": f"{tmp_path}/bad-{name}.tar"}).train_dataloader())
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"--data\.classes"):
        module(**{**settings, "classes": None})


def test_a_class_of_the_model_that_validation_lacks_is_named(root):
    known = ("bird", *sorted(path.name for path in (root / "val").iterdir()))
    options = DataOptions(root=str(root), image_size=32, workers=0)
    data = ClassificationData(options, PREPROCESSING, classes=known, splits=("val",))
    assert "not in val: bird" in str(data)
