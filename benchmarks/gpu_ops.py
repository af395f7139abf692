"""The ops of this package beside plain PyTorch, at the shapes that `sgformer_s` gives them.

    python benchmarks/gpu_ops.py                  on a GPU, in bfloat16; writes results/gpu_ops_<GPU>_torch<version>.csv
    python benchmarks/gpu_ops.py --device cpu     two small shapes of each, to see that it works; writes nothing

Key means stand beside PyTorch's fused attention of the same queries and keys, which reports no key means; the other ops
beside the plain code that defines them. Times are medians in microseconds, of the forward pass and of forward and
backward together.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Timer

from sgformer.ops import depthwise_conv, key_mean_attention, map_norm, window_attention

RESULTS = Path(__file__).parent / "results"
# (B, a, N, M): 128 images of 224x224, then 8 of 1024x1024 with a budget of 196.
ATTENTIONS = [(128, 1, 3136, 49), (128, 2, 784, 49), (128, 4, 196, 49)]
ATTENTIONS += [(8, 1, 65536, 196), (8, 2, 16384, 196), (8, 4, 4096, 196)]
# (B, H, W, c)
MLPS = [(128, 56, 56, 256), (128, 28, 28, 512), (128, 14, 14, 1024), (8, 256, 256, 256)]
NORMS = [(128, 112, 112, 64), (128, 56, 56, 128), (8, 512, 512, 64)]
WINDOWS = [(128, 56, 56, 1), (128, 28, 28, 2), (8, 256, 256, 1)]

HEAD = ["op", "shape", "forward_us", "forward_plain_us", "both_us", "both_plain_us", "forward_ratio", "both_ratio"]

Step = Callable[[], Tensor]


def steps(device: str, *, small: bool) -> Iterator[tuple[str, tuple[int, ...], list[Tensor], Step, Step]]:
    """Op, shape, what gets gradients, the op, and what it is compared with."""

    def new(*shape: int) -> Tensor:
        dtype = torch.float32 if small else torch.bfloat16
        return torch.randn(*shape, device=device, dtype=dtype).requires_grad_()

    def first(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [(1, *shape[1:]) for shape in shapes[1:3]] if small else shapes

    for B, a, N, M in first(ATTENTIONS):
        q, k, v = new(B, a, N, 32), new(B, a, M, 32), new(B, a, M, 32)
        yield (
            "key_mean_attention", (B, a, N, M), [q, k, v],
            lambda q=q, k=k, v=v: key_mean_attention(q, k, v)[0],
            lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
        )  # fmt: skip
    for B, H, W, a in first(WINDOWS):
        qkv = new(B, H, W, 3 * a * 32)
        yield (
            "window_attention", (B, H, W, a), [qkv],
            lambda qkv=qkv, a=a: window_attention(qkv, num_heads=a)[0],
            lambda qkv=qkv, a=a: window_attention(qkv, num_heads=a, backend="reference")[0],
        )  # fmt: skip
    for B, H, W, c in first(MLPS):
        x, weight, bias = new(B, H, W, c), new(c, 1, 3, 3), new(c)
        yield (
            "depthwise_conv, GELU", (B, H, W, c), [x, weight, bias],
            lambda x=x, w=weight, b=bias: depthwise_conv(x, w, b, residual=True, gelu=True),
            lambda x=x, w=weight, b=bias: depthwise_conv(
                x, w, b, residual=True, gelu=True, backend="reference"
            ),
        )  # fmt: skip
    for B, H, W, c in first(NORMS):
        x, weight, bias = new(B, H, W, c), new(c), new(c)
        yield (
            "map_norm, GELU", (B, H, W, c), [x, weight, bias],
            lambda x=x, w=weight, b=bias: map_norm(x, w, b, gelu=True),
            lambda x=x, w=weight, b=bias: map_norm(x, w, b, gelu=True, backend="reference"),
        )  # fmt: skip


def microseconds(step: Step, inputs: list[Tensor]) -> tuple[float, float]:
    """Of the forward pass, and of forward and backward."""

    def there() -> None:
        with torch.no_grad():
            step()

    def there_and_back() -> None:
        torch.autograd.grad(step().sum(), inputs)

    medians = [
        Timer("f()", globals={"f": f}).blocked_autorange(min_run_time=0.1).median for f in (there, there_and_back)
    ]
    return medians[0] * 1e6, medians[1] * 1e6


def main() -> None:
    """Times all, prints them, and keeps them where they come from a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU here; --device cpu shows that this program works")
    rows = []
    for op, shape, inputs, ours, plain in steps(device, small=device == "cpu"):
        mine, other = microseconds(ours, inputs), microseconds(plain, inputs)
        times = [f"{value:.1f}" for pair in zip(mine, other, strict=True) for value in pair]
        ratios = [f"{a / b:.2f}" for a, b in zip(mine, other, strict=True)]
        rows.append([op, "x".join(map(str, shape)), *times, *ratios])
        print(*rows[-1], sep="\t", flush=True)
    if device == "cuda":
        name = torch.cuda.get_device_name().replace(" ", "-")
        path = RESULTS / f"gpu_ops_{name}_torch{torch.__version__.split('+')[0]}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([HEAD, *rows])
        print(path)


if __name__ == "__main__":
    main()
