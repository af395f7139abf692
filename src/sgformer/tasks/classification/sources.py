"""Sources of labelled images: folders, lists, ImageNet as released, torchvision's data sets, packed files.

Each source gives the same thing, `Samples`: the classes, and (image, class index) for each sample. An image is a
path, or bytes, or whatever `images.read_image` takes. Everything is looked through before anything is trained.
"""

import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from .. import labelme
from ..digit_scenes import DigitScenes, Made
from ..errors import DataError, listed
from ..folders import LIKE_VAL, MASKS, SUFFIXES, Split, describe_left_out, is_junk, look_through, note_masks, some
from ..images import ImageLike
from ..text import nothing, read_lines
from .tables import check_labels, read_table

# Files with names for classes, in the order in which they are looked for.
NAMES = ("classes.txt", "LOC_synset_mapping.txt")
# Folders of a set of another task, in small letters.
_NO_CLASSES = {"images", "jpegimages", *MASKS}


class Items(Protocol):
    """Protocol of a list of samples: a length, and (image, class index) by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[ImageLike, int]: ...


@dataclass(frozen=True)
class Samples:
    """The labelled images of a split."""

    classes: tuple[str, ...]  # what the class indices mean
    items: Items  # (image, class index)
    names: Mapping[str, str] = field(default_factory=dict)  # display name of a class, where that differs
    notes: tuple[str, ...] = ()  # what lies there and is not used, and what else is unusual

    @property
    def told(self) -> bool:
        """Whether the class of each sample is known without reading images."""
        return isinstance(self.items, list | _Packed)

    def listed(self) -> list[tuple[Any, int]]:
        """Paths, or digests of what is packed, with class indices; empty where images would have to be read for it."""
        if isinstance(self.items, _Packed):
            pairs = map(self.items.__getitem__, range(len(self.items)))
            return [(hashlib.sha1(image).digest(), label) for image, label in pairs]
        return self.items if isinstance(self.items, list) else []

    def files(self) -> list[Any]:
        """List images that can be opened without reading all of them: paths, or what is packed; else nothing."""
        if isinstance(self.items, _Packed):
            return [_Image(self.items, number) for number in range(len(self.items))]
        return [path for path, _ in self.items] if isinstance(self.items, list) else []

    def labels(self) -> list[int]:
        """The class index of each image."""
        if isinstance(self.items, _Packed):
            return self.items.label.tolist()
        return [self.items[number][1] for number in range(len(self.items))]


def folders(root: Path, split: Split, suffixes: Collection[str] = SUFFIXES) -> Samples:
    """``root/<split>/<class>/**`` with images; the classes are the folders' names, sorted.

    A file ``root/classes.txt`` or ``root/LOC_synset_mapping.txt`` may say what to call them, a line `folder name` each.
    """
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"{root} has no folder {split!r}; {_instead(root, split)}")
    entries = [path for path in sorted(folder.iterdir()) if not is_junk(path.name)]
    names = [path for path in entries if path.is_dir()]
    if not names:
        table = next(
            (
                f"; of {path} write --data.source list --data.{split}_list {path}"
                for path in entries
                if path.suffix == ".csv"
            ),
            "",
        )
        raise DataError(f"{folder} has no class folders; expected {folder}/<class>/ with images{table}")
    if {path.name.lower() for path in names} <= _NO_CLASSES:
        raise DataError(
            f"{folder} has {listed(path.name for path in names)}, as of detection or segmentation, and no classes; "
            f"expected {folder}/<class>/ with images"
        )
    if odd := [path.name for path in names if any("\udc80" <= letter <= "\udcff" for letter in path.name)]:
        raise DataError(f"the class folder {odd[0]!a} in {folder} has a name that is no UTF-8; rename it")
    found = {unicodedata.normalize("NFC", path.name): look_through(path, suffixes) for path in names}
    if len(found) < len(names):
        raise DataError(f"{folder} has two class folders whose names differ in how accents are written; rename one")
    left_out = sum((one.left_out for one in found.values()), Counter[str]())
    there = f", but {describe_left_out(left_out)}" if left_out else ""
    empty = [name for name, one in found.items() if not one.images]
    if len(empty) == len(found):
        raise DataError(f"there are no images in the class folders of {folder}{there}; expected {some(suffixes)}")
    if empty:
        raise DataError(f"no images in {folder} for {listed(empty)}{there}; add some, or remove the folders")
    items = [(path, index) for index, one in enumerate(found.values()) for path in one.images]
    notes = [f"left out of {split}: {describe_left_out(left_out)}"] if left_out else []
    notes += note_masks(path for path, _ in items)
    notes += _doubtful(folder, {name: one.images for name, one in zip(names, found.values(), strict=True)})
    if beside := Counter(path.suffix.lower() or path.name for path in entries if path not in names):
        notes.append(f"left out, in no class folder of {split}: {describe_left_out(beside)}")
    if all(len(path.relative_to(folder).parts) > 2 for path, _ in items):
        notes.append(f"all images of {split} lie in folders below the class folders, such as {items[0][0].parent}")
    names = _names(root)
    listing = root / NAMES[0]
    if not names and listing.is_file():
        notes.append(f"{listing} is not used, as its lines are not `folder name`; folders are the classes")
    elif names and names.keys().isdisjoint(found):
        notes.append(f"the names in {root} are of other folders, such as {next(iter(names))}, and not used")
    elif listing.is_file() and (unlike := names.keys() ^ found.keys()):
        notes.append(f"{listing} and the folders differ; in one alone: {listed(unlike)}")
    called = Counter(names[name] for name in found if name in names)
    if alike := [name for name, count in called.items() if count > 1]:
        notes.append(f"names that several classes have: {listed(alike)}")
    return Samples(tuple(found), items, names, tuple(notes))


def _doubtful(folder: Path, found: Mapping[Path, Sequence[Path]]) -> list[str]:
    """Note folders of a split that may be no class, or several."""
    below = {
        place.name: {path.relative_to(place).parts[0] if path.parent != place else "" for path in images}
        for place, images in found.items()
    }
    several = {name: inner for name, inner in below.items() if len(inner) > 1 and "" not in inner}
    alike = len({frozenset(inner) for inner in below.values()}) == 1  # as day and night in each
    names = [] if alike else [f"{name} (of {listed(inner)})" for name, inner in several.items()]
    notes = [f"classes of {folder.name} whose images all lie in folders below: {listed(names)}"] if names else []
    called = "{} in {} is taken as a class; move it away if its images have none"
    return notes + [called.format(name, folder.name) for name in nothing(below)]


def _instead(root: Path, split: Split) -> str:
    """Suggest what was meant by a folder without its splits."""
    if root.name in ("train", "val"):
        return f"name the folder above it: --data.root {root.parent}"
    other = [name for name in LIKE_VAL if (root / name).is_dir()]
    if split == "val" and other:
        return f"rename {root / other[0]} to {split}, or link it"
    if any(path.suffix.lower() in SUFFIXES for path in root.glob("*/*")):
        return (
            f"it seems to hold the classes themselves: move some images of each to {root}/train/<class>/ and the "
            f"others, to judge by, to {root}/val/<class>/"
        )
    return f"expected {root / split}/<class>/ with images"


def imagenet(root: Path, split: Split, val_labels: str | None, suffixes: Collection[str] = SUFFIXES) -> Samples:
    """ImageNet as released: class folders in train; in val class folders, or all images beside each other.

    For the latter ``val_labels`` names a text file with a line for each image: its file name and its class folder's
    name, separated by a comma or blanks, as in Kaggle's ``LOC_val_solution.csv``; or the class alone, in the order of
    the sorted file names.
    """
    below = {path.name for path in _entries(root / split) if path.is_dir()}
    if split == "train" or (below and not val_labels):
        return folders(root, split, suffixes)
    images, left_out = look_through(root / split, suffixes)
    notes = [f"left out of {split}: {describe_left_out(left_out)}"] if left_out else []
    classes = folders(root, "train", suffixes).classes if (root / "train").is_dir() else None
    if below & set(classes or ()):
        raise DataError(f"{root / split} has class folders, so {val_labels} is not read; leave --data.val_labels out")
    if val_labels is None:
        raise DataError(
            f"the images of {root / split} lie beside each other, without class folders; name the list of their "
            "labels: --data.val_labels FILE, a line `file class` each"
        )
    lines = read_lines(Path(val_labels).expanduser())
    words = [line.replace(",", " ").split() for line in lines]
    if words and words[0][0].lower() in ("imageid", "file", "path", "image"):
        words = words[1:]
    by_name = check_labels(((Path(word[0]).stem, word[1]) for word in words if len(word) > 1), val_labels)
    if by_name:
        missing = [path.name for path in images if path.stem not in by_name]
        if missing:
            raise DataError(
                f"{val_labels} has no label for {listed(missing)}; name the list that belongs to {root / split}"
            )
        labels = [by_name[path.stem] for path in images]
        if unused := len(by_name) - len({path.stem for path in images}):
            notes.append(f"{unused} lines of {val_labels} name no image")
    elif len(words) == len(images):
        labels = [word[0] for word in words]
    else:
        raise DataError(
            f"{val_labels} has {len(words)} lines for {len(images)} images in {root / split}; it must have a line each"
        )
    return _named(list(zip(images, labels, strict=True)), classes, val_labels, notes)


def listing(
    path: str | None,
    split: Split,
    root: Path | None,
    classes: tuple[str, ...] | None,
    *,
    max_missing: float = 0.0,
    labelled: bool = True,
) -> Samples:
    """A table with the columns ``path`` and ``label``, see `tables.read_table`.

    The classes are all labels, sorted, unless another table fixes them.
    """
    pairs, notes = read_table(path, split, root, max_missing=max_missing, labelled=labelled)
    return _named(pairs, classes, str(path), notes)


def flags(root: Path, split: Split, classes: tuple[str, ...] | None, suffixes: Collection[str] = SUFFIXES) -> Samples:
    """``root/<split>`` with LabelMe's JSON files beside images, each of the class whose flag is set in its file.

    The classes are all flags that are set somewhere, sorted, unless another split fixes them.
    """
    folder = root / split
    found = labelme.find(folder, split, suffixes)
    several = {str(file): said.flags for file, said in found.files.values() if len(said.flags) > 1}
    faults = found.faults | {file: f"sets {listed(names)}; an image has one class" for file, names in several.items()}
    if faults:
        file, reason = next(iter(faults.items()))
        raise DataError(f"{file} {reason}" + f"; {len(faults) - 1} more have faults" * (len(faults) > 1))
    pairs = [(image, said.flags[0]) for image, (_, said) in found.files.items() if said.flags]
    if not pairs:
        raise DataError(f"no file of LabelMe in {folder} sets a flag; flags of images are the classes")
    notes = list(found.notes)
    if bare := len(found.files) - len(pairs):
        notes.append(f"{split}: {bare} images whose files set no flag are not used")
    if shapes := sum(len(said.shapes) for _, said in found.files.values()):
        notes.append(f"{split}: {shapes} shapes are not used")
    return _named(pairs, classes, str(folder), notes)


def packed(root: Path, split: Split) -> Samples:
    """``root/<split>.npz``: all JPEG files in one array of bytes ``jpeg``, with ``offset``, ``label``, ``classes``."""
    path = root / f"{split}.npz"
    if not path.is_file():
        raise DataError(f"there is no file {path}; set --data.root to a folder with train.npz and val.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            jpeg, offset, label = file["jpeg"], file["offset"], file["label"]
            classes = tuple(map(str, file["classes"]))
            others = {*file.files} - {"jpeg", "offset", "label", "classes"}
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); it must hold jpeg, offset, label and classes") from error
    flat = all(array.ndim == 1 and array.dtype.kind in "iu" and len(array) for array in (jpeg, offset, label))
    if not flat or jpeg.dtype != np.uint8:
        raise DataError(f"{path}: jpeg must be a list of bytes, offset and label lists of whole numbers, none empty")
    if len(offset) != len(label) + 1 or offset[0] or offset[-1] != len(jpeg) or (offset[1:] <= offset[:-1]).any():
        raise DataError(
            f"{path}: offset must rise from 0 to the {len(jpeg)} bytes of jpeg, in {len(label) + 1} numbers, one more "
            f"than labels; it has {len(offset)}, from {offset[0]} to {offset[-1]}"
        )
    if label.min() < 0 or label.max() >= len(classes):
        raise DataError(f"{path} has labels up to {label.max()}, but {len(classes)} classes from 0 on; mend the file")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise DataError(f"{path} has several classes called {listed(twice)}; make them differ")
    absent = [classes[place] for place in sorted({*range(len(classes))}.difference(label.tolist()))]
    said = {f"not in {split}": absent, f"not used in {path}": others}
    notes = tuple(f"{what}: {listed(names)}" for what, names in said.items() if names)
    return Samples(classes, _Packed(path, jpeg, offset, label), notes=notes)


@dataclass(frozen=True)
class _Packed:
    path: Path
    jpeg: Any
    offset: Any
    label: Any

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        start, end = self.offset[index : index + 2]
        return self.jpeg[start:end].tobytes(), int(self.label[index])


@dataclass(frozen=True)
class _Image:
    """One of the images that are packed in a file, to be opened as a path is."""

    packed: _Packed
    number: int
    suffix: ClassVar[str] = ".jpg"

    def open(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.packed[self.number][0])

    def __str__(self) -> str:
        return f"image {self.number} of {self.packed.path}"


def torchvision_set(name: str | None, root: Path, split: Split, *, download: bool) -> Samples:
    """A data set that torchvision knows by name, such as CIFAR10, Food101 or OxfordIIITPet."""
    from torchvision import datasets

    known = {key for key in datasets.__all__ if key[0].isupper()}
    if name not in known:
        from ...engine.recipe import nearest

        raise DataError(f"unknown data.dataset {name!r}{nearest(str(name), known)} Such as CIFAR10 or Food101")
    kind: Any = getattr(datasets, name)
    train = split == "train"
    # The same under three names: a flag, or a split whose evaluation part is called test or val.
    attempts = [{"train": train}, *({"split": s} for s in (("train",) if train else ("val", "test")))]
    for kwargs in attempts:
        try:
            dataset = kind(str(root), download=download, **kwargs)
            break
        except (TypeError, ValueError):  # this one has no such argument, or no such split
            continue
        except RuntimeError as error:
            raise DataError(f"{name} is not in {root} ({error}); fetch it: --data.download true") from error
        except OSError as error:
            if not download:
                raise
            raise DataError(
                f"{name} cannot be fetched ({error}); check the connection and the disk, or put its files into {root}"
            ) from error
    else:
        raise DataError(f"torchvision's {name} has no split for training and one for evaluation")
    classes = getattr(dataset, "classes", None)
    if classes is None:
        raise DataError(f"torchvision's {name} does not say what its classes are; choose another")
    names = tuple(", ".join(name) if isinstance(name, tuple) else str(name) for name in classes)  # of several words
    used = kwargs.get("split")  # pyright: ignore[reportPossiblyUnboundVariable]
    return Samples(names, dataset, notes=(f"{split} is the split {used} of {name}",) * (used not in (None, split)))


def scenes(made_on_demand: DigitScenes) -> Samples:
    """Digit scenes, whose class is the digit, or the one with the largest box."""
    return Samples(DigitScenes.classes, Made(made_on_demand, attrgetter("image", "label")))


def compare(found: dict[Split, Samples], root: str | None) -> None:
    """Raise DataError where training and validation have other classes."""
    train, val = set(found["train"].classes), set(found["val"].classes)
    faults = [f"only in {a}: {listed(b)}" for a, b in (("train", train - val), ("val", val - train)) if b]
    if faults:
        where = f" in {root}" if root else ""
        raise DataError(f"the classes{where} differ, {'; '.join(faults)}. Both must have the same folders")


def _named(
    pairs: Sequence[tuple[Path, str]], classes: tuple[str, ...] | None, source: str, notes: Sequence[str]
) -> Samples:
    there = {label for _, label in pairs}
    classes = classes or tuple(sorted(there))
    index = {name: i for i, name in enumerate(classes)}
    if unknown := there - index.keys():
        raise DataError(f"{source} has labels that are no class: {listed(unknown)}; the classes are {listed(classes)}")
    absent = [f"not in {source}: {listed(set(classes) - there)}"] if set(classes) - there else []
    return Samples(classes, [(path, index[label]) for path, label in pairs], notes=(*notes, *absent))


def _names(root: Path) -> dict[str, str]:
    for file in (root / name for name in NAMES):
        if file.is_file():
            return read_descriptions(file)
    return {}


def read_descriptions(file: Path) -> dict[str, str]:
    """Read display names of classes from a file with a line `class name` each; of several names the first."""
    words = [line.split(maxsplit=1) for line in read_lines(file)]
    return {word[0]: word[1].split(",")[0].replace("_", " ") for word in words if len(word) == 2}


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; set --data.root to the one that holds it")
    return list(folder.iterdir())
