"""Counts how often the threads of a prediction wait for each other: `python benchmarks/regions.py [SIZE]`.

A thread that waits for another sleeps, where OpenMP is told not to wait busily, and the system counts how often that
happens. With two threads, half of it is about the number of parallel regions. Needs no quiet machine; Linux only.
"""

import os
import resource
import sys

MODELS = ("sgformer_s", "sgformer_s@196", "swin_tiny_patch4_window7_224", "convnext_tiny")


def main(size: int) -> None:
    import torch

    import sgformer
    from sgformer.benchmark.measure import Case, step_of

    torch.set_num_threads(2)
    with sgformer.fast_float32():
        for name in MODELS:
            step = step_of(Case(name, size, size))
            step()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
            step()
            print(f"{name}: {(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before) // 2}", flush=True)


if __name__ == "__main__":
    if os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":  # has to be there before PyTorch is
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1344)
