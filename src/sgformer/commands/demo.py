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
    """Show some validation scenes of a run with the model's prediction, the truth, and where the model looks.

    The first ones, with up to two mistakes among them if it makes any; the title says how many of how many are right.
    """
    import torch
    from torch.nn.functional import interpolate
    from torchvision.transforms.v2.functional import to_pil_image

    from .. import tasks
    from ..engine.recipe import parse
    from ..explanations import Cell, contact_sheet, significance_maps, significance_sheet

    model = tasks.load(weights)
    options = parse(model.metadata["recipe"], tasks.get(model.task).Recipe).data.scenes
    validation = options.make("val")
    scenes = [validation[i] for i in range(min(64, len(validation)))]
    predicted = model.predict([scene.image for scene in scenes])
    wrong = [i for i, scene in enumerate(scenes) if predicted[i].label != str(scene.label)]
    chosen = list(range(min(NUM_IMAGES, len(scenes))))
    # If the first scenes hold too few mistakes to learn from, the last rows make room for some.
    extra = [i for i in wrong if i not in chosen]
    extra = extra[: max(0, NUM_MISTAKES - len([i for i in chosen if i in wrong]))]
    chosen = chosen[: NUM_IMAGES - len(extra)] + extra

    transform = model.preprocessing.transform(normalize=False)
    pixels = torch.stack([transform(scenes[i].image) for i in chosen])
    large = interpolate(pixels.float(), scale_factor=3, mode="bicubic").clamp(0, 255).round().byte()
    cells = [
        Cell(
            to_pil_image(image),
            f"says {predicted[i].label}, {predicted[i].score:.0%} sure\nis {scenes[i].label}",
            mark=i not in wrong,
        )
        for i, image in zip(chosen, large, strict=True)
    ]
    title = f"{model.name} on digit scenes: {accuracy:.1%} of {num_judged:,} right (chance 10%)"
    if model.guided is None:
        return contact_sheet([[cell] for cell in cells], title=title), [scenes[i] for i in chosen]
    maps = [m.numpy() for m in significance_maps(model, model.normalize(pixels))]
    sheet = significance_sheet(cells, maps, (pixels.shape[2], pixels.shape[3]), title=title, cell_size=176)
    return sheet, [scenes[i] for i in chosen]
