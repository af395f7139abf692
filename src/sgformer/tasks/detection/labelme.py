"""LabelMe's JSON files as COCO's rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import labelme
from ..errors import DataError, Fault
from ..folders import find_file, name_images
from ..labelme import Labelled, Shape
from . import masks
from .checks import image_size
from .coco import Content


def read_files(files: Iterable[Path]) -> dict[Path, Labelled | str]:
    """Read the files of LabelMe among some; of one that cannot be read, say what is wrong."""
    found: dict[Path, Labelled | str] = {}
    for file in files:
        try:
            if labelled := labelme.read(file):
                found[file] = labelled
        except DataError as error:
            found[file] = str(error)
    return found


def classes(root: Path, said: Iterable[Labelled | str]) -> tuple[str, ...]:
    """The classes that ``labels.txt`` lists in the root, else all labels."""
    return labelme.classes([one for one in said if isinstance(one, Labelled)], root / labelme.LIST)


def read(
    root: Path,
    files: Sequence[Path],
    said: Mapping[Path, Labelled | str],
    path: Path,
    *,
    images: str | None,
    names: Sequence[str],
    with_masks: bool,
) -> Content:
    """Read the files that ``path`` lists, or that lie in it, from what they say.

    The image is the one that a file names, or the one with the file's name; it lies in ``images`` from the root, or
    None: beside its file.
    """
    own = path if path.is_dir() else root
    folder = root / images if images else own
    stems = name_images(folder)
    category = {name: number for number, name in enumerate(names, 1)}
    once = [file for file in dict.fromkeys(files) if file in said]
    if not once:
        raise DataError(f"no JSON file of {path} is LabelMe's; name others, or another --data.source")
    content = Content.empty(path, folder, enumerate(names, 1))
    content.places, content.used = (folder, *{file.parent for file in once}), (*once, root / labelme.LIST)
    notes, faults = content.notes, content.faults
    notes["lines listed twice, read once"] = len(files) - len({*files})
    for file in once:
        short, labelled = file.relative_to(root), said[file]
        if isinstance(labelled, str):
            faults.append(labelled)
            continue
        with content.reading(short):
            name = labelled.find_image(folder, stems, file.relative_to(own), apart=folder != own)
            there = image_size(find_file(folder, name))
            if there is None and labelled.embedded and not find_file(folder, name).is_file():
                raise Fault(f"{name} is in imageData alone, and not in {folder}; save it there as a file")
            size = labelled.size or there or (1, 1)
            content.add_image(name, size, {**labelled.others, **dict.fromkeys(labelled.flags, True)})
            if size != there:
                continue  # which is said by who checks all
            notes.update(labelled.notes)
            notes[labelme.OTHER_IMAGE] += not labelled.is_of(find_file(folder, name))
            faults += [f"{short}, {fault}" for fault in labelled.faults]
            for parts in _objects(labelled.shapes):
                with content.reading(where := f"{short}, shape {parts[0].number}"):
                    if (label := parts[0].label) in (labelme.IGNORED, labelme.BACKGROUND):
                        notes[f"shapes called {label}, left out"] += len(parts)
                        continue
                    if label not in category:
                        raise Fault(f"unknown class {label!r}")
                    _note_kinds(parts, notes, with_masks=with_masks)
                    said_of = {key: value for part in parts for key, value in part.said.items()}
                    row = {"category_id": category[label], **_place(parts, size), "attributes": said_of}
                    content.add_object(where, row)
    faults += [f"{number} {what}" for what, number in (+notes).items()] * (not names)
    return content


def _note_kinds(parts: Sequence[Shape], notes: Counter[str], *, with_masks: bool) -> None:
    """Count objects of several shapes, and those whose shapes are rectangles."""
    notes["shapes of a label and group_id, which are parts of one object"] += len(parts) * (len(parts) > 1)
    notes["turned rectangles, whose boxes are upright"] += any(part.kind in labelme.TURNED for part in parts)
    notes["rectangles, whose masks are all of them"] += with_masks * all(part.kind == "rectangle" for part in parts)


def _objects(shapes: Iterable[Shape]) -> Iterable[list[Shape]]:
    """The shapes of each object: one, or those of a label that share a group_id."""
    objects: dict[Any, list[Shape]] = {}
    for shape in shapes:
        key = shape.number if shape.group is None else (shape.label, shape.group)
        objects.setdefault(key, []).append(shape)
    return objects.values()


def _place(parts: Sequence[Shape], size: tuple[int, int]) -> dict[str, Any]:
    """The box and the mask of an object in an image of (height, width)."""
    edges = np.stack([part.edges(size) for part in parts])
    low, high = edges[:, 0].min(0), edges[:, 1].max(0)
    segmentation: Any = [part.outline().ravel().tolist() for part in parts if part.mask is None]
    if drawn := [part.pixels(size) for part in parts if part.mask is not None]:
        if segmentation:
            drawn.append(masks.decode(masks.to_rle(segmentation, size)[0]).astype(bool))
        segmentation = masks.encode(np.any(drawn, axis=0), 0, 0, size)
    return {"bbox": [*low.tolist(), *(high - low).tolist()], "segmentation": segmentation}
