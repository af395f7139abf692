"""Where the time of a pass goes: `python benchmarks/profile_stages.py LABEL [HEIGHTxWIDTH...]`.

For `sgformer_s` with and without a budget of 196, by part of the model and kind of operation, from PyTorch's profiler.
The share of matrix products (linear layers, attention, convolutions that are not depthwise) says how far a part is from
being products alone. The table goes to `results/profile_<LABEL>_cpu_<threads>threads_torch<version>_<date>.csv`; LABEL
tells states of the code apart, `before` and `after` for instance.
"""

import csv
import datetime
import sys
from collections import Counter
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

import sgformer  # noqa: F401  registers the models
from sgformer.commands.benchmark import parse_size

RESULTS = Path(__file__).parent / "results"
PASSES = 3
KINDS = {  # kind of operation to the beginnings of its names in the profiler
    "products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product"),
    "copies": ("aten::copy_", "aten::cat", "aten::fill_", "aten::index"),
    "gelu": ("aten::gelu",),
    "norms": ("aten::native_layer_norm", "aten::native_group_norm"),
    "softmax": ("aten::_softmax",),
    "ranking": ("aten::sort", "aten::argsort"),
}
CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::thnn_conv2d")
CONVOLUTION_BACKWARD = "aten::convolution_backward"  # whose inputs are gradient, map and weights


def kind_of(name: str, shapes: list) -> str:
    """The kind of an operation; a convolution whose kernels see one channel is depthwise."""
    if name.startswith((*CONVOLUTIONS, CONVOLUTION_BACKWARD)):
        weight = shapes[2 if name == CONVOLUTION_BACKWARD else 1 : 3]
        return "depthwise" if weight and len(weight[0]) == 4 and weight[0][1] == 1 else "products"
    return next((kind for kind, names in KINDS.items() if name.startswith(names)), "other")


def mark(module: nn.Module, name: str) -> None:
    """Makes the profiler see where a part of the model begins and ends."""
    forward = module.forward

    def marked(*args: Tensor):
        with record_function(f"part:{name}"):
            return forward(*args)

    module.forward = marked


def milliseconds(model: nn.Module, x: Tensor) -> Counter[tuple[str, str]]:
    """Time of one pass by (part, kind)."""
    model(x)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(PASSES):
            model(x)
    spent: Counter[tuple[str, str]] = Counter()
    for event in profiler.events():
        part, above = "head", event
        while above is not None:
            if above.name.startswith("part:"):
                part = above.name.removeprefix("part:")
                break
            above = above.cpu_parent
        if not event.name.startswith("part:"):
            kind = kind_of(event.name, event.input_shapes)
            spent[part, kind] += event.self_cpu_time_total / 1e3 / PASSES
    return spent


def main(label: str, sizes: list[str]) -> None:
    """Profiles, prints and writes."""
    version, date = torch.__version__.split("+")[0], datetime.date.today().isoformat()
    path = RESULTS / f"profile_{label}_cpu_{torch.get_num_threads()}threads_torch{version}_{date}.csv"
    rows = []
    for size in sizes:
        height, width = parse_size(size)
        batch_size = 4 if height * width <= 224**2 else 1
        for budget in (None, 196):
            model = timm.create_model("sgformer_s", token_budget=budget).eval()
            for name, module in [
                ("stem", model.stem),
                *((f"stage{i + 1}", s) for i, s in enumerate(model.stages)),
            ]:
                mark(module, name)
            with torch.no_grad():
                spent = milliseconds(model, torch.randn(batch_size, 3, height, width))
            for part in sorted({part for part, _ in spent}):
                of_part = {kind: ms for (p, kind), ms in spent.items() if p == part}
                total = sum(of_part.values())
                share = of_part.get("products", 0) / total
                cells = {kind: f"{of_part.get(kind, 0):.1f}" for kind in [*KINDS, "depthwise", "other"]}
                rows.append(
                    {"size": size, "batch_size": batch_size, "budget": budget or "", "part": part, **cells}
                    | {"total_ms": f"{total:.1f}", "share_of_products": f"{share:.2f}"}
                )
                print(*rows[-1].values(), sep="\t")
    RESULTS.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(path)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:] or ["224", "512", "800x1333", "1344"])
