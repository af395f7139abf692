"""Tables of images as other tools write them: their columns, marks and damage."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgformer.tasks.classification.shards import note_shards
from sgformer.tasks.classification.sources import folders, listing
from sgformer.tasks.errors import DataError


@pytest.fixture
def images(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "file_name,label\na.png,cat\nb.png,dog\n",
        "label,filename\ncat,a.png\ndog,b.png\n",
        "path|label\na.png|cat\nb.png|dog\n",
        "sep=;\npath;label\na.png;cat\nb.png;dog\n",
        "\ufeffsep=,\r\nfile_name,label\r\na.png,cat\r\nb.png,dog\r\n",
    ],
)
def test_columns_and_marks(images, text):
    table = images / "metadata.csv"
    table.write_text(text)
    found = listing(str(table), "train", None, None)
    assert [(path.name, found.classes[label]) for path, label in found.items] == [("a.png", "cat"), ("b.png", "dog")]
    assert found.notes == ()


def test_of_two_columns_of_images_the_other_is_named(images):
    table = images / "t.csv"
    table.write_text("file_name,path,label\nx,a.png,cat\ny,b.png,dog\n")
    found = listing(str(table), "train", None, None)
    assert [path.name for path, _ in found.items] == ["a.png", "b.png"]
    assert found.notes == (f"columns of {table} not used: file_name",)


def test_a_folder_with_a_table_is_a_list(images):
    (images / "train").mkdir()
    (images / "train" / "metadata.csv").write_text("file_name,label\n")
    with pytest.raises(DataError, match=r"no class folders.*--data\.train_list .*metadata\.csv"):
        folders(images, "train")


def test_a_damaged_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"t\.parquet is no Parquet file, or damaged") as error:
        listing(str(tmp_path / "t.parquet"), "train", None, None)
    assert "\n" not in str(error.value)


def test_what_shards_hold_is_told(images):
    for name, samples in (("train", [("0", "1"), ("1", "2")]), ("val", [("2", "dog")])):
        with tarfile.open(images / f"{name}-0.tar", "w") as tar:
            for key, label in samples:
                parts = {"png": (images / "a.png").read_bytes(), "cls": label.encode(), "mask.png": b"x", "json": b"{}"}
                for suffix, content in parts.items():
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    train, val = [str(images / "train-0.tar")], [str(images / "val-0.tar")]
    assert note_shards({"train": train, "val": val}, ("car", "dog", "cup")) == [
        "2 images in shards of train, where not used: 2 .json, 2 .mask.png",
        "not in train: car",
        "1 images in shards of val, where not used: 1 .json, 1 .mask.png",
        "not in val: car, cup",
        "1 images are in training and in validation",
        "1 images are copies of others",
    ]
    assert note_shards({"train": train, "val": [*train, *val]}, ())[0] == "1 shards are in training and in validation"
    assert note_shards({"val": ["https://a/b.tar"]}, ("car", "dog")) == []
    (images / "train-1.tar").write_bytes(b"none")
    assert f"1 shards are in no split: {images / 'train-1.tar'}" in note_shards({"train": train, "val": val}, ())
    (images / "val-0.tar").write_bytes(b"none")
    with pytest.raises(DataError, match=r"a shard cannot be read: .*val-0\.tar: truncated header"):
        note_shards({"val": val}, ("car", "dog"))


def test_shards_of_a_whole_folder_are_looked_at(images):
    """As `tar cf` packs one: with an entry of the folder itself, and hidden files."""
    with tarfile.open(images / "train-0.tar", "w") as tar:
        folder = tarfile.TarInfo(".")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in (("./a.png", (images / "a.png").read_bytes()), ("./a.cls", b"0"), ("./.DS_Store", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (note,) = note_shards({"train": [str(images / "train-0.tar")]}, ("car",))
    assert note == "1 images in shards of train, where not used: 1 .ds_store"


def test_images_that_lie_elsewhere_are_counted(images):
    """A table made for one folder, with absolute paths, is read from there, though data.root is a copy."""
    copy = images / "copy"
    copy.mkdir()
    for name in ("a.png", "b.png"):
        (copy / name).write_bytes((images / name).read_bytes())
    table = images / "t.csv"
    table.write_text(f"path,label\n{images / 'a.png'},cat\nb.png,dog\n")
    assert listing(str(table), "train", images, None).notes == ()
    assert listing(str(table), "train", None, None).notes == ()
    found = listing(str(table), "train", copy, None)
    assert found.notes == (f"1 images of {table} lie outside of data.root {copy}, such as {images / 'a.png'}",)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"png": b"x", "json": b"{}"}, r"1 images in shards of train have no \.cls.*t\.tar:1"),
        ({"png": b"x", "cls": b"7"}, r"t\.tar:1 has the label '7', which is none of the 2 classes"),
        ({"heic": b"x", "cls": b"0"}, r"no images in shards of train, but 1 \.heic \(convert"),
    ],
)
def test_what_samples_of_shards_lack_is_told_before_the_run(tmp_path, parts, message):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for suffix, content in parts.items():
            info = tarfile.TarInfo(f"1.{suffix}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=message):
        note_shards({"train": [str(tmp_path / "t.tar")]}, ("car", "dog"))


def pack(path, *files):
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def test_shards_that_no_reader_reads_whole(images):
    image, other = ((images / name).read_bytes() for name in ("a.png", "b.png"))
    good = [("0.png", image), ("0.cls", b"0"), ("1.png", other), ("1.cls", b"1")]
    val = [pack(images / "val.tar", *good)]
    names = ("car", "dog")
    whole = [pack(images / "train.tar", *good), pack(images / "none.tar")]
    assert note_shards({"train": whole}, names)[1] == f"no images in {images / 'none.tar'}"
    apart = [pack(images / "apart.tar", *good[::2], *good[1::2])]
    with pytest.raises(DataError, match=r"the files of .*apart\.tar:0 are not beside each other; pack the shard"):
        note_shards({"train": apart, "val": val}, names)
    (images / "cut.tar").write_bytes((images / "train.tar").read_bytes()[:700])
    with pytest.raises(DataError, match=r"cut\.tar: unexpected end of data; make or copy it again"):
        note_shards({"train": [str(images / "cut.tar")], "val": val}, names)


def test_shards_that_every_reader_reads_are_not_refused(images):
    """Packed as on macOS, compressed whatever they are called, with names that return, with like margins."""
    white, other = np.full((90, 90, 3), 255, np.uint8), np.full((90, 90, 3), 255, np.uint8)
    other[40:50] = 0
    (one, two), png = map(encoded, (white, other)), (images / "a.png").read_bytes()
    junk = [(f"._0.{suffix}", b"\0\5\x16\7") for suffix in ("bmp", "cls")]
    files = [(".b", b""), junk[0], ("0.bmp", one), junk[1], ("0.cls", b"0"), ("1.bmp", two), ("1.cls", b"1")]
    packed = pack(images / "a.tar", *files, ("0.png", png), ("0.cls", b"0"), (".a", b""))
    (images / "b.tar").write_bytes(gzip.compress(Path(packed).read_bytes()))
    for url in (packed, str(images / "b.tar")):
        notes = note_shards({"train": [url]}, ("car", "dog"))
        assert notes == ["3 images in shards of train, where not used: 1 .a, 1 .b"]
    (images / "cut.tgz").write_bytes((images / "b.tar").read_bytes()[:-200])
    with pytest.raises(DataError, match=r"a shard cannot be read: .*cut\.tgz"):
        note_shards({"train": [str(images / "cut.tgz")]}, ("car", "dog"))


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()
