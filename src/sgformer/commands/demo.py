"""See it all at work in four minutes, without a download.

Trains the recipe digit_scenes; any of its keys can be changed:
--SECTION.KEY VALUE.

Examples:
  sgformer demo
  sgformer demo --out trials --trainer.max_epochs 2
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..tasks.digit_scenes import Scene

RECIPE = "digit_scenes"
NUM_IMAGES = 8  # on the sheet
NUM_MISTAKES = 2  # at most, of those


def demo(overrides: Mapping[str, Any] | None = None, *, out: str | Path = "runs") -> Path:
    """Train a small SG-Former on digit scenes, judge it on other ones, and draw what it sees.

    Args:
        overrides: Keys of the recipe to change, such as ``{"trainer.max_epochs": 2}``.
        out: Where the run folder goes.

    Returns:
        The run folder: what ``sgformer train`` leaves behind, ``significance.png``, and in ``images`` the
        scenes that it shows.

    Raises:
        ImportError: scikit-image or scikit-learn is missing.
        ValueError: An override does not hold together.
    """
    from ..tasks import digit_scenes

    start = time.perf_counter()
    digit_scenes.DigitScenes("val", 1)[0]  # packages that are missing show at once
    print(
        "Which digit is in the photograph? A small SG-Former learns it now, from handwritten digits.\n"
        "It is judged on other people's digits in other photographs, where chance is 10%.\n",
        flush=True,
    )

    from .train import train

    folder = train(RECIPE, overrides, out=out)
    assert folder is not None  # only when printing a recipe
    print()

    from .evaluate import evaluate

    report = evaluate(folder)
    sheet, scenes = draw(folder, accuracy=report.top1, num_judged=report.num_images)
    sheet.save(folder / "significance.png")
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for i, scene in enumerate(scenes):
        scene.image.save(images / f"scene{i}_with_a_{scene.label}.png")

    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    chance = 1 / len(digit_scenes.DigitScenes.classes)
    print(
        f"\n{report.top1:.1%} of {report.num_images:,} scenes right (chance: {chance:.0%}), "
        f"after {minutes} min {seconds:02} s in all.\n\n"
        f"See where it spends keys:  {folder / 'significance.png'}\n"
        f"Ask it about an image:     sgformer predict {folder} {images}\n"
        f"Use it from Python:        sgformer.load({str(folder)!r}).predict(image)\n"
        "Train on your images:      sgformer train finetune --data.root FOLDER   "
        "(FOLDER/train/CLASS/, FOLDER/val/CLASS/)"
    )
    return folder


def draw(weights: str | Path, *, accuracy: float, num_judged: int) -> tuple[Image, Sequence[Scene]]:
    """Show some validation scenes with the model's prediction, the truth, and where the model looks.

    Args:
        weights: A run folder or weights file of the digit scenes.
        accuracy: For the title, 0 to 1.
        num_judged: On how many scenes it was measured.

    Returns:
        The sheet, and the scenes on it: the first ones, with up to two mistakes among them if it makes any.
    """
    import torch

    from .. import tasks
    from ..engine.recipe import parse
    from ..explain import Cell, contact_sheet
    from ..tasks.digit_scenes import DigitScenes

    model = tasks.load(weights)
    options = parse(model.metadata["recipe"], tasks.get(model.task).Recipe).data.scenes
    validation = DigitScenes("val", options.num_val, size=options.size, seed=options.seed)

    scenes = [validation[i] for i in range(min(64, len(validation)))]
    transform = model.preprocessing.transform()
    x = torch.stack([transform(scene.image) for scene in scenes])
    with torch.inference_mode():
        scores, predicted = model(x).softmax(-1).max(-1)
    names = [model.classes[i] for i in predicted.tolist()]
    wrong = [i for i, scene in enumerate(scenes) if names[i] != str(scene.label)]
    chosen = list(range(min(NUM_IMAGES, len(scenes))))
    # If the first scenes hold too few mistakes to learn from, the last rows make room for some.
    extra = [i for i in wrong if i not in chosen][
        : max(0, NUM_MISTAKES - len([i for i in chosen if i in wrong]))
    ]
    chosen = chosen[: NUM_IMAGES - len(extra)] + extra

    x = x[chosen]
    images = _as_seen(x, model.preprocessing)
    columns, headings = _significance_cells(model, x, images)
    rows = [
        [
            Cell(
                images[row],
                f"says {names[i]}, {scores[i]:.0%} sure\nis {scenes[i].label}",
                mark=names[i] == str(scenes[i].label),
            ),
            *cells,
        ]
        for row, (i, cells) in enumerate(zip(chosen, columns, strict=True))
    ]
    sheet = contact_sheet(
        rows,
        title=f"{model.name} on digit scenes: {accuracy:.1%} of {num_judged:,} right (chance 10%)",
        headings=["image", *headings],
        legend=bool(headings),
    )
    return sheet, [scenes[i] for i in chosen]


def _significance_cells(model: Any, x: Tensor, images: Sequence[Any]) -> tuple[list[list[Any]], list[str]]:
    """For each image all maps together and the last map of each stage; nothing for a model without maps."""
    from ..explain import Cell, combine, overlay, significance_maps

    if not hasattr(model.backbone, "forward_significance"):
        return [[] for _ in images], []
    maps = significance_maps(model, x)
    last = {tuple(significance.shape[1:]): significance for significance in maps}
    headings = ["all pairs of blocks", *(f"{height} x {width} tokens" for height, width in last)]
    rows = []
    for i, image in enumerate(images):
        together = combine([significance[i] for significance in maps], image.shape[:2])
        rows.append(
            [Cell(overlay(image, together)), *(Cell(overlay(image, each[i])) for each in last.values())]
        )
    return rows, headings


def _as_seen(images: Tensor, preprocessing: Any) -> list[Any]:
    """Prepared images `(B, 3, height, width)` as the model sees them, three times as large, uint8."""
    import numpy as np
    import torch
    from PIL import Image

    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    arrays = ((images * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    height, width = arrays.shape[1:3]
    return [
        np.asarray(Image.fromarray(array).resize((3 * width, 3 * height), Image.Resampling.LANCZOS))
        for array in arrays
    ]
