"""Two rules over random sets of every format.

What the first line counts is what is learned from and can be found. Whatever lies in the data folder is used, is known
junk, or is named with its number.
"""

import csv
import io
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from detection_sets import SEEDS
from labelme_files import SIZE, png
from labelme_files import write as write_shapes
from sgformer.commands import predict
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.images import Preprocessing, read_image
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.masks import IGNORE
from sgformer.tasks.segmentation.options import DataOptions as MaskOptions

PREPROCESSING = Preprocessing(image_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
KINDS = {".png": "PNG", ".JPG": "JPEG", ".jpeg": "JPEG", ".mpo": "MPO", ".tif": "TIFF", ".webp": "WEBP", ".bmp": "BMP"}
OTHER = (".heic", ".txt", ".json", ".xml", ".CR2", "")
JUNK = ("Thumbs.db", ".DS_Store", "desktop.ini", "@eaDir/x.png", "__MACOSX/x.jpg", "._x.png", ".cache/x.png")


def encoded(kind, size=(9, 7)):
    file = io.BytesIO()
    Image.new("RGB", size, (90, 30, 200)).save(file, kind)
    return file.getvalue()


BYTES = {suffix: encoded(kind) for suffix, kind in KINDS.items()}


def write(path, content=b"?"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def scatter(rng, folder, elsewhere):
    """Fills a folder at random; the number of images, and of what has to be named, by kind."""
    num, named = 0, Counter()
    for i in range(rng.integers(1, 6)):
        suffix = str(rng.choice([*KINDS]))
        below = str(rng.choice(["", "sub", "sub/deep", "link"]))
        target = folder / below
        if below == "link":
            target = elsewhere / folder.name
            target.mkdir(parents=True, exist_ok=True)
            if not (folder / "link").exists():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "link").symlink_to(target)
        write(target / f"{i}{suffix}", BYTES[suffix])
        num += 1
    for i in range(rng.integers(0, 4)):
        suffix = str(rng.choice(OTHER))
        write(folder / f"other{i}{suffix}")
        named[suffix.lower() or "without a suffix"] += 1
    for name in rng.choice(JUNK, rng.integers(0, 3), replace=False):
        write(folder / str(name), BYTES[".png"])
    if rng.random() < 0.2:
        write(folder / "thumbnails" / "t.png", BYTES[".png"])
        named["in folders of thumbnails"] += 1
    if rng.random() < 0.2:
        (folder / "broken.png").symlink_to(folder / "nowhere.png")
        named["broken links"] += 1
    return num, named


def told(text, what):
    """The numbers that a text names after a few words."""
    found = re.search(rf"{re.escape(what)}: ([^;]*?)(?: \(convert|;|$|\n)", text)
    if not found:
        return Counter()
    return Counter({kind: int(number) for number, kind in re.findall(r"(\d+) ([^,;(]+?)(?=,|$)", found[1])})


def numbers(text):
    (found,) = re.findall(r"classes \(.*?\), ([\d +]+) images", text)
    return [int(number) for number in found.split(" + ")]


@pytest.mark.parametrize("seeds", SEEDS)
def test_class_folders(tmp_path, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        root = tmp_path / str(seed) / "set"
        expected, named, beside = [], [], []
        for split in ("train", "val"):
            parts = [scatter(rng, root / split / name, tmp_path / str(seed) / split) for name in ("cat", "dog")]
            expected.append(sum(num for num, _ in parts))
            named.append(sum((kinds for _, kinds in parts), Counter()))
            stray = rng.integers(0, 3)
            for i in range(stray):
                write(root / split / f"stray{i}.png", BYTES[".png"])
            beside.append(Counter({".png": stray} if stray else {}))
            write(root / split / "@eaDir" / "cat" / "x.png", BYTES[".png"])
        unused = rng.random() < 0.3
        if unused:
            write(root / "test" / "cat" / "0.png", BYTES[".png"])
        options = DataOptions(root=str(root), image_size=32, workers=0)
        data = ClassificationData(options, PREPROCESSING)
        text = str(data)
        assert data.classes == ("cat", "dog")
        assert numbers(text) == expected
        for split, kinds, others in zip(("train", "val"), named, beside, strict=True):
            items = data.samples[split].items
            for path, label in (items[i] for i in range(len(items))):
                assert isinstance(path, Path)
                assert read_image(path).size == (9, 7)
                assert data.classes[label] in path.relative_to(root / split).parts
            assert told(text, f"left out of {split}") == kinds
            assert told(text, f"in no class folder of {split}") == others
        assert (f"not used in {root}: test" in text) == unused


@pytest.mark.parametrize("seeds", SEEDS)
def test_lists(tmp_path, seeds):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for i in range(40):
        write(tmp_path / "images" / f"{i % 4}" / f"bild ä{i}.png", BYTES[".png"])
    names = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "images").rglob("*.png"))
    for seed in seeds:
        rng = np.random.default_rng(seed)
        folder = tmp_path / f"t{seed}"
        folder.mkdir()
        split_of = rng.permutation(len(names))
        expected, lists, twice, missing = [], {}, [], []
        for split, chosen in (("train", split_of[:20]), ("val", split_of[20:])):
            rows = [(names[i], ("red", "blue")[i % 2]) for i in chosen]
            repeated = [rows[i] for i in rng.integers(0, len(rows), rng.integers(0, 3))]
            gone = [("images/gone.png", "red")] * int(rng.random() < 0.3)
            twice.append(len(repeated))
            missing.append(len(gone))
            rows = [*rows, *repeated, *gone]
            rng.shuffle(rows)
            rows = [(path.replace("/", "\\") if rng.random() < 0.1 else path, label) for path, label in rows]
            expected.append(len(rows) - len(gone))
            if rng.random() < 0.3:
                table = folder / f"{split}.parquet"
                pandas.DataFrame(rows, columns=["path", "label"]).to_parquet(table)
            else:
                table, text = folder / f"{split}.csv", io.StringIO()
                out = csv.writer(text, delimiter=str(rng.choice([",", ";", "\t"])))
                out.writerows([("path", "label"), *rows])
                table.write_text(text.getvalue(), str(rng.choice(["utf-8", "utf-8-sig"])))
            lists[f"{split}_list"] = str(table)
        options = DataOptions(source="list", root=str(tmp_path), image_size=32, workers=0, max_unreadable=0.1, **lists)
        data = ClassificationData(options, PREPROCESSING)
        assert numbers(str(data)) == expected
        for split, again, lacking in zip(("train", "val"), twice, missing, strict=True):
            for path, label in data.samples[split].items:
                assert isinstance(path, Path)
                assert path.is_file()
                assert data.classes[label] == ("red", "blue")[names.index(str(path.relative_to(tmp_path))) % 2]
            table = lists[f"{split}_list"]
            assert (f"{again} rows of {table} repeat an image" in str(data)) == (again > 0)
            assert (f"{lacking} images of {table} do not exist" in str(data)) == (lacking > 0)


@pytest.mark.parametrize("seeds", SEEDS)
def test_shards(tmp_path, seeds):
    pytest.importorskip("webdataset")
    for seed in seeds:
        rng = np.random.default_rng(seed)
        names = ("1", "2", "3") if rng.random() < 0.3 else ("cat", "dog")
        (tmp_path / "classes.txt").write_text("\n".join(names), str(rng.choice(["utf-8", "utf-8-sig"])))
        expected, by_name = [], rng.random() < 0.5 or names[0] == "1"
        for number in range(rng.integers(1, 3)):
            with tarfile.open(tmp_path / f"s{seed}-{number}.tar", "w") as tar:
                for i in range(rng.integers(1, 5)):
                    label = int(rng.integers(len(names)))
                    suffix = str(rng.choice([".png", ".JPG", ".webp"]))
                    text = names[label] if by_name else str(label)
                    for ending, content in ((suffix, BYTES[suffix]), (".cls", text.encode()), (".json", b"{}")):
                        entry = tarfile.TarInfo(f"{number}_{i}{ending}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
                    expected.append(label)
        pattern = str(tmp_path / f"s{seed}-*.tar")
        options = DataOptions(
            source="shards", val_shards=pattern, classes=str(tmp_path / "classes.txt"), image_size=32, workers=0
        )
        data = ClassificationData(options, PREPROCESSING, splits=("val",))
        assert data.classes == names
        found = [int(label) for _, label in data.dataset("val")]
        assert sorted(found) == sorted(expected)


def mask_file(rng, path, ids):
    """A mask as some tool writes it."""
    kind = str(rng.choice(["gray", "16 bits", "float", "palette", "colour", "integers"]))
    if kind in ("float", "integers"):
        path = path.with_suffix(".tif")
    dtype = {"16 bits": np.uint16, "float": np.float32, "integers": np.int32}.get(kind, np.uint8)
    image = Image.fromarray(ids.astype(dtype))
    if kind == "palette":
        image.putpalette(rng.integers(0, 256, 768).tolist())
    if kind == "colour":
        image = image.convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.mark.parametrize("seeds", SEEDS)
def test_masks(tmp_path, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        root = tmp_path / str(seed)
        root.mkdir()
        (root / "classes.txt").write_text("0 a\n1 b\n2 c\n255 nothing\n", str(rng.choice(["utf-8", "utf-8-sig"])))
        expected, dropped, named, counts, turned = [], set(), {}, [], 0
        for split in ("train", "val"):
            pixels, kept = np.zeros(4, int), 0
            for i in range(rng.integers(2, 5)):
                ids = rng.choice([0, 1, 2, IGNORE], (7, 9))
                ids[0, :3] = 0, 1, 2
                file = root / "images" / split / f"{i}.png"
                image, orientation = Image.new("RGB", (9, 7)), int(rng.choice([1, 1, 6, 8]))
                exif = image.getexif()
                exif[0x0112] = orientation
                file.parent.mkdir(parents=True, exist_ok=True)
                image.save(file, exif=exif)
                seen = Image.fromarray(ids.astype(np.uint8))
                if orientation > 1 and rng.random() < 0.5:
                    seen.getexif()[0x0112] = orientation
                    seen = ImageOps.exif_transpose(seen)
                elif orientation > 1:
                    turned += 1
                mask = mask_file(rng, root / "annotations" / split / f"{i}.png", np.asarray(seen))
                fault = str(rng.choice(["none", "none", "none", "size", "id", "no mask", "no image"])) if i else "none"
                if fault == "size":
                    Image.new("L", (5, 5)).save(mask)
                if fault == "id":
                    Image.new("L", seen.size, 77).save(mask)
                if fault.startswith("no "):
                    (mask if fault == "no mask" else file).unlink()
                if fault == "none":
                    kept += 1
                    pixels += [(ids == id_).sum() for id_ in (0, 1, 2, IGNORE)]
                else:
                    dropped.add(str(file if fault == "no mask" else mask))
                    turned -= orientation > 1 and seen.size == (9, 7)
            for folder in ("images", "annotations"):
                others = Counter()
                for i in range(rng.integers(0, 3)):
                    suffix = str(rng.choice([".heic", ".json", ".txt"]))
                    write(root / folder / split / f"o{i}{suffix}")
                    others[suffix] += 1
                named[root / folder / split] = others
                write(root / folder / split / "@eaDir" / "0.png", BYTES[".png"])
            expected.append(kept)
            counts.append(pixels)
        options = MaskOptions(root=str(root), image_size=32, workers=0, faults="drop")
        data = SegmentationData(options, PREPROCESSING)
        text = str(data)
        assert numbers(text) == expected
        assert set(data.dropped) == dropped
        assert (f"{len(dropped)} dropped" in text) == bool(dropped)
        for folder, others in named.items():
            assert told(text, f"left out of {folder}") == others
        found = [int(number) for number in re.findall(r"(\d+) masks are turned as", text)]
        assert sum(found) == turned
        for split, pixels in zip(("train", "val"), counts, strict=True):
            images, total = data.images(split), np.zeros(4, int)
            for file, mask in (images[i] for i in range(len(images))):
                assert mask.shape == (file.height, file.width)
                total += [(mask == id_).sum() for id_ in (0, 1, 2, IGNORE)]
            assert total.tolist() == pixels.tolist()
            assert data.counts[split].sum(0).tolist() == pixels.tolist()


@pytest.mark.parametrize("seeds", SEEDS)
def test_masks_of_labelme(tmp_path, seeds):
    names = ("_background_", "cat", "dog", "__ignore__")
    for seed in seeds:
        rng = np.random.default_rng(seed)
        root = tmp_path / str(seed)
        (root / "train").mkdir(parents=True)
        (root / "labels.txt").write_text(
            "__ignore__\n_background_\ncat\ndog\n", str(rng.choice(["utf-8", "utf-8-sig"]))
        )
        pixels, kept, dropped, named, lines = np.zeros(4, int), 0, set(), Counter(), 0
        for i in range(rng.integers(2, 6)):
            places = rng.choice(4, SIZE)
            below = str(rng.choice(["", "sub"]))
            file = root / "train" / below / f"{i}.json"
            shapes = [{"label": names[k], **whole(places == k)} for k in rng.permutation(4)]
            more = int(rng.integers(0, 2))
            shapes += [{"label": "dog", "points": [[1, 1], [9, 9]], "shape_type": "line"}] * more
            fault = str(rng.choice(["none", "none", "none", "size", "label", "cut", "no file"])) if i else "none"
            shapes[0] |= {"label": "cow"} if fault == "label" else {}
            path = str(rng.choice([f"{i}.png", f"C:\\me\\{i}.png", f"..\\{i}.png", f"{i}.jpg"]))
            write_shapes(file, *shapes, imagePath=path, imageHeight=SIZE[0] + (fault == "size"))
            if fault == "cut":
                file.write_text(file.read_text()[:-4])
            if fault == "no file":
                file.unlink()
                named["images have no file of LabelMe's"] += 1
            elif fault != "none":
                dropped.add(str(file))
            lines += more if fault in ("none", "size", "label") else 0
            if fault == "none":
                kept += 1
                pixels += [(places == k).sum() for k in range(4)]
        for i in range(rng.integers(0, 3)):
            write(root / "train" / f"o{i}.json", b"[1]")
            named["JSON files are none of LabelMe's"] += 1
        data = SegmentationData(
            MaskOptions(source="labelme", root=str(root), image_size=32, workers=0, faults="drop"),
            PREPROCESSING,
            splits=("train",),
        )
        assert numbers(str(data)) == [kept]
        assert set(data.dropped) == dropped
        for what, number in named.items():
            assert f"train: {number} {what}" in str(data)
        assert (f"train: {lines} shapes of the type line" in str(data)) == (lines > 0)
        assert data.counts["train"].sum(0).tolist() == pixels.tolist()


def whole(mask):
    """A shape of a whole image's mask."""
    return {"points": [[0, 0], [SIZE[1] - 1, SIZE[0] - 1]], "shape_type": "mask", "mask": png(mask)}


@pytest.mark.parametrize("seeds", SEEDS)
def test_folders_to_predict(tmp_path, capsys, seeds):
    for seed in seeds:
        rng = np.random.default_rng(1000 + seed)
        folder = tmp_path / f"p{seed}"
        num, named = scatter(rng, folder, tmp_path / "elsewhere")
        assert len(predict.find([str(folder)])) == num
        assert told(capsys.readouterr().err, f"left out of {folder}") == named
