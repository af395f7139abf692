"""Is the significance map worth anything? It is held against object masks, deletion, and other guidance.

    python benchmarks/significance_worth.py masks WEIGHTS SET       SET: digit_scenes, coco_tiny80 or nuclei
    python benchmarks/significance_worth.py curves WEIGHTS SET      SET: digit_scenes or imagenette160
    python benchmarks/significance_worth.py guidance WEIGHTS SET    likewise
    python benchmarks/significance_worth.py tables                  fill in the tables of docs/significance.md

WEIGHTS is a weights file or a run folder of a classifier. Sets other than the digit scenes lie in the folder that the
environment variable SGFORMER_DATA names. Result files go to
`benchmarks/results/significance/<measure>_<set>_<model>.json`.
"""

import datetime
import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orders
import torch
from map_measures import deletion_and_insertion, points_at_object, roc_auc
from pages import fill
from PIL import Image

import sgformer
from sgformer import tasks
from sgformer.engine.recipe import parse
from sgformer.engine.weights import locate, read_metadata
from sgformer.explanations import explain_image
from sgformer.tasks.digit_scenes import DigitScenes

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "significance"
NUM_SCENES = 200
NUM_CURVES = {"digit_scenes": 60, "imagenette160": 30}
SMALL_BUDGET = {"digit_scenes": 4, "imagenette160": 16}  # one that binds at the size of the images
RANDOM_SEEDS = 2


def data_folder(name: str) -> Path:
    folder = Path(os.environ.get("SGFORMER_DATA", "")) / name
    if not os.environ.get("SGFORMER_DATA") or not folder.is_dir():
        sys.exit(f"no folder {name}; set SGFORMER_DATA to the folder that holds it")
    return folder


def images_with_masks(name: str) -> Iterator[tuple[Image.Image, np.ndarray]]:
    """Validation images, and where their objects are; crowds count as objects."""
    if name == "digit_scenes":
        for scene in DigitScenes("val", NUM_SCENES, size=64):
            yield scene.image, scene.masks.any(0)
        return
    from pycocotools import mask as masks
    from pycocotools.coco import COCO

    folder = data_folder(name)
    coco = COCO(folder / "annotations" / "instances_val.json")
    for about in coco.loadImgs(sorted(coco.getImgIds())):
        found = coco.loadAnns(coco.getAnnIds(imgIds=about["id"], iscrowd=None))
        mask = np.zeros((about["height"], about["width"]), bool)
        for annotation in found:
            mask |= masks.decode(coco.annToRLE(annotation)).astype(bool)
        yield Image.open(folder / "images" / about["file_name"]).convert("RGB"), mask


def centre_and_contrast(image: Image.Image, tokens: tuple[int, int]) -> dict[str, np.ndarray]:
    """Two maps that know nothing of a model: how near the centre a place is, and how much its pixels differ."""
    H, W = tokens
    row, column = np.mgrid[:H, :W]
    distance = ((row + 0.5) / H - 0.5) ** 2 + ((column + 0.5) / W - 0.5) ** 2
    gray = np.asarray(image.convert("L").resize((8 * W, 8 * H), Image.Resampling.BILINEAR), np.float64)
    contrast = gray.reshape(H, 8, W, 8).std((1, 3))
    return {"nearness to the centre": -distance, "contrast": contrast}


def measure_masks(model: Any, name: str) -> dict[str, Any]:
    """ROC area and pointing game of each pair's map, of all together, and of two maps without a model."""
    areas, rows = [], {}
    for image, mask in images_with_masks(name):
        explanation = explain_image(model, image, model.prepare(image))
        maps = {pair.name: (pair.significance, pair.covered) for pair in explanation.pairs}
        last = explanation.pairs[0]
        together = np.mean([resample(pair, last) for pair in explanation.pairs], 0)
        maps["all pairs together"] = together, last.covered
        for other, values in centre_and_contrast(image, last.significance.shape).items():
            maps[other] = values, (1.0, 1.0)
        auc = {key: roc_auc(values, mask, covered=c) for key, (values, c) in maps.items()}
        if any(value is None for value in auc.values()):
            continue  # no object, or nothing beside it
        areas.append(float(mask.mean()))
        for key, (values, covered) in maps.items():
            rows.setdefault(key, []).append((auc[key], points_at_object(values, mask, covered=covered)))
    return {
        "num_images": len(areas),
        "mask_share": float(np.mean(areas)),
        "maps": {key: summary(np.array(values)) for key, values in rows.items()},
    }


def summary(values: np.ndarray) -> dict[str, float]:
    """Means over images with their standard errors."""
    error = values.std(0, ddof=1) / len(values) ** 0.5
    return {
        "roc_auc": round(float(values[:, 0].mean()), 4),
        "roc_auc_error": round(float(error[0]), 4),
        "pointing": round(float(values[:, 1].mean()), 4),
        "pointing_error": round(float(error[1]), 4),
    }


def resample(pair: Any, like: Any) -> np.ndarray:
    """A pair's significance, by rank from 0 to 1 so that all pairs count the same, on the grid of another pair."""
    rank = pair.significance.ravel().argsort(kind="stable").argsort(kind="stable") / pair.significance.size
    H, W = like.significance.shape
    image = Image.fromarray(rank.reshape(pair.significance.shape).astype(np.float32))
    h, w = pair.significance.shape
    box = 0, 0, w * pair.covered[1] / like.covered[1], h * pair.covered[0] / like.covered[0]
    box = 0, 0, min(box[2], w), min(box[3], h)
    return np.asarray(image.resize((W, H), Image.Resampling.BILINEAR, box=box))


def validation_images(model: Any, name: str, number: int) -> Iterator[Image.Image]:
    """Some validation images of a classifier, evenly spread over its classes."""
    if name == "digit_scenes":
        yield from (scene.image for scene in DigitScenes("val", number, size=64))
        return
    files = [sorted(folder.glob("*")) for folder in sorted((data_folder(name) / "val").iterdir())]
    for i in range(number):
        yield Image.open(files[i % len(files)][i // len(files)]).convert("RGB")


def measure_curves(model: Any, name: str) -> dict[str, Any]:
    """Deletion and insertion by the last pair of each stage, and by maps that know nothing of the image.

    The fairest of those is the map of another image: it is as coarse and as smooth, and likes the same places.
    """
    curves: dict[str, list[np.ndarray]] = {}
    transform = model.preprocessing.transform()
    explained = []
    for image in validation_images(model, name, NUM_CURVES[name]):
        x = transform(image).unsqueeze(0)
        explained.append((x, explain_image(model, image, x)))
    for i, (x, explanation) in enumerate(explained):
        other = explained[i - 1][1]
        maps = {}
        for (stage, pairs), (_, others) in zip(explanation.stages(), other.stages(), strict=True):
            maps[f"stage {stage}"] = pairs[-1].significance, pairs[-1].covered
            maps[f"stage {stage}, map of another image"] = others[-1].significance, others[-1].covered
        tokens = explanation.pairs[-1].significance.shape
        maps |= {key: (v, (1.0, 1.0)) for key, v in centre_and_contrast(explanation.image, tokens).items()}
        for key, (values, covered) in maps.items():
            both = deletion_and_insertion(model, x, values, covered=covered)
            curves.setdefault(key, []).append(np.stack(both))
    count = len(explained)
    means = {key: np.mean(values, 0) for key, values in curves.items()}
    spread = {key: np.std([area(v) for v in values], axis=0, ddof=1) / count**0.5 for key, values in curves.items()}
    return {
        "num_images": count,
        "maps": {
            key: {
                "deletion_area": round(float(area(mean)[0]), 4),
                "insertion_area": round(float(area(mean)[1]), 4),
                "errors": [round(float(e), 4) for e in spread[key]],
                "deletion": [round(float(v), 4) for v in mean[0]],
                "insertion": [round(float(v), 4) for v in mean[1]],
            }
            for key, mean in means.items()
        },
    }


def area(curves: np.ndarray) -> np.ndarray:
    """Under both curves, by the trapezoidal rule."""
    return ((curves[:, 1:] + curves[:, :-1]) / 2).mean(1)


def measure_guidance(model: Any, name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Accuracy with the same weights, guided by what was measured, by a uniform order and by random ones."""
    task = tasks.get(metadata["task"])
    data = parse(metadata["recipe"], task.Recipe).data
    data = replace(data, root=None if name == "digit_scenes" else str(data_folder(name)), workers=0)
    kinds = [("significance", 0), ("uniform", 0), *(("random", 1000 * seed) for seed in range(RANDOM_SEEDS))]
    rows = []
    for budget in (None, SMALL_BUDGET[name]):
        model.backbone.set_token_budget(budget)
        for guidance, seed in kinds:
            other = guidance != "significance"
            with orders.held(model, guidance, seed=seed) if other else nullcontext():  # pyright: ignore
                report = task.evaluate(model, data)
            row = {"guidance": guidance, "seed": seed, "token_budget": budget, "top1": round(report.top1, 4)}
            rows.append(row | {"top5": round(report.top5, 4), "num_images": report.num_images})
            print(rows[-1], flush=True)
    return {"image_size": list(data.eval_size), "rows": rows}


def measure(what: str, weights: str, name: str) -> Path:
    torch.manual_seed(0)
    path = locate(weights)
    model, metadata = sgformer.load(path), read_metadata(path)
    if what == "masks":
        result = measure_masks(model, name)
    elif what == "curves":
        result = measure_curves(model, name)
    else:
        result = measure_guidance(model, name, metadata)
    data = metadata["recipe"].get("data", {})
    about = {
        "measure": what,
        "set": name,
        "model": metadata["model"]["name"],
        "trained_on": "digit scenes" if data.get("source") == "digit_scenes" else "Imagenette",
        "weights_top1": metadata["metrics"].get("val_top1"),
        "weights_epoch": metadata["metrics"].get("epoch"),
        "torch": torch.__version__.split("+")[0],
        "date": datetime.date.today().isoformat(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    out = RESULTS / f"{what}_{name}_{metadata['model']['name']}.json"
    out.write_text(json.dumps(about | result, indent=1) + "\n", encoding="utf-8")
    return out


def with_error(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}"


def table(what: str, files: list[Path]) -> str:
    """The tables of all results of a kind, one a file."""
    lines = []
    for result in (json.loads(path.read_text(encoding="utf-8")) for path in files):
        model = f"{result['model']} trained on {result['trained_on']}"
        if what == "masks":
            share = f"{result['num_images']} images, of which objects cover {result['mask_share']:.1%}"
            lines += [f"\n`{result['set']}`, {model}, {share}:\n"]
            lines += ["| Map | ROC area | Pointing game |", "|---|---|---|"]
            for key, v in result["maps"].items():
                area_cell = with_error(v["roc_auc"], v["roc_auc_error"])
                lines += [f"| {key} | {area_cell} | {with_error(v['pointing'], v['pointing_error'])} |"]
        elif what == "curves":
            lines += [f"\n`{result['set']}`, {model}, {result['num_images']} images:\n"]
            lines += ["| Order | Deletion, lower is better | Insertion, higher is better |", "|---|---|---|"]
            for key, v in result["maps"].items():
                deletion = with_error(v["deletion_area"], v["errors"][0])
                lines += [f"| {key} | {deletion} | {with_error(v['insertion_area'], v['errors'][1])} |"]
        else:
            size = "x".join(map(str, result["image_size"]))
            lines += [f"\n`{result['set']}`, {model}, {result['rows'][0]['num_images']} images of {size}:\n"]
            lines += ["| Guidance | Token budget | Top-1 |", "|---|---|---|"]
            for row in result["rows"]:
                seed = f", seed {row['seed']}" if row["guidance"] == "random" else ""
                budget = row["token_budget"] or "none"
                lines += [f"| {row['guidance']}{seed} | {budget} | {row['top1']:.1%} |"]
    return "\n".join(lines).strip() + "\n"


def tables() -> None:
    for what in ("masks", "curves", "guidance"):
        filled = table(what, sorted(RESULTS.glob(f"{what}_*.json")))
        fill(ROOT / "docs" / "significance.md", what, f"\n{filled}\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["tables"]:
        tables()
    elif len(sys.argv) == 4 and sys.argv[1] in ("masks", "curves", "guidance"):
        print(measure(*sys.argv[1:]))
    else:
        sys.exit(__doc__)
