"""Writes the stored cases in `cases/`, what the plain implementation answers: `python tests/backbone/make_cases.py`.

First hold `plain.py` against `../shared/parity` (`test_parity.py` does); a case is only as right as it is.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

if __name__ == "__main__":  # `backbone` is on pytest's path, not on a script's
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))

from backbone import fill, plain

VARIANT, NUM_CLASSES = "sgformer_test", 10
# Height, width, budget: the grid of the positions and others, bands of all lengths, empty ones among them, all three t.
CASES = [
    (32, 32, None),
    (33, 47, None),
    (64, 96, 3),
    (97, 130, 20),
    (128, 160, None),
    (225, 61, 5),
    (224, 224, None),
    (224, 224, 60),
]


def sample(x, most):
    """Every n-th token and channel of `(B, N)` or `(B, N, c)`, so that files stay small."""
    return x[:, :: max(1, x.shape[1] // most)] if x.ndim == 2 else x[:, :: max(1, x.shape[1] // most), ::3]


def case_name(height, width, budget):
    return f"{height}x{width}" + (f"_budget{budget}" if budget else "")


def weights():
    return {name: fill.weight(name, shape) for name, shape in plain.official_shapes(VARIANT, NUM_CLASSES).items()}


def image(height, width):
    return fill.image(f"{height}x{width}", 2, height, width)


def main():
    torch.set_num_threads(1)
    for height, width, budget in CASES:
        logits, stages, maps = plain.run(weights(), VARIANT, image(height, width), budget)
        gap = min(m.flatten(1).sort().values.diff().min() for m in maps)
        assert gap > 1e-11, f"{height}x{width}: two tokens are {gap} apart in rank, rounding may swap them"
        tensors = {"logits": logits}
        tensors |= {f"stage{i}": sample(x, 7).contiguous() for i, x in enumerate(stages, 1)}
        tensors |= {f"significance{i}": sample(x.flatten(1), 49).contiguous() for i, x in enumerate(maps, 1)}
        save_file(tensors, Path(__file__).parent / "cases" / f"{case_name(height, width, budget)}.safetensors")
        print(f"{case_name(height, width, budget)}: closest ranks {gap:.1e} apart")


if __name__ == "__main__":
    main()
