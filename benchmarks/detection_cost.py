"""Seconds and memory of Mask R-CNN on one picture of 800x1333: `python benchmarks/detection_cost.py`.

Each backbone has its own process, so that the peak of its memory is its own. The heads are those of
`detection/finetune`, the weights initial ones with the threshold at 0, so that a hundred objects are found, as in a
crowded picture. A second line for our backbone shows what padding would cost: the same picture within a larger canvas,
as it would be beside one of the other orientation. The numbers go to
`benchmarks/results/detection_cost_<device>_<threads>threads_torch<version>_<date>.csv`.
"""

import csv
import datetime
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SIZE = (800, 1333)
ROUNDS = 2
# Name of timm, its arguments, (height, width) of what the backbone sees.
CASES = [
    ("sgformer_t", {}, SIZE),
    ("sgformer_s", {}, SIZE),
    ("sgformer_s", {"token_budget": 196}, SIZE),
    ("sgformer_s", {}, (1333, 1333)),
    ("swin_tiny_patch4_window7_224", {"strict_img_size": False}, (800, 1332)),
    ("resnet50", {}, SIZE),
]


def measure(name: str, kwargs: dict, size: tuple[int, int]) -> dict:
    """One case, in this process."""
    import torch

    import sgformer  # noqa: F401
    from sgformer.tasks.detection import Detector
    from sgformer.tasks.detection.heads import HeadOptions
    from sgformer.tasks.detection.model import Preprocessing

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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole, backbone = [], []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            start = time.perf_counter()
            found = model([image])[0]
            whole.append(time.perf_counter() - start)
            start = time.perf_counter()
            model.backbone(model._normalized(image)[None])
            backbone.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "model": name,
        "kwargs": json.dumps(kwargs),
        "height": size[0],
        "width": size[1],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "detections": len(found["scores"]),
        "seconds": round(statistics.median(whole), 2),
        "backbone_seconds": round(statistics.median(backbone), 2),
        "peak_gib": round(peak / 2**20, 2),
        "peak_gib_before": round(before / 2**20, 2),
    }


def main() -> None:
    """All cases, one after another, to a result file."""
    import torch

    threads = torch.get_num_threads()
    rows = []
    for number, case in enumerate(CASES):
        command = [sys.executable, __file__, str(number)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{case}: {done.stderr}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    date = datetime.date.today()
    path = RESULTS / f"detection_cost_cpu_{threads}threads_torch{torch.__version__.split('+')[0]}_{date}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(path)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*CASES[int(sys.argv[1])])))
    else:
        main()
