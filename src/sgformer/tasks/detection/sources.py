"""Where images and annotations lie, in COCO's format, YOLO's or Pascal VOC's; all are checked alike."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..folders import Split, find_copies, find_file, is_junk, number
from . import coco, voc, yolo

Format = Literal["coco", "yolo", "voc"]

# The folder of the images and the annotations, where a recipe names none.
DEFAULTS = {
    "coco": ("images", "annotations/instances_{split}.json"),
    "yolo": (None, "data.yaml"),
    "voc": ("JPEGImages", "ImageSets/Main/{split}.txt"),
}
# What tools put beside images, in lower case, and where the same set lies in another format.
_KNOWN = {
    "data.yaml",
    "dataset.yaml",
    "classes.txt",
    "obj.names",
    "obj.data",
    "notes.json",
    "labelmap.txt",
    "runs",
}
_OTHERS = {"annotations", "labels", "Annotations", "ImageSets"}


@dataclass(kw_only=True)
class SplitOptions:
    """Where the images of a split are, and what is in them.

    Attributes:
        images: The folder of the images, from data.root; null: images; for yolo that of data.yaml, or images/train
            and images/val, and it may be a text file that lists images; for voc JPEGImages.
        annotations: From data.root; null: annotations/instances_train.json and instances_val.json. For yolo the file
            with the names of the classes; null: data.yaml. For voc a list of images, or a folder of XML files; null:
            ImageSets/Main/train.txt and val.txt.
    """

    images: str | None = None
    annotations: str | None = None


def read(
    root: Path,
    splits: dict[Split, SplitOptions],
    source: Format,
    *,
    masks: bool,
    invalid: coco.Faults = "error",
    crowds: coco.Crowds = "ignore",
    first_pixel: int = 1,
    classes: Sequence[str] | None = None,
    learned: Callable[[coco.Annotated], Any] | None = None,
) -> dict[Split, coco.Annotations]:
    """Read the annotations of some splits and check them, see `coco.check`.

    Only VOC's format asks for the names of the ``classes``, as it has no list of its own; None: all that occur in these
    splits.

    Raises:
        DataError: Files or annotations are not as they must be.
    """
    root = Path(os.path.normpath(root))
    named = {split: where.annotations or file(source, split) for split, where in splits.items()}
    xml = {split: voc.find(root, name) for split, name in named.items()} if source == "voc" else {}
    names = classes or voc.classes([path for paths in xml.values() for path in paths])
    contents: dict[Split, coco.Content] = {}
    for split, where in splits.items():
        images, path = where.images or DEFAULTS[source][0], root / named[split]
        if source == "coco":
            contents[split] = coco.read(path, root / str(images))
        elif source == "yolo":
            contents[split] = yolo.read(root, split, images=images, names=named[split])
        else:
            contents[split] = voc.read(root, xml[split], path, images=str(images), names=names, first_pixel=first_pixel)
    if source == "coco":
        coco.note_ids(list(contents.values()), classes or ())
    found: dict[Split, coco.Annotations] = {
        split: coco.check(
            content,
            with_masks=masks,
            faults=invalid,
            crowds=crowds,
            learned=learned if split == "train" else None,
        )
        for split, content in contents.items()
    }
    if len(found) == 2:
        _note_files(root, contents, found)
    return found


def _note_files(root: Path, contents: dict[Split, coco.Content], found: dict[Split, coco.Annotations]) -> None:
    """Count the images that are in both splits, and the files in the folders that are in none."""
    images = {split: [image.path for image in annotations.images] for split, annotations in found.items()}
    notes = found["train"].notes
    copies = find_copies(images["train"], images["val"])
    notes.update({"images that are also in val": copies.shared} if copies.shared else {})
    notes.update({"images that are copies of others": copies.inside} if copies.inside else {})
    root = Path(os.path.abspath(root))
    files = [(content.path, *content.used) for content in contents.values()]
    files += [
        (find_file(content.folder, row["file_name"]),)
        for content in contents.values()
        for row in content.rows["images"]
        if isinstance(row.get("file_name"), str)
    ]
    known = {os.path.abspath(file) for some in files for file in some}
    places = {Path(os.path.abspath(place)) for content in contents.values() for place in content.places}
    places = {place for place in places if not any(other in place.parents for other in places)}
    aside = {str(place) for place in places}
    used = {
        name for path in known if path.startswith(f"{root}{os.sep}") for name in Path(path).relative_to(root).parts[:1]
    }
    beside = [] if root in places else [path for path in sorted(root.iterdir()) if not _is_known(path.name)]
    for path in [*sorted(places), *(path for path in beside if path not in places)]:
        shown = os.path.relpath(path, root) if path.is_relative_to(root) else str(path)
        if path.is_file():
            shown = root.name
            counts = Counter([path.suffix.lower() or "other"] * (str(path) not in known))
        elif path in places or path.name in used or path.name not in _OTHERS:
            counts = unused(path, known, aside - {str(path)})
        else:
            continue
        notes.update({f"{suffix} files in {shown}/ not used": n for suffix, n in counts.items()})


def unused(folder: Path, known: set[str], aside: Collection[str] = ()) -> Counter[str]:
    """Count the files in a folder that are not known, by suffix; hidden ones and what tools leave there aside."""
    counts: Counter[str] = Counter()
    seen = {number(parent) for parent in folder.resolve().parents}  # a link to one of them leads in a circle
    for path, folders, files in os.walk(folder, followlinks=True):
        known_name = path != str(folder) and _is_known(os.path.basename(path))
        if (here := number(path)) in seen or path in aside or known_name:
            folders.clear()
            continue
        seen.add(here)
        for name in files:
            if not _is_known(name) and os.path.normpath(os.path.join(path, name)) not in known:
                counts[Path(name).suffix.lower() or "other"] += 1
    return counts


def _is_known(name: str) -> bool:
    name = name.lower()
    return is_junk(name) or name in _KNOWN or name.endswith(".cache")


def file(source: Format, split: Split) -> str:
    """The annotations of a split where a recipe names none, from the root."""
    return str(DEFAULTS[source][1]).format(split=split)
