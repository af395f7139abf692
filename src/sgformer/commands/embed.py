"""Write what a model sees of images, as features with paths.

Examples:
  sgformer embed sgformer_t holiday/                        # features.parquet
  sgformer embed runs/finetune "photos/**/*.jpg" --out features.npz
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..tasks.model import Kept


def embed(
    weights: str | Path,
    images: list[str],
    *,
    out: str | Path = "features.parquet",
    batch_size: int = 32,
    device: str = "auto",
) -> int:
    """Write the features of images to a file: what the head of a classifier sees of them, with their paths.

    From Python, ``sgformer.load(weights).embed(images)`` gives the features as a tensor.

    Args:
        weights: A run folder (its best weights) or a weights file of a classifier.
        images: Files, folders and patterns; ``-`` reads more of them from standard input, one a line.
        out: ``.parquet`` has columns path and features (a list of float32), ``.npz`` arrays of the same names, ``.csv``
            a column for each feature.
        batch_size: How many images are read and computed at once.
        device: Where to compute; ``auto`` takes a GPU where there is one.

    Returns:
        0, or 1 if an image could not be read.

    Raises:
        ValueError: The weights cannot be used, the file is of another kind, or there are no images.
    """
    out = Path(out)
    if out.suffix not in (".parquet", ".npz", ".csv"):
        raise ValueError(f"--out {out} must end in .parquet, .npz or .csv")
    if batch_size < 1:
        raise ValueError(f"--batch_size {batch_size} must be at least 1")
    if out.suffix == ".parquet":
        import pyarrow.parquet  # noqa: F401  to miss it now rather than after the work

    from .. import tasks
    from ..engine.files import check_writable, write_atomically
    from . import console
    from .inputs import find, readable

    paths = find(images, readable(weights))
    check_writable(out, inputs=paths)
    with console.waiting("loading ..."):
        model = tasks.load(weights, device=console.device(device))
        model.embed([])  # a task without features says so
    names, features = _embed_all(model, paths, batch_size)
    if not names:
        raise ValueError(f"none of {len(paths)} images can be read; {out} is not written")
    write_atomically(out, _encode(names, features, out.suffix))
    print(f"{len(names)} images, {features.shape[1]} features each: {out}")
    return int(len(names) < len(paths))


def _embed_all(model: Kept, paths: list[Path], batch_size: int) -> tuple[list[str], NDArray[np.float32]]:
    """Names and features (images, c) of the images that can be read; the others are reported."""
    from ..tasks.images import ImageError
    from . import console
    from .inputs import printable

    names: list[str] = []
    found = [model.embed([]).numpy()]
    read, side = model.preprocessing.read, model.preprocessing.shorter_side
    for start in console.track(range(0, len(paths), batch_size), "embedding", device=model.mean.device):
        batch = []
        for path in paths[start : start + batch_size]:
            try:
                batch.append(read(path, shorter_side=side))
                names.append(printable(path))
            except (ImageError, OSError) as error:
                print(f"sgformer: skipped: {printable(error)}", file=sys.stderr)
        found.append(model.embed(batch, batch_size=batch_size).numpy())
    return names, np.concatenate(found)


def _encode(names: list[str], features: NDArray[np.float32], suffix: str) -> bytes:
    """Encode features as a file of the kind that the suffix names."""
    content = io.BytesIO()
    if suffix == ".npz":
        np.savez(content, path=np.array(names), features=features)
    elif suffix == ".csv":
        writer = csv.writer(text := io.StringIO(), lineterminator="\n")
        writer.writerow(["path", *(f"feature{i}" for i in range(features.shape[1]))])
        writer.writerows([name, *row] for name, row in zip(names, features.tolist(), strict=True))
        return text.getvalue().encode()
    else:
        import pyarrow
        import pyarrow.parquet

        column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(features.ravel()), features.shape[1])
        pyarrow.parquet.write_table(pyarrow.table({"path": names, "features": column}), content)
    return content.getvalue()
