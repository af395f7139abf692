"""Where pictures and annotations lie, in COCO's format, YOLO's or Pascal VOC's; all are looked through alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..loading import DataError
from . import coco, voc, yolo

Format = Literal["coco", "yolo", "voc"]
Split = Literal["train", "val"]

# The folder of the pictures and the annotations, where a recipe names none.
DEFAULTS = {
    "coco": ("images", "annotations/instances_{split}.json"),
    "yolo": (None, "data.yaml"),
    "voc": ("JPEGImages", "ImageSets/Main/{split}.txt"),
}


@dataclass(kw_only=True)
class SplitOptions:
    """Where the pictures of a split are, and what is in them.

    Attributes:
        images: The folder of the pictures, from data.root; null: images; for yolo that of data.yaml, or images/train
            and images/val; for voc JPEGImages.
        annotations: From data.root; null: annotations/instances_train.json and instances_val.json. For yolo the file
            with the names of the classes; null: data.yaml. For voc a list of pictures, or a folder of XML files; null:
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
    invalid: Literal["error", "drop"] = "error",
    classes: Sequence[str] | None = None,
) -> dict[Split, coco.Annotations]:
    """Read the annotations of some splits and look through them.

    Args:
        root: The folder of the data.
        splits: Which, and where they are.
        source: The format.
        masks: Whether each object must have a mask.
        invalid: Whether a fault is an error, or what has it is left out.
        classes: The names that a model knows. Only VOC's format asks for them, which has no list of its own; None:
            all that occur in these splits.

    Raises:
        DataError: Files or annotations are not as they must be.
    """
    named = {split: where.annotations or file(source, split) for split, where in splits.items()}
    xml = {split: voc.find(root, name) for split, name in named.items()} if source == "voc" else {}
    names = classes or voc.classes([path for paths in xml.values() for path in paths])
    found = {}
    for split, where in splits.items():
        images = where.images or DEFAULTS[source][0]
        path = root / named[split]
        if source == "coco":
            found[split] = coco.read(path, root / str(images), masks=masks, invalid=invalid)
            continue
        if source == "yolo":
            content = yolo.read(root, split, images=images, names=named[split])
        else:
            content = voc.read(root, xml[split], images=str(images), names=names)
        found[split] = coco.check(content, path, masks=masks, invalid=invalid)
    return found


def file(source: Format, split: Split) -> str:
    """The annotations of a split where a recipe names none, from the root."""
    return str(DEFAULTS[source][1]).format(split=split)


def root_of(root: str | None) -> Path:
    """The folder of the data, which must be named and there."""
    if root is None:
        raise DataError(
            "which pictures? Name their folder: --data.root FOLDER, with images/ and "
            "annotations/instances_train.json and instances_val.json, or name others: --data.train.images and so on; "
            "--data.source yolo and voc read other formats"
        )
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataError(
            f"there is no folder {path}; set --data.root to the one with the pictures and annotations"
        )
    return path
