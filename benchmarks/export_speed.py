"""Times exported files beside the model itself: `python benchmarks/export_speed.py WEIGHTS FILE...`.

FILE is what `sgformer export` wrote of the same weights. All take turns, A B C A B C, on the same images, with as
many threads as PyTorch uses. Threads of ONNX Runtime wait busily for more work, so each turn starts after a pause, with
a call that is not timed: otherwise each way would be timed while the one before still waits. On a machine that does
other work, run it with a priority above that (`chrt --rr 1`). Medians go to
`benchmarks/results/export_<model>_<threads>threads_torch<version>_<date>.csv`.
"""

import csv
import datetime
import re
import statistics
import sys
import time
from pathlib import Path

import onnxruntime
import torch

import sgformer
from sgformer.exporters.formats import about_exported, open_exported

ROUNDS = 15
PAUSE = 0.05  # seconds
BATCHES = (1, 8)
SIZE = 224
RESULTS = Path(__file__).parent / "results"


def named(path: Path) -> str:
    about = about_exported(path)
    sizes = about["sizes"]
    kind = "ONNX Runtime" if path.suffix == ".onnx" else "torch.export"
    return f"{kind}, {'one size' if sizes['smallest'] == sizes['largest'] else 'any size'}, {about['precision']}"


def machine() -> str:
    """The CPU's name; Linux only."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else ""


def main(weights: str, files: list[str]) -> None:
    torch.manual_seed(0)
    model = sgformer.load(weights)
    ways = {"eager": model.backbone.forward}
    for file in files:
        if Path(file).suffix == ".onnx":
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            ways[named(Path(file))] = lambda x, s=session: s.run(["logits"], {"images": x.numpy()})
        else:
            ways[named(Path(file))] = open_exported(file)
    date = datetime.date.today().isoformat()
    version = torch.__version__.split("+")[0]
    path = RESULTS / f"export_{model.name}_{torch.get_num_threads()}threads_torch{version}_{date}.csv"
    with path.open("w", newline="") as file, torch.inference_mode():
        writer = csv.writer(file)
        writer.writerow(["way", "batch", "size", "median_ms", "fastest_ms", "eager_over_this", "onnxruntime", "cpu"])
        for batch in BATCHES:
            x = torch.randn(batch, 3, SIZE, SIZE)
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS + 3):
                for name, way in ways.items():
                    time.sleep(PAUSE)
                    way(x)
                    start = time.perf_counter()
                    way(x)
                    times[name].append(1e3 * (time.perf_counter() - start))
            medians = {name: statistics.median(values[3:]) for name, values in times.items()}
            for name, median in medians.items():
                ratio = medians["eager"] / median
                row = [name, batch, SIZE, f"{median:.2f}", f"{min(times[name]):.2f}", f"{ratio:.2f}"]
                writer.writerow([*row, onnxruntime.__version__, machine()])
                print(*row, sep="\t")
    print(path)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
