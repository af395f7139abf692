#!/usr/bin/env bash
# Guessed: in bfloat16 on a CPU the ways to add rows by index agree: `scatter_add_`, `index_add_` and
#   `index_put_(accumulate=True)` all add in float32 inside, or all stop at 256, where bfloat16 has no next whole number.
# Happens: `scatter_add_`, `sum` and `embedding_bag` give 1000 for a thousand ones, `index_add_` and `index_put_` give 256.
#   They add one by one into the bfloat16 result, which no longer changes by 1 there. In float16 they stop at 2048.
# Meets: who pools or merges tokens, counts by class (a confusion matrix, a histogram of superpixels) or averages by
#   segment under autocast or with bfloat16 weights. Means become too small by the number of their members.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY'
import torch
import torch.nn.functional as F

print("torch", torch.__version__)


def sums(dtype, count):
    """`count` ones, added into one place in five ways."""
    ones, to = torch.ones(count, dtype=dtype), torch.zeros(count, dtype=torch.long)
    zero = torch.zeros(1, dtype=dtype)
    return {
        "sum": ones.sum().item(),
        "embedding_bag": F.embedding_bag(to[None], torch.ones(1, 1, dtype=dtype), mode="sum").item(),
        "scatter_add_": zero.clone().scatter_add_(0, to, ones).item(),
        "index_add_": zero.clone().index_add_(0, to, ones).item(),
        "index_put_": zero.clone().index_put_((to,), ones, accumulate=True).item(),
    }


low, half, full = sums(torch.bfloat16, 1000), sums(torch.float16, 4000), sums(torch.float32, 1000)
for name, found in (("bfloat16, 1000 ones", low), ("float16, 4000 ones", half), ("float32, 1000 ones", full)):
    print(f"{name:20}", found)
assert set(full.values()) == {1000.0}
assert low["sum"] == low["embedding_bag"] == low["scatter_add_"] == 1000.0
assert low["index_add_"] == low["index_put_"] == 256.0
assert half["sum"] == half["scatter_add_"] == 4000.0
assert half["index_add_"] == half["index_put_"] == 2048.0
PY
