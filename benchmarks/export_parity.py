"""Holds exported files of every variant against eager: `python benchmarks/export_parity.py [NAME...]`.

A NAME is such as `sgformer_s.onnx`, or with a token budget `sgformer_s@64.pt2`; without one, all are done. Weights are
those of the parity tests, drawn from names, so that every part of the model has a say in the output. Each file takes
open sizes. The ranking of tokens is held, as DESIGN.md explains. Rows go to
`benchmarks/results/export_parity_cpu_torch<version>.csv` as they come, one a size; what stands there is not done again.
"""

import csv
import datetime
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from backbone.fill import fill_  # noqa: E402  from tests/
from sgformer.commands import export  # noqa: E402
from sgformer.exporters import check, formats, parts  # noqa: E402
from sgformer.tasks.classification.model import Classifier  # noqa: E402
from sgformer.tasks.images import Preprocessing  # noqa: E402

BUDGET = 64
FILES = [
    f"sgformer_{variant}{budget}{suffix}"
    for variant in "tsmb"
    for suffix in (".onnx", ".pt2")
    for budget in ("", f"@{BUDGET}")
]
HEADER = [
    "model",
    "token_budget",
    "file",
    "batch",
    "height",
    "width",
    "largest_logit",
    "between_images",
    "logits",
    "significance",
    "date",
]


def described(name: str) -> list[str]:
    """Variant, budget and kind of file."""
    model, suffix = name.split(".")
    variant, _, budget = model.partition("@")
    return [variant, budget, suffix]


def rows(name: str, folder: Path):
    variant, budget, suffix = described(name)
    preprocessing = Preprocessing(image_size=(224, 224))
    options = {"token_budget": int(budget)} if budget else {}
    model = Classifier(variant, classes=[str(i) for i in range(10)], preprocessing=preprocessing, kwargs=options).eval()
    fill_(model.backbone)
    model.save(folder / "weights.safetensors")
    path = export.export(folder / "weights.safetensors", folder / f"model.{suffix}")
    part, run = parts.part_of(model), formats.open_exported(path)
    for batch, height, width in check.CHECKED:
        x = check.make_images(max(2, batch), 3, height, width)
        given = run(x)
        (logits, largest), *maps = check.differences(part, x, given).values()
        apart = float((given[0][0] - given[0][1]).abs().max())
        worst = max(difference for difference, _ in maps)
        numbers = (f"{value:.1e}" for value in (largest, apart, logits, worst))
        yield [variant, budget, suffix, len(x), height, width, *numbers, datetime.date.today().isoformat()]
    path.unlink()


def main(names: list[str]) -> None:
    version = torch.__version__.split("+")[0]
    path = ROOT / "benchmarks" / "results" / f"export_parity_cpu_torch{version}.csv"
    if not path.exists():
        path.write_text(",".join(HEADER) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for name in names or FILES:
            with path.open(newline="") as file:
                done = [line[:3] for line in csv.reader(file)]
            if described(name) in done:
                continue
            found = list(rows(name, Path(folder)))  # of a file all rows or none
            with path.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(found)
            for row in found:
                print(*row, sep="\t", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
