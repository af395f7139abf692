"""LabelMe's JSON files beside images, whose shapes are drawn to masks."""

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .. import labelme
from ..errors import DataError, listed
from ..folders import SUFFIXES, Split, describe_left_out, lies_in, lies_in_junk, look_through, name_images
from .layouts import Layout, Sample
from .masks import Coding


@dataclass(frozen=True, kw_only=True)
class Shapes(Layout):
    """Layout of a folder for each split, with images and a file for each that was annotated."""

    def find(
        self, root: Path, split: Split, suffixes: Collection[str] = SUFFIXES
    ) -> tuple[list[Sample], dict[str, str], list[str]]:
        """The samples of a split, files at fault with the reason, and notes."""
        folder = root / self.images.format(split=self.splits[split])
        stems = name_images(folder)
        samples: dict[Path, Sample] = {}
        faults: dict[str, str] = {}
        notes, unused = Counter[str](), Counter[str]()
        for file in _files(folder):
            try:
                if (said := labelme.read(file)) is None:
                    notes["JSON files are none of LabelMe's"] += 1
                    continue
                image = Path(os.path.normpath(folder / said.find_image(folder, stems, file.relative_to(folder))))
                if not image.is_file():
                    raise DataError(f"is about {image}, which is {'in imageData alone' * said.embedded or 'missing'}")
                if image in samples:
                    raise DataError(f"is about {image}, as {samples[image].mask} is; keep one of them")
            except DataError as error:
                faults[str(file)] = str(error).removeprefix(str(file)).lstrip(": ")
                continue
            samples[image] = Sample(image, file)
            notes += said.notes
            notes["images lie outside of data.root"] += not lies_in(image, root)
            for entries in (said.others, dict.fromkeys(said.flags, True), *(shape.said for shape in said.shapes)):
                unused.update(key for key, value in entries.items() if value not in (None, "", [], {}))
        images, left_out = look_through(folder, suffixes)
        left_out -= Counter({".json": left_out[".json"]})
        lost = {Path(file).with_suffix("") for file in faults}
        if bare := sum(
            Path(os.path.normpath(path)) not in samples and path.with_suffix("") not in lost for path in images
        ):
            notes["images have no file of LabelMe's, and are not used"] = bare
        told = [f"{split}: {number} {what}" for what, number in (+notes).items()]
        told += [f"left out of {folder}: {describe_left_out(left_out)}"] * bool(left_out)
        told += [f"{split}: {unused.total()} entries of shapes and images are not used: {listed(unused)}"] * bool(
            unused
        )
        return [samples[image] for image in sorted(samples)], faults, told


def shapes(root: Path) -> Layout:
    """LabelMe's files in ``train`` and ``val``; classes are background, and those of ``labels.txt`` or else all labels.

    Raises:
        DataError: There are no such files, or no shapes in them.
    """
    said = []
    for split in ("train", "val"):
        for file in _files(root / split):
            try:
                said.append(labelme.read(file))
            except DataError:  # told where it is used
                continue
    names = labelme.classes(filter(None, said), root / labelme.LIST)
    if not names:
        raise DataError(f"{root} has no files of LabelMe in train/ and val/, or no shapes with an area in them")
    coding = Coding.plain((labelme.BACKGROUND, *names))
    return Shapes(images="{split}", masks="{split}", coding=coding, listed=root / labelme.LIST)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.json") if not lies_in_junk(file, folder))
