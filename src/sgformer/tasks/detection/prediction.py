"""Detections in one image: as numbers, as JSON, as a line, and drawn."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...fonts import written
from ..images import ImageLike, read_image
from ..prediction import Prediction
from .draw import draw
from .masks import area, encode_found, paste


@dataclass(frozen=True, eq=False)
class Detections(Prediction):
    """Objects found in an image, n of them, the surest first.

    Attributes:
        size: (height, width) of the image.
        boxes: float32 (n, 4): left, top, right, bottom in pixels of the image.
        labels: Class names, n of them.
        scores: float32 (n,), 0 to 1.
        category_ids: What the training annotations call the classes, n of them.
        mask_shapes: float32 (n, 28, 28): how surely each part of a box is the object; None where the model has none.
        limit: How many objects the model finds at most, where it has found as many; else None.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    category_ids: tuple[int, ...]
    mask_shapes: NDArray[np.float32] | None = None
    limit: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def masks(self) -> NDArray[np.bool_] | None:
        """The pixels of each object: bool (n, height, width); None where the model has no masks."""
        if self.mask_shapes is None:
            return None
        pixels = np.zeros((len(self), *self.size), np.bool_)
        for place, mask in enumerate(pixels):
            part, top, left = paste(self.mask_shapes[place], self.boxes[place], self.size)
            mask[top : top + part.shape[0], left : left + part.shape[1]] = part >= 0.5
        return pixels

    def summary(self) -> str:
        """A line such as ``3 nucleus, 1 cell``, the most frequent class first; ``nothing`` where there is none."""
        counts = Counter(self.labels).most_common()
        limit = "" if self.limit is None else f" (no more than {self.limit} are found: heads.max_detections)"
        return (", ".join(f"{count} {label}" for label, count in counts) or "nothing") + limit

    def lines(self) -> list[tuple[str, float]]:
        """Classes of the objects and how sure each is."""
        return list(zip(self.labels, self.scores.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """For JSON, objects as in COCO's results: ``bbox`` is left, top, width, height; masks are compressed RLE."""
        rows = []
        rles = None if self.mask_shapes is None else encode_found(self.mask_shapes, self.boxes, self.size)
        for place, (box, label, score) in enumerate(
            zip(self.boxes.tolist(), self.labels, self.scores.tolist(), strict=True)
        ):
            left, top, right, bottom = box
            row = {
                "label": label,
                "category_id": self.category_ids[place],
                "score": round(score, 6),
                "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
            }
            if rles is not None:
                row["segmentation"] = rles[place] | {"counts": rles[place]["counts"].decode()}
            rows.append(row)
        limit = {} if self.limit is None else {"max_detections": self.limit}
        return {"height": self.size[0], "width": self.size[1], **limit, "objects": rows}

    def draw(self, image: ImageLike, *, masks: bool = True) -> Image.Image:
        """The image, or a map of its size, with boxes, masks, names and scores in it; a small one is enlarged first.

        Raises:
            ValueError: It is of another size than the image that was looked at.
        """
        image = read_image(image)
        if (image.height, image.width) != self.size:
            raise ValueError(
                f"the image has {image.height}x{image.width} pixels, the one that was looked at had "
                f"{self.size[0]}x{self.size[1]}; give the same"
            )
        names = [written(label, id_) for label, id_ in zip(self.labels, self.category_ids, strict=True)]
        captions = [f"{name} {score:.0%}" for name, score in zip(names, self.scores, strict=True)]

        shapes = self.mask_shapes

        def pasted(place: int, size: tuple[int, int], scale: float) -> tuple[NDArray[np.float32], int, int]:
            assert shapes is not None
            return paste(shapes[place], self.boxes[place] * scale, size)

        # Where all are of one class, colours tell the objects apart.
        kinds = self.category_ids if len(set(self.category_ids)) > 1 else range(len(self))
        drawn = pasted if masks and shapes is not None else None
        return draw(image, self.boxes, captions, kinds=kinds, masks=drawn)

    def paint(self, image: ImageLike) -> Image.Image:
        """Draw as `draw` does, which needs no legend."""
        return self.draw(image)

    def outline(self, image: ImageLike) -> Image.Image:
        """Draw boxes, names and scores alone."""
        return self.draw(image, masks=False)


def to_coco(
    found: Sequence[Mapping[str, Any]], *, classes: Sequence[str], category_ids: Sequence[int]
) -> dict[str, Any]:
    """Convert detections of many images to COCO's format: its tools read it as annotations, and its list as results.

    ``found`` has for each image its name (``image``) and what `Detections.to_dict` gives; one without a list of
    objects, such as one that could not be read, is left out.
    """
    images, annotations = [], []
    for one in found:
        if "objects" not in one:
            continue
        images.append(
            {"id": len(images) + 1, "file_name": one["image"], "height": one["height"], "width": one["width"]}
        )
        for row in one["objects"]:
            left = {key: value for key, value in row.items() if key != "label"}
            pixels = area(row["segmentation"]) if "segmentation" in row else row["bbox"][2] * row["bbox"][3]
            numbers = {"id": len(annotations) + 1, "image_id": len(images), "iscrowd": 0, "area": pixels}
            annotations.append(numbers | left)
    categories = [{"id": id_, "name": name} for id_, name in zip(category_ids, classes, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}
