"""Holds exported files of every variant against eager: `python benchmarks/export_parity.py [VARIANT.SUFFIX...]`.

Weights are those of the parity tests, drawn from names, so that every part of the model has a say in the output. Each
file takes open sizes. The ranking of tokens is held, as DESIGN.md explains. Rows go to
`benchmarks/results/export_parity_cpu_torch<version>_<date>.csv` as they come, one a size.
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
from sgformer.export import check, files, parts  # noqa: E402
from sgformer.tasks.classification.model import Classifier  # noqa: E402
from sgformer.tasks.images import Preprocessing  # noqa: E402

FILES = [f"sgformer_{variant}{suffix}" for suffix in (".onnx", ".pt2") for variant in "tsmb"]
HEADER = [
    "model",
    "file",
    "batch",
    "height",
    "width",
    "largest_logit",
    "between_pictures",
    "logits",
    "significance",
]


def rows(name: str, folder: Path):
    variant, suffix = name.split(".")
    preprocessing = Preprocessing(image_size=(224, 224))
    model = Classifier(variant, classes=[str(i) for i in range(10)], preprocessing=preprocessing).eval()
    fill_(model.backbone)
    model.save(folder / "weights.safetensors")
    path = export.export(folder / "weights.safetensors", folder / f"model.{suffix}")
    part, run = parts.part_of(model, topk=False), files.open_exported(path)
    for batch, height, width in check.CHECKED:
        x = check.pictures(max(2, batch), 3, height, width)
        given = run(x)
        (logits, largest), *maps = check.differences(part, x, given).values()
        apart = float((given[0][0] - given[0][1]).abs().max())
        worst = max(difference for difference, _ in maps)
        numbers = (f"{value:.1e}" for value in (largest, apart, logits, worst))
        yield [variant, suffix, len(x), height, width, *numbers]
    path.unlink()


def main(names: list[str]) -> None:
    version, date = torch.__version__.split("+")[0], datetime.date.today().isoformat()
    path = ROOT / "benchmarks" / "results" / f"export_parity_cpu_torch{version}_{date}.csv"
    new = not path.exists()
    with path.open("a", newline="") as file, tempfile.TemporaryDirectory() as folder:
        writer = csv.writer(file)
        if new:
            writer.writerow(HEADER)
        for name in names or FILES:
            for row in rows(name, Path(folder)):
                writer.writerow(row)
                file.flush()
                print(*row, sep="\t", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
