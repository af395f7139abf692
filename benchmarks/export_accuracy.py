"""How good exported classifiers are: `python benchmarks/export_accuracy.py WEIGHTS FOLDER [--most N] FILE...`.

FOLDER holds a folder of images for each class, such as the validation images of Imagenette. FILE is what
`sgformer export` wrote of the same weights. All see the same images, one at a time. Accuracies go to
`benchmarks/results/export_accuracy_<model>_<folder>_torch<version>_<date>.csv`.
"""

import argparse
import csv
import datetime
from pathlib import Path

import onnxruntime
import torch

import sgformer
from sgformer.exporters.formats import about_exported, open_exported
from sgformer.tasks.folders import find_images
from sgformer.tasks.images import read_image

RESULTS = Path(__file__).parent / "results"


def main(weights: str, folder: str, most: int | None, files: list[str]) -> None:
    model = sgformer.load(weights)
    threads = torch.get_num_threads()
    ways = {"eager float32": lambda x: [model.backbone(x)]}
    sizes = {"eager float32": Path("")}
    for file in files:
        name = f"{Path(file).suffix[1:]} {about_exported(file)['precision']}"
        ways[name], sizes[name] = open_exported(file, threads=threads), Path(file)
    paths = find_images(Path(folder))
    paths = paths[:: max(1, len(paths) // most)] if most else paths  # spread over the classes
    labels = [model.classes.index(path.parent.name) for path in paths]
    transform = model.preprocessing.transform()
    found: dict[str, list[int]] = {name: [] for name in ways}
    with torch.inference_mode():
        for path in paths:
            x = transform(read_image(path)).unsqueeze(0)
            for name, way in ways.items():
                found[name].append(int(way(x)[0].argmax()))
    date, version = datetime.date.today().isoformat(), torch.__version__.split("+")[0]
    out = RESULTS / f"export_accuracy_{model.name}_{Path(folder).parent.name}_torch{version}_{date}.csv"
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["way", "images", "right", "accuracy", "as_eager", "megabytes", "onnxruntime"])
        for name, answers in found.items():
            right = sum(answer == label for answer, label in zip(answers, labels, strict=True))
            same = sum(a == b for a, b in zip(answers, found["eager float32"], strict=True))
            size = f"{sizes[name].stat().st_size / 1e6:.1f}" if sizes[name].is_file() else ""
            row = [name, len(paths), right, f"{right / len(paths):.4f}", same, size, onnxruntime.__version__]
            writer.writerow(row)
            print(*row, sep="\t")
    print(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("folder")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--most", type=int, help="of the images only so many")
    values = parser.parse_args()
    main(values.weights, values.folder, values.most, values.files)
