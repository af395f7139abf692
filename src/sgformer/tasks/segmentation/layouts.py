"""Where images and masks lie: plain folders, ADE20K as released, Cityscapes as released."""

import filecmp
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import labelme
from ..bands import Bands
from ..errors import DataError, listed
from ..folders import (
    LIKE_VAL,
    SUFFIXES,
    Split,
    describe_left_out,
    describe_leftovers,
    is_junk,
    leftovers,
    lies_in,
    look_through,
    some,
)
from ..images import TURNED, ImageError, Preprocessing
from ..text import read_entries, read_lines, split_labelmap
from .mapping import read_classes, read_mapping
from .masks import IGNORE, Coding, header_of, is_turned, nodata_of, palette_of, turned_like

# Of Cityscapes' 34 ids, the 19 that are judged, in the order of its own training ids.
CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


# What else there is for each image.
CITYSCAPES_OTHERS = ("color.png", "instanceIds.png", "labelTrainIds.png", "instanceTrainIds.png", "polygons.json")


class Sample(NamedTuple):
    """An image and its mask, as files."""

    image: Path
    mask: Path


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of a data set in its folder."""

    # Folders of a split, with {split} where its name goes. Without it all images lie together, and the masks say which
    # of them belong to a split.
    images: str
    masks: str
    coding: Coding  # of the masks' values
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "val": "val"})
    # What ends the names, before the suffix; files with another ending are something else.
    image_ending: str = ""
    mask_ending: str = ""
    known: tuple[str, ...] = ()  # what ends the names of other files in a set as released
    lists: str = ""  # file from the root with the names of a split's images; empty: all in its folders
    # The file with the names of the classes; each split may have its own, which has to agree.
    listed: Path | None = None
    released: Mapping[int, str] = field(default_factory=dict)  # names of ids, with which a list of CVAT has to agree

    def find(
        self, root: Path, split: Split, suffixes: Collection[str] = SUFFIXES
    ) -> tuple[list[Sample], dict[str, str], list[str]]:
        """The samples of a split; what lacks its counterpart, file and reason; and what else lies there, as notes.

        Images have one of the suffixes, masks always one of those that Pillow reads. DataError where a folder is
        missing, or has nothing in it.
        """
        name = self.splits[split]
        image_folder, mask_folder = (root / self.images.format(split=name), root / self.masks.format(split=name))
        for pattern, folder in ((self.images, image_folder), (self.masks, mask_folder)):
            if not folder.is_dir():
                others = [root / pattern.format(split=other) for other in LIKE_VAL * (name == "val")]
                hint = next((f"rename {other} to {folder}, or link it" for other in others if other.is_dir()), "")
                kind = "is a file, and lists are not read" if folder.is_file() else "is not there"
                hint = hint or "see --data.root, --data.images and --data.masks"
                raise DataError(f"the folder {folder} {kind}; {hint}")
        together = image_folder == mask_folder
        if together and self.mask_ending == self.image_ending:
            raise DataError(
                f"{image_folder} has images and masks by --data.images and --data.masks; name that of the masks"
            )
        beside = self.mask_ending if together else ""
        above = [folder.parent for folder in (image_folder, mask_folder) if folder != root]
        known, unlike = self._check_lists(root, image_folder, mask_folder, *above)
        images, twins, notes = self._by_name(
            image_folder, self.image_ending, unlike=beside, suffixes=suffixes, known=known, alone=not together
        )
        masks, others, more = self._by_name(mask_folder, self.mask_ending, known=known, alone=not together)
        faults = dict[str, str]()
        if self.lists:
            wanted, faults = _read_list(root / self.lists.format(split=name), {*images, *masks}, {*suffixes, *SUFFIXES})
            images, masks = ({one: path for one, path in some.items() if one in wanted} for some in (images, masks))
        used, words = {*images.values(), *masks.values()}, "has the name of {}, but for the suffix; keep one of them"
        faults |= {str(path): words.format(other) for path, other in (twins | others).items() if other in used}
        hint = _note_ending(images.keys() - masks.keys(), masks.keys() - images.keys())
        faults |= {str(masks[name]): f"has no image in {image_folder}{hint}" for name in masks.keys() - images.keys()}
        if self.lists or "{split}" in self.images:  # every image of this folder is one of the split
            missing = images.keys() - masks.keys()
            faults |= {str(images[name]): f"has no mask in {mask_folder}" for name in missing}
        samples = [Sample(images[name], masks[name]) for name in sorted(masks.keys() & images.keys())]
        return samples, faults, list(dict.fromkeys(unlike + notes + more))

    def _by_name(
        self,
        folder: Path,
        ending: str,
        *,
        unlike: str = "",
        suffixes: Collection[str] = SUFFIXES,
        known: Sequence[Path] = (),
        alone: bool = True,
    ) -> tuple[dict[str, Path], dict[Path, Path], list[str]]:
        """Images of a folder and those below it by their path in it, without suffix and ending; twins; and notes.

        What ends in ``unlike`` is left to the masks, and where a folder is not for one of both ``alone``, what ends
        otherwise, too. Twins have the name of another one, but for the suffix: which of them is meant cannot be told.
        """
        images, left_out = look_through(folder, suffixes, known=lambda name: name.endswith(self.known))
        left_out = +(left_out - Counter(path.suffix.lower() for path in known if path.parent == folder))
        paths = [path for path in images if path.stem.endswith(ending)]
        if alone and (others := len(images) - len(paths)):
            left_out[f"that do not end in {ending}"] = others
        paths = [path for path in paths if not (unlike and path.stem.endswith(unlike))]
        there = f", but {describe_left_out(left_out)}" if left_out else ""
        if not paths:
            raise DataError(f"there are no images in {folder}{there}; expected {some(suffixes)}")
        notes = [f"left out of {folder}: {describe_left_out(left_out)}"] if left_out else []
        found: dict[str, Path] = {}
        twins = {}
        for path in paths:
            name = path.relative_to(folder).with_suffix("").as_posix().removesuffix(ending)
            name = unicodedata.normalize("NFC", name)
            if (other := found.setdefault(name, path)) != path:
                twins[path] = other
        return found, twins, notes

    def beside(self, root: Path, *others: Path) -> list[str]:
        """Notes on what lies beside images, masks and the other files used, and is none of the splits'."""
        folders = [root / one.format(split=name) for one in (self.images, self.masks) for name in self.splits.values()]
        lists = self._lists(*[place for folder in folders for place in (folder, folder.parent)], root)
        used = [*lists, *others, *([self.listed] if self.listed else [])]
        found = leftovers(root, used, aside=folders, known=lambda name: is_junk(name) or name.endswith(self.known))
        outside = sorted({str(folder) for folder in folders if not lies_in(folder, root)})
        notes = [f"images or masks lie outside of data.root {root}: {listed(outside)}"] * bool(outside)
        return notes + describe_leftovers(root, found)

    def _lists(self, *folders: Path) -> list[Path]:
        """Find the lists of classes in folders."""
        names = (self.listed.name,) if self.listed else ("labelmap.txt", "label_colors.txt")
        return [file for file in dict.fromkeys(one / name for one in folders for name in names) if file.is_file()]

    def _check_lists(self, *folders: Path) -> tuple[list[Path], list[str]]:
        """Find the lists of classes in folders, with notes on them; raise DataError where one says something else."""
        found = self._lists(*folders)
        notes: list[str] = []
        for file in found:
            if self.listed is None:
                notes += self._check_colours(file)
            elif (other := read_classes(file)) != self.coding:
                raise DataError(
                    f"{file} has the classes {', '.join(other.classes)}, and {self.listed} "
                    f"{', '.join(self.coding.classes)}; make them alike, or export both splits together"
                )
        return found, notes

    def _check_colours(self, file: Path) -> list[str]:
        """Raise DataError where CVAT's list beside masks calls a colour, or an id, another class than is read.

        A name that is no class is noted.
        """
        own, notes = self.coding, []
        for place, (name, colour) in enumerate(split_labelmap(read_lines(file))):
            if (known := self.released.get(place, name)).replace(" ", "") != name.replace(" ", ""):
                raise DataError(
                    f"{file} calls id {place} {name}, and it is read as {known}; export the masks as CVAT's "
                    '"Segmentation mask", for --data.source folders, or remove the list'
                )
            values: Any = [*map(int, filter(None, colour.split(",")))]
            index = (own.colours or {}).get(tuple(values), IGNORE)
            if index != IGNORE and name in own.classes and name != own.classes[index]:
                raise DataError(
                    f"{file} gives {values} to {name}, and --data.mapping to {own.classes[index]}; make them alike, "
                    "or export both splits together"
                )
            if index != IGNORE and name not in own.classes:
                notes.append(f"{file} calls {values} {name}, and it is learned as {own.classes[index]}")
        return notes


def _read_list(file: Path, names: Collection[str], suffixes: Collection[str]) -> tuple[set[str], dict[str, str]]:
    """Find the names that a file lists, a line each; and by line what is none of them.

    A line may have folders before the name, and one of the suffixes.
    """
    if not file.is_file():
        raise DataError(f"there is no file {file} with a name of an image a line; see --data.lists")
    ends: dict[str, list[str]] = {}
    for name in names:
        ends.setdefault(name.rpartition("/")[2], []).append(name)
    found, unknown = set[str](), dict[str, str]()
    for number, line in read_entries(file):
        path = PureWindowsPath(unicodedata.normalize("NFC", line))
        parts = (path.with_suffix("") if path.suffix.lower() in suffixes else path).parts
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        alike = ends.get(tails[-1], []) if tails else []
        if name := next((tail for tail in tails if tail in names), alike[0] if len(alike) == 1 else None):
            found.add(name)
        elif parts:
            unknown[f"{file}, line {number}"] = f"names {line}, of which there is neither image nor mask"
    return found, unknown


def _note_ending(images: Collection[str], masks: Collection[str]) -> str:
    """A hint where the names of all masks that lack an image are those of images with one ending more."""
    first = min(masks, default="")
    endings = [first.removeprefix(name) for name in images if first.startswith(name)]
    found = next((one for one in endings if {*masks} <= {name + one for name in images}), "")
    return f"; if masks have a longer name than images, set --data.mask_ending {found}" * bool(found)


def folders(
    root: Path,
    *,
    images: str,
    masks: str,
    classes: str,
    mapping: str | None,
    mask_ending: str = "",
    lists: str | None = None,
) -> Layout:
    """Images in one folder, masks of the same names in another; all but a mapping's file relative to the root.

    A file names a class a line, or a mapping says what ids or colours mean, see `read_mapping`. Names of masks have
    ``mask_ending`` more than those of images, before the suffix.
    """
    coding = read_mapping(mapping) if mapping else read_classes(root / classes)
    return Layout(
        images=images,
        masks=masks,
        coding=coding,
        mask_ending=mask_ending,
        lists=lists or "",
        listed=None if mapping else root / classes,
    )


def ade20k(root: Path) -> Layout:
    """ADE20K's challenge set as released: ``images/training``, ``annotations/training``, ``objectInfo150.txt``.

    In its masks 0 is what belongs to none of the 150 classes, and is ignored.
    """
    path = root / "objectInfo150.txt"
    if not path.is_file():
        raise DataError(
            f"{root} has no objectInfo150.txt; set --data.root to the unpacked ADEChallengeData2016, which has it"
        )
    rows = [line.split("\t") for line in read_lines(path)]
    names = [row[-1].strip().replace(";", ", ") for row in rows if row[0].strip().isdigit()]
    first = [name.split(",")[0] for name in names]
    classes = tuple(a if first.count(a) == 1 else name for a, name in zip(first, names, strict=True))
    coding = Coding(classes=classes, ids={0: IGNORE, **{i + 1: i for i in range(len(classes))}})
    splits = {"train": "training", "val": "validation"}
    return Layout(
        images="images/{split}",
        masks="annotations/{split}",
        coding=coding,
        splits=splits,
        known=("objectInfo150.txt", "sceneCategories.txt"),
    )


def cityscapes() -> Layout:
    """Cityscapes as released: ``leftImg8bit/train/<city>``, ``gtFine/train/<city>/..._gtFine_labelIds.png``.

    Of its 34 ids the 19 that are judged are classes; the others are ignored.
    """
    ids = dict.fromkeys((*range(34), IGNORE), IGNORE)
    ids |= {id_: i for i, id_ in enumerate(CITYSCAPES.values())}
    return Layout(
        images="leftImg8bit/{split}",
        masks="gtFine/{split}",
        coding=Coding(classes=tuple(CITYSCAPES), ids=ids),
        image_ending="_leftImg8bit",
        mask_ending="_gtFine_labelIds",
        released={id_: name for name, id_ in CITYSCAPES.items()},
        known=tuple(f"_gtFine_{end}" for end in CITYSCAPES_OTHERS),
    )


@dataclass(kw_only=True)
class Looked:
    """Summary of the masks of a split."""

    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # pixels a class, ignored ones last, by file
    faults: dict[str, str] = field(default_factory=dict)  # what is wrong, as a sentence, by file
    notes: list[str] = field(default_factory=list)  # what is unusual and no fault


def read_mask(
    sample: Sample, coding: Coding, size: tuple[int, int], *, bands: bool = False
) -> tuple[NDArray[np.uint8], bool]:
    """The mask of an image of (height, width), and whether it had to be turned as the image's EXIF data say.

    An image of other ``bands`` than RGB is never turned.
    """
    mask = coding.read(sample.mask, size)
    if mask.shape == size or mask.shape != size[::-1] or bands:
        return mask, False
    turned = turned_like(sample.image, mask)
    return turned, turned.shape == size


def check(samples: list[Sample], coding: Coding, preprocessing: Preprocessing) -> Looked:
    """Look at each image's header and at each pixel of each mask.

    Wrong are sizes that differ, values that mean nothing, and files that cannot be read. That takes a while for large
    sets, and less than finding out in the middle of a night.
    """
    bands = preprocessing if isinstance(preprocessing, Bands) else None

    def look(sample: Sample) -> tuple[NDArray[np.int64] | str, list[str]]:
        try:
            size, odd = (bands.size_of(sample.image), []) if bands else header_of(sample.image)
            mask, turned = read_mask(sample, coding, size, bands=bands is not None)
            nothing = nodata_of(sample.mask)
            alone = TURNED not in odd and is_turned(sample.mask)
        except (DataError, ImageError) as error:
            reason, ours = str(error), f"{sample.mask} "
            return reason.removeprefix(ours) if reason.startswith(ours) else f"is of no use: {reason}", []
        if size != mask.shape:
            return (
                f"is {mask.shape[0]}x{mask.shape[1]} pixels and its image {sample.image} "
                f"{size[0]}x{size[1]}; they must be of the same size"
            ), []
        if np.ptp(mask) and filecmp.cmp(sample.image, sample.mask, shallow=False):
            return f"is the same file as its image {sample.image}; copy the mask", []
        counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
        notes = ["masks are turned as the EXIF data of their images say"] * turned
        notes += ["masks are turned or mirrored by EXIF data of their own, and their images are not"] * alone
        if sample.mask.suffix.lower() == ".json" and (said := labelme.read(sample.mask)):
            notes += ["shapes lie wholly under later ones"] * labelme.num_covered(
                said, (size[1], size[0]) if turned else size
            )
            notes += ["shapes have no area, and are drawn as a line or a point"] * sum(
                shape.is_flat() for shape in said.shapes
            )
        index: int = IGNORE if coding.colours or nothing is None else coding.ids.get(nothing, IGNORE)  # pyright: ignore
        if index != IGNORE and (mask == index).any():
            notes.append(f"masks say that {nothing:g} is no value, and it is learned as {coding.classes[index]}")
        return np.append(counts[: len(coding.classes)], counts[IGNORE]), notes + [f"images are {what}" for what in odd]

    looked, notes = Looked(), Counter[str]()
    with ThreadPoolExecutor() as pool:
        for sample, (found, some) in zip(samples, pool.map(look, samples), strict=True):
            if isinstance(found, str):
                looked.faults[str(sample.mask)] = found
            else:
                looked.counts[str(sample.mask)] = found
            notes.update(some)
    looked.notes = [f"{number} {what}" for what, number in notes.items()]
    return looked


def num_rearranged(paths: Iterable[Path], number: int) -> int:
    """Count the masks whose first colours are those of others, in another order than most."""
    palettes = Counter(palette_of(path, number) for path in paths)
    alike: dict[tuple[Any, ...], list[int]] = {}
    for palette, count in palettes.items():
        alike.setdefault(tuple(sorted(palette)), []).append(count)
    return sum(sum(counts) - max(counts) for counts in alike.values())
