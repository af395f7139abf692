"""How good pretrained weights are: on 1,000 classes, and as frozen features; and how those that ship are made.

    python benchmarks/pretraining.py measure DATA WEIGHTS... [--size 144]    a result file for each
    python benchmarks/pretraining.py table                                   the table in docs/pretraining.md
    python benchmarks/pretraining.py ship RUN FILE                           weights in half precision, calibrated
    python benchmarks/pretraining.py step FOLDER                             what a step takes, and its parts alone

DATA holds photos1000, food10, textures10 and aerial7. WEIGHTS are weights files, runs or packaged names;
timm:NAME=FILE is a model of timm with weights as a recipe's teacher has them; random:NAME one with initial values.
Frozen features are judged by a logistic regression on the pooled features of the training images, whose penalty is
chosen by cross-validation on them; validation images are only judged.

To ship weights is to divide the head by the temperature at which its probabilities of a run's validation images are
closest to the teacher's, by cross-entropy. So whatever uses the weights is as sure as the teacher is, on average.
"""

import argparse
import csv
import itertools
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
from lightning.pytorch import Callback
from pages import fill, markdown
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassCalibrationError

import sgformer
from sgformer.commands.train import to_share
from sgformer.engine import devices, fit
from sgformer.engine import recipe as recipes
from sgformer.engine.optim import create_optimizer
from sgformer.engine.weights import read_metadata
from sgformer.tasks.backbones import preprocessing_of
from sgformer.tasks.classification import Classifier
from sgformer.tasks.classification.probing import regress
from sgformer.tasks.folders import find_images
from sgformer.tasks.images import Preprocessing, read_image
from sgformer.tasks.pretrain import task as pretrain
from sgformer.tasks.pretrain.model import resized
from sgformer.tasks.pretrain.teacher import Teacher, TeacherOptions

RESULTS = Path(__file__).parent / "results" / "pretraining"
PAGE = Path(__file__).parents[1] / "docs" / "pretraining.md"
TRANSFER = ("food10", "textures10", "aerial7")


def load(name: str) -> Classifier:
    """A classifier by weights, by timm's name and a file, or with initial values."""
    kind, _, rest = name.partition(":")
    if kind == "timm":
        model_name, file = rest.split("=")
        teacher = Teacher(TeacherOptions(name=model_name, weights=file, precision="float32"))
        model = Classifier(
            model_name,
            classes=teacher.classes,
            names=teacher.names,
            preprocessing=preprocessing_of(model_name, image_size=224),
        )
        model.backbone = teacher.model
        return model.eval()
    if kind == "random":
        torch.manual_seed(0)
        classes = [str(i) for i in range(1000)]
        return Classifier(rest, classes=classes, preprocessing=preprocessing_of(rest, image_size=224)).eval()
    return sgformer.load(name)


@torch.inference_mode()
def outputs(model: Classifier, paths: list[Path], size: int) -> tuple[Tensor, Tensor]:
    """Pooled features and logits of images at one size, whole ones: the shorter side becomes `size`."""
    own = model.preprocessing
    preprocessing = Preprocessing(
        image_size=(size, size), crop_fraction=1.0, interpolation=own.interpolation, mean=own.mean, std=own.std
    )
    transform, backbone = preprocessing.transform(), model.backbone
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(paths), 32):
        images = torch.stack([transform(read_image(path)) for path in paths[start : start + 32]])
        maps = backbone.forward_features(images)  # pyright: ignore
        found.append((backbone.forward_head(maps, pre_logits=True), backbone.forward_head(maps)))  # pyright: ignore
    features, logits = zip(*found, strict=True)
    return torch.cat(features), torch.cat(logits)


def photos(model: Classifier, folder: Path, size: int) -> dict[str, float]:
    """Top-1 and top-5 on images with ImageNet labels, and how far the model's probabilities are off."""
    with (folder / "val.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = torch.tensor([int(row["label"]) for row in rows])
    logits = outputs(model, [folder / row["file"] for row in rows], size)[1]
    right = logits.topk(5).indices == labels[:, None]
    sure = MulticlassCalibrationError(len(model.classes), n_bins=15)(logits.softmax(-1), labels)
    return {
        "top1": right[:, 0].float().mean().item(),
        "top5": right.any(1).float().mean().item(),
        "calibration_error": sure.item(),
    }


def probe(model: Classifier, folder: Path, size: int) -> float:
    """Share of validation images that a logistic regression on frozen features names right."""
    classes = tuple(sorted(path.name for path in (folder / "train").iterdir()))
    sets = {}
    for split in ("train", "val"):
        paths = find_images(folder / split)
        labels = torch.tensor([classes.index(path.parent.name) for path in paths])
        sets[split] = outputs(model, paths, size)[0], labels
    penalties = [10 ** (i / 2) for i in range(-8, 1)]
    weight, bias, _, _ = regress(*sets["train"], classes=classes, penalties=penalties, folds=5)
    features, labels = sets["val"]
    return ((features @ weight.T + bias).argmax(-1) == labels).float().mean().item()


def measure(data: Path, names: list[str], size: int, out: Path, label: str | None) -> None:
    """A result file for each of the weights."""
    for name in names:
        model = load(name)
        start = time.perf_counter()
        result: dict[str, Any] = {"weights": label or Path(name.rpartition(":")[2]).stem, "size": size}
        if len(model.classes) == 1000:
            result["photos1000"] = photos(model, data / "photos1000", size)
        result["probe"] = {name: probe(model, data / name, size) for name in TRANSFER}
        result["probe"]["mean"] = sum(result["probe"].values()) / len(TRANSFER)
        result["seconds"] = round(time.perf_counter() - start, 1)
        if Path(name).exists():
            result["metrics"] = read_metadata(name)["metrics"]
        result["versions"] = {"torch": torch.__version__, "timm": timm.__version__, "machine": platform.machine()}
        print(json.dumps(result))
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{result['weights']}_{size}.json"
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def table() -> None:
    """Write the table in docs/pretraining.md from the result files."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    lines = []
    for row in sorted(rows, key=lambda row: (row["size"], row["probe"]["mean"])):
        photos = row.get("photos1000")
        named = [f"{photos[key]:.1%}" if photos else "" for key in ("top1", "top5")]
        probes = [f"{row['probe'][key]:.1%}" for key in (*TRANSFER, "mean")]
        lines.append([row["weights"], str(row["size"]), *named, *probes])
    heads = ["Weights", "pixels", "1,000 classes: top-1", "top-5", "food", "textures", "aerial", "mean of the three"]
    fill(PAGE, "results:pretraining", markdown(heads, lines))


@torch.inference_mode()
def ship(run: Path, file: Path) -> None:
    """Write a run's last weights in half precision, as sure as the teacher is."""
    path = run / "last.safetensors"
    recipe = recipes.parse(run / "recipe.yaml", pretrain.Recipe)
    task, data = pretrain.build(recipe)
    model = sgformer.load(path)
    task.model = model
    compared = [
        task.compare(model.normalize(batch.images), model.preprocessing.image_size)[1:]
        for batch in data.val_dataloader()
    ]
    logits = torch.cat([ours.logits for ours, _ in compared])
    said = torch.cat([theirs.logits.softmax(-1) for _, theirs in compared])
    temperatures = [i / 50 for i in range(10, 150)]
    best = min(temperatures, key=lambda t: cross_entropy(logits / t, said).item())
    head = model.backbone.get_classifier()  # pyright: ignore
    head.weight /= best
    head.bias /= best
    metrics = {**read_metadata(path)["metrics"], "temperature": best}
    model.save(file, recipe=to_share(recipe), metrics=metrics, half=True)
    print(f"temperature {best} on {len(said)} images; {file.stat().st_size / 1e6:.1f} MB")


class Clock(Callback):
    """When each step of a run began and ended."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.began = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Notes the begin."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """Notes the end."""
        self.times.append((self.began, time.perf_counter()))


def step(folder: Path, steps: int) -> None:
    """Time a run's steps beside the teacher's pass and the student's step alone, on the same images."""
    changed = {"data.root": str(folder), "trainer.limit_train_batches": steps, "trainer.limit_val_batches": 1}
    changed |= {"trainer.significance": False, "trainer.tensorboard": False, "trainer.max_epochs": 1}
    recipe = recipes.parse(recipes.find("pretrain/sgformer_t"), pretrain.Recipe, changed)
    task, data = pretrain.build(recipe)
    batch = next(iter(data.train_dataloader()))
    images, size = task.model.normalize(batch.images), recipe.data.train_size
    optimizer = create_optimizer(task.learned, recipe.optim)
    seen = resized(images, task.teacher.image_size or size)
    alone: dict[str, list[float]] = {"teacher": [], "student": []}
    teacher, half = task.teacher, devices.has_bfloat16("cpu")  # as the recipe's precision has it
    said = teacher(seen, task.model.preprocessing)

    def known(*_: Any) -> Any:
        return said

    known.image_size = teacher.image_size
    task.teacher = known  # pyright: ignore
    for _ in range(steps // 2):
        start = time.perf_counter()
        teacher(seen, task.model.preprocessing)
        alone["teacher"].append(time.perf_counter() - start)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = task.compare(images, size)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        alone["student"].append(time.perf_counter() - start)
    task.teacher, clock = teacher, Clock()
    with tempfile.TemporaryDirectory() as out:
        fit.fit(task, data, recipe.trainer, Path(out), recipe={}, watchers=[clock])
    ends = [end for _, end in clock.times]
    whole = statistics.median(after - before for before, after in itertools.pairwise(ends[2:]))
    within = statistics.median(end - began for began, end in clock.times[2:])
    parts = {name: statistics.median(times[1:]) for name, times in alone.items()}
    result = {
        "seconds": {"step": whole, "step without loading": within, **parts},
        "images_s": len(images) / whole,
        "share": sum(parts.values()) / whole,
        "batch_size": len(images),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "machine": platform.machine()},
    }
    print(json.dumps(result, indent=2))
    (RESULTS.parent / "pretraining_step.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("data", type=Path)
    measuring.add_argument("weights", nargs="+")
    measuring.add_argument("--size", type=int, default=144)
    measuring.add_argument("--label", help="what to call them, in place of the file's name")
    measuring.add_argument("--out", type=Path, default=RESULTS)
    verbs.add_parser("table")
    stepping = verbs.add_parser("step")
    stepping.add_argument("folder", type=Path)
    stepping.add_argument("--steps", type=int, default=20)
    shipping = verbs.add_parser("ship")
    shipping.add_argument("run", type=Path)
    shipping.add_argument("file", type=Path)
    given = parser.parse_args()
    if given.verb == "measure":
        measure(given.data, given.weights, given.size, given.out, given.label)
    elif given.verb == "step":
        step(given.folder, given.steps)
    elif given.verb == "ship":
        ship(given.run, given.file)
    else:
        table()


if __name__ == "__main__":
    main()
