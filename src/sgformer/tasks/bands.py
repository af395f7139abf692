"""Images with other bands than RGB, such as satellite images, with measured mean and standard deviation."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .errors import DataError
from .images import ImageError, ImageLike, Preprocessing, check_size

# How TIFF files begin, small and big ones, of either order of bytes; and NPY files.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY = b"\x93NUM"
# Tags of TIFF: which way up, and the value that GDAL writes where there is nothing.
_ORIENTATION, NODATA = 274, 42113
# From which share on places without a value are mentioned.
_NOTED = 0.001
# The same for those with one value in all bands; and from how many deviations on a given mean is mentioned.
_BLANK, _FAR = 0.01, 10


class BandsError(ImageError):
    """An image of other bands, or of other values, than the model takes."""


@dataclass(kw_only=True)
class BandOptions:
    """Options of images with other bands than red, green and blue; what is null is measured on the training images.

    Attributes:
        mean: Of each band, in the units of the files.
        std: The same for the standard deviation.
        values: The type of the values in the files, such as uint16; float for all floating-point numbers.
    """

    mean: list[float] | None = None
    std: list[float] | None = None
    values: str | None = None


@dataclass(frozen=True, kw_only=True)
class Bands(Preprocessing):
    """Preprocessing of images of any number of bands; stored with the weights.

    Mean and deviation are in the units of the files.
    """

    suffixes: ClassVar[frozenset[str]] = frozenset({".tif", ".tiff", ".npy"})
    full: ClassVar[float] = 1.0
    values: str = ""  # the type of those in the files, such as uint16; float for all floating-point numbers; empty: any

    def read(self, image: Any, *, shorter_side: int | None = None) -> Any:
        """An image as a tensor (bands, height, width), with the mean where the file says that there is nothing.

        From the path or the bytes of a TIFF or NPY file, an array (height, width, bands) or (bands, height, width), or
        what this gave before. No such file can be decoded at a fraction of its size, so the shorter side is not used.
        ImageError where it cannot be read, or has other bands or another type of values.
        """
        if isinstance(image, Tensor):
            return image
        with _opened(image, len(self.mean)) as found:
            if self.values not in ("", found.values):
                raise BandsError(
                    found.name,
                    f"holds values of type {found.values}, and the training images {self.values}; convert it likewise",
                )
            pixels = found.read()
        return torch.where(pixels.isnan(), torch.tensor(self.mean)[:, None, None], pixels)

    def show(self, image: Tensor) -> Image.Image:
        """The first three bands as red, green and blue, or the first in gray: two deviations around the mean."""
        mean, std = (image.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        scaled = (image - mean) / (4 * std) + 0.5
        shown = scaled[:3] if len(scaled) >= 3 else scaled[:1].expand(3, -1, -1)
        pixels = (shown.clamp(0, 1) * 255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())

    def size_of(self, path: Path) -> tuple[int, int]:
        """(height, width) of an image, from its header."""
        with _opened(path, len(self.mean)) as found:
            return found.size


def restored(stored: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that a weights file holds."""
    return (Bands if "values" in stored else Preprocessing)(**stored)


def check_augment(in_chans: int, augment: Mapping[str, tuple[Any, Any]]) -> None:
    """Make sure that images of other bands are not varied by what needs red, green and blue; else ValueError.

    ``augment`` has by recipe key the value, and the one that turns it off.
    """
    wrong = {key: off for key, (value, off) in augment.items() if value}
    if in_chans != 3 and wrong:
        remedy = " ".join(f"--{key} {off}" for key, off in wrong.items())
        raise ValueError(
            f"{' and '.join(wrong)} can vary red, green and blue only, and model.in_chans is {in_chans}: set {remedy}"
        )


def measured(
    preprocessing: Bands, options: BandOptions, train: Sequence[Any], others: Sequence[Any] = ()
) -> tuple[Bands, str]:
    """Complete a preprocessing with mean, deviation and type of the training images, and say so in a note.

    An image that cannot be read is passed over: training counts it. ``options`` are what is known from the recipe, of
    which all training images are read unless all is known; what is measured is written into them, so that a resumed run
    knows it. The others have to be of the same kind. DataError where an image has another number of bands, or another
    type of values than most; or there are no values.
    """
    num_bands = len(preprocessing.mean)
    for name, numbers in (("mean", options.mean), ("std", options.std)):
        if numbers is not None and len(numbers) != num_bands:
            raise DataError(f"data.bands.{name} has {len(numbers)} numbers, and model.in_chans is {num_bands}")
    if options.std is not None and min(options.std) <= 0:
        raise DataError(f"data.bands.std {options.std} must be above 0")
    known = None not in (options.mean, options.std, options.values)

    def look(image: Any, *, whole: bool) -> _Looked | BandsError | None:
        try:
            with _opened(image, num_bands) as found:
                return _look(found, whole=whole)
        except BandsError as error:
            return error
        except ImageError:
            return None

    with ThreadPoolExecutor() as pool:
        looked = [*pool.map(lambda image: look(image, whole=not known), train)]
        looked += pool.map(lambda image: look(image, whole=False), others)
    if wrong := [each for each in looked if isinstance(each, BandsError)]:
        raise DataError(f"{wrong[0]}{_more(len(wrong))}")
    found = [each for each in looked if isinstance(each, _Looked)]
    types = Counter(each.values for each in found).most_common(1)
    if not types:
        raise DataError(f"none of {len(looked)} images can be read, such as {looked and train[0]}")
    options.values = options.values or types[0][0]
    if odd := [each.name for each in found if each.values != options.values]:
        values = next(each.values for each in found if each.name == odd[0])
        raise DataError(
            f"{odd[0]}: holds values of type {values}, and others {options.values}{_more(len(odd))}; convert all to one"
        )
    note = f"{num_bands} bands of {options.values}"
    if not known:
        note += _measure(options, [each for each in found if each.moments is not None])
    return replace(preprocessing, mean=options.mean, std=options.std, values=options.values), note


def _more(number: int) -> str:
    return f" ({number - 1} more like it)" if number > 1 else ""


class _Looked(NamedTuple):
    """Facts of an image."""

    name: str
    values: str  # their type
    places: int  # pixels
    moments: NDArray[np.float64] | None  # numbers of values, their sums, and those of squares, (3, bands), if counted
    least: tuple[float, int] = (0.0, 0)  # the least value, and how many pixels have it in each of several bands


def _look(found: "_File", *, whole: bool) -> _Looked:
    places = found.size[0] * found.size[1]
    if not whole:
        return _Looked(found.name, found.values, places, None)
    pixels = found.read().double()
    there = ~pixels.isnan()
    low = pixels.where(there, torch.inf).min()
    shared = int((pixels == low).all(0).sum()) * (len(pixels) > 1)
    pixels = pixels.nan_to_num()
    moments = torch.stack([each.double().sum((1, 2)) for each in (there, pixels, pixels.square())]).numpy()
    return _Looked(found.name, found.values, places, moments, (low.item(), shared))


def _measure(options: BandOptions, images: Sequence[_Looked]) -> str:
    """Complete the options, and say what of."""
    count, sums, squares = np.sum([each.moments for each in images if each.moments is not None], 0)
    if not count.all():
        raise DataError(f"band {int(np.argmin(count)) + 1} has no value in any training image; leave it out")
    mean = sums / count
    variance = np.maximum(squares / count - mean**2, 0)
    constant = variance <= 1e-12 * mean**2
    std = np.where(constant, 1, np.sqrt(variance))
    rounded = [[float(f"{number:.8g}") for number in numbers] for numbers in (mean, std)]
    given = {"mean": options.mean, "deviation": options.std}
    options.mean, options.std = options.mean or rounded[0], options.std or rounded[1]
    note = ""
    if own := " and ".join(name for name, numbers in given.items() if numbers is None):
        note = f", {own} of {len(images)} training images"
    shift = np.abs(options.mean - mean) / std
    if max(shift.max(), (options.std / std).max(), (std / options.std).max()) > _FAR:
        note += f", and data.bands far from the training images, whose mean is {rounded[0]} and deviation {rounded[1]}"
    lows = Counter[float]()
    for each in images:
        lows[each.least[0]] += each.least[1]
    (low, shared), *_ = lows.most_common(1)
    if (share := shared / sum(each.places for each in images)) >= _BLANK:
        remedy = "write NaN there" if options.values == "float" else "say so by GDAL's tag nodata"
        note += f", {share:.1%} of them {low:g} in all bands, as where there is nothing; if so, {remedy}"
    if (nothing := 1 - count.mean() / sum(each.places for each in images)) >= _NOTED:
        note += f", {nothing:.1%} of them without values"
    same = ", ".join(str(place + 1) for place in np.flatnonzero(constant))
    return note + (f", band {same} the same everywhere" if same else "")


@dataclass(frozen=True)
class _File:
    """An image whose header fits."""

    name: str
    size: tuple[int, int]  # (height, width)
    values: str  # their type, see `Bands`
    read: Callable[[], Tensor]  # gives (bands, height, width) in float32, NaN where there is nothing


@contextmanager
def _opened(image: ImageLike, num_bands: int) -> Iterator[_File]:
    """An image of so many bands, while its file is open; ImageError where it cannot be read or has others."""
    if isinstance(image, Image.Image | np.ndarray):
        yield _in_array(np.asarray(image), num_bands, "array")
        return
    name = "bytes" if isinstance(image, bytes) else str(Path(image))
    try:
        with io.BytesIO(image) if isinstance(image, bytes) else Path(image).open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == _NPY:
                yield _in_array(np.load(file, allow_pickle=False), num_bands, name)
            elif start in _TIFF:
                import tifffile

                with tifffile.TiffFile(file) as tiff:
                    yield _in_tiff(tiff, num_bands, name)
            else:
                raise ImageError(name, f"is no TIFF or NPY file; images of {num_bands} bands are read from these")
    except ImageError:
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if "imagecodecs" in reason or isinstance(error, ImportError):  # what decompresses
            raise ImportError(f"{name} needs {reason}: pip install 'sgformer[bands]'") from error
        raise ImageError(name, f"cannot be read ({reason}); copy or download it again, or remove it") from error


def _in_array(array: NDArray[Any], num_bands: int, name: str) -> _File:
    array = array[..., None] if array.ndim == 2 else array
    place = 0 if array.ndim == 3 and array.shape[2] != num_bands == array.shape[0] else -1
    if array.ndim != 3 or array.shape[place] != num_bands or 0 in array.shape:
        raise BandsError(
            name, f"has the shape {array.shape}, and {num_bands} bands are expected (model.in_chans), as the last"
        )
    moved = np.moveaxis(array, place, 0)
    size = int(moved.shape[1]), int(moved.shape[2])
    return _File(name, size, _type(array.dtype, name), lambda: _to_tensor(moved, name))


def _in_tiff(tiff: Any, num_bands: int, name: str) -> _File:
    first, *others = tiff.series
    page, axes, shape = first.keyframe, first.axes, tuple(first.shape)
    if len(axes) == 2:
        axes, shape = f"{axes}S", (*shape, 1)
    if len(axes) != 3 or any(not (other.keyframe.is_mask or other.keyframe.is_reduced) for other in others):
        raise BandsError(name, f"has several images in it ({len(tiff.pages)} pages); save the one that is meant")
    place = axes.find("S")
    if place < 0:  # a band a page; or an array whose last axis was meant, written without saying so
        place = 2 if shape[2] == num_bands != shape[0] else 0
    if shape[place] != num_bands:
        raise BandsError(
            name, f"has {shape[place]} bands, and {num_bands} are expected (model.in_chans); save it with these"
        )
    if (turned := page.tags.get(_ORIENTATION)) is not None and turned.value > 1:
        raise BandsError(name, "is turned by its tag Orientation; save it upright")
    height, width = (side for i, side in enumerate(shape) if i != place)
    check_size((width, height), name)
    nothing = page.tags.get(NODATA)
    masks = [other for other in others if other.keyframe.is_mask]

    def read() -> Tensor:
        pixels = _to_tensor(np.moveaxis(first.asarray().reshape(shape), place, 0), name)
        if nothing is not None:
            pixels[pixels == np.float32(str(nothing.value).replace(",", "."))] = torch.nan
        for mask in masks:
            pixels[:, torch.from_numpy(mask.asarray() == 0)] = torch.nan
        return pixels

    return _File(name, (height, width), _type(first.dtype, name), read)


def _type(dtype: np.dtype, name: str) -> str:
    if dtype.kind not in "iuf":
        raise BandsError(name, f"holds values of type {dtype}; save whole or floating-point numbers")
    return "float" if dtype.kind == "f" else dtype.name


def _to_tensor(array: NDArray[Any], name: str) -> Tensor:
    pixels = torch.from_numpy(np.array(array, np.float32, order="C"))
    if pixels.isinf().any():
        raise ImageError(name, "holds infinite values; save it without")
    return pixels
