"""Masks: class maps in files, as ids or as colours, read to indices of classes."""

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..images import PictureError, any_size, check_size
from ..loading import DataError, listed
from ..text import read_lines, read_text

# A class map is uint8: indices from 0, and this where nobody said what is there.
IGNORE = 255
MAX_CLASSES = 255
_UNKNOWN = -1

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Coding:
    """What the values in a mask's file mean.

    Attributes:
        classes: Names in the order of the indices.
        ids: Which index each id in the file stands for; `IGNORE` for those that are ignored. Not used with colours.
        colours: The same for colours, where masks are pictures in colour; None: masks hold ids.
        palette: A colour for each class, to draw with; empty: made up.
    """

    classes: tuple[str, ...]
    ids: Mapping[int, int] = field(default_factory=dict)
    colours: Mapping[Colour, int] | None = None
    palette: tuple[Colour, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise DataError(
                f"{len(self.classes)} classes: there must be 1 to {MAX_CLASSES}, as {IGNORE} stands for ignored"
            )
        if twice := {name for name in self.classes if self.classes.count(name) > 1}:
            raise DataError(f"classes must have different names; these are there twice: {listed(twice)}")

    @classmethod
    def plain(cls, classes: Sequence[str]) -> "Coding":
        """Ids are indices, and 255 is ignored."""
        return cls(classes=tuple(classes), ids={**{i: i for i in range(len(classes))}, IGNORE: IGNORE})

    def reordered(self, classes: Sequence[str]) -> "Coding":
        """The same files, for a model that knows these classes in this order.

        Raises:
            DataError: The model does not know one of them.
        """
        if unknown := set(self.classes) - set(classes):
            raise DataError(
                f"the model does not know {listed(unknown)}; it knows {listed(classes)}. "
                "Name data with the model's own classes"
            )
        new = {old: tuple(classes).index(name) for old, name in enumerate(self.classes)} | {IGNORE: IGNORE}
        return Coding(
            classes=tuple(classes),
            ids={id_: new[index] for id_, index in self.ids.items()},
            colours=None if self.colours is None else {c: new[index] for c, index in self.colours.items()},
        )

    def read(self, path: Path) -> NDArray[np.uint8]:
        """A mask from its file: indices of classes `(H, W)`, `IGNORE` where there is none.

        Raises:
            DataError: The file cannot be read, or holds an id or a colour that means nothing.
        """
        with _opened(path) as image:
            if self.colours is not None:
                return self._from_colours(np.asarray(image.convert("RGB")), path)
            mode, ids = image.mode, np.asarray(image)
        if mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
            raise DataError(
                f"{path} is a picture in colour ({mode}), not a map of ids; say what its colours mean: "
                "--data.mapping FILE"
            )
        return self._from_ids(ids.astype(np.int32), path)

    def _from_ids(self, ids: NDArray[np.int32], path: Path) -> NDArray[np.uint8]:
        table = np.full(max(max(self.ids), int(ids.max(initial=0))) + 1, _UNKNOWN, np.int16)
        table[list(self.ids)] = list(self.ids.values())
        indices = table[np.maximum(ids, 0)]
        wrong = (indices == _UNKNOWN) | (ids < 0)
        if wrong.any():
            found = [str(value) for value in np.unique(ids[wrong])[:5]]
            known = sorted(id_ for id_ in self.ids if id_ != IGNORE)
            raise DataError(
                f"{path} holds the ids {', '.join(found)}, which are no classes; the {len(self.classes)} classes have "
                f"{known[0]} to {known[-1]}, and {IGNORE} is ignored"
            )
        return indices.astype(np.uint8)

    def _from_colours(self, pixels: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        assert self.colours is not None
        codes = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        found, places = np.unique(codes, return_inverse=True)
        known = {(r << 16) + (g << 8) + b: index for (r, g, b), index in self.colours.items()}
        wrong = [int(code) for code in found if int(code) not in known]
        if wrong:
            names = ", ".join(str([code >> 16, code >> 8 & 255, code & 255]) for code in wrong[:5])
            raise DataError(
                f"{path} holds the colours {names}, which --data.mapping does not name; "
                "they belong there, under a class or under ignore"
            )
        table = np.array([known[int(code)] for code in found], np.uint8)
        return table[places.reshape(codes.shape)]


def read_mapping(path: str | Path) -> Coding:
    """What ids or colours mean, from a YAML or JSON file.

    The file has ``classes``, a mapping of names to an id, a list of ids, a colour ``[red, green, blue]``, or a list of
    colours; and, where something is to be ignored, ``ignore``, a list of ids or of colours.

    Raises:
        DataError: There is no such file, or it is not like that.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; --data.mapping names a YAML file with `classes:`")
    try:
        content = yaml.safe_load(read_text(path))  # JSON is YAML
        classes: dict[str, Any] = {str(name): value for name, value in content["classes"].items()}
        ignored = content.get("ignore") or []
        values = {name: value if isinstance(value, list) else [value] for name, value in classes.items()}
        coloured = {_is_coloured(value) for value in [*values.values(), *([ignored] if ignored else [])]}
        if coloured == {False}:
            ids = {int(id_): i for i, group in enumerate(values.values()) for id_ in group}
            ids |= {int(id_): IGNORE for id_ in ignored}
            return Coding(classes=tuple(values), ids={IGNORE: IGNORE, **ids})
        if coloured == {True}:
            groups = [_colours(value) for value in values.values()]
            colours = {colour: i for i, group in enumerate(groups) for colour in group}
            colours |= dict.fromkeys(_colours(ignored), IGNORE)
            return Coding(classes=tuple(values), colours=colours, palette=tuple(group[0] for group in groups))
    except DataError:
        raise
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is no mapping: expected `classes:` with `name: id` or `name: [red, green, blue]`, and `ignore:` "
            f"with a list ({' '.join(str(error).split())})"
        ) from error
    raise DataError(f"{path} mixes ids and colours; masks hold either numbers or colours, so name one kind")


def _is_coloured(value: list[Any]) -> bool:
    """Whether a list is a colour or a list of colours; three plain numbers are a colour."""
    return bool(value) and (isinstance(value[0], list) or len(value) == 3)


def _colours(value: list[Any]) -> list[Colour]:
    colours = value if value and isinstance(value[0], list) else [value] if value else []
    for colour in colours:
        if len(colour) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
            raise ValueError(f"{colour} is no colour")
    return [(colour[0], colour[1], colour[2]) for colour in colours]


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names from a text file: a name a line, or ``id name (remark)`` in the order of the ids.

    A line for the id 255 may be there, and is passed over.

    Raises:
        DataError: There is no such file, or its ids are not 0, 1, 2 and so on.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; it must have the name of each class on a line, in order")
    lines = read_lines(path)
    numbered = [line.split(maxsplit=1) for line in lines]
    if not all(len(words) == 2 and words[0].isdigit() for words in numbered):
        return tuple(lines)
    rows = [(int(number), name.split(" (")[0]) for number, name in numbered if int(number) != IGNORE]
    if [number for number, _ in rows] != list(range(len(rows))):
        raise DataError(f"the ids in {path} must be 0, 1, 2 and so on, in this order")
    return tuple(name for _, name in rows)


def colours_for(num_classes: int) -> tuple[Colour, ...]:
    """A colour for each class: hues far apart, in three levels of lightness."""
    golden = 0.618034
    return tuple(
        tuple(  # pyright: ignore[reportReturnType]
            round(255 * value)
            for value in colorsys.hls_to_rgb(
                golden * i % 1, (0.5, 0.68, 0.36)[i % 3], (0.85, 0.6, 0.7)[i % 3]
            )
        )
        for i in range(num_classes)
    )


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of a picture the right way up, from its header where that says it.

    Raises:
        DataError: It is no picture.
    """
    with _opened(path) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return image.size if turned else (image.height, image.width)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with any_size():
            image = Image.open(path)
        with image:
            check_size(image, str(path))
            yield image
    except PictureError as error:
        raise DataError(str(error)) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no picture; copy or download it again, or remove it") from error
    except (OSError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason}); copy or download it again") from error
