"""How long does `sgformer explain` take for each image of a folder, without the start of Python?

    python benchmarks/explain_seconds.py photos/ --weights sgformer_t

Every image is explained by a command of its own, in one process: weights read, all files and the page written.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from sgformer.tasks.folders import find_images
from sgformer_cli import run

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of images")
    parser.add_argument("--weights", default="sgformer_t")
    arguments = parser.parse_args()
    paths = find_images(arguments.images)
    explain(arguments.weights, paths[0])  # imports, and what PyTorch does once
    seconds = {}
    for path in paths:
        start = time.perf_counter()
        explain(arguments.weights, path)
        seconds[f"{path.name}, {'x'.join(map(str, Image.open(path).size))}"] = round(time.perf_counter() - start, 2)
    result = {
        "weights": arguments.weights,
        "seconds": seconds,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    path = RESULTS / "explain_seconds.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


def explain(weights: str, image: Path) -> None:
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(None):
        assert run(["explain", weights, str(image), "--out", out, "--device", "cpu"]) == 0


if __name__ == "__main__":
    main()
