"""Where images and annotations lie, in the formats of COCO, YOLO, Pascal VOC or LabelMe; all are checked alike."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..folders import VARIANTS, Split, find_copies, find_file, is_junk, leftovers, lies_in
from . import coco, labelme, voc, yolo
from .options import DataOptions, SplitOptions

# The folder of the images and the annotations, where a recipe names none.
DEFAULTS = {
    "coco": ("images", "annotations/instances_{split}.json"),
    "yolo": (None, "data.yaml"),
    "voc": ("JPEGImages", "ImageSets/Main/{split}.txt"),
    "labelme": (None, "{split}"),
}
# What tools put beside images in each format, in small letters; and the folder of runs.
_KNOWN = {
    "coco": {"runs"},
    "yolo": {"runs", "data.yaml", "dataset.yaml", "classes.txt", "obj.names", "obj.data", "notes.json"},
    "voc": {"runs", "labelmap.txt"},
    "labelme": {"runs"},
}


def read(
    root: Path,
    options: DataOptions,
    *,
    masks: bool,
    splits: Sequence[Split] = ("train", "val"),
    classes: Sequence[str] | None = None,
    learned: Callable[[coco.Annotated], Any] | None = None,
) -> dict[Split, coco.Annotations]:
    """Read the annotations of some splits and check them, see `coco.check`.

    Only the formats of VOC and LabelMe ask for the names of the ``classes``, as they have no list of their own; None:
    all that occur in these splits. What another split names is looked up, where it is there, to tell what nothing
    names. DataError where files or annotations are not as they must be.
    """
    root, source = Path(os.path.normpath(root)), options.source
    places: dict[Split, SplitOptions] = {"train": options.train, "val": options.val}
    named = {split: where.annotations or file(source, split) for split, where in places.items()}
    one_each = source in ("voc", "labelme")  # a file for an image
    listed = {split: _find(root, named[split], source) for split in splits} if one_each else {}
    files = [path for paths in listed.values() for path in paths]
    said = labelme.read_files(files) if source == "labelme" else {}
    names = classes or (labelme.classes(root, said.values()) if source == "labelme" else voc.classes(files))

    def content(split: Split) -> coco.Content:
        images, path = places[split].images or DEFAULTS[source][0], root / named[split]
        if source == "coco":
            return coco.read(path, root / str(images))
        if source == "yolo":
            return yolo.read(root, split, images=images, names=named[split], sizes=split in splits)
        files = listed.get(split) or _find(root, named[split], source)
        if source == "labelme":
            labelled = said if split in listed else labelme.read_files(files)
            return labelme.read(root, files, labelled, path, images=images, names=names, with_masks=masks)
        return voc.read(root, files, path, images=str(images), names=names, first_pixel=options.first_pixel)

    contents: dict[Split, coco.Content] = {split: content(split) for split in splits}
    others = []
    for split in places.keys() - contents.keys():
        with contextlib.suppress(DataError):
            others.append(content(split))
    if source == "coco":
        coco.note_ids(list(contents.values()), classes or ())
    found = dict[Split, coco.Annotations]()
    for split, one in contents.items():
        seen = learned if split == "train" else None
        found[split] = coco.check(one, with_masks=masks, faults=options.invalid, crowds=options.crowds, learned=seen)
        if outside := [image.path for image in found[split].images if not lies_in(image.path, root)]:
            found[split].notes[f"images outside of data.root {root}, such as {outside[0]}"] = len(outside)
    _note_files(root, source, [*contents.values(), *others], found)
    return found


def _find(root: Path, named: str, source: str) -> list[Path]:
    """The files of a split, in the formats that have one for an image."""
    return voc.find(root, named, suffix=".json", base="") if source == "labelme" else voc.find(root, named)


def _note_files(root: Path, source: str, contents: list[coco.Content], found: dict[Split, coco.Annotations]) -> None:
    """Count the images that are in both splits, and the files in the folders that are in none."""
    images = [[image.path for image in annotations.images] for annotations in found.values()]
    notes = next(iter(found.values())).notes
    copies = find_copies(*images)
    notes.update({"images that are also in val": copies.shared} if copies.shared else {})
    notes.update({f"images of val that are {VARIANTS}": copies.variants} if copies.variants else {})
    notes.update({"images that are copies of others": copies.inside} if copies.inside else {})
    used = [file for content in contents for file in (content.path, *content.used)]
    used += [
        find_file(content.folder, row["file_name"])
        for content in contents
        for row in content.rows["images"]
        if isinstance(row.get("file_name"), str)
    ]
    places = [place for content in contents for place in content.places]
    for place, files in leftovers(root, used, places, known=partial(_is_known, source=source)).items():
        shown = Path(os.path.abspath(root)).name if place == "." else place
        counts = Counter(path.suffix.lower() or "other" for path in files)
        notes.update({f"{suffix} files in {shown}/ not used": number for suffix, number in counts.items()})


def _is_known(name: str, source: str) -> bool:
    name = name.lower()
    return is_junk(name) or name in _KNOWN[source] or name.endswith(".cache")


def file(source: str, split: Split) -> str:
    """The annotations of a split where a recipe names none, from the root."""
    return str(DEFAULTS[source][1]).format(split=split)
