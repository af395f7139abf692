"""What an image of 800x1333 costs in a detector, and how much of a training batch is padding.

    python benchmarks/detection_cost.py run [SECONDS]      seconds and memory; five minutes on two quiet cores. With a
                                                           number it stops after so many, and goes on when run again
    python benchmarks/detection_cost.py padding FOLDER     of the data sets in a folder, by their recipes
    python benchmarks/detection_cost.py tables             result files become the tables of docs/detection.md

`run` gives each backbone a process of its own, so that the peak of its memory is its own. The heads are those of Mask
R-CNN in COCO's recipes. Weights are initial ones, with the threshold at 0, so that a hundred objects are found and
outlined, as in a crowded image. A last line shows what padding would cost: the same image in a square canvas, as
it would be beside one of the other orientation.

The numbers go to `results/detection_cost_<device>_<threads>threads_torch<version>_<date>.csv`, with the machine in the
JSON file next to it, and to `results/detection_padding.csv`.
"""

import csv
import datetime
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pages import fill, machine, markdown, newest, protocol

from sgformer.engine.files import to_csv

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "detection.md"
SIZE = (800, 1333)
REPEATS = 2
LIMIT_GIB = 8
# What is shown, name of timm, its arguments, (height, width).
CASES: list[tuple[str, str, dict[str, Any], tuple[int, int]]] = [
    ("sgformer_s", "sgformer_s", {}, SIZE),
    ("sgformer_s, budget 196", "sgformer_s", {"token_budget": 196}, SIZE),
    ("swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224", {"strict_img_size": False}, (800, 1332)),
    ("resnet50", "resnet50", {}, SIZE),
    ("sgformer_s, padded", "sgformer_s", {}, (1333, 1333)),
]
# Products as PyTorch has them, and for some by `sgformer.fast_float32`, with kernels in C++ for models of this package.
PRODUCTS = [(case, "default") for case in CASES] + [(case, "fast") for case in CASES[:4]]
# Data sets with images of unlike sizes; they are in folders of their recipes' names.
PADDED = ("nuclei", "coco_tiny80")


def measure(shown: str, name: str, kwargs: dict[str, Any], size: tuple[int, int], products: str) -> dict[str, Any]:
    """One case, in this process."""
    import torch

    import sgformer
    from sgformer.tasks.detection import Detector
    from sgformer.tasks.detection.heads import HeadOptions
    from sgformer.tasks.detection.model import Preprocessing

    sgformer.fast.keep_freed_memory()
    if products == "fast":
        sgformer.fast_float32()
        sgformer.fast.use_kernels()
    torch.manual_seed(0)
    model = Detector(
        name,
        classes=[str(number) for number in range(80)],
        preprocessing=Preprocessing.of(name, (min(size), max(size))),
        heads=HeadOptions(),
        kwargs=kwargs,
    ).eval()
    model.roi_heads.score_thresh = 0.0
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    before = _peak_gib()
    whole, backbone = [], []
    with torch.inference_mode():
        found = model([image])[0]  # the first one also makes room
        for _ in range(REPEATS):
            start = time.perf_counter()
            model([image])
            whole.append(time.perf_counter() - start)
        peak = _peak_gib()
        for _ in range(REPEATS):
            start = time.perf_counter()
            model.backbone(model.normalize(image)[None])
            backbone.append(time.perf_counter() - start)
    if peak > LIMIT_GIB:
        sys.exit(f"{shown} takes {peak:.1f} GiB, more than {LIMIT_GIB}")
    return {
        "model": shown,
        "products": products,
        "height": size[0],
        "width": size[1],
        "mparams": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1),
        "detections": len(found["scores"]),
        "seconds": " ".join(f"{seconds:.2f}" for seconds in whole),
        "seconds_backbone": " ".join(f"{seconds:.2f}" for seconds in backbone),
        "peak_gib": round(peak, 2),
        "peak_gib_before": round(before, 2),
    }


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(seconds: float = math.inf) -> None:
    """All cases, one after another, to the result file of today, which keeps those that it has."""
    import torch

    from sgformer.engine.environment import environment

    version, date = torch.__version__.split("+")[0], datetime.date.today()
    path = RESULTS / f"detection_cost_cpu_{torch.get_num_threads()}threads_torch{version}_{date}.csv"
    rows: list[dict[str, Any]] = [*_read(path)] if path.exists() else []
    begun = time.monotonic()
    for number, (case, products) in enumerate(PRODUCTS):
        if (case[0], products) in {(row["model"], row["products"]) for row in rows}:
            continue
        longest = max((float(row["seconds_in_all"]) for row in rows), default=0)
        if time.monotonic() - begun + longest > seconds:
            print("run it again for the other cases")
            break
        start = time.monotonic()
        done = subprocess.run([sys.executable, __file__, "case", str(number)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{case[0]}, {products}: {done.stderr}")
        rows.append(json.loads(done.stdout.splitlines()[-1]) | {"seconds_in_all": round(time.monotonic() - start)})
        print(rows[-1], flush=True)
        order = [(case[0], products) for case, products in PRODUCTS]
        _write(path, sorted(rows, key=lambda row: order.index((row["model"], row["products"]))))
    known = environment()
    kept = {key: known[key] for key in ("date", "processor", "num_cpus", "num_threads", "versions")}
    path.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def padding(folder: Path) -> None:
    """How much of the batches of a training epoch is padding, with and without like images together."""
    from sgformer.engine import recipe as recipes
    from sgformer.tasks.detection.data import DetectionData
    from sgformer.tasks.detection.task import Recipe

    rows = []
    for name in PADDED:
        for together in (False, True):
            changes = {"data.root": str(folder / name), "data.like_together": together, "data.augment.crop": None}
            recipe = recipes.parse(recipes.find(name), Recipe, {**changes, "heads.masks": False})
            batches = [images for images, _ in DetectionData(recipe.data, masks=False).train_dataloader()]
            sizes = [[image.shape[1:] for image in images] for images in batches]
            pixels = sum(height * width for batch in sizes for height, width in batch)
            canvas = sum(len(b) * max(h for h, _ in b) * max(w for _, w in b) for b in sizes)
            rows.append(
                {
                    "recipe": name,
                    "like_together": together,
                    "batch_size": recipe.data.batch_size,
                    "batches": len(batches),
                    "padding": round(1 - pixels / canvas, 4),
                    "passes_of_backbone": round(sum(len(set(batch)) for batch in sizes) / len(sizes), 3),
                }
            )
            print(rows[-1], flush=True)
    _write(RESULTS / "detection_padding.csv", rows)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(to_csv(rows), encoding="utf-8")
    print(path)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _cost_table() -> str:
    """The newest result of each machine, with the machine."""
    results = RESULTS.glob("detection_cost_*.csv")  # some are from before the settings
    return "\n".join(map(_cost_of, newest(path for path in results if "products" in _read(path)[0])))


def _cost_of(path: Path) -> str:
    heads = ["Backbone", "Products", "Pixels", "Parameters", "Seconds", "Seconds of the backbone", "Peak memory, GiB"]
    lines = []
    for row in _read(path):
        size = f"{row['height']}x{row['width']}"
        cells = [f"`{row['model']}`", row["products"], size, f"{row['mparams']}M"]
        lines.append([*cells, *_seconds(row), row["peak_gib"]])
    note = f"`{path.name}`: {machine(path)}, threads: {protocol(path)['num_threads']}."
    return f"{markdown(heads, lines)}\n{note}\n"


def _seconds(row: dict[str, str]) -> list[str]:
    return [row[key].replace(" ", ", ") for key in ("seconds", "seconds_backbone")]


def _padding_table() -> str:
    lines = []
    for row in _read(RESULTS / "detection_padding.csv"):
        how = "like images together" if row["like_together"] == "True" else "in any order"
        share, passes = f"{float(row['padding']):.1%}", f"{float(row['passes_of_backbone']):.2f}"
        lines.append([f"`{row['recipe']}`", f"of {row['batch_size']}, {how}", share, passes])
    return markdown(["Recipe", "Batches", "Padding", "Passes of the backbone a batch"], lines)


def tables() -> None:
    """Fills the marks in the page."""
    fill(PAGE, "detection_cost:run", _cost_table())
    fill(PAGE, "detection_cost:padding", _padding_table())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", *seconds]:
            run(*map(float, seconds))
        case ["padding", folder]:
            padding(Path(folder))
        case ["tables"]:
            tables()
        case ["case", number]:
            case, products = PRODUCTS[int(number)]
            print(json.dumps(measure(*case, products)))
        case _:
            sys.exit(__doc__)
