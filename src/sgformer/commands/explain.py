"""``sgformer explain WEIGHTS PICTURES...``."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..explain import Explanation, Pair


def explain(
    weights: str | Path,
    pictures: list[str],
    *,
    out: str | Path = "explained",
    size: int | None = None,
    token_budget: int | None = None,
    device: str = "auto",
) -> int:
    """Draw what a model finds significant in pictures, and how it spends its keys on it.

    From Python, `explain_pictures` gives the arrays.

    Args:
        weights: A run folder (its best weights) or a weights file, of any task.
        pictures: Files, folders and patterns.
        out: A folder for ``index.html`` and for a folder of PNG files for each picture.
        size: Shorter side that the model sees, in pixels, at least 32.
        token_budget: The most keys of an attention, at least 3.
        device: Where to compute; ``auto`` takes a GPU where there is one.

    Returns:
        0, or 1 if a picture could not be read.

    Raises:
        ValueError: The weights cannot be used, the model has no significance, or there are no pictures.
    """
    from PIL import Image

    from .. import tasks
    from ..engine.weights import write_atomically
    from ..explain import write_page
    from ..tasks.images import PictureError
    from . import console
    from .predict import find

    paths = find(pictures)
    model = tasks.load(weights, device=console.device(device))
    if token_budget is not None:
        if (backbone := budgeted(model)) is None:
            raise ValueError(f"{_name(model)} has no token budget; leave --token_budget out")
        backbone.set_token_budget(token_budget)
    folder = Path(out)
    explanations: dict[str, Explanation] = {}
    notes: dict[str, str] = {}
    for path in paths:
        try:
            explanation = explain_picture(model, path, size=size)
        except (PictureError, OSError) as error:
            print(f"sgformer: skipped: {error}", file=sys.stderr)
            continue
        name = _unused(path.stem, explanations)
        explanations[name] = explanation
        prediction = model.predict(explanation.picture)
        notes[name] = prediction.summary() if hasattr(prediction, "summary") else ""
        save(explanation, folder / name)
        if hasattr(prediction, "boxes"):
            together = Image.fromarray(explanation.combined())
            prediction.draw(together, masks=False).save(folder / name / "objects.png")
        print(f"{path} -> {folder / name}", flush=True)
    if explanations:
        page = write_page(explanations, title=f"What {_name(model)} finds significant", notes=notes)
        write_atomically(folder / "index.html", page.encode())
        print(f"All in one page: {folder / 'index.html'}")
    return int(len(explanations) < len(paths))


def explain_picture(model: Any, picture: Any, *, size: int | None = None) -> "Explanation":
    """What each pair of blocks of a loaded model does with a picture, as arrays that can be drawn.

    Args:
        model: What `sgformer.load` gives, of any task.
        picture: A path, the bytes of a file, a PIL image or an array.
        size: Shorter side that the model sees, in pixels; None: that at which it evaluates.

    Raises:
        PictureError: The picture cannot be read.
        ValueError: The model has no significance, or the size is below 32.
    """
    from .. import explain as explain_
    from ..tasks.images import read_picture

    image = read_picture(picture)
    return explain_.explain_picture(model, image, prepare(model, image, size=size))


def prepare(model: Any, image: "Image", *, size: int | None = None) -> "Tensor":
    """A picture as the model takes it, resized but whole: `(1, 3, height, width)`.

    Args:
        model: With a ``preprocessing``, whose mean, deviation and interpolation are used.
        image: RGB.
        size: Shorter side in pixels; None: what the preprocessing says of a picture of this size, if it has a
            ``size((height, width))``, or the ``shorter_side`` to which it resizes before it crops.
    """
    import torch
    from torchvision.transforms.v2 import functional as F
    from torchvision.transforms.v2.functional import InterpolationMode

    preprocessing = model.preprocessing
    if size is not None and size < 32:
        raise ValueError(f"--size {size} is too small: models of stride 32 need at least 32")
    if size is None and hasattr(preprocessing, "size"):
        seen = list(preprocessing.size((image.height, image.width)))
    else:
        seen = [size or preprocessing.shorter_side]  # one number is the shorter side
    mode = InterpolationMode(getattr(preprocessing, "interpolation", "bilinear"))
    resized: Any = F.resize(cast(Any, image), seen, mode)  # which takes PIL's pictures as well
    tensor = F.to_dtype(F.to_image(resized), torch.float32, scale=True)
    x = F.normalize(tensor, list(preprocessing.mean), list(preprocessing.std))
    return x.unsqueeze(0).to(next(model.parameters()).device)


def save(explanation: "Explanation", folder: Path) -> None:
    """Write every map of a picture to a folder, and sheets of each stage and of it all."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    from ..explain.explanation import VIEWS

    def write(image: Image.Image, name: str) -> None:
        # Little compression: three times as fast, and no more than a tenth larger.
        image.save(folder / f"{name}.png", compress_level=3)

    def draw(pair: "Pair", view: str) -> None:
        drawn = Image.fromarray(pair.draw(explanation.picture, view))
        write(drawn, f"stage{pair.stage}_pair{pair.number}_{view}")

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        written = [pool.submit(lambda: write(explanation.summary(), "summary"))]
        for stage, pairs in explanation.stages():
            written.append(pool.submit(lambda s=stage: write(explanation.stage_grid(s), f"stage{s}")))
            written += [pool.submit(draw, pair, view) for pair in pairs for view in VIEWS]
        for each in written:
            each.result()  # raises what went wrong


def budgeted(model: Any) -> Any:
    """The part of a model that has a token budget and can change it; None where there is none."""
    return next((module for module in model.modules() if hasattr(module, "set_token_budget")), None)


def _name(model: Any) -> str:
    return getattr(model, "name", type(model).__name__)


def _unused(stem: str, taken: dict) -> str:
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name
