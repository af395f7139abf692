"""What guidance is worth to the weights that ship, without training: other orders and other merging, held from outside.

    python benchmarks/guidance_frozen.py run --data FOLDER [--hours 1]    the settings that are left, one at a time
    python benchmarks/guidance_frozen.py tables                           fills the table of docs/significance.md

FOLDER holds `imagenette160`, whose validation images the weights never saw; the classifier chooses among its ten
classes. Each way sees the same images with the same weights, so differences are image by image. Merging by regions is
given the weights of the ranking's bands in the mean: the weights were not trained for it, nor for any order but
significance. The results are in `benchmarks/results/guidance_frozen.json`.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import orders
import timm
import torch
from pages import fill, markdown
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from sgformer import SGFormer

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "guidance_frozen.json"
PAGE = ROOT / "docs" / "significance.md"
NUM_IMAGES = {144: 600, 224: 300, 448: 100}  # by size in pixels
BUDGETS = {144: (16, 48, None), 224: (16, 48, None), 448: (16, 48, 196, None)}  # 196 binds in large images only
# Merging and order.
WAYS = (
    ("ranking", "significance"),
    ("ranking", "uniform"),
    ("ranking", "random"),
    ("ranking", "reversed"),
    ("ranking, plain means", "significance"),
    ("ranking, plain means", "uniform"),
    ("regions", "significance"),
    ("regions", "uniform"),
    ("regions", "reversed"),
)


def models() -> dict[str, SGFormer]:
    """The model that ships, with each way to merge."""
    shipped = timm.create_model("sgformer_t", pretrained=True).eval()
    weights = shipped.state_dict()
    means = {
        name: tensor.mean(1, keepdim=True).expand_as(tensor) if is_merging(name) else tensor
        for name, tensor in weights.items()
    }
    plain = timm.create_model("sgformer_t").eval()
    plain.load_state_dict(means)
    regional = timm.create_model("sgformer_t", merging="regions").eval()
    own = regional.state_dict()
    of_regions = {name: tensor for name, tensor in weights.items() if ".merge." not in name}
    for name in (name for name in own if ".merge." in name):  # the coarse cells as the first band, the rest as the last
        prefix, _, rest = name.rpartition(".merge.")
        place, _, kind = rest.partition(".")
        last = max(int(other.split(".")[-2]) for other in weights if other.startswith(f"{prefix}.merge."))
        of_band = weights[f"{prefix}.merge.{last if int(place) else 0}.{kind}"]
        of_regions[name] = (of_band.sum() / own[name].numel()).expand_as(own[name])
    regional.load_state_dict(of_regions)
    return {"ranking": shipped, "ranking, plain means": plain, "regions": regional}  # pyright: ignore


def is_merging(name: str) -> bool:
    return ".merge." in name and name.endswith("weight")


def images(folder: Path, size: int, number: int) -> tuple[Tensor, Tensor]:
    """Validation images as bytes, evenly spread over the classes, and the classes."""
    of_class = [sorted(path.iterdir()) for path in sorted(folder.iterdir()) if path.is_dir()]
    found, labels = [], []
    for i in range(number):
        path = of_class[i % len(of_class)][i // len(of_class)]
        image = Image.open(path).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
        found.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3))
        labels.append(i % len(of_class))
    return torch.stack(found).permute(0, 3, 1, 2), torch.tensor(labels)


@torch.inference_mode()
def log_probabilities(model: nn.Module, x: Tensor, order: str, classes: list[int]) -> Tensor:
    """Of the ten classes, `(B, 10)`."""
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))  # pyright: ignore
    held = contextlib.nullcontext() if order == "significance" else orders.held(model, order)  # pyright: ignore
    with held:
        logits = torch.cat([model((part.float() / 255 - mean) / std) for part in x.split(25)])
    return logits[:, classes].log_softmax(1)


def run(data: Path, hours: float) -> None:
    """Adds the settings that are left to the result file, the smallest sizes first."""
    begun, folder = time.monotonic(), data / "imagenette160"
    known: list[dict[str, Any]] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else []
    wordnet = [line.split()[0] for line in (folder / "classes.txt").read_text(encoding="utf-8").splitlines()]
    info = ImageNetInfo()
    synsets = info.label_names()
    classes = [synsets.index(name) for name in sorted(wordnet)]
    all_models = models()
    for size, number in NUM_IMAGES.items():
        x, labels = images(folder / "val", size, number)
        for budget in BUDGETS[size]:
            if any((row["size"], row["budget"]) == (size, budget) for row in known):
                continue
            if time.monotonic() - begun > hours * 3600:
                return
            rows = []
            for merging, order in WAYS:
                model = all_models[merging]
                model.set_token_budget(budget)
                scores = log_probabilities(model, x, order, classes)
                right = (scores.argmax(1) == labels).float()
                of_label = scores.gather(1, labels[:, None]).squeeze(1)
                rows.append((merging, order, right, of_label))
                print(f"{size}, {budget}, {merging}, {order}: {right.mean():.3f}, {of_label.mean():.3f}", flush=True)
            _, _, *first = rows[0]
            for merging, order, *judged in rows:
                row: dict[str, Any] = {"size": size, "budget": budget, "num_images": number}
                row |= {"merging": merging, "order": order}
                for name, ours, theirs in zip(("top1", "log_probability"), judged, first, strict=True):
                    difference = ours - theirs
                    row[name] = round(float(ours.mean()), 5)
                    row[f"{name}_less_first"] = round(float(difference.mean()), 5)
                    row[f"{name}_error"] = round(float(difference.std() / number**0.5), 5)
                known.append(row)
            RESULT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def table() -> str:
    """Top-1 at each size and budget, and by how much it differs from the first way."""
    known = json.loads(RESULT.read_text(encoding="utf-8"))
    settings = list(dict.fromkeys((row["size"], row["budget"], row["num_images"]) for row in known))
    found = {(row["size"], row["budget"], row["merging"], row["order"]): row for row in known}
    parts = []
    for size in dict.fromkeys(size for size, _, _ in settings):
        of_size = [setting for setting in settings if setting[0] == size]
        heads = [f"budget {budget}" if budget else "no budget" for _, budget, _ in of_size]
        rows = []
        for merging, order in WAYS:
            cells = []
            for _, budget, _ in of_size:
                row = found[size, budget, merging, order]
                cell = f"{row['top1']:.1%}"
                if (merging, order) != WAYS[0]:
                    cell += f" ({100 * row['top1_less_first']:+.1f} ± {100 * row['top1_error']:.1f})"
                cells.append(cell)
            rows.append([merging, order, *cells])
        made = markdown(["Merging", "Order", *heads], rows)
        parts.append(f"*{size}x{size}, {of_size[0][2]} images*\n\n{made}")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "tables"])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.verb == "run":
        run(arguments.data, arguments.hours)
        return
    fill(PAGE, "frozen", f"\n{table()}\n")


if __name__ == "__main__":
    sys.exit(main())
