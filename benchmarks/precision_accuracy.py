"""What bfloat16 costs in accuracy: `python benchmarks/precision_accuracy.py WEIGHTS FOLDER [--most N] [--device D]`.

FOLDER holds a folder of images for each class, such as the validation images of Imagenette. The weights of a
classifier are judged in float32, in bfloat16 (weights and maps) and under autocast, as training uses it; and in
bfloat16 once more with the ranking held to that of float32, which tells rounding from tokens that change places. The
table goes to `benchmarks/results/precision_accuracy_<model>_<folder>_<device>_torch<version>.csv`.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import sgformer
from sgformer.backbone.ranking import hold_significance
from sgformer.tasks.folders import find_images
from sgformer.tasks.images import read_image

RESULTS = Path(__file__).parent / "results"
BATCH = 25


@torch.inference_mode()
def logits_of_each_way(model: torch.nn.Module, low: torch.nn.Module, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same images by each way, the first of which is what the others are compared with."""
    yield "float32", model(x)
    yield "bfloat16", low(x.bfloat16()).float()
    with torch.autocast(x.device.type, torch.bfloat16):
        yield "autocast to bfloat16", model(x).float()
    with hold_significance(low, model.forward_significance(x)):
        yield "bfloat16, ranking held", low(x.bfloat16()).float()


def main(weights: str, folder: str, most: int | None, device: str) -> None:
    """Judges all ways on the same images, and writes the table."""
    classifier = sgformer.load(weights).to(device)
    low = sgformer.load(weights).to(device, torch.bfloat16).backbone
    paths = find_images(Path(folder))
    paths = paths[:: max(1, len(paths) // most)] if most else paths  # spread over the classes
    labels = torch.tensor([classifier.classes.index(path.parent.name) for path in paths])
    transform = classifier.preprocessing.transform()
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(paths), BATCH):
        x = torch.stack([transform(read_image(path)) for path in paths[start : start + BATCH]]).to(device)
        for way, logits in logits_of_each_way(classifier.backbone, low, x):
            found.setdefault(way, []).append(logits.cpu())
    version = torch.__version__.split("+")[0]
    name = f"precision_accuracy_{classifier.name}_{Path(folder).parent.name}_{device}_torch{version}.csv"
    logits = {way: torch.cat(parts) for way, parts in found.items()}
    exact = next(iter(logits.values()))
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["way", "images", "top1", "answers_as_float32", "logit_error_median", "logit_error_q99"])
        for way, given in logits.items():
            errors = (given - exact).abs().flatten() / exact.std()
            right, same = (int((given.argmax(1) == wanted).sum()) for wanted in (labels, exact.argmax(1)))
            middle, high = (f"{errors.quantile(q):.1e}" for q in (0.5, 0.99))
            row = [way, len(paths), f"{right / len(paths):.4f}", same, middle, high]
            writer.writerow(row)
            print(*row, sep="\t")
    print(RESULTS / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("folder")
    parser.add_argument("--most", type=int, help="of the images only so many")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    values = parser.parse_args()
    main(values.weights, values.folder, values.most, values.device)
