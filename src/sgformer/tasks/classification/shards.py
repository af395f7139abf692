"""WebDataset shards: tar files with images and labels."""

import contextlib
import glob
import hashlib
import io
import random
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...engine.sampling import fold, seed_sample
from ..errors import DataError, listed
from ..folders import SUFFIXES, Split, describe_left_out, find_copies, number
from ..images import HEAD, ImageError, is_plain, read_image, read_oddities
from ..loading import Unreadable

_ADDRESS = re.compile(r"(https?|s3|gs)://[\w.~:/?#@!&()*+,;=%-]+")
# What ends the names of shards; a file that is hidden is none.
_SHARD = re.compile(r"^[^.].*\.(tar(\.\w+)?|tgz)$", re.IGNORECASE)
# Up to how many samples are looked at before a run.
LOOKED = 20_000
# Samples that are held back to be mixed with those of the next ones in a shard.
SHUFFLE = 2000
# In what files copies are told by the bytes at their ends, as images that differ may begin and end alike in others.
_COMPRESSED = (".jpg", ".jpeg", ".png", ".webp")


class Shards(IterableDataset[Any]):
    """Samples of tar files, in which ``name.jpg`` and ``name.cls`` belong together.

    A label is a class index or a class name, and a name where a class is called by a number. Each process and worker
    reads other shards. In training their order follows from seed and epoch, and every worker gives the same number of
    samples, from a second pass where its shards hold fewer. A resumed run goes on with the next epoch, not within one.

    The ``pattern`` stands for files, such as ``shards/train-*.tar`` or ``shards/train-{000..146}.tar``, or URLs in
    braces. Without ``classes`` labels are not read, and all 0. The ``transform`` is from RGB to a tensor, and needs a
    ``shorter_side``, see `read_image`. The ``length`` is that of an epoch over all processes, cut to what gives all
    ``workers`` of each full batches; None, for validation: all there are. DataError where there are no shards, or fewer
    than readers; or an epoch is shorter than a batch of each.
    """

    def __init__(
        self,
        pattern: str,
        *,
        classes: tuple[str, ...],
        transform: Callable[[Image.Image], Tensor],
        shorter_side: int,
        length: int | None,
        seed: int,
        rank: int = 0,
        num_processes: int = 1,
        epoch: int = 0,
        workers: int = 0,
        batch_size: int = 1,
    ) -> None:
        self.urls = find_shards(pattern)
        if length is not None:
            # So the loader tells the number of its batches rightly, and Lightning sees the last one.
            whole = num_processes * max(workers, 1) * batch_size
            if length < whole:
                raise DataError(
                    f"{length} samples an epoch are fewer than {whole}, a batch of {batch_size} for each reader "
                    "(processes times data workers); raise --data.num_train, or lower --data.workers"
                )
            length -= length % whole
        self.index = {name: i for i, name in enumerate(classes)}
        self.transform, self.shorter_side = transform, shorter_side
        self.length, self.seed, self.epoch = length, seed, epoch
        self.rank, self.num_processes = rank, num_processes

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("validation shards are read to their end, whose place is not known before")
        return self.length // self.num_processes

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        reader, num_readers = (self.rank, self.num_processes)
        if worker:
            reader, num_readers = reader * worker.num_workers + worker.id, num_readers * worker.num_workers
        if num_readers > len(self.urls):
            raise DataError(
                f"{len(self.urls)} shards are too few for {num_readers} readers (processes times data workers); "
                "lower --data.workers, or cut the data into more shards"
            )
        if self.length is None:
            yield from self._read(self.urls[reader::num_readers], None)
            return
        epoch, self.epoch = self.epoch, self.epoch + 1  # a worker lives on from epoch to epoch
        left, passes = self.length // num_readers, 0
        while left:
            order, before = list(self.urls), left
            random.Random(fold(self.seed, epoch, passes)).shuffle(order)
            for sample in self._read(order[reader::num_readers], fold(self.seed, epoch, passes, reader)):
                yield sample
                left -= 1
                if not left:
                    return
            if left == before:
                raise DataError(f"there are no samples in {listed(order[reader::num_readers])}; remove empty shards")
            passes += 1

    def _read(self, urls: list[str], seed: int | None) -> Iterator[Any]:
        """Samples of these shards; mixed and varied by the seed, as they come without one."""
        import webdataset

        wds: Any = webdataset  # its functions are found at run time

        stages: list[Any] = [wds.SimpleShardList(urls), wds.tarfile_to_samples()]
        if seed is not None:
            stages.append(wds.shuffle(SHUFFLE, rng=random.Random(seed)))
        for place, sample in enumerate(_whole(wds.DataPipeline(*stages))):
            name = f"{sample['__url__']}:{sample['__key__']}"
            content = next((sample[key] for key in sample if f".{key.lower()}" in SUFFIXES), None)
            if content is None or (self.index and "cls" not in sample):
                raise DataError(f"{name} has no image or no .cls beside it; see the WebDataset format")
            label = self._label(sample["cls"].decode().strip(), name) if self.index else 0
            if seed is not None:
                seed_sample(fold(seed, place))
            try:
                image = read_image(content, shorter_side=self.shorter_side)
            except ImageError as error:
                yield Unreadable(name, error.reason)
                continue
            yield self.transform(image), torch.tensor(label)

    def _label(self, text: str, name: str) -> int:
        if not 0 <= (label := _place(text, self.index)) < len(self.index):
            raise DataError(f"{name} has the label {text!r}, which is none of the {len(self.index)} classes")
        return label


def _place(text: str, index: Mapping[str, int]) -> int:
    """The class index that a label stands for: a name, as always where classes are called by numbers, or a number."""
    named = text in index or any(name.isdigit() for name in index)
    return index.get(text, -1) if named else int(text) if text.isdigit() else -1


def note_shards(shards: Mapping[Split, Sequence[str]], classes: Sequence[str]) -> list[str]:
    """Notes on the shards of splits: those of both, and what the first samples of files on this machine hold.

    DataError where they hold no images, or an image without a label, or with one that is no class.
    """
    both = [{number(url) for url in urls if "://" not in url} for urls in shards.values()]
    notes = [f"{len(set.intersection(*both))} shards are in training and in validation"]
    notes *= len(both) > 1 and not both[0].isdisjoint(both[1])
    notes += _beside(shards) if len(both) > 1 else []
    index = {name: place for place, name in enumerate(classes)}
    digests = dict[Split, list[bytes]]()  # of images
    for split, urls in shards.items():
        samples, left_out, labels, oddities = 0, Counter[str](), Counter[int](), Counter[str]()
        bare, last = dict[str, bool](), ""  # whether an image lacks its label
        kinds, filled = dict[str, set[str]](), set[str]()  # of files of a sample; shards that have some
        here = set[str]()  # suffixes of the files of the sample that is read
        digests[split] = []
        for url, name, suffix, content, odd in _parts(urls):
            key = f"{url}:{name}"
            here = here if name and key == last else set()
            if suffix in here:
                raise DataError(f"{key}{suffix} is there twice; give each sample a name of its own")
            second = suffix in SUFFIXES and not here.isdisjoint(SUFFIXES)
            here.add(suffix)
            if suffix in SUFFIXES and not second:
                samples += 1
                digests[split].append(content)
                oddities.update(odd)
            kind = "image" if suffix in SUFFIXES else suffix
            if key != last and name and kind not in kinds.get(key, {kind}):  # else it may be another of this name
                raise DataError(f"the files of {key} are not beside each other; pack the shard by sample")
            last = key if name else last
            kinds.setdefault(key, set()).add(kind)
            if suffix == ".cls":
                labels[place := _place(text := content.decode(errors="replace").strip(), index)] += 1
                if index and not 0 <= place < len(index):
                    raise DataError(f"{key} has the label {text!r}, which is none of the {len(index)} classes")
            elif second or suffix not in SUFFIXES:
                left_out[suffix] += 1
            if suffix == ".cls" or suffix in SUFFIXES:
                bare[key] = suffix != ".cls" and bare.get(key, True)
                filled.add(url)
            if samples == LOOKED:
                break
        lacking = [key for key in bare if bare[key]] * bool(index)
        if 0 < samples < LOOKED and len(bare) >= samples and lacking:
            raise DataError(
                f"{len(lacking)} images in shards of {split} have no .cls beside them, such as {lacking[0]}"
            )
        if left_out and not samples:
            raise DataError(f"there are no images in shards of {split}, but {describe_left_out(left_out)}")
        found = f"{samples} images in shards of {split}" + ", and more" * (samples == LOOKED)
        notes += [found + f", where not used: {describe_left_out(left_out)}" * bool(left_out)] * (samples > 0)
        notes += [f"{count} images in shards of {split} are {what}" for what, count in oddities.items()]
        absent = [name for name, place in index.items() if not labels[place]]
        notes += [f"not in {split}: {listed(absent)}"] * (0 < samples < LOOKED and bool(absent))
        empty = [url for url in urls if url not in filled]
        notes += [f"no images in {listed(empty)}"] * (0 < samples < LOOKED and bool(empty))
    return notes + find_copies(*digests.values()).notes()


def _beside(shards: Mapping[Split, Sequence[str]]) -> list[str]:
    """A note on shards that lie beside those of splits, and are in none; else nothing."""
    files = [Path(url) for urls in shards.values() for url in urls if "://" not in url]
    used = {number(file) for file in files}
    there = (path for folder in {file.parent for file in files} for path in folder.iterdir())
    others = [str(path) for path in there if _SHARD.search(path.name) and number(path) not in used]
    return [f"{len(others)} shards are in no split: {listed(others)}"] * bool(others)


def _parts(urls: Sequence[str]) -> Iterator[tuple[str, str, str, bytes, list[str]]]:
    """Shards, samples, suffixes of their files and what stands in labels; none unless all are on this machine.

    Of an image there is a digest: of how long it is, and of its first and last bytes; of all where they are pixels; and
    what of it is not read as it stands. Files whose names begin with a dot belong to no sample, which is empty; those
    that macOS packs are passed over.
    """
    for url in urls if all("://" not in url for url in urls) else ():
        # The latter says in one line what is wrong.
        with _readable(url), tarfile.open(url, "r:*" if tarfile.is_tarfile(url) else "r:") as tar:
            for member in tar:
                stem, _, suffix = Path(member.name).name.partition(".")
                sample = str(Path(member.name).parent / stem) if stem else ""
                suffix = f".{suffix.lower()}"
                content: Any = None if suffix.startswith("._") else tar.extractfile(member)  # None of a folder, too
                if content and suffix in SUFFIXES:
                    start = content.read(HEAD)
                    if suffix in _COMPRESSED and is_plain(start):
                        content.seek(max(member.size - HEAD, 0))
                    end = content.read()
                    odd = read_oddities(io.BytesIO(start + end))
                    yield url, sample, suffix, hashlib.sha1(b"%d" % member.size + start + end).digest(), odd
                elif content:
                    yield url, sample, suffix, content.read() if suffix == ".cls" else b"", []


def _whole(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The samples, of which those of a damaged shard are an error, see `_readable`."""
    with _readable("which one is not known"):
        yield from samples


@contextlib.contextmanager
def _readable(url: str) -> Iterator[None]:
    """Makes an error that names a remedy where a shard is damaged or repeats a name."""
    try:
        yield
    except (tarfile.TarError, ValueError, OSError, EOFError, zlib.error) as error:
        # webdataset puts what it was reading at the end.
        reason = str(error.args[0] if error.args else error).split(" @ ")[0]
        where = next((part for part in reversed(error.args) if isinstance(part, str) and part != reason), url)
        raise DataError(f"a shard cannot be read: {where}: {reason}; make or copy it again") from error


def find_shards(pattern: str) -> list[str]:
    """The shards that a pattern stands for, sorted; DataError for none, or an address that could run a command."""
    if "{" in pattern:
        import braceexpand

        urls = list(braceexpand.braceexpand(pattern))
    else:
        urls = sorted(glob.glob(str(Path(pattern).expanduser())))
    # WebDataset would run what stands behind `pipe:`, and hands an address to a shell, between quotes.
    refused = [url for url in urls if url.startswith("pipe:") or ("://" in url and not _ADDRESS.fullmatch(url))]
    if refused:
        raise DataError(
            f"{refused[0]} is no address of a shard; give files, or addresses that begin with http, https, s3 or gs"
        )
    missing = [url for url in urls if "://" not in url and not Path(url).is_file()]
    if not urls or missing:
        raise DataError(f"there are no shards {missing[0] if missing else pattern}; check the pattern")
    return urls
