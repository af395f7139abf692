"""Masks: class maps in files, as ids or as colours, read to indices of classes."""

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .. import labelme
from ..bands import NODATA
from ..errors import DataError, listed
from ..images import TURNED, ImageError, any_size, check_size, is_signed, num_bits, num_pages, oddities, upright_size

# A class map is uint8: indices from 0, and this where nobody said what is there.
IGNORE = 255
MAX_CLASSES = 255
# Lossless WebP can be told apart; JPEG 2000 does not say in its header whether it kept all.
_LOSSY = ("JPEG", "MPO", "AVIF", "JPEG2000", "WEBP")

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Coding:
    """Coding of classes by the values in a mask's file."""

    classes: tuple[str, ...]  # names in the order of the indices
    # The index that each id in the file stands for; `IGNORE` for those that are ignored. Not used with colours.
    ids: Mapping[int, int] = field(default_factory=dict)
    colours: Mapping[Colour, int] | None = None  # the same for colours, of images in colour; None: masks hold ids
    palette: tuple[Colour, ...] = ()  # a colour for each class, to draw with; empty: made up
    by_custom: bool = False  # whether 255 is ignored by custom only, and nobody said so

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise DataError(
                f"{len(self.classes)} classes: there must be 1 to {MAX_CLASSES}, as {IGNORE} stands for ignored"
            )
        if twice := {name for name in self.classes if self.classes.count(name) > 1}:
            raise DataError(f"classes must have different names; these are there twice: {listed(twice)}")

    @classmethod
    def plain(cls, classes: Sequence[str], *, by_custom: bool = False) -> "Coding":
        """Ids are indices, and 255 is ignored."""
        ids = {**{i: i for i in range(len(classes))}, IGNORE: IGNORE}
        return cls(classes=tuple(classes), ids=ids, by_custom=by_custom)

    def reordered(self, classes: Sequence[str]) -> "Coding":
        """Reorder the coding for a model that knows these classes in this order; one that it lacks is a DataError."""
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
            by_custom=self.by_custom,
        )

    def read(self, path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """A mask from its file: indices of classes `(H, W)`, `IGNORE` where there is none.

        LabelMe's shapes are drawn one upon the other, in an image of the size that their file says, else of ``size``.
        An image is turned as its own EXIF data say. Values are ids, of any number of bits, also as floating-point
        numbers, and in images whose channels are all the same; with ``colours``, they are colours. DataError where the
        file cannot be read, or holds an id or a colour that means nothing.
        """
        if path.suffix.lower() == ".json":
            return self._from_shapes(path, size)
        with _opened(path) as image:
            if kind := _lossy(path, image):
                raise DataError(f"{path} is a {kind}, of a kind that keeps no exact values; save masks as PNG")
            if (number := num_pages(image)) > 1:
                raise DataError(f"{path} has {number} pages; save the one that is the mask by itself")
            if (white := _white(image)) != 255:
                raise DataError(f"{path} has {white} as white, and values are not read as shares of it; save it as PNG")
            bits = num_bits(image)
            if bits > 8 and len(image.getbands()) > 1:
                raise DataError(f"{path} has channels of {bits} bits, which are not read; save it with 8, or in gray")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            if self.colours is not None:
                if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;"):
                    raise DataError(
                        f"{path} holds ids, not colours; write ids into --data.mapping, three of a class as "
                        "[1, 2, 3, 3], or names alone into --data.classes, in the order of ids"
                    )
                pixels = np.asarray(image.convert("RGBA"))
                if pixels[pixels[..., 3] < 255, :3].any():
                    raise DataError(
                        f"{path} is transparent in part, over other colours than black; save it without transparency"
                    )
                return self._from_colours(pixels[..., :3], path)
            if image.mode == "P":
                return self._from_palette(image, path)
            values = np.asarray(image).view(np.int8) if is_signed(image) else np.asarray(image)
            return self._from_ids(_values(values, bits, path), path)

    def _from_shapes(self, path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
        said = labelme.read(path)
        if said is None or said.faults:
            raise DataError(f"{path} is not right: {said.faults[0] if said else 'it is none of LabelMe'}")
        if size and said.size and sorted(size) != sorted(said.size):
            raise DataError(
                f"{path} is about {said.size[1]}x{said.size[0]} pixels, and its image has {size[1]}x{size[0]}"
            )
        indices = {name: index for index, name in enumerate(self.classes)} | {labelme.IGNORED: IGNORE}
        size = said.size or size or (1, 1)
        canvas = Image.new("L", (size[1], size[0]), indices[labelme.BACKGROUND])
        for shape in said.shapes:
            if shape.label not in indices:
                raise DataError(f"{path} is not right: shape {shape.number} is a {shape.label!r}, which is no class")
            if shape.is_outside(size):
                raise DataError(
                    f"{path} is not right: shape {shape.number} lies outside the image, {size[1]}x{size[0]}"
                )
            shape.draw(canvas, indices[shape.label])
        return np.array(canvas)

    def _known(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        return np.isin(ids, list(self.ids))

    def _from_palette(self, image: Image.Image, path: Path) -> NDArray[np.uint8]:
        """The numbers of the colours, unless the colours are grays that are ids: what quantizing makes of a mask."""
        places = np.asarray(image)
        used = np.unique(places)
        colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        if used[-1] < len(colours) and (colours == colours[:, :1]).all():
            grays = colours[used, 0]
            classes = [self.ids[id_] != IGNORE for id_ in grays[grays > 0].tolist() if id_ in self.ids]
            if self._known(grays).all() and any(classes):
                return self._from_ids(colours[places][..., 0], path)
        return self._from_ids(places, path)

    def _from_ids(self, ids: NDArray[Any], path: Path) -> NDArray[np.uint8]:
        if ids.dtype == np.uint8:
            found, places = np.flatnonzero(np.bincount(ids.ravel())), ids
        else:
            found, places = np.unique(ids, return_inverse=True)
        if (wrong := found[~self._known(found)]).size:
            classes = sorted(id_ for id_, index in self.ids.items() if index != IGNORE)
            hint, ignored = "", f", and {IGNORE} is ignored" * (IGNORE in self.ids)
            if classes == list(range(len(classes))) and int(wrong.max()) == len(classes):
                hint = "; ids begin at 0: is a class such as background missing?"
            raise DataError(
                f"{path} holds the ids {', '.join(map(str, wrong[:5]))}, which are no classes; the "
                f"{len(self.classes)} classes have {classes[0]} to {classes[-1]}{ignored}{hint}"
            )
        indices = np.array([self.ids[id_] for id_ in found.tolist()], np.uint8)
        if places is not ids:
            return indices[places.reshape(ids.shape)]
        table = np.zeros(256, np.uint8)
        table[found] = indices
        return table[ids]

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


def _lossy(path: Path, image: Image.Image) -> str:
    """Name the way in which a file was compressed that loses values, or may; empty: they are exact."""
    if image.format == "TIFF" and (compression := image.info.get("compression")) in ("jpeg", "tiff_jpeg", "webp"):
        return f"TIFF compressed as {compression}"
    exact = image.format not in _LOSSY or (image.format == "WEBP" and _codec(path.read_bytes()) == b"VP8L")
    return "" if exact else str(image.format)


def _codec(content: bytes) -> bytes:
    """The name of the chunk of a WebP file that holds the values: ``VP8 `` with losses, ``VP8L`` without."""
    place = 12
    while place < len(content) and content[place : place + 4] not in (b"VP8 ", b"VP8L"):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return content[place : place + 4]


def _white(image: Image.Image) -> int:
    """The value of white in a file of PPM's kind, whose values Pillow spreads over 0 to 255 or 65535; else 255."""
    tiles = getattr(image, "tile", [])
    if image.format != "PPM" or not tiles or not str(tiles[0][0]).startswith("ppm"):
        return 255
    white = tiles[0][3][-1] if isinstance(tiles[0][3], tuple) else 255
    return 255 if white == 65535 and image.mode == "I" else int(white)


def _values(values: NDArray[Any], bits: int, path: Path) -> NDArray[Any]:
    """Ids (H, W) from the values of an image in gray, or of one whose channels are all the same."""
    if values.ndim == 3:
        channels, alpha = values.shape[2], values[..., -1]
        if channels in (2, 4):
            if (alpha != 255).any():
                raise DataError(
                    f"{path} is transparent in part, or has a band for each class; save it in gray, a value for each"
                )
            values = values[..., :-1]
        if (values != values[..., :1]).any():
            raise DataError(
                f"{path} is an image in colour, not a map of ids; say what its colours mean: --data.mapping FILE"
            )
        values = values[..., 0]
    if values.dtype == bool:
        return values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating):
        if not (np.isfinite(values) & (values == np.floor(values))).all():
            raise DataError(f"{path} holds values that are no whole numbers; save it as PNG, a value for each class")
        return values.astype(np.int64)
    return values // (255 // (2**bits - 1)) if bits in (2, 4) else values


def palette_of(path: Path, number: int) -> tuple[Colour, ...]:
    """The first colours of a mask in colours by number; none of another mask."""
    with _opened(path) as image:
        values = (image.getpalette("RGB") or [])[: 3 * number] if image.mode == "P" else []
    return tuple(zip(values[::3], values[1::3], values[2::3], strict=True))


def nodata_of(path: Path) -> float | None:
    """The id of which a TIFF says, by GDAL's tag, that it is no value."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    with _opened(path) as image, suppress(ValueError):
        return float(str(getattr(image, "tag_v2", {}).get(NODATA)))


def is_turned(path: Path) -> bool:
    """Whether EXIF data of a mask turn or mirror it within its size."""
    if path.suffix.lower() == ".json":
        return False
    with _opened(path) as image:
        return TURNED in oddities(image)


def turned_like(image: Path, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask of an image's raw pixels, turned and mirrored as the EXIF data of the image say."""
    with _opened(image) as opened:
        orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    turned = Image.fromarray(mask)
    turned.getexif()[ExifTags.Base.Orientation] = orientation
    return np.array(ImageOps.exif_transpose(turned))


def colours_for(num_classes: int) -> tuple[Colour, ...]:
    """A colour for each class: hues far apart, in three levels of lightness."""
    golden = 0.618034
    return tuple(
        tuple(  # pyright: ignore[reportReturnType]
            round(255 * value)
            for value in colorsys.hls_to_rgb(golden * i % 1, (0.5, 0.68, 0.36)[i % 3], (0.85, 0.6, 0.7)[i % 3])
        )
        for i in range(num_classes)
    )


def header_of(path: Path) -> tuple[tuple[int, int], list[str]]:
    """(height, width) of an image the right way up, and what of it is not read as it stands; DataError: none."""
    with _opened(path) as image:
        odd = oddities(image)  # before EXIF data of PNG are looked for, which decodes it
        return upright_size(image), odd


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with any_size():
            image = Image.open(path)
        with image:
            check_size(image.size, str(path))
            yield image
    except DataError:
        raise
    except ImageError as error:
        raise DataError(str(error)) from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} is no image, or of a kind that Pillow cannot read, as TIFF of 64 bits or in planes; save it as PNG"
        ) from error
    except Exception as error:  # a broken file can raise anything
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason}); copy or download it again") from error
