"""Annotations in COCO's JSON format, checked before anything is trained on them; other formats are read as it."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, Fault, listed
from ..text import like_names, odd_names, read_json
from . import checks, doubts, masks
from .checks import ImageRow, ObjectRow

VANISHED = "objects left out, of which nothing is left at the size of training"
AS_TEXT = "objects with the image's number as text, or the other way round, as of VIA"
GROUPS = "objects that share a group_id with others of their class and image, all kept"
Faults = Literal["error", "drop"]
Crowds = Literal["ignore", "objects"]


@dataclass(frozen=True, eq=False)
class Annotated:
    """Image with its annotations: n objects and crowds."""

    path: Path
    image_id: int | str  # in the annotations
    size: tuple[int, int]  # (height, width)
    boxes: NDArray[np.float32]  # (n, 4): left, top, right, bottom in pixels
    labels: NDArray[np.int64]  # (n,): places in the list of categories, from 0
    crowds: NDArray[np.bool_]  # (n,): regions of many objects of the kind, which count neither way
    areas: NDArray[np.float32]  # (n,): as annotated, else of the masks, else of the boxes
    rles: tuple[masks.Rle | None, ...]  # n masks; None where there is none, or they were not asked for

    def masks(self) -> NDArray[np.uint8]:
        """The instance masks (n, height, width), 0 and 1; of a crowd without one, its box."""
        pixels = np.zeros((len(self.labels), *self.size), np.uint8)
        for mask, rle, box in zip(pixels, self.rles, self.boxes.round().astype(int), strict=True):
            if rle is None:
                mask[box[1] : box[3], box[0] : box[2]] = 1
            else:
                mask[:] = masks.decode(rle)
        return pixels

    def only(self, kept: NDArray[np.bool_]) -> "Annotated":
        """Keep some of the image's objects."""
        rows = {name: getattr(self, name)[kept] for name in ("boxes", "labels", "crowds", "areas")}
        rles = tuple(rle for rle, one in zip(self.rles, kept, strict=True) if one)
        return replace(self, rles=rles, **rows)


@dataclass(frozen=True, eq=False)
class Annotations:
    """Annotations that were checked."""

    path: Path
    images: tuple[Annotated, ...]  # in the order of the file, those without objects among them
    classes: tuple[str, ...]  # names of the categories, in the order of their ids
    category_ids: tuple[int, ...]
    faults: tuple[str, ...]  # that were left out, a line each
    notes: Counter[str]  # what else was not read as it stands, and how often

    def counts(self, *, crowds: bool = False) -> list[int]:
        """Count the objects, or crowds, of each class."""
        counts = np.zeros(len(self.classes), np.int64)
        for image in self.images:
            np.add.at(counts, image.labels[image.crowds == crowds], 1)
        return counts.tolist()

    def why_nothing(self) -> str | None:
        """Why there is no object, and what helps; None where there are some."""
        if sum(self.counts()):
            return None
        if crowds := sum(self.counts(crowds=True)):
            return (
                f"all {crowds} annotations are crowds (iscrowd 1), which count neither way; if they are single "
                "objects, set --data.crowds objects"
            )
        if self.faults:
            return f"all objects have faults: {first(self.faults)}"
        gone = next((f"{count} {what}" for what, count in self.notes.items() if what.startswith(VANISHED)), "")
        return f"there are {len(self.images)} images and no objects{gone and f': {gone}'}"


@dataclass(eq=False)
class Content:
    """Images and annotations as in COCO's JSON, whatever they were read from."""

    path: Path  # the file that they were read from, or where others are listed
    folder: Path  # that the names of images start from
    rows: dict[str, Any]  # images, annotations, categories
    places: Iterable[Path] = ()  # the folders of images and annotations
    used: Iterable[Path] = ()  # the files in them that were read, beside the images
    faults: list[str] = field(default_factory=list)  # what could not be read, a line each
    notes: Counter[str] = field(default_factory=Counter)  # what was read in another way than it stands, and how often

    @classmethod
    def empty(cls, path: Path, folder: Path, names: Iterable[tuple[int, str]]) -> "Content":
        """Begin the content of another format: categories by id, and no images or annotations yet."""
        categories = [{"id": id_, "name": name} for id_, name in names]
        return cls(path, folder, {"images": [], "annotations": [], "categories": categories})

    def add_image(self, name: str, size: Sequence[Any], others: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Add an image of (height, width), by its name from the folder; objects that are added next are in it."""
        rows = self.rows["images"]
        rows.append({**others, "id": len(rows) + 1, "file_name": name, "height": size[0], "width": size[1]})

    def add_object(self, where: str, row: Mapping[str, Any]) -> None:
        """Add an object in the last image; ``where`` it was read is its id."""
        self.rows["annotations"].append({"id": where, "image_id": len(self.rows["images"]), **row})

    @contextmanager
    def reading(self, where: object) -> Iterator[None]:
        """Within this context, what cannot be read ends it and is kept as a fault, with ``where`` that is."""
        try:
            yield
        except (Fault, DataError) as fault:
            self.faults.append(f"{where}: {fault}")


def read(path: Path, folder: Path) -> Content:
    """Read a JSON file in COCO's format, with the folder of the images that it names.

    DataError where it is not in the format, or a file or folder is missing.
    """
    if not path.is_file():
        raise DataError(
            f"there is no file {path}; name the annotations in COCO's format: --data.train.annotations, or val"
        )
    rows = read_json(path)
    for key in ("images", "annotations", "categories"):
        found = rows.get(key) if isinstance(rows, dict) else None
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise DataError(f"{path} has no list of {key!r}, so it is not in COCO's format; export it again")
    if any("segments_info" in row for row in rows["annotations"]):
        raise DataError(f"{path} is of panoptic segmentation; name the file of instances")
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with the images of {path}; name the right one")
    return Content(path, folder, rows, (folder,))


def categories(source: Content) -> dict[int, str]:
    """Names by id, in this order; one without a name is called by its id, one that is there twice a DataError."""
    pairs = []
    for row in source.rows["categories"]:
        try:
            named = row.get("name") is not None
            pairs.append((checks.whole(row, "id"), checks.text(row, "name") if named else str(row["id"])))
        except Fault as fault:
            raise DataError(f"{source.path}: category {masks.shown(row.get('id'))}: {fault}") from fault
    for values, what in zip(zip(*pairs, strict=True), ("id", "name"), strict=False):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise DataError(f"{source.path} has two categories of the {what} {min(twice)}; make them differ")
    if not pairs:
        raise DataError(
            f"{source.path} has no categories; {first(source.faults) or 'there is nothing to learn from it'}"
        )
    return dict(sorted(pairs))


def note_ids(sources: list[Content], keep: Iterable[str] = ()) -> None:
    """Look at how tools number categories, and change the splits in place; names to ``keep`` are classes in any case.

    Roboflow puts one above all others, their supercategory, of which there is no object: it is left out, also where the
    only class has its name. Some tools count from 0, which is noted.
    """
    used = {str(row.get("category_id")) for source in sources for row in source.rows["annotations"]}
    for source in sources:
        rows = source.rows["categories"]
        pairs = [(str(row.get("name")), str(row.get("supercategory") or "none")) for row in rows]
        names, above = Counter(name for name, _ in pairs), Counter(higher for _, higher in pairs)
        roots = [
            row
            for row, (name, higher) in zip(rows, pairs, strict=True)
            if above[name] > (higher == name)  # of another category than itself
            and (name not in keep or names[name] > 1)
            and higher in ("none", "root", name)
            and str(row.get("id")) not in used
        ]
        for row in roots:
            rows.remove(row)
            source.notes[f"supercategory {row['name']!r} without objects, no class"] = 1
        if any(row.get("id") == 0 for row in rows):
            source.notes["category ids from 0 on"] = 1


def check(
    source: Content,
    *,
    with_masks: bool,
    faults: Faults = "error",
    crowds: Crowds = "ignore",
    learned: Callable[[Annotated], NDArray[np.bool_]] | None = None,
) -> Annotations:
    """Check each annotation, and each image's file.

    With ``with_masks`` each object must have a mask. A fault is an error, or what has it is dropped: an object, or an
    image whose file is missing or of another size. Crowds count neither way, or are objects like others. ``learned``
    says which objects of an image are left at the size of training; None: all. DataError where there are faults, named
    by file and id, or nothing is left.
    """
    names = categories(source)
    index = {category: place for place, category in enumerate(names)}
    found, notes = list(source.faults), Counter(source.notes)
    entries, aliases = _entries(source, found, notes)
    objects = _objects(source, entries, aliases, names, found, with_masks=with_masks, crowds=crowds)
    objects = {image_id: _each_once(some, notes) for image_id, some in objects.items()}
    rows = [one for some in objects.values() for one in some]
    notes[GROUPS] = doubts.num_grouped(objects)
    doubts.note_corners(rows, notes)
    doubts.take_areas(objects, notes)
    images, vanished = [], []
    for image_id, entry in entries.items():
        image = _annotated(entry, objects[image_id], index)
        if learned and not (left := learned(image) | image.crowds).all():
            vanished.append(_called(objects[image_id][int(left.argmin())].number, entry))
            notes[VANISHED] += int((~left).sum())
            image = image.only(left)
        images.append(image)
    if found and faults == "error":
        raise DataError(f"{source.path}: {_mended(source, found)}")
    if not images:
        raise DataError(f"{source.path} has no images that can be used{': ' + first(found) if found else ''}")
    doubts.note_overlaps(((image.boxes[~image.crowds], image.labels[~image.crowds]) for image in images), notes)
    doubts.note_scale([image.boxes for image in images], [image.size for image in images], notes)
    doubts.note_crowds([one for some in objects.values() for one in some], notes)
    _note_unused(source, rows, notes)
    notes["images without objects"] = sum(not len(image.labels) for image in images)
    notes.update({f"names of classes that {what}": number for what, number in like_names(names.values()).items()})
    notes.update(dict.fromkeys(odd_names([*names.values()]), 1))
    notes = +notes
    if vanished:  # with the first of them
        notes[f"{VANISHED}, such as {vanished[0]}"] = notes.pop(VANISHED)
    return Annotations(source.path, tuple(images), tuple(names.values()), tuple(names), tuple(found), notes)


def _objects(
    source: Content,
    entries: Mapping[int | str, ImageRow],
    aliases: Mapping[int | str, int | str],
    names: dict[int, str],
    found: list[str],
    *,
    with_masks: bool,
    crowds: Crowds,
) -> dict[int | str, list[ObjectRow]]:
    """The objects of each image, by its id; what is wrong with others is added to the faults ``found``."""
    objects: dict[int | str, list[ObjectRow]] = {image_id: [] for image_id in entries}
    written = {str(image_id): kept for image_id, kept in aliases.items()}
    for row in source.rows["annotations"]:
        entry = None
        try:
            image_id = checks.identity(row, "image_id")
            if (kept := aliases.get(image_id, written.get(str(image_id)))) is None:
                raise Fault(f"there is no image of id {masks.shown(image_id)} in the file")
            if (entry := entries.get(kept)) is None:
                continue  # its image was left out
            one = checks.object_row(row, entry.size, with_mask=with_masks)
            if one.category_id not in names:
                raise Fault(_no_category(one.category_id, names))
            one = one._replace(notes=(*one.notes, *[AS_TEXT] * (image_id not in aliases)))
        except Fault as fault:
            found.append(f"{_called(row.get('id'), entry)}: {fault}")
            continue
        objects[kept].append(one._replace(crowd=False) if crowds == "objects" else one)
    return objects


def _each_once(objects: Iterable[ObjectRow], notes: Counter[str]) -> list[ObjectRow]:
    """The objects of an image without those that are there twice, and what is to be noted of each."""
    kept: dict[tuple[Any, ...], ObjectRow] = {}
    labels: dict[tuple[float, ...], int] = {}
    for one in objects:
        if kept.setdefault((one.category_id, one.box, one.crowd, one.mask and one.mask["counts"]), one) is not one:
            notes["objects annotated twice, read once"] += 1
            continue
        if labels.setdefault(one.box, one.category_id) != one.category_id:
            notes["boxes of another class at the same place, both kept"] += 1
        notes.update(one.notes)
    return list(kept.values())


def _note_unused(source: Content, objects: Iterable[ObjectRow], notes: Counter[str]) -> None:
    """Note what else the file says, and ids that are there twice."""
    ids = Counter(repr(row["id"]) for row in source.rows["annotations"] if "id" in row)
    notes["annotation ids that are there more than once"] = sum(count > 1 for count in ids.values())
    unused = {
        "objects": [one.unused for one in objects],
        "images": [checks.entries(row, checks.IMAGE) for row in source.rows["images"]],
        "categories": [checks.entries(row, checks.CATEGORY) for row in source.rows["categories"]],
    }
    for what, keys in unused.items():
        notes[f"{what} with entries that are not used ({listed({*chain(*keys)})})"] = sum(map(bool, keys))
    if others := checks.entries(source.rows, checks.FILE):
        notes[f"lists of the file that are not used ({listed(others)})"] = len(others)


def _mended(source: Content, found: Sequence[str]) -> str:
    """Say what is wrong and how it is mended; where all annotations are boxes alone, none is to be dropped."""
    bare = [fault for fault in found if fault.endswith(checks.NO_MASK)]
    if bare and not any(isinstance(row, dict) and row.get("segmentation") for row in source.rows["annotations"]):
        return first(bare, 1)
    return f"{first(found)}. Mend them, or set --data.invalid drop"


def _entries(
    source: Content, found: list[str], notes: Counter[str]
) -> tuple[dict[int | str, ImageRow], dict[int | str, int | str]]:
    """The images that can be used, by id; and for each id in the file that under which its image is kept."""
    entries: dict[int | str, ImageRow] = {}
    aliases: dict[int | str, int | str] = {}
    ids: dict[str, int | str] = {}
    shared: dict[int | str, str] = {}
    for row in source.rows["images"]:
        name = f"image {masks.shown(row.get('id'))} ({row.get('file_name')})"
        try:
            entry = checks.image_row(row, source.folder)
            other = entries.get(entry.image_id)
            if other and other.path != entry.path:  # whose the objects are cannot be told
                shared[other.image_id] = f"image {masks.shown(other.image_id)} ({other.name})"
                raise Fault("another image has this id")
        except Fault as fault:
            found.append(f"{name}: {fault}")
            if isinstance(row.get("id"), int | float | str):
                aliases.setdefault(row["id"], row["id"])
            continue
        if other:
            notes["images listed twice, read once"] += 1
            continue
        kept = ids.setdefault(os.path.normpath(entry.path), entry.image_id)
        aliases[entry.image_id] = kept
        if kept != entry.image_id:
            notes["images listed under two ids, read as one with the objects of both"] += 1
            continue
        entries[kept] = entry
        notes.update(f"images that are {what}" for what in entry.odd)
    for image_id, name in shared.items():
        del entries[image_id]
        found.append(f"{name}: another image has this id")
    return entries, aliases


def _called(number: Any, entry: ImageRow | None) -> str:
    """An annotation in a message; other formats have a file and a line in place of a number."""
    image = f" of image {masks.shown(entry.image_id)} ({entry.name})" if entry else ""
    return f"{number if isinstance(number, str) else f'annotation {masks.shown(number)}'}{image}"


def _no_category(category: int, names: dict[int, str]) -> str:
    counts = {(max(names) + 1, 0): (1, 0), (0, 1): (0, 1)}.get((category, min(names)))
    hint = "; do the ids count from {}, and the names from {}?".format(*counts) if counts else ""
    gaps = len(names) <= max(names) - min(names)
    known = listed(map(str, names)) if gaps else f"{min(names)} to {max(names)}"
    return f"unknown category id {category}; there are names for {known}{hint}"


def _annotated(entry: ImageRow, objects: list[ObjectRow], index: dict[int, int]) -> Annotated:
    return Annotated(
        path=entry.path,
        image_id=entry.image_id,
        size=entry.size,
        boxes=checks.corners([one.box for one in objects], entry.size),
        labels=np.array([index[one.category_id] for one in objects], np.int64),
        crowds=np.array([one.crowd for one in objects], np.bool_),
        areas=np.array([one.area for one in objects], np.float32),
        rles=tuple(one.mask for one in objects),
    )


def first(faults: Iterable[str], count: int = 3) -> str:
    """The first few, and how many more there are."""
    faults = list(faults)
    more = f"; and {len(faults) - count} more" if len(faults) > count else ""
    return "; ".join(faults[:count]) + more


def same_categories(one: Annotations, other: Annotations) -> Iterator[str]:
    """List how the categories of two files differ, a phrase each; nothing where they agree."""
    for mine, theirs, where in ((one, other, "the first"), (other, one, "the second")):
        pairs = set(zip(theirs.category_ids, theirs.classes, strict=True))
        only = [pair for pair in zip(mine.category_ids, mine.classes, strict=True) if pair not in pairs]
        if only:
            yield f"only in {where}: {', '.join(f'{number} {name}' for number, name in only[:5])}"
