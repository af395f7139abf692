"""LabelMe's JSON files beside images, whose shapes are drawn to masks."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .. import labelme
from ..errors import DataError, listed
from ..folders import SUFFIXES, Split, find_files, lies_in
from .layouts import Layout, Sample
from .masks import Coding


@dataclass(frozen=True, kw_only=True)
class Shapes(Layout):
    """Layout of a folder for each split, with images and a file for each that was annotated."""

    def find(
        self, root: Path, split: Split, suffixes: Collection[str] = SUFFIXES
    ) -> tuple[list[Sample], dict[str, str], list[str]]:
        """The samples of a split, files at fault with the reason, and notes."""
        found = labelme.find(root / self.images.format(split=self.splits[split]), split, suffixes)
        notes = list(found.notes)
        if outside := sum(not lies_in(image, root) for image in found.files):
            notes.append(f"{split}: {outside} images lie outside of data.root {root}")
        if flags := {flag for _, said in found.files.values() for flag in said.flags}:
            notes.append(f"{split}: flags of images are not used: {listed(flags)}")
        return [Sample(image, file) for image, (file, _) in found.files.items()], found.faults, notes


def shapes(root: Path) -> Layout:
    """LabelMe's files in ``train`` and ``val``; classes are background, and those of ``labels.txt`` or else all labels.

    DataError where there are no such files, or no shapes in them.
    """
    said, faults = [], []
    for split in ("train", "val"):
        for file in find_files(root / split, ".json"):
            try:
                one = labelme.read(file)
            except DataError:  # told where it is used
                continue
            said += [one] * (one is not None)
            faults += [f": {file}: {fault}" for fault in (one.faults if one else ())]
    names = labelme.classes(said, root / labelme.LIST)
    if not names:
        raise DataError(
            f"{root} has no files of LabelMe in train/ and val/, or no shapes with an area in them"
            + next(iter(faults), "")
        )
    coding = Coding.plain((labelme.BACKGROUND, *names))
    return Shapes(images="{split}", masks="{split}", coding=coding, listed=root / labelme.LIST)
