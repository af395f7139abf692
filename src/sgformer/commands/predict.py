r"""Name what is in images.

Examples:
  sgformer predict runs/imagenette160 dog.jpg
  sgformer predict best.safetensors holiday/ "more/**/*.png" --json names.json
  sgformer predict detector.safetensors street/ --draw drawn/ --coco found.json
  sgformer predict segmenter.safetensors panorama.jpg --maps maps/ \
      --draw drawn/ --json shares.json --window 512 --flip
  find photos -name "*.jpg" | \
      sgformer predict best.safetensors - --csv names.csv
  torchrun --nproc-per-node 8 -m sgformer \
      predict best.safetensors corpus/ --csv names.csv
"""

import json as json_
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from .inputs import find, free_names, printable, readable

T = TypeVar("T")

# Beyond so many rows the table goes to the files alone, where there are some.
MAX_ROWS = 1000
# Decoded images that are held at once: 200 MB.
MAX_PIXELS_AT_ONCE = 66_000_000


def predict(
    weights: str | Path,
    images: list[str],
    *,
    json: str | Path | None = None,
    csv: str | Path | None = None,
    draw: str | Path | None = None,
    top_k: int | None = None,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    coco: str | Path | None = None,
    annotations: str | Path | None = None,
    maps: str | Path | None = None,
    window: int | None = None,
    scales: list[float] | None = None,
    flip: bool | None = None,
    batch_size: int = 32,
    device: str = "auto",
    kernels: bool = False,
) -> int:
    """Say what is in images, and print a table. Images that cannot be read are reported and left out.

    Started by torchrun, the processes share the images out among them, and the first one writes what all found, in
    order. From Python, ``sgformer.load(weights).predict(images)`` gives the predictions themselves.

    Args:
        weights: A run folder (its best weights) or a weights file.
        images: Files, folders and patterns; ``-`` reads more of them from standard input, one a line.
        json: A file for all predictions.
        csv: A file with a line for each image; of a classifier with columns label, score, label2, score2 and so on.
        draw: A folder for images with the predictions in them.
        top_k: How many classes to show of each image, in classification; 5 by default.
        score_threshold: The least score of what is shown, in detection; 0.5 by default.
        max_detections: How many objects of an image to find at most, in detection; by default as the model was trained.
        coco: A file for all objects, in detection: images, categories and annotations as in COCO's format, each with
            its score.
        annotations: A file in COCO's format that lists these images: what is written to ``coco`` is then the list of
            results that pycocotools takes, with its ids of images and classes.
        maps: A folder for class maps, in segmentation: PNG files of the images' sizes, whose values are indices of
            classes.
        window: Side of the sliding windows, in segmentation; by default as the model was trained to be used, as for
            the next two.
        scales: Sizes to average over, such as 0.75,1,1.25, in segmentation.
        flip: Whether images are also predicted mirrored, and both are averaged, in segmentation.
        batch_size: How many images are read and computed at once.
        device: Where to compute; ``auto`` takes a GPU where there is one.
        kernels: Whether to compute by kernels in C++, which are compiled first: faster, on a CPU with AVX-512 and where
            there is a C++ compiler.

    Returns:
        0, or 1 if an image could not be read.

    Raises:
        ValueError: The weights cannot be used, a setting is for another task, or there are no images.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")
    rank, num_processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    from .. import tasks
    from ..engine.files import check_writable, write_atomically
    from . import console

    folders = {name: Path(folder) for name, folder in (("draw", draw), ("maps", maps)) if folder}

    def plan() -> tuple[list[Path], dict[str, dict[Path, Path]]]:
        paths = find(images, readable(weights))
        return paths, {name: free_names(folder, paths) for name, folder in folders.items()}

    paths, files = _from_first(plan, rank, num_processes)
    if rank == 0:
        _note_numbered(files)
        check_writable(json, csv, coco, inputs=[*paths, weights, *filter(None, [annotations])])
    name = console.device(device)
    if name == "cuda" and num_processes > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    with_kernels = console.kernels(kernels, name)
    with console.waiting("loading ..."):
        model: Any = tasks.load(weights, device=name)
    settings = {"top_k": top_k, "score_threshold": score_threshold, "max_detections": max_detections}
    settings |= {"window": window, "scales": scales, "flip": flip}
    settings = {name: value for name, value in settings.items() if value is not None}
    _check(model, settings, maps=maps, coco=coco, annotations=annotations)
    in_coco = model.in_coco(paths, Path(annotations) if annotations else None) if coco else None
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    mine = paths[rank::num_processes]
    with with_kernels:
        results = _predict_all(model, mine, settings, batch_size, **files)
    if num_processes > 1:
        results = _gather(results, rank, num_processes)
        if rank:
            return 0
    rows = [(result["image"], result.pop("summary")) for result in results if "error" not in result]
    cells = [result.pop("cells", {}) for result in results]
    if rows and (len(rows) <= MAX_ROWS or not (json or csv)):
        console.table(("image", "prediction"), rows)
    _note_unsure(results, score_threshold, model)
    if json:
        write_atomically(json, (json_.dumps(results, indent=2, ensure_ascii=False) + "\n").encode())
    if coco and in_coco:
        write_atomically(coco, (json_.dumps(in_coco(results), ensure_ascii=False) + "\n").encode())
    if csv:
        write_atomically(csv, _table(results, cells).encode("utf-8", "surrogateescape"))
    return int(len(rows) < len(paths))


def _note_numbered(files: dict[str, dict[Path, Path]]) -> None:
    """Tell of files to write that are not called like their images, since the names were taken."""
    numbered = [name for one in files.values() for path, name in one.items() if name.stem != printable(path.stem)]
    if numbered:
        print(
            f"sgformer: {len(numbered)} files have a number in their names, such as {printable(numbered[0])}, as "
            "others have these names; --json says which is whose",
            file=sys.stderr,
        )


def _note_unsure(results: Sequence[dict[str, Any]], least: float | None, model: Any) -> None:
    """Tell of the threshold where a detector found nothing in any image."""
    counts = [len(result["objects"]) for result in results if "objects" in result]
    least = 0.5 if least is None else least
    if "score_threshold" in model.settings and counts and not any(counts) and least > 0.05:
        print(
            f"sgformer: no object has a score of {least:g} or more; a lower --score_threshold, down to 0.05, shows "
            "those that the model is less sure of",
            file=sys.stderr,
        )


def _check(model: Any, settings: dict[str, Any], **files: Any) -> None:
    """Raises ValueError where a setting, or a file to write, is for another task."""
    written = {name for name, value in files.items() if value}
    for name in settings.keys() - model.settings | written - model.files:
        raise ValueError(f"--{name} is not for {model.task}, which these weights are for; leave it out")
    if files["annotations"] is not None and files["coco"] is None:
        raise ValueError("--annotations gives the ids of what --coco FILE writes; name that, too")


def _table(results: Sequence[dict[str, Any]], cells: Sequence[dict[str, Any]]) -> str:
    """The results as CSV: images, what the task says of each, and what was wrong with one."""
    from ..engine.files import to_csv

    rows = [{"image": r["image"], **row, "error": r.get("error", "")} for r, row in zip(results, cells, strict=True)]
    return to_csv(rows, ["image", *dict.fromkeys(head for row in cells for head in row), "error"])


def _predict_all(
    model: Any,
    paths: list[Path],
    settings: dict[str, Any],
    batch_size: int,
    *,
    draw: dict[Path, Path] | None = None,
    maps: dict[Path, Path] | None = None,
) -> list[dict[str, Any]]:
    """A result for each image: what it shows, or why it cannot be read. Files to write are told by image."""
    from rich.progress import Progress
    from torchvision.transforms.v2.functional import get_size

    from ..tasks.images import ImageError
    from . import console

    results: list[dict[str, Any]] = []
    batch: list[tuple[dict[str, Any], Path, Any]] = []

    def finish() -> None:
        before_step()
        predictions = model.predict([image for _, _, image in batch], **settings) if batch else []
        for (result, path, image), prediction in zip(batch, predictions, strict=True):
            result |= {**prediction.to_dict(), "summary": prediction.summary(), "cells": prediction.cells()}
            if draw:
                prediction.draw(model.preprocessing.show(image)).save(draw[path])
                result["drawn"] = printable(draw[path])
            if maps:
                prediction.save(maps[path])
                result["map"] = printable(maps[path])
        batch.clear()

    with (
        Progress(transient=True, disable=not console.is_terminal()) as bar,
        console.choosing_threads(model.mean.device) as before_step,
    ):
        if "progress" in model.settings:
            settings = settings | {"progress": lambda windows: _windows(bar, windows)}
        for path in bar.track(paths, description="predicting") if len(paths) > batch_size else paths:
            result: dict[str, Any] = {"image": printable(path)}
            results.append(result)
            try:
                batch.append((result, path, model.preprocessing.read(path)))
            except (ImageError, OSError) as error:
                result["error"] = getattr(error, "reason", str(error))
                print(f"sgformer: skipped: {printable(error)}", file=sys.stderr)
            num_pixels = sum(prod(get_size(image)) for _, _, image in batch)
            if len(batch) == batch_size or num_pixels > MAX_PIXELS_AT_ONCE:
                finish()
        finish()
    return results


def _windows(bar: Any, windows: Sequence[Any]) -> Iterator[Any]:
    """The windows of one image, with a bar of their own while they last."""
    task = bar.add_task("windows", total=len(windows), visible=len(windows) > 1)
    for window in windows:
        yield window
        bar.advance(task)
    bar.remove_task(task)


def _from_first(make: Callable[[], T], rank: int, num_processes: int) -> T:
    """Run `make` in the first process and share its result or error: standard input can be read only once."""
    if num_processes == 1:
        return make()
    from datetime import timedelta

    import torch.distributed

    # A process may have much more to do than another; the default would give up after half an hour.
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    content: list[Any] = [None]
    if rank == 0:
        try:
            content = [make()]
        except (ValueError, OSError) as error:
            content = [error]
    torch.distributed.broadcast_object_list(content)
    if isinstance(content[0], Exception):
        torch.distributed.destroy_process_group()
        raise content[0]
    return content[0]


def _gather(results: list[dict[str, Any]], rank: int, num_processes: int) -> list[dict[str, Any]]:
    """The results of all processes in the order of the images, in the first process."""
    import torch.distributed

    gathered: list[Any] = [None] * num_processes
    torch.distributed.gather_object(results, gathered if rank == 0 else None)
    torch.distributed.destroy_process_group()
    if rank:
        return []
    longest = max(len(part) for part in gathered)
    return [part[i] for i in range(longest) for part in gathered if i < len(part)]
