"""Times the ways to compute one thing among which the code chooses, side by side: `python benchmarks/choices.py`.

Each pair is timed in turns, A B A B, forward and backward together, on the shapes of `sgformer_t` at 112 pixels with
32 images, and the stem's convolution on larger ones. The medians go to
`benchmarks/results/choices_<device>_<threads>threads_torch<version>_<date>.csv`.
"""

import csv
import datetime
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sgformer.backbone.attention import HybridScaleAttention
from sgformer.fast import fused
from sgformer.ops import attention, depthwise_conv, linear

ROUNDS = 15
RESULTS = Path(__file__).parent / "results"


def training_time(function: Callable[..., Tensor], *inputs: Tensor) -> float:
    start = time.perf_counter()
    out = function(*inputs)
    out.backward(torch.ones_like(out))
    return time.perf_counter() - start


def compare(a: Callable[..., Tensor], b: Callable[..., Tensor], *inputs: Tensor) -> tuple[float, float]:
    """Median seconds of both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 2):
        for function, of_function in zip((a, b), times, strict=True):
            of_function.append(training_time(function, *inputs))
    return statistics.median(times[0][2:]), statistics.median(times[1][2:])


def channels_last(b: int, c: int, n: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(b, n, n, c, dtype=dtype).permute(0, 3, 1, 2).requires_grad_()


def cases(dtype: torch.dtype):
    """(what, shape, the way taken, the other way, inputs)."""
    for n, m, a, d in [(784, 15, 2, 16), (196, 15, 2, 32), (49, 37, 6, 32), (16, 16, 12, 32)]:
        q, k, v = (torch.randn(32, a, s, d, dtype=dtype, requires_grad=True) for s in (n, m, m))
        yield "attention: plain / fused", f"{n}x{m}", attention, F.scaled_dot_product_attention, (q, k, v)
    for c, n in [(64, 28), (192, 14), (384, 7)]:
        conv = torch.nn.Conv2d(c, c, 3, stride=2, padding=1, groups=c, bias=False).to(dtype)
        ours = functools.partial(fused.convolved, conv)
        yield "halving: float32 / as is", f"{c}x{n}x{n}", ours, conv, (channels_last(32, c, n, dtype),)
    for c, n in [(128, 28), (256, 14), (768, 7)]:
        x = torch.randn(32, n, n, c, dtype=dtype, requires_grad=True)
        conv = torch.nn.Conv2d(c, c, 3, padding=1, groups=c).to(dtype)
        folded = functools.partial(depthwise_conv, weight=conv.weight, bias=conv.bias, residual=True)
        apart = functools.partial(depthwise_conv, weight=conv.weight, bias=conv.bias)
        yield "residual: folded / apart", f"{n}x{n}x{c}", folded, lambda x, apart=apart: x + apart(x), (x,)
    for c, n, s in [(32, 28, 8), (64, 14, 4), (192, 7, 2)]:
        module = HybridScaleAttention(c, 2, stride=s).to(dtype)
        x = torch.randn(32, -(-n // s) * s, -(-n // s) * s, c, dtype=dtype, requires_grad=True)

        def convolved(x: Tensor, module: HybridScaleAttention = module) -> Tensor:
            return F.gelu(module.coarse_norm(module.coarse(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))

        yield (
            "coarse: product / convolution",
            f"{n}x{n}x{c}",
            functools.partial(fused.coarse_tokens, module),
            convolved,
            (x,),
        )
    for n, c, width in [(25088, 64, 256), (6272, 128, 512), (1568, 256, 1024), (392, 512, 2048)]:
        tensors = [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((n, c), (width, c))]
        yield "linear: ours / PyTorch's", f"{n}x{c} to {width}", linear, F.linear, tuple(tensors)


def main() -> None:
    torch.manual_seed(0)
    date = datetime.date.today().isoformat()
    name = f"choices_cpu_{torch.get_num_threads()}threads_torch{torch.__version__.split('+')[0]}_{date}.csv"
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["choice", "shape", "dtype", "taken_ms", "other_ms", "other_over_taken"])
        for dtype in (torch.float32, torch.bfloat16):
            for choice, shape, taken, other, inputs in cases(dtype):
                a, b = compare(taken, other, *inputs)
                row = [choice, shape, str(dtype).removeprefix("torch."), f"{a * 1e3:.3f}", f"{b * 1e3:.3f}"]
                writer.writerow([*row, f"{b / a:.2f}"])
                print(*row, f"{b / a:.2f}x", sep="\t")
    print(RESULTS / name)


if __name__ == "__main__":
    main()
