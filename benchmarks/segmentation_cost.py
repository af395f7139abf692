"""Seconds and memory of segmenters, on images of 512x2048 and on a photograph of 24 million pixels.

    python benchmarks/segmentation_cost.py          measure, three minutes on two quiet cores, and fill the tables
    python benchmarks/segmentation_cost.py tables   the newest result files become the tables of docs/segmentation.md

Each case has its own process, so that the peak of its memory is its own. The heads are those of the recipes for ADE20K,
with its 150 classes; the weights are initial ones, which cost as much as trained ones. The photograph is made up; it
goes through `sgformer predict`, which also writes the class map, the drawing and the shares. The numbers go to
`results/segmentation_cost_<device>_<threads>threads_torch<version>_<date>.csv`, and those of the photograph to
`results/photograph_...`.
"""

import csv
import datetime
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pages import fill, markdown

from sgformer.engine.files import to_csv

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "segmentation.md"
SIZE = (512, 2048)
PHOTOGRAPH = (4000, 6000)
ROUNDS = 2
SWIN = "swin_tiny_patch4_window7_224"
HEADS: dict[str, dict[str, Any]] = {
    "semantic_fpn": {"channels": 256, "auxiliary": 0},
    "upernet": {"channels": 512, "auxiliary": 256},
}
# Head; name of timm; its arguments.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("semantic_fpn", "sgformer_t", {}),
    ("semantic_fpn", "sgformer_s", {}),
    ("semantic_fpn", "sgformer_s", {"token_budget": 196}),
    ("semantic_fpn", SWIN, {}),
    ("upernet", "sgformer_s", {}),
    ("upernet", SWIN, {}),
]


def segmenter(head: str, name: str, kwargs: dict[str, Any]) -> Any:
    """A model with initial weights for 150 classes."""
    import torch

    from sgformer.tasks.decoders import HeadOptions
    from sgformer.tasks.images import Preprocessing
    from sgformer.tasks.segmentation import Segmenter

    torch.manual_seed(0)
    return Segmenter(
        name,
        classes=[f"class {number}" for number in range(150)],
        preprocessing=Preprocessing(image_size=(512, 512)),
        head=HeadOptions(name=head, **HEADS[head]),  # pyright: ignore[reportArgumentType]
        kwargs=kwargs,
    ).eval()


def measure(head: str, name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """One case, in this process: from a prepared image to the class of each pixel."""
    import torch

    model = segmenter(head, name, kwargs)
    image = torch.randn(1, 3, *SIZE)
    before = _peak(resource.RUSAGE_SELF)
    whole, backbone = [], []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            start = time.perf_counter()
            model(image).argmax(1)
            whole.append(time.perf_counter() - start)
            start = time.perf_counter()
            model.backbone(image)
            backbone.append(time.perf_counter() - start)
    return {
        "head": head,
        "model": name,
        "kwargs": json.dumps(kwargs),
        "height": SIZE[0],
        "width": SIZE[1],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(statistics.median(whole), 2),
        "backbone_seconds": round(statistics.median(backbone), 2),
        "peak_gib": _peak(resource.RUSAGE_SELF),
        "peak_gib_before": before,
    }


def photograph(folder: Path) -> dict[str, Any]:
    """`sgformer predict` on a photograph, in a process of its own, which must be this one's first."""
    import numpy as np
    from PIL import Image

    height, width = PHOTOGRAPH
    colours = np.random.default_rng(0).integers(0, 256, (height // 60, width // 60, 3), np.uint8)
    Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC).save(folder / "photograph.jpg")
    segmenter(*CASES[0]).save(folder / "w.safetensors")
    command = [sys.executable, "-m", "sgformer", "predict", "w.safetensors", "photograph.jpg", "--device", "cpu"]
    command += ["--maps", "maps", "--draw", "drawn", "--json", "shares.json"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    with Image.open(folder / "maps" / "photograph.png") as image:
        assert image.size == (width, height)
    return {
        "head": CASES[0][0],
        "model": CASES[0][1],
        "classes": 150,
        "height": height,
        "width": width,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gib": _peak(resource.RUSAGE_CHILDREN),
    }


def _peak(whose: int) -> float:
    """The most memory that a process has held, in GiB; of the largest where it is about children."""
    unit = 1 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(whose).ru_maxrss * unit / 2**30, 2)


def run() -> None:
    """All cases, one after another, to two result files."""
    import torch

    def case(number: int | str) -> dict[str, Any]:
        done = subprocess.run([sys.executable, __file__, f"case{number}"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"case {number}: {done.stderr}")
        print(done.stdout.splitlines()[-1], flush=True)
        return json.loads(done.stdout.splitlines()[-1])

    version = torch.__version__.split("+")[0]
    protocol = f"cpu_{torch.get_num_threads()}threads_torch{version}_{datetime.date.today()}"
    (RESULTS / f"photograph_{protocol}.csv").write_text(to_csv([case("photograph")]), encoding="utf-8")
    costs = to_csv(case(number) for number in range(len(CASES)))
    (RESULTS / f"segmentation_cost_{protocol}.csv").write_text(costs, encoding="utf-8")


def tables() -> None:
    """Fills the marks of the page from the newest result files."""
    for name, columns in {
        "segmentation_cost": {
            "Head": "`{head}`",
            "Backbone": "`{model}` {kwargs}",
            "Parameters": "{parameters}",
            "Seconds": "{seconds}",
            "of these the backbone": "{backbone_seconds}",
            "Peak memory, GiB": "{peak_gib}",
            "before the image": "{peak_gib_before}",
        },
        "photograph": {
            "Image": "{width}x{height}",
            "Model": "`{model}` with `{head}`, {classes} classes",
            "Seconds": "{seconds}",
            "Peak memory, GiB": "{peak_gib}",
        },
    }.items():
        path = max(RESULTS.glob(f"{name}_*.csv"), key=lambda path: path.stem[-10:])
        lines = []
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                row["kwargs"] = "" if row.get("kwargs") in (None, "{}") else f"`{row['kwargs']}`"
                if "parameters" in row:
                    row["parameters"] = f"{int(row['parameters']) / 1e6:.1f}M"
                lines.append([cell.format(**row).strip() for cell in columns.values()])
        fill(PAGE, f"cost:{name}", f"{markdown(list(columns), lines)}\n`{path.name}`\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["casephotograph"]:
        with tempfile.TemporaryDirectory() as name:
            print(json.dumps(photograph(Path(name))))
    elif sys.argv[1:] and sys.argv[1].startswith("case"):
        print(json.dumps(measure(*CASES[int(sys.argv[1][4:])])))
    elif sys.argv[1:] == ["tables"]:
        tables()
    elif not sys.argv[1:]:
        run()
        tables()
    else:
        sys.exit(__doc__)
