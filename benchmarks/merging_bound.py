"""How much could guidance win at all? Token maps are rebuilt from merged keys of equal number, without any training.

    python benchmarks/merging_bound.py run WEIGHTS IMAGES [--num 64] [--size 448] [--budget 16 48]
    python benchmarks/merging_bound.py table        the table of docs/significance.md

A self-guided attention replaces its N tokens by M summary tokens. For each of its inputs this script merges the tokens
to the same M in several ways, all of them plain means, and measures two errors against all N tokens as keys:

- *map*: the squared error of the token map rebuilt from the means, over its variance;
- *output*: the squared error of the attention's output, over that of one mean key for the whole map. Each key counts
  as often as it stands for tokens, which the paper's attention does not do: without it, lists of unequal groups are
  worse than the one mean key.

Ways by *ranking*, as in the paper (neighbours in an order of single tokens are merged): the measured significance, an
order that ignores the image, a random order. Ways by *region* (the square with the highest score is cut into four,
until there are enough): by the sum of its significance, by the maximum times its area, by its area, or in hindsight, by
how much of the squared error the cut removes. The last is a bound on what regions can win. *k-means* is a bound on what
any list of M means can win.

Result files go to `benchmarks/results/significance/merging_<weights>_<images>_<size>.json`.
"""

import argparse
import dataclasses
import datetime
import functools
import heapq
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pages import fill, markdown
from torch import Tensor

import sgformer
from sgformer.backbone.attention import SelfGuidedAttention
from sgformer.ops import group_regions
from sgformer.ops.group_tokens import cut_bands, group_factor
from sgformer.tasks.images import read_image

ROOT = Path(__file__).parents[1]
Square = tuple[int, int, int, int]  # top, left, height, width, in tokens
RESULTS = Path(__file__).parent / "results" / "significance"
WAYS = {
    "ranking, significance": "the paper's",
    "ranking, uniform": "",
    "ranking, random": "",
    "regions, sum of significance": "",
    "regions, maximum": "",
    "regions, uniform": "",
    "cells of two sizes, significance": "the option's",
    "cells of two sizes, reversed": "",
    "cells of three sizes, significance": "",
    "cells of one size": "",
    "regions, hindsight": "bound for regions",
    "k-means": "bound for any list",
}


def z_order(H: int, W: int) -> Tensor:
    """Tokens along a curve that keeps neighbours together, so that bands and groups are spread evenly."""
    token = torch.arange(H * W)
    row, column = token // W, token % W
    curve = torch.zeros_like(token)
    for bit in range(12):
        curve += ((row >> bit & 1) << (2 * bit + 1)) + ((column >> bit & 1) << (2 * bit))
    return curve.argsort(stable=True)


def uniform_order(H: int, W: int, num_bands: int) -> Tensor:
    """Each band takes every second or fourth token along the curve."""
    along, token = z_order(H, W), torch.arange(H * W)
    band = token % 2 if num_bands == 2 else (token % 4 + 1) // 2
    return along[band.argsort(stable=True)]


def groups_of_ranking(order: Tensor, sizes: tuple[int, ...], budget: int | None) -> Tensor:
    """The group of each token `(N,)`; the last group of a band holds what is left."""
    bands = cut_bands(len(order), sizes)
    t = group_factor(bands, budget)
    of_rank, first = [], 0
    for band in bands:
        of_rank.append(first + torch.arange(band.length) // (band.group_size * t))
        first += band.num_groups(t)
    return torch.empty(len(order), dtype=torch.long).scatter_(0, order, torch.cat(of_rank))


def groups_of_regions(H: int, W: int, num_keys: int, score: Callable[[Square], float]) -> Tensor:
    """The group of each token `(N,)`: the square of the highest score is cut into quarters, until there are enough."""
    first: Square = (0, 0, H, W)
    open_, closed = [(-score(first), first)], []
    while open_ and len(open_) + len(closed) + 3 <= num_keys:
        square = heapq.heappop(open_)[1]
        for part in quarters(square):
            if part[2] * part[3] > 1:
                heapq.heappush(open_, (-score(part), part))
            else:
                closed.append(part)
    groups = torch.empty(H, W, dtype=torch.long)
    for i, (top, left, height, width) in enumerate(closed + [square for _, square in open_]):
        groups[top : top + height, left : left + width] = i
    return groups.flatten()


def groups_of_cells(significance: Tensor, num_sizes: int, num_keys: int) -> Tensor:
    """The group of each token `(N,)` as `group_regions` makes them, by a map `(H, W)`."""
    H, W = significance.shape
    one_hot = torch.eye(H * W).view(1, H, W, H * W)
    cells, _ = group_regions(one_hot, significance[None], num_sizes=num_sizes, num_keys=num_keys)
    return torch.cat([members.mean(2) for members in cells], 1)[0].argmax(0)


def quarters(square: Square) -> list[Square]:
    """The parts of a square of more than one token, two where it is one token wide."""
    top, left, height, width = square
    rows = [(top, -(-height // 2)), (top + -(-height // 2), height // 2)]
    columns = [(left, -(-width // 2)), (left + -(-width // 2), width // 2)]
    return [(t, left, h, w) for t, h in rows for left, w in columns if h and w]


def mean_of_groups(x: Tensor, groups: Tensor) -> Tensor:
    """`(N, c)` to the means `(M, c)`."""
    M = int(groups.max()) + 1
    total = x.new_zeros(M, x.shape[1]).index_add_(0, groups, x)
    return total / torch.bincount(groups, minlength=M).to(x.dtype)[:, None]


def squared_error(x: Tensor, groups: Tensor) -> Tensor:
    """Of each token to the mean of its group, `(N,)`."""
    return (x - mean_of_groups(x, groups)[groups]).square().sum(1)


def k_means(x: Tensor, num_keys: int, *, rounds: int = 12) -> Tensor:
    """Clusters by Lloyd's rounds from evenly spaced tokens; empty clusters go."""
    centres = x[torch.linspace(0, len(x) - 1, num_keys).long()]
    for _ in range(rounds):
        groups = torch.cdist(x, centres).argmin(1).unique(return_inverse=True)[1]
        centres = mean_of_groups(x, groups)
    return groups


def inside(x: Tensor, square: Square) -> Tensor:
    top, left, height, width = square
    return x[top : top + height, left : left + width]


def spread(x: Tensor, square: Square) -> float:
    """The squared error of a square of `x` `(H, W, c)` to its mean."""
    part = inside(x, square).flatten(0, 1)
    return float((part - part.mean(0)).square().sum())


def attend(module: SelfGuidedAttention, q: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
    """Queries `(N, c)` to keys and values made of tokens `(M, c)`, each of which stands for `counts` `(M,)` tokens."""
    a = module.num_heads
    k, v = module.kv(tokens).chunk(2, -1)
    q, k, v = (part.unflatten(-1, (a, -1)).transpose(0, 1) for part in (q, k, v))
    bias = counts.log().expand(q.shape[1], -1)
    return F.scaled_dot_product_attention(q[None], k[None], v[None], bias)[0].transpose(0, 1).flatten(1)


def errors(
    module: SelfGuidedAttention, x: Tensor, significance: Tensor, budget: int | None, seed: int
) -> dict[str, tuple[float, float, int]]:
    """Both errors and the number of keys of each way, for one token map `(H, W, c)`."""
    H, W, c = x.shape
    x, map_ = x.double(), significance.double()
    tokens = x.reshape(H * W, c)
    sizes = module.group_sizes
    random = torch.from_numpy(np.random.default_rng(seed).permutation(H * W))
    ranked = groups_of_ranking(map_.flatten().argsort(stable=True), sizes, budget)
    M = int(ranked.max()) + 1
    regions = functools.partial(groups_of_regions, H, W, M)
    groups = {
        "ranking, significance": ranked,
        "ranking, uniform": groups_of_ranking(uniform_order(H, W, len(sizes)), sizes, budget),
        "ranking, random": groups_of_ranking(random, sizes, budget),
        "regions, sum of significance": regions(lambda square: float(inside(map_, square).sum())),
        "regions, maximum": regions(lambda square: float(inside(map_, square).max() * square[2] * square[3])),
        "regions, uniform": regions(lambda square: square[2] * square[3]),
        "regions, hindsight": regions(
            lambda square: spread(x, square) - sum(spread(x, part) for part in quarters(square))
        ),
        "cells of two sizes, significance": groups_of_cells(map_, 2, M),
        "cells of two sizes, reversed": groups_of_cells(-map_, 2, M),
        "cells of three sizes, significance": groups_of_cells(map_, 3, M),
        "cells of one size": groups_of_cells(map_, 1, M),
        "k-means": k_means(tokens, M),
    }
    q = module.in_proj(tokens)[:, :c]
    exact = attend(module, q, tokens, torch.ones(H * W, dtype=tokens.dtype))
    variance = (tokens - tokens.mean(0)).square().sum()
    one = tokens.mean(0, keepdim=True)
    worst = (attend(module, q, one, one.new_ones(1)) - exact).square().sum()
    found = {}
    for way, g in groups.items():
        keys, counts = mean_of_groups(tokens, g), torch.bincount(g).to(tokens.dtype)
        output = (attend(module, q, keys, counts) - exact).square().sum()
        rebuilt = squared_error(tokens, g).sum()
        found[way] = float(rebuilt / variance), float(output / worst), len(keys)
    return found


@torch.no_grad()
def run(weights: str, images: Path, num: int, budgets: list[int], size: int | None) -> Path:
    kept = sgformer.load(weights)
    preprocessing = kept.preprocessing
    if size:
        preprocessing = dataclasses.replace(preprocessing, image_size=(size, size))
    transform = preprocessing.transform()
    model = kept.backbone.double().eval()
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(num, len(paths))).astype(int)]
    seen: list[tuple[SelfGuidedAttention, Tensor, Tensor]] = []
    modules = [module for module in model.modules() if isinstance(module, SelfGuidedAttention)]
    for module in modules:
        module.register_forward_pre_hook(lambda module, args: seen.append((module, *args)))
    names = [name for name, module in model.named_modules() if isinstance(module, SelfGuidedAttention)]
    rows: dict[tuple[str, str, str], list[tuple[float, float, int]]] = {}
    for i, path in enumerate(paths):
        x = transform(read_image(path)).unsqueeze(0).double()
        seen.clear()
        model(x)
        for j, (module, tokens, significance) in enumerate(seen):
            for budget in (None, *budgets):
                stage = f"stage {int(names[j].split('.')[1]) + 1}"
                for way, values in errors(module, tokens[0], significance[0], budget, seed=i).items():
                    rows.setdefault((stage, str(budget or "none"), way), []).append(values)
    result = {
        "measure": "merging",
        "weights": Path(weights).name,
        "model": type(model).__name__,
        "images": "/".join(images.absolute().parts[-2:]),
        "num_images": len(paths),
        "size": list(x.shape[-2:]),
        "torch": torch.__version__.split("+")[0],
        "date": datetime.date.today().isoformat(),
        "rows": [
            {
                "stage": stage,
                "budget": budget,
                "way": way,
                "num_keys": round(float(np.mean([v[2] for v in values])), 1),
                "map_error": float(np.mean([v[0] for v in values])),
                "output_error": float(np.mean([v[1] for v in values])),
                "output_error_se": float(np.std([v[1] for v in values]) / len(values) ** 0.5),
            }
            for (stage, budget, way), values in rows.items()
        ],
    }
    out = RESULTS / f"merging_{Path(weights).stem}_{'_'.join(images.absolute().parts[-2:])}_{x.shape[-1]}.json"
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return out


def table() -> str:
    lines = []
    for path in sorted(RESULTS.glob("merging_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        size = "x".join(map(str, result["size"]))
        lines += [f"\n`{result['weights']}`, {result['num_images']} images of `{result['images']}`, {size}:\n"]
        num_keys = {
            (row["stage"], row["budget"]): row["num_keys"] for row in result["rows"] if row["way"] == next(iter(WAYS))
        }
        columns = [c for c in num_keys if c[1] == "none" or num_keys[c] != num_keys[c[0], "none"]]  # where it binds
        heads = (f"{stage}, {'no budget' if budget == 'none' else f'budget {budget}'}" for stage, budget in columns)
        rows = []
        for way, note in WAYS.items():
            cells = []
            for column in columns:
                row = next(r for r in result["rows"] if (r["stage"], r["budget"], r["way"]) == (*column, way))
                cells.append(f"{row['map_error']:.3f}, {row['output_error']:.3f} ({row['num_keys']:.0f})")
            rows.append([way + f" ({note})" * bool(note), *cells])
        lines.append(markdown(["Keys from", *heads], rows).rstrip())
    return "\n".join(lines).strip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "table"])
    parser.add_argument("weights", nargs="?")
    parser.add_argument("images", nargs="?", type=Path)
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--size", type=int, help="side of the images; as the weights say where it is not given")
    parser.add_argument("--budget", type=int, nargs="*", default=[16, 48])
    arguments = parser.parse_args()
    if arguments.verb == "run":
        print(run(arguments.weights, arguments.images, arguments.num, arguments.budget, arguments.size))
        return
    fill(ROOT / "docs" / "significance.md", "merging", f"\n{table()}\n")


if __name__ == "__main__":
    main()
