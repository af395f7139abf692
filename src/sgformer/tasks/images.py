"""Reading images as upright 8-bit RGB, with errors that say what is wrong."""

import contextlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import CenterCrop, FiveCrop, InterpolationMode
from torchvision.transforms.functional import hflip, to_pil_image
from torchvision.transforms.v2 import functional

from .folders import LARGEST, SUFFIXES

MAX_PIXELS = 200_000_000
MAX_PIXELS_SETTING = "SGFORMER_MAX_PIXELS"

# What errors call images that are no files.
NAMELESS = frozenset({"image", "array", "bytes"})

ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray

# Pillow's own limit is a global, and lower than ours; it is lifted while a header is read.
_pillow_limit = threading.Lock()


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number or both."""
    return (size, size) if isinstance(size, int) else size


class ImageError(ValueError):
    """An image that cannot be read: ``path`` says which, ``reason`` what is wrong with it, and what to do."""

    def __init__(self, path: str, reason: str = "") -> None:
        # Both arguments go to args: the exception must survive pickling, from a data worker to us.
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.reason else self.path


def read_image(image: ImageLike, *, shorter_side: int | None = None, max_pixels: int | None = None) -> Image.Image:
    """Any image as 8-bit RGB.

    The orientation in EXIF is applied; transparency is laid over white; 16 bits become 8; of an animation the
    first frame is taken.

    Args:
        image: A path, the bytes of a file, a PIL image, or an array: (H, W) or (H, W, channels) with 1, 3
            or 4 channels, of 8 or 16 bits, or of floating-point values from 0 to 1.
        shorter_side: How many pixels are needed. A JPEG that is at least twice as large is then decoded at a
            fraction of its size, which is faster and takes less memory.
        max_pixels: A lower limit than the usual one.

    Raises:
        ImageError: It is empty, cut off, no image, or larger than the limit, which is seen before it is
            decoded. The limit, 200 million pixels, can be set in the environment variable
            ``SGFORMER_MAX_PIXELS``.
    """
    if isinstance(image, Image.Image):
        return _decode(image, "image", shorter_side=None, max_pixels=max_pixels)
    if isinstance(image, np.ndarray):
        return _to_rgb(_from_array(image), "array")
    if isinstance(image, bytes):
        return _open("bytes", io.BytesIO(image), len(image), shorter_side, max_pixels)
    if not isinstance(image, str | os.PathLike):
        raise TypeError(f"expected a path, bytes, a PIL image or an array, received {type(image).__name__}")
    path = Path(image)
    if not path.exists():
        raise ImageError(str(path), "there is no such file")
    if path.is_dir():
        raise ImageError(str(path), "is a folder; name the images in it")
    with path.open("rb") as file:
        return _open(str(path), file, path.stat().st_size, shorter_side, max_pixels)


def resized_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, height, width) as large as their image becomes, each pixel the nearest to its centre.

    As a ``tv_tensors.Mask`` they would lie half a pixel beside image and boxes (findings/torchvision_nearest_masks.sh).
    """
    return functional.resize(masks.as_subclass(Tensor), [*size], interpolation=InterpolationMode.NEAREST_EXACT)


class ReadsRGB:
    """Reading of images for a model of RGB images, which its preprocessing inherits."""

    suffixes: ClassVar[frozenset[str]] = SUFFIXES  # of files in a folder that are read
    full: ClassVar[float] = 255.0  # the value of white, of which mean and deviation are shares

    def read(self, image: Any, *, shorter_side: int | None = None) -> Any:
        """An image as ``predict`` takes it, see `read_image`; one that was read before comes back as it is."""
        return read_image(image, shorter_side=shorter_side)

    def show(self, image: Any) -> Image.Image:
        """Turn what `read` gave, or its pixels (3, height, width), into an RGB image to show."""
        return to_pil_image(image) if isinstance(image, Tensor) else image


@dataclass(frozen=True, kw_only=True)
class Preprocessing(ReadsRGB):
    """Preprocessing of a model: from an image to the tensor that it was trained on; stored with the weights.

    Attributes:
        image_size: (height, width).
        crop_fraction: How much of the shorter side the central crop keeps.
        interpolation: How images are resized.
        mean: Subtracted from each channel, in 0 to 1.
        std: What each channel is then divided by.
    """

    image_size: tuple[int, int]
    crop_fraction: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        # JSON has lists only.
        for name in ("image_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if min(self.image_size) < 32:
            raise ValueError(
                f"image size {self.image_size[0]}x{self.image_size[1]} is too small: models of stride 32 "
                "need at least 32x32; set --data.image_size 32 or more"
            )
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"data.crop_fraction {self.crop_fraction} is outside (0, 1]")

    @property
    def shorter_side(self) -> int:
        """Length of an image's shorter side before the crop."""
        return round(max(self.image_size) / self.crop_fraction)

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that an image of this one is resized to, before the crop."""
        height, width = (self.shorter_side * side // min(size) for side in size)
        return height, width

    def ending(self, *, normalize: bool) -> dict[str, Any]:
        """Arguments by which timm's transforms end: normalized, or with the values that were read."""
        if normalize:
            return {"mean": self.mean, "std": self.std}
        if self.full == 255:
            return {"mean": self.mean, "normalize": False}
        return {"mean": (0.0,) * len(self.mean), "std": (1.0,) * len(self.mean)}  # for tensors timm has no other way

    def transform(self, views: int = 1, *, normalize: bool = True) -> Callable[[Any], Tensor]:
        """Build the deterministic transform: resize, crop, normalize. From what was read to (channels, height, width).

        More views than 1, the central crop, give (views, channels, height, width): 2 adds its mirror image, 5 the four
        corners, 10 the mirror images of the five. Not normalized, values are those that were read.
        """
        transform = create_transform(
            (len(self.mean), *self.image_size),
            interpolation=self.interpolation,
            crop_pct=self.crop_fraction,
            **self.ending(normalize=normalize),
        )
        if views > 1:
            return _Views(transform, self.image_size, corners=views >= 5, mirrored=views in (2, 10))
        return cast(Callable[[Any], Tensor], transform)


class _Views:
    """Several crops of an image, each finished as a transform of timm finishes its only one; the central one first."""

    def __init__(self, transform: Any, size: tuple[int, int], *, corners: bool, mirrored: bool) -> None:
        (place,) = [i for i, step in enumerate(transform.transforms) if isinstance(step, CenterCrop)]
        self.before, self.after = transform.transforms[:place], transform.transforms[place + 1 :]
        self.crop, self.five = transform.transforms[place], FiveCrop(size) if corners else None
        self.mirrored = mirrored

    def __call__(self, image: Any) -> Tensor:
        for step in self.before:
            image = step(image)
        crops = [self.crop(image)] if self.five is None else [*reversed(self.five(image))]
        crops += [hflip(crop) for crop in crops] if self.mirrored else []
        return torch.stack([reduce(lambda x, step: step(x), self.after, crop) for crop in crops])


def _open(name: str, file: Any, num_bytes: int, shorter_side: int | None, max_pixels: int | None) -> Image.Image:
    if num_bytes == 0:
        raise ImageError(name, "is empty (0 bytes); copy or download it again, or remove it")
    try:
        with any_size():
            image = Image.open(file)
    except UnidentifiedImageError as error:
        raise ImageError(
            name,
            "is not an image, or of a kind that Pillow cannot read, as TIFF of many bands; convert it to JPEG or PNG, "
            "or remove it",
        ) from error
    except Exception as error:  # a broken header can raise anything, from a struct.error to a MemoryError
        raise ImageError(name, f"is damaged ({error}); copy or download it again, or remove it") from error
    return _decode(image, name, shorter_side=shorter_side, max_pixels=max_pixels)


@contextlib.contextmanager
def any_size() -> Iterator[None]:
    """Lifts Pillow's own limit while a header is read; `check_size` then holds ours."""
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _decode(image: Image.Image, name: str, *, shorter_side: int | None, max_pixels: int | None) -> Image.Image:
    check_size(image.size, name, max_pixels=max_pixels)
    if bands := _more_bands(image):
        raise ImageError(
            name, f"has {bands} bands, and RGB is read here; save three of them, or train with --model.in_chans {bands}"
        )
    try:
        if shorter_side is not None:
            # Only JPEG does anything here. Twice what is needed: our own resize still decides the result.
            image.draft(None, (2 * shorter_side, 2 * shorter_side))
        image.load()
        if is_signed(image) and cast(int, image.getextrema()[1]) > 127:
            raise ImageError(name, _BELOW)
        return _to_rgb(ImageOps.exif_transpose(image), name)
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        reason = "is cut off" if "truncated" in str(error) else f"is damaged ({' '.join(str(error).split())})"
        raise ImageError(name, f"{reason}; copy or download it again, or remove it") from error


def check_size(size: tuple[int, int], name: str, *, max_pixels: int | None = None) -> None:
    """Make sure that an image of (width, height) may be decoded; ImageError where it has more pixels than the limit."""
    width, height = size
    usual = int(os.environ.get(MAX_PIXELS_SETTING, MAX_PIXELS))
    limit = usual if max_pixels is None else min(usual, max_pixels)
    if width * height > limit:
        remedy = f", or set {MAX_PIXELS_SETTING}={width * height} in the environment" * (limit == usual)
        raise ImageError(
            name,
            f"has {width} x {height} pixels, {width * height / 1e6:.0f} million; the limit is "
            f"{limit / 1e6:.0f}: shrink it{remedy}",
        )


def _more_bands(image: Image.Image) -> int:
    """Count the bands of a TIFF that has more than its kind of colour, as satellites' have; Pillow would drop them."""
    tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    alpha = np.isin(np.atleast_1d(tags.get(338, ())), (1, 2)).sum()  # ExtraSamples
    colours = {2: 3, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}.get(tags.get(262), 1)  # PhotometricInterpretation
    bands = int(tags.get(277, 1) - alpha)  # SamplesPerPixel
    return bands if bands > colours else 0


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened file as its EXIF data turn it, without decoding it."""
    width, height = image.size
    # Pillow has exchanged a TIFF's sides already.
    turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def num_pages(image: Image.Image) -> int:
    """Count the images in an opened file: frames, or pages of a TIFF that are no smaller copy and no mask."""
    number = getattr(image, "n_frames", 1)
    if image.format == "MPO":  # views of one scene
        return 1
    if image.format != "TIFF" or number == 1:
        return number
    pages = 0
    for place in range(number):
        image.seek(place)
        # NewSubfileType: 1 a reduced copy, 4 a mask. SubfileType: 2 a reduced copy.
        tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
        pages += not (tags.get(254, 0) & 5 or tags.get(255) == 2)
    image.seek(0)
    return max(pages, 1)


HEAD = 4096  # first bytes of a file, by which most are told that have none of these
# What of images is not read as it stands in their files.
PAGES = "files of several pages or frames, of which the first is read"
DEEP = "of 16 bits a value, of which 65535 is white"
CLEAR = "with a band for transparency, laid over white by it; if it is another band, set --model.in_chans"
WIDE = "gray with 32 bits, whose white each image's largest value decides"
CLOSED = "damaged, or of a kind that cannot be read, and left out"
_BELOW = "has negative or non-finite values; save it as 8 or 16 bits per channel"
TURNED = "turned or mirrored by EXIF data within their size; annotations are taken as of the image so turned"


def oddities(image: Image.Image) -> list[str]:
    """List what of an opened file that is not decoded is not read as it stands in it, by its header."""
    bits, found = num_bits(image), [PAGES] * (num_pages(image) > 1)
    if image.mode[0] in "IF" and not (";" in image.mode or image.format == "PNG"):
        found.append(WIDE)
    elif bits > 8:
        found.append(DEEP)
    found += [CLEAR] * image.has_transparency_data
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in (2, 3, 4) or (orientation in (5, 6, 7, 8) and image.width == image.height):
        found.append(TURNED)
    return found


def is_signed(image: Any) -> bool:
    """Whether the values of an opened TIFF are of 8 bits with a sign, which Pillow takes for 128 to 255."""
    return image.format == "TIFF" and image.mode == "L" and 2 in np.atleast_1d(image.tag_v2.get(339, 1))


def num_bits(image: Any) -> int:
    """Bits of a value in an opened TIFF or PNG that is not decoded; Pillow spreads 2 and 4, and cuts colours to 8."""
    if image.format == "TIFF":
        return int(np.atleast_1d(image.tag_v2.get(258, 8))[0])
    found = re.search(r";(\d+)", str(image.tile[0][3])) if image.format == "PNG" and image.tile else None
    return int(found[1]) if found else 8


def find_odd(paths: Iterable[Any]) -> dict[str, list[Any]]:
    """The files, or what can be opened like them, by `read_oddities`; of over 100,000 none that is called JPEG."""
    few, found = len(paths := list(paths)) <= LARGEST, dict[str, list[Any]]()
    for path in (one for one in paths if few or one.suffix.lower() not in (".jpg", ".jpeg")):
        try:
            with path.open("rb") as file:
                odd = read_oddities(file)
        except OSError:
            odd = [CLOSED]
        for what in odd:
            found.setdefault(what, []).append(path)
    return found


def read_oddities(file: Any) -> list[str]:
    """List `oddities` of an open file but `TURNED`, or `CLOSED`; by its first bytes alone where these show none."""
    if is_plain(file.read(HEAD)):
        return []
    file.seek(0)
    try:
        with any_size(), Image.open(file) as image:
            return [what for what in oddities(image) if what != TURNED]
    except Exception:  # a broken header can raise anything; who reads the file says what is wrong
        return [CLOSED]


def is_plain(head: bytes) -> bool:
    """Whether the first bytes of a file, `HEAD` or all, are of a JPEG, or a PNG that is not odd."""
    odd = b"acTL" in head or b"tRNS" in head or head[24:25] == b"\x10" or head[25:26] in b"\x04\x06"
    return head.startswith(b"\xff\xd8") or (head.startswith(b"\x89PNG") and not odd)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bit(np.asarray(image), name))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(rgba)
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray, name: str) -> np.ndarray:
    """The whole range of the type becomes 0 to 255; an int32 or float image is judged by what it holds."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if not np.isfinite(values).all() or values.min() < 0:
        raise ImageError(name, _BELOW)
    highest = float(values.max())
    if np.issubdtype(values.dtype, np.floating):
        full = 1.0 if highest <= 1 else 255.0
    else:
        # Pillow hands 16-bit greyscale out as 16 or as 32 bits, depending on its version and the format.
        full = 255.0 if highest <= 255 and values.dtype.itemsize > 2 else 65535.0
    if highest > full:
        raise ImageError(name, f"has values up to {highest:g}; save it as 8 or 16 bits per channel")
    return np.round(values.astype(np.float64) * (255 / full)).astype(np.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise ImageError(
            "array", f"has shape {array.shape}; expected (H, W) or (H, W, channels) with 1, 3 or 4 channels"
        )
    return Image.fromarray(_to_8_bit(array, "array"))
