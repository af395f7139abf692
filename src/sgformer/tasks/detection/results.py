"""Detections with the ids of an annotation file: the list that pycocotools' ``loadRes`` takes."""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError, Fault, listed
from . import checks, coco


class Ids:
    """The ids that an annotation file in COCO's format gives to classes and images; none of these need be at hand.

    DataError where the file is not in the format, or lacks a class or an image.
    """

    def __init__(self, path: Path, classes: Sequence[str], images: Iterable[Path]) -> None:
        content = coco.read(path, path.parent)
        coco.note_ids([content], classes)
        ids = {name: number for number, name in coco.categories(content).items()}
        if unknown := set(classes) - ids.keys():
            raise DataError(f"{path} has no categories called {listed(unknown)}, which the model knows")
        self.categories = {name: ids[name] for name in classes}
        entries: dict[tuple[str, ...], int | str] = {}
        sizes: dict[Any, tuple[int | None, ...]] = {}
        for row in content.rows["images"]:
            try:
                name = unicodedata.normalize("NFC", checks.text(row, "file_name").replace("\\", "/"))
                number = checks.identity(row, "id")
                if entries.setdefault(PurePosixPath(name).parts, number) != number:
                    raise Fault(f"{name} has another id, too; give it one, with the objects of both")
                sides = ("height", "width")
                sizes[number] = tuple(None if row.get(side) is None else checks.whole(row, side) for side in sides)
            except Fault as fault:
                raise DataError(f"{path}: image {row.get('id')}: {fault}") from fault
        images = list(images)
        found = {image: _entry(image, entries) for image in images}
        if missing := [str(image) for image, image_id in found.items() if image_id is None]:
            raise DataError(
                f"{path} lists no image {missing[0]}, nor {len(missing) - 1} others of {len(images)}; leave out "
                "--annotations, or name images that it lists"
            )
        if twice := [image_id for image_id, count in Counter(found.values()).items() if count > 1]:
            names = [str(image) for image, image_id in found.items() if image_id == twice[0]]
            raise DataError(f"{path}: {names[0]} and {names[1]} are both image {twice[0]} by their names")
        for image, image_id in found.items():
            said, size = sizes[image_id], checks.image_size(image)
            if size and None not in said and size != said:
                raise DataError(
                    f"{image} has {size[1]}x{size[0]} pixels, and by {path} {said[1]}x{said[0]}; name the images that "
                    "were annotated"
                )
        self.images = {str(image): image_id for image, image_id in found.items()}
        self.path, self.num_others = path, len({*entries.values()} - {*found.values()})

    def results(self, found: Iterable[tuple[Path, Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """A row for each object in what `Detections.to_dict` gives for each image; without a list of objects, none.

        Images of the file of which nothing was found, as nobody looked, are warned of.
        """
        found = list(found)
        if missing := self.num_others + sum("objects" not in one for _, one in found):
            warnings.warn(
                f"{missing} images of {self.path} are not among these, and count as missed by it", stacklevel=2
            )
        return [
            {
                "image_id": self.images[str(path)],
                **{key: value for key, value in row.items() if key != "label"},
                "category_id": self.categories[row["label"]],
            }
            for path, one in found
            for row in one.get("objects", ())
        ]


def _entry(image: Path, entries: Mapping[tuple[str, ...], int | str]) -> int | str | None:
    """The image whose name is the longest end of a path."""
    parts = Path(unicodedata.normalize("NFC", str(image.absolute()))).parts
    ends = (parts[start:] for start in range(len(parts)))
    return next((entries[end] for end in ends if end in entries), None)
