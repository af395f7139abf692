"""Where the time of a pass goes: `python benchmarks/profile_stages.py LABEL [HEIGHTxWIDTH...]`.

For `sgformer_s` with and without a budget of 196, in float32 and bfloat16, by part of the model and kind of operation,
from PyTorch's profiler.
The share of matrix products (linear layers, attention, convolutions that are not depthwise) says how far a part is from
being products alone. The table goes to `results/profile_<LABEL>_cpu_<threads>threads_torch<version>_<date>.csv`; LABEL
tells states of the code apart, `before` and `after` for instance.
"""

import csv
import datetime
import itertools
import sys
from collections import Counter
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

import sgformer  # noqa: F401  registers the models
from sgformer.commands.inputs import parse_size

RESULTS = Path(__file__).parent / "results"
WARM_UP, PASSES = 3, 3  # until the allocator has the memory of a pass
KINDS = {  # kind of operation to the beginnings of its names in the profiler
    "products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product"),
    "copies": ("aten::copy_", "aten::cat", "aten::fill_", "aten::index"),
    "gelu": ("aten::gelu",),
    "norms": ("aten::native_layer_norm", "aten::native_group_norm"),
    "softmax": ("aten::_softmax",),
    "ranking": ("aten::sort", "aten::argsort"),
}
CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::thnn_conv2d")


def kind_of(name: str, shapes: list) -> str:
    """The kind of an operation; a convolution whose kernels see one channel is depthwise."""
    if name.startswith(CONVOLUTIONS):
        return "depthwise" if len(shapes) > 1 and len(shapes[1]) == 4 and shapes[1][1] == 1 else "products"
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
    for _ in range(WARM_UP):
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
        for budget, dtype in itertools.product((None, 196), (torch.float32, torch.bfloat16)):
            model = timm.create_model("sgformer_s", token_budget=budget).to(dtype).eval()
            stages = [(f"stage{i + 1}", stage) for i, stage in enumerate(model.stages)]
            for name, module in [("stem", model.stem), *stages]:
                mark(module, name)
            with torch.no_grad():
                spent = milliseconds(model, torch.randn(batch_size, 3, height, width, dtype=dtype))
            case = {"size": size, "batch_size": batch_size, "budget": budget or ""}
            case["dtype"] = str(dtype).removeprefix("torch.")
            parts = sorted({part for part, _ in spent})
            for part in [*parts, "all"]:
                of_part = Counter()
                for (p, kind), ms in spent.items():
                    of_part[kind] += ms if part in (p, "all") else 0
                total = of_part.total()
                cells = {kind: f"{of_part[kind]:.1f}" for kind in [*KINDS, "depthwise", "other"]}
                cells |= {"total_ms": f"{total:.1f}", "share_of_products": f"{of_part['products'] / total:.2f}"}
                rows.append(case | {"part": part} | cells)
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
