"""How good pretrained weights are: on 1,000 classes, and as frozen features.

    python benchmarks/pretraining.py measure DATA WEIGHTS... [--size 128]     a result file for each
    python benchmarks/pretraining.py table                                    the tables in docs/pretraining.md

DATA holds photos1000, food10, textures10 and aerial7. WEIGHTS are weights files, runs or packaged names;
timm:NAME=FILE is a model of timm with weights as a recipe's teacher has them; random:NAME one with initial values.
Frozen features are judged by a logistic regression on the pooled features of the training pictures, whose penalty is
chosen by cross-validation on them; validation pictures are only judged.
"""

import argparse
import csv
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

import sgformer
from sgformer.engine.weights import read_metadata
from sgformer.tasks.backbones import preprocessing_of
from sgformer.tasks.classification import Classifier
from sgformer.tasks.images import Preprocessing, find_pictures, read_picture
from sgformer.tasks.pretrain.teacher import Teacher, TeacherOptions

RESULTS = Path(__file__).parent / "results" / "pretraining"
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
    """Pooled features and logits of pictures at one size, whole ones: the shorter side becomes `size`."""
    own = model.preprocessing
    preprocessing = Preprocessing(
        image_size=(size, size),
        crop_fraction=1.0,
        interpolation=own.interpolation,
        mean=own.mean,
        std=own.std,
    )
    transform, backbone = preprocessing.transform(), model.backbone
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(paths), 32):
        images = torch.stack([transform(read_picture(path)) for path in paths[start : start + 32]])
        maps = backbone.forward_features(images)  # pyright: ignore
        found.append((backbone.forward_head(maps, pre_logits=True), backbone.forward_head(maps)))  # pyright: ignore
    features, logits = zip(*found, strict=True)
    return torch.cat(features), torch.cat(logits)


def photos(model: Classifier, folder: Path, size: int) -> dict[str, float]:
    """Top-1 and top-5 on pictures with ImageNet labels, and how sure the model is."""
    with (folder / "val.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = torch.tensor([int(row["label"]) for row in rows])
    logits = outputs(model, [folder / row["file"] for row in rows], size)[1]
    right = logits.topk(5).indices == labels[:, None]
    return {"top1": right[:, 0].float().mean().item(), "top5": right.any(1).float().mean().item()}


def probe(model: Classifier, folder: Path, size: int) -> float:
    """Share of validation pictures that a logistic regression on frozen features names right."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sets = {}
    for split in ("train", "val"):
        paths = find_pictures(folder / split)
        sets[split] = outputs(model, paths, size)[0].numpy(), np.array([path.parent.name for path in paths])
    regression = LogisticRegressionCV(
        Cs=np.logspace(-4, 0, 9),
        cv=5,
        max_iter=2000,
        scoring="accuracy",
        use_legacy_attributes=False,
        l1_ratios=(0,),
    )
    fitted: Any = make_pipeline(StandardScaler(), regression).fit(*sets["train"])
    return float(fitted.score(*sets["val"]))


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
        result["versions"] = {
            "torch": torch.__version__,
            "timm": timm.__version__,
            "machine": platform.machine(),
        }
        print(json.dumps(result))
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{result['weights']}_{size}.json"
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--label", help="what to call them, in place of the file's name")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    measure(given.data, given.weights, given.size, given.out, given.label)
