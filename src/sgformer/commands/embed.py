"""Write what a model sees of images, as features with paths.

Examples:
  sgformer embed sgformer_t holiday/                        # features.parquet
  sgformer embed runs/finetune "photos/**/*.jpg" --out features.npz
"""

import io
import sys
from pathlib import Path
from typing import Any


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
        import pyarrow.parquet

    import numpy as np

    from .. import tasks
    from ..engine.files import check_writable, to_csv, write_atomically
    from ..tasks.images import ImageError
    from . import console
    from .inputs import find, printable, readable

    paths = find(images, readable(weights))
    check_writable(out, inputs=paths)
    with console.waiting("loading ..."):
        model = tasks.load(weights, device=console.device(device))
        model.embed([])  # a task without features says so
    how, names = model.preprocessing, []
    found: list[Any] = []
    for start in console.track(range(0, len(paths), batch_size), "embedding"):
        batch = []
        for path in paths[start : start + batch_size]:
            try:
                batch.append(how.read(path, shorter_side=how.shorter_side))
                names.append(printable(path))
            except (ImageError, OSError) as error:
                print(f"sgformer: skipped: {printable(error)}", file=sys.stderr)
        if batch:
            found.append(model.embed(batch, batch_size=batch_size).numpy())
    if not found:
        raise ValueError(f"none of {len(paths)} images can be read; {out} is not written")
    features = np.concatenate(found)
    content = io.BytesIO()
    if out.suffix == ".npz":
        np.savez(content, path=np.array(names), features=features)
    elif out.suffix == ".csv":
        heads = ["path", *(f"feature{i}" for i in range(features.shape[1]))]
        rows = ([name, *row.tolist()] for name, row in zip(names, features, strict=True))
        content.write(to_csv((dict(zip(heads, row, strict=True)) for row in rows), heads).encode())
    else:
        import pyarrow

        flat = pyarrow.array(features.ravel())
        column = pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
        table = pyarrow.table({"path": names, "features": column})
        pyarrow.parquet.write_table(table, content)
    write_atomically(out, content.getvalue())
    print(f"{len(names)} images, {features.shape[1]} features each: {out}")
    return int(len(names) < len(paths))
