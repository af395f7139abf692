"""Contents of folders of images: those that can be read, and what else."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, NamedTuple

from .errors import DataError, listed

# Of a data set.
Split = Literal["train", "val"]

# Files in a folder that count as images; a file named by hand may have any name.
SUFFIXES = frozenset(
    ".apng .avif .bmp .dib .gif .j2c .j2k .jfif .jp2 .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pcx .pgm .png .pnm .ppm "  # noqa: SIM905
    ".qoi .tga .tif .tiff .webp".split()
)
# Those that are images, too, and that Pillow cannot read.
FOREIGN = frozenset(
    ".arw .cr2 .cr3 .dcm .dng .exr .hdr .heic .heif .hif .jxl .nef .npy .orf .psd .raf .raw .rw2 .svg".split()  # noqa: SIM905
)
# What systems put beside images, in lower case.
_JUNK = {
    "@eadir",
    "__macosx",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
}
_JUNK |= {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_PAGES = re.compile(r"(readme|licen[sc]e)(\.\w+)*\.(txt|md|rst|html|pdf)", re.IGNORECASE)
# Up to how many files copies, and what is not used, are looked for.
LARGEST = 100_000
VARIANTS = "variants of images in training, by their names before .rf."
# Folders of masks and labels, in small letters.
MASKS = {"masks", "labels", "annotations", "segmentationclass", "segmentationobject", "gtfine"}
# What ends the names of masks beside images, before the suffix.
_MASK = re.compile(
    r"[ _-](mask|seg|segmentation|label|gt|groundtruth|ground_truth|annotation)s?([ _-]?\d+)?$", re.IGNORECASE
)
# What tools call the folder of the images to judge by.
LIKE_VAL = ("valid", "validation", "test")
# What a folder of a run has.
RUN = {"recipe.yaml", "environment.json"}
_THUMBNAILS = {"thumbnails", "thumbs", "_thumbs"}


def like_val(folder: Path) -> str:
    """Advice for a missing folder of validation, where one beside it is called as tools call it; else nothing."""
    others = [other for name in LIKE_VAL if (other := folder.with_name(name)).is_dir()]
    return f"rename {others[0]} to {folder}, or link it; or else " if others and folder.name.startswith("val") else ""


class Found(NamedTuple):
    """Contents of a folder and the folders below it: images, and what is none."""

    images: list[Path]  # sorted
    left_out: Counter[str]  # files that are no images that can be read, by suffix or another reason


def look_through(
    folder: Path, suffixes: Collection[str] = SUFFIXES, *, known: Callable[[str], bool] = lambda name: False
) -> Found:
    """The images in a folder and all folders below it, linked ones too, and what else lies there, but ``known`` files.

    Hidden files and what systems leave in folders, such as ``@eaDir`` and ``__MACOSX``, are passed over. A folder that
    is reached twice, through links, is looked through once. Folders called ``thumbnails`` are left out, and counted.
    """
    images: list[Path] = []
    left_out: Counter[str] = Counter()
    for place, _, files in _walk(folder, is_junk, left_out):
        below = Path(place).relative_to(folder).parts
        thumbnails = any(part.lower() in _THUMBNAILS for part in below)
        for name in files:
            path = Path(place, name)
            if is_junk(name) or known(name):
                continue
            if path.suffix.lower() not in suffixes:
                left_out[path.suffix.lower() or "without a suffix"] += 1
            elif thumbnails:
                left_out["in folders of thumbnails"] += 1
            elif path.is_file():
                images.append(path)
            else:
                left_out["broken links"] += 1
    return Found(sorted(images), left_out)


def _walk(
    folder: Path, passed: Callable[[str], bool], left_out: Counter[str], seen: Iterable[tuple[int, int]] = ()
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk as `os.walk` does, through links; folders that were ``seen``, or whose names are passed over, are left out.

    Counted are those that are reached twice, or cannot be opened.
    """
    # A link to a folder above leads in a circle.
    seen = {*seen, *(number(parent) for parent in folder.resolve().parents)}

    def closed(error: OSError) -> None:
        left_out[f"folders that cannot be opened ({error.strerror})"] += 1

    for place, folders, files in os.walk(folder, followlinks=True, onerror=closed):
        if (here := number(place)) in seen:
            left_out["folders linked twice"] += 1
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not passed(name))
        yield place, folders, files


def find_files(folder: Path, suffix: str) -> list[Path]:
    """The files in a folder and those below it with a suffix, in small letters or not, without junk; sorted."""
    found = (file for file in folder.rglob("*") if file.suffix.lower() == suffix)
    return sorted(file for file in found if not lies_in_junk(file, folder))


def number(path: str | Path) -> tuple[int, int]:
    """Identify a file or a folder, by whatever links it is reached; what is not there is none in particular."""
    try:
        entry = os.stat(path)
    except OSError:
        return -1, hash(path)
    return entry.st_dev, entry.st_ino


def find_file(folder: Path, name: str) -> Path:
    """The file that an annotation names, however it writes accents and parts folders; else what it would be called.

    Windows parts folders by backslashes. A Mac writes an accent as a character of its own, others do not.
    """
    if (path := folder / name).is_file():
        return path
    path = folder / name.replace("\\", "/")
    tries = (folder / unicodedata.normalize(form, name.replace("\\", "/")) for form in ("NFC", "NFD"))
    return path if path.is_file() else next((other for other in tries if other.is_file()), path)


def find_image(
    folder: Path, stems: Mapping[str, Sequence[str]], below: Path, said: str, key: str, *, within: Path = Path()
) -> str:
    """The image in a folder that a file is about: that which it names by a key, else that of the file's own name.

    Folders that stand before a name, as on another machine, are left out one by one. ``stems`` are those of
    `name_images`, and ``below`` is the file's own path from where it may have the image's name; ``within`` is the
    folder in ``folder`` that paths start from, above which an image is not looked for by its name alone. DataError
    where both are there and differ, or several images have the file's name.
    """
    parts = PureWindowsPath(said).parts if said else ()
    tries = [find_file(folder, str(Path(within, *parts[start:]))) for start in range(len(parts))]
    there = (path for path in tries if path.is_relative_to(folder) and path.is_file())
    named = next((Path(os.path.relpath(path, folder)).as_posix() for path in there), None)
    own = unicodedata.normalize("NFC", below.with_suffix("").as_posix())
    beside = stems.get(own, [] if within.parts else stems.get(own.rpartition("/")[2], []))
    if named is None and len(beside) > 1:
        raise DataError(f"which image is it of, {', '.join(beside)}? Name it in {key}")
    if named and beside and named not in beside:
        raise DataError(f"{key} says {named}, the file's own name {beside[0]}; make them one")
    return named or (beside[0] if beside else (within / (said or below.stem)).as_posix())


def name_images(folder: Path) -> dict[str, list[str]]:
    """The names of the images in a folder and those below it, by their names without suffix; DataError: no folder."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with the images; name it: --data.train.images")
    stems: dict[str, list[str]] = {}
    for path in find_images(folder):
        name = path.relative_to(folder)
        stem = unicodedata.normalize("NFC", name.with_suffix("").as_posix())
        stems.setdefault(stem, []).append(name.as_posix())
    return stems


def note_masks(paths: Iterable[Path]) -> list[str]:
    """A note on images that are called like another beside them with _mask or the like behind; else nothing."""
    names = {path.with_suffix("") for path in paths}
    alike = [name for name in names if name.with_name(_MASK.sub("", name.name)) in names - {name}]
    shown = f"{len(alike)} images are called like others and may be their masks, such as {min(alike, default='')}"
    return [shown] * (len(alike) > 0)


class Copies(NamedTuple):
    """Numbers of images that are there more than once, by whatever names or links, or as copies."""

    shared: int  # in both splits
    moved: int  # of these, those of another class in the second
    inside: int  # copies of others within the first split
    unlike: int  # of these, those of another class
    variants: int  # of the second split, made from a source that the first has, too, by Roboflow's names

    def notes(self) -> list[str]:
        """List what to say of them, a phrase each."""
        both = f"{self.shared} images are in training and in validation"
        inside = f"{self.inside} images are copies of others"
        notes = [both + f", {self.moved} in another class" * (self.moved > 0)] * (self.shared > 0)
        notes += [f"{self.variants} images of validation are {VARIANTS}"] * (self.variants > 0)
        return notes + [inside + f", {self.unlike} in another class" * (self.unlike > 0)] * (self.inside > 0)


def find_copies(first: Sequence[Any], second: Sequence[Any] = (), classes: Iterable[Any] = ()) -> Copies:
    """Count the images of two splits that are alike, given as files, or by digests of what is packed.

    ``classes`` are those of the first's images, then the second's.
    """
    packed = any(isinstance(one, bytes) for one in (*first, *second))
    same = [*first, *second] if packed else alike([*first, *second])
    mine, other = same[: len(first)], same[len(first) :]
    labelled = [*zip(same, [*classes] or [0] * len(same), strict=True)]
    own, theirs = {*labelled[: len(first)]}, {*labelled[len(first) :]}
    shared = {*mine} & {*other}
    made = set() if packed else {path.name.split(".rf.")[0] for path in first if ".rf." in path.name}
    return Copies(
        shared=len(shared),
        moved=len({one for one, _ in theirs - own} & shared),
        inside=(len(first) if packed else len({*map(os.path.normpath, first)})) - len({*mine}),
        unlike=len(own) - len({*mine}),
        variants=sum(
            ".rf." in path.name and path.name.split(".rf.")[0] in made and one not in shared
            for path, one in zip(second if made else (), other if made else (), strict=True)
        ),
    )


def alike(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Identify each file so that links to it and copies of it are the same; beyond a hundred thousand, links alone.

    Files are compared by their sizes, those of one size by their ends, and only what is alike in both is read.
    """
    numbers = [number(path) for path in paths]
    files = dict(zip(numbers, paths, strict=True))
    groups = [[*files]] if len(files) <= LARGEST else []
    for look in (os.path.getsize, _ends, Path.read_bytes):
        found: dict[Any, list[tuple[int, int]]] = {}
        for place, group in enumerate(groups):
            for one in group:
                if files[one].is_file():
                    found.setdefault((place, look(files[one])), []).append(one)
        groups = [group for group in found.values() if len(group) > 1]
    first = {one: group[0] for group in groups for one in group}
    return [first.get(one, one) for one in numbers]


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(4096)
        file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
        return start + file.read()


def find_images(folder: Path) -> list[Path]:
    """The images in a folder and the folders below it, see `look_through`."""
    return look_through(folder).images


def some(suffixes: Collection[str]) -> str:
    """A few of the suffixes of images, in words."""
    return ".jpg, .png and the like" if suffixes is SUFFIXES else " or ".join(sorted(suffixes))


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden, a system's or an archive's, or a readme."""
    return name.startswith(".") or name.lower() in _JUNK or bool(_PAGES.fullmatch(name))


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is that of a folder, or in it, by their names."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def lies_in_junk(file: Path, folder: Path) -> bool:
    """Whether a file below a folder is hidden or junk, or lies in a folder that is."""
    return any(is_junk(part) for part in file.relative_to(folder).parts)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Numbers and kinds of files, such as ``20 .heic, 3 .txt``, and what to do about images among them."""
    kinds = sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    words = ", ".join(f"{number} {kind}" for kind, number in kinds)
    return words + " (convert images to JPEG or PNG)" * any(kind in FOREIGN for kind in left_out)


def leftovers(
    root: Path,
    used: Iterable[Path],
    places: Iterable[Path] = (),
    *,
    aside: Collection[Path] = (),
    known: Callable[[str], bool] = is_junk,
) -> dict[str, list[Path]]:
    """Find the files in a folder, and in ``places`` in or beside it, that are not used.

    They come by where they lie, from the root: the highest folder in which nothing is used, else the place that they
    are in, else their own folder. A file is used by whatever link; a folder that is reached twice is looked at once.
    Folders ``aside``, those of runs, and names that are ``known``, are passed over. The search ends at a hundred
    thousand files.
    """
    root = Path(os.path.abspath(root))
    paths = {os.path.abspath(path) for path in used}
    closed, busy = {number(path) for path in aside}, set[str]()
    for folder in {os.path.dirname(path) for path in [*paths, *map(os.path.abspath, aside)]}:
        while folder not in busy:
            busy.add(folder)
            folder = os.path.dirname(folder)
    places = sorted({Path(os.path.abspath(place)) for place in places} - {root})
    outside = [place for place in places if not place.is_relative_to(root)]
    there = chain.from_iterable(_files(start, known, closed) for start in (root, *outside))
    files = [*islice((path for path in there if str(path) not in paths), LARGEST)]
    linked = {number(path) for path in paths} if files else set()
    found: dict[str, list[Path]] = {}
    for path in files:
        if number(path) not in linked:
            above = [*reversed(path.parents)]
            idle = next((one for one in above if root in one.parents and str(one) not in busy), None)
            place = next((place for place in places if place in above), None) or idle or path.parent
            shown = place.relative_to(root) if place.is_relative_to(root) else place
            found.setdefault(str(shown), []).append(path)
    return found


def _files(folder: Path, known: Callable[[str], bool], closed: set[tuple[int, int]]) -> Iterator[Path]:
    """The files in a folder and those below it, known names and closed folders aside, each once, through any links."""
    for place, folders, files in _walk(folder, known, Counter(), closed):
        if {*files} >= RUN:
            folders.clear()
        else:
            yield from (Path(place, name) for name in sorted(files) if not known(name))


def describe_leftovers(root: Path, found: Mapping[str, Sequence[Path]]) -> list[str]:
    """A note on what `leftovers` found in a folder, with its kinds and numbers; empty where that is nothing."""
    names = [path.name for path in found.get(".", ())]
    for place, files in found.items():
        if place != ".":
            names.append(f"{place} ({describe_left_out(Counter(path.suffix.lower() or 'other' for path in files))})")
    total = f"; {sum(map(len, found.values()))} files in all" * (len(names) > 5)
    return [f"not used in {root}: {listed(names)}{total}"] if names else []
