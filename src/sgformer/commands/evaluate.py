r"""Evaluate a trained model on the validation images.

The data of the training recipe is used, unless changed: --data.KEY VALUE.

Examples:
  sgformer evaluate runs/imagenette160
  sgformer evaluate runs/imagenette160 --data.eval_image_size 160 \
      --json report.json
  sgformer evaluate best.safetensors --data.root photos
"""

import functools
import json as json_
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def evaluate(
    weights: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    json: str | Path | None = None,
    coco: str | Path | None = None,
    device: str = "auto",
    kernels: bool = False,
) -> Any:
    """Evaluate a trained model on the validation images.

    Args:
        weights: A run folder (its best weights) or a weights file.
        overrides: Keys of its recipe to change: those of data, such as ``{"data.root": "photos"}``; and
            of detectors ``heads.max_detections``, and ``heads.masks`` false to evaluate boxes alone.
        json: A file for all numbers.
        coco: A file for all that was found, in detection: the list of results that pycocotools takes, with the ids of
            the annotations.
        device: Where to compute; ``auto`` takes a GPU where there is one.
        kernels: Whether to compute by kernels in C++, which are compiled first: faster, on a CPU with AVX-512 and where
            there is a C++ compiler.

    Returns:
        The task's report, with ``to_dict()`` and ``to_table()``.

    Raises:
        ValueError: The weights cannot be used, or do not fit the data.
    """
    from .. import tasks
    from ..engine import recipe as recipes
    from ..engine.files import check_writable, write_atomically
    from ..engine.run_folder import moved, say
    from ..engine.weights import locate
    from . import console

    overrides = dict(overrides or {})
    others = [key for key in overrides if not key.startswith("data.")]
    path = locate(weights)
    check_writable(json, coco)
    where = console.device(device)
    with_kernels = console.kernels(kernels, where)
    with console.waiting("loading ..."):
        model: Any = tasks.load(path, device=where)
    task = tasks.get(model.task)
    for key in others:
        model.follow(key, overrides.pop(key))
    source: Path | Any = model.metadata["recipe"]
    if source and Path(weights).is_dir() and (Path(weights) / "recipe.yaml").is_file():
        source = Path(weights) / "recipe.yaml"  # also knows where the data lie
    if model.metadata["recipe"].get("task") != model.task:
        # Converted and pretrained weights have no recipe of their task; their own image size is the default then.
        source = {"task": model.task, "data": {"image_size": list(model.preprocessing.image_size)}}
    recipe = recipes.parse(source, task.Recipe, overrides)
    recipe.check_evaluated(overrides)
    if isinstance(source, Path) and "data.root" not in overrides and (note := moved(source.parent, recipe.data.root)):
        say(note)
    if coco and ("coco" not in model.files or recipe.data.source != "coco"):
        raise ValueError("--coco is for detection on annotations in COCO's format, which have ids; leave it out")
    track = functools.partial(console.track, text="evaluating", device=model.mean.device)
    with with_kernels:
        report: Any = task.evaluate(model, recipe.data, progress=track)
    console.table(*report.to_table())
    if lines := report.to_lines():
        print("", *lines, sep="\n")
    if json:
        write_atomically(json, (json_.dumps({"weights": str(path), **report.to_dict()}, indent=2) + "\n").encode())
    if coco:
        write_atomically(coco, (json_.dumps(report.results) + "\n").encode())
    return report
