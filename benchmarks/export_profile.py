"""Where ONNX Runtime's time goes in an exported file: `python benchmarks/export_profile.py NAME FILE [BATCH]`.

FILE is what `sgformer export` wrote. Of each node of the graph, as the runtime has rearranged it, the fastest of
several runs counts: what else the machine does makes the others slower. Milliseconds by operator go to
`benchmarks/results/export_profile_<NAME>_<threads>threads_onnxruntime<version>.csv`.
"""

import collections
import csv
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from export_speed import machine

RUNS = 15
SIZE = 224
RESULTS = Path(__file__).parent / "results"


def main(name: str, path: str, batch: int = 8) -> None:
    threads = torch.get_num_threads()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        x = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE), np.float32)
        for _ in range(RUNS):
            session.run(["logits"], {"images": x})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    fastest: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node = event["args"]["op_name"], event["args"]["node_index"]
            fastest[node] = min(fastest.get(node, float("inf")), event["dur"] / 1000)
    total, count = collections.Counter(), collections.Counter()
    for (operator, _), milliseconds in fastest.items():
        total[operator] += milliseconds
        count[operator] += 1
    out = RESULTS / f"export_profile_{name}_{threads}threads_onnxruntime{onnxruntime.__version__}.csv"
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["operator", "nodes", "ms", "batch", "size", "cpu"])
        rows = [["all", sum(count.values()), sum(total.values())]]
        rows += [[operator, count[operator], milliseconds] for operator, milliseconds in total.most_common()]
        for operator, nodes, milliseconds in rows:
            row = [operator, nodes, f"{milliseconds:.2f}", batch, SIZE, machine()]
            writer.writerow(row)
            print(*row, sep="\t")
    print(out)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
