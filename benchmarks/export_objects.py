"""What exported detectors find beside the detector itself: `python benchmarks/export_objects.py WEIGHTS FILE...`.

WEIGHTS is a detector that was trained on digit scenes, FILE what `sgformer export` wrote of it, with `--size 96`. All
see the same validation scenes. An object counts as found by both if the label is the same and the boxes overlap by 0.9.
Counts go to `benchmarks/results/export_objects_<model>_torch<version>_<date>.csv`.
"""

import csv
import datetime
import sys
from pathlib import Path

import onnxruntime
import torch
import torchvision  # the operators of a .pt2 file

import sgformer
from sgformer.exporters.formats import about_exported, open_exported
from sgformer.tasks.detection import export as detector
from sgformer.tasks.detection.data import to_tensor
from sgformer.tasks.digit_scenes import DigitScenes

RESULTS = Path(__file__).parent / "results"
NUM_SCENES = 300
LEAST = 0.5  # score


@torch.no_grad()
def main(weights: str, files: list[str]) -> None:
    model = sgformer.load(weights)
    ways = {
        f"{Path(file).suffix[1:]} {about_exported(file)['precision']}": open_exported(
            file, threads=torch.get_num_threads()
        )
        for file in files
    }
    eager, counts = 0, {name: [0, 0] for name in ways}
    for scene in DigitScenes("val", NUM_SCENES, size=96, num_digits=(0, 3)):
        x = model.normalize(to_tensor(scene.image)).unsqueeze(0)
        boxes, labels = sure(detector.reference(model, x))
        eager += len(boxes)
        for name, way in ways.items():
            others, named = sure(way(x))
            overlap = torchvision.ops.box_iou(boxes, others) * (labels[:, None] == named)
            counts[name][0] += len(others)
            counts[name][1] += int((overlap > 0.9).any(1).sum())
    date, version = datetime.date.today().isoformat(), torch.__version__.split("+")[0]
    path = RESULTS / f"export_objects_{model.name}_torch{version}_{date}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["way", "scenes", "eager", "found", "by_both", "onnxruntime"])
        for name, (found, both) in counts.items():
            row = [name, NUM_SCENES, eager, found, both, onnxruntime.__version__]
            writer.writerow(row)
            print(*row, sep="\t")
    print(path)


def sure(lists):
    boxes, labels, scores = lists[:3]
    return boxes[scores > LEAST], labels[scores > LEAST]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
