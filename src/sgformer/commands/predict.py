"""``sgformer predict WEIGHTS PICTURES...``."""

import argparse
import glob
import json as json_
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  sgformer predict runs/imagenette160 dog.jpg
  sgformer predict best.safetensors holiday/ "more/**/*.png" --top_k 3 --json names.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("weights", help="a run folder (its best weights) or a weights file")
    parser.add_argument(
        "pictures", nargs="+", help="files, folders (with all below them) or patterns such as '*.jpg'"
    )
    parser.add_argument(
        "--top_k", type=int, default=3, metavar="K", help="how many classes to show (default: 3)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write all predictions to this file")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps; default: a GPU where there is one")


def predict(
    weights: str | Path,
    pictures: list[str],
    *,
    top_k: int = 3,
    json: str | Path | None = None,
    device: str = "auto",
) -> int:
    """Name what is in pictures, and print a table. Pictures that cannot be read are reported and left out.

    From Python, ``sgformer.load(weights).predict(pictures)`` gives the predictions themselves.

    Args:
        weights: A run folder (its best weights) or a weights file.
        pictures: Files, folders and patterns.
        top_k: How many classes to show of each picture.
        json: A file for all predictions.
        device: Where to compute; ``auto`` takes a GPU where there is one.

    Returns:
        0, or 1 if a picture could not be read.

    Raises:
        ValueError: The weights cannot be used, or there are no pictures.
    """
    if top_k < 1:
        raise ValueError(f"--top_k {top_k} must be at least 1")

    from .. import tasks
    from ..engine.weights import write_atomically
    from ..tasks.images import PictureError
    from . import console

    paths = find(pictures)
    model = tasks.load(weights, device=console.device(device))
    results: list[dict[str, Any]] = []
    rows = []
    for path in paths:
        try:
            prediction = model.predict(path, top_k=top_k)
        except (PictureError, OSError) as error:
            results.append({"picture": str(path), "error": getattr(error, "reason", str(error))})
            print(f"sgformer: skipped: {error}", file=sys.stderr)
            continue
        results.append({"picture": str(path), **prediction.to_dict()})
        rows.append((str(path), *(f"{label} {score:.1%}" for label, score in prediction.top)))
    if rows:
        heads = ("picture", "prediction", *(f"or {rank}" for rank in range(2, len(rows[0]))))
        console.table(heads, rows)
    if json:
        write_atomically(json, (json_.dumps(results, indent=2, ensure_ascii=False) + "\n").encode())
    return int(len(rows) < len(paths))


def find(pictures: list[str]) -> list[Path]:
    """The files that names, folders and patterns stand for, each once, in order.

    Raises:
        ValueError: A folder or a pattern has no pictures.
    """
    from ..tasks.images import find_pictures

    paths: dict[Path, None] = {}
    for name in pictures:
        path = Path(name)
        if path.is_dir():
            found = find_pictures(path)
        elif path.exists() or not glob.has_magic(name):
            found = [path]  # one that does not exist is reported with the others that cannot be read
        else:
            found = sorted(Path(match) for match in glob.glob(name, recursive=True) if Path(match).is_file())
        if not found:
            raise ValueError(f"no pictures in {name}; expected .jpg, .png and the like")
        paths |= dict.fromkeys(found)
    return list(paths)
