"""`sgformer_s` beside Swin-T in ONNX Runtime, and with int8 weights by torchao.

    python benchmarks/deployed_speed.py export FOLDER    ONNX files of both, of 224 and of 1344; needs no quiet machine
    python benchmarks/deployed_speed.py onnx FOLDER      times them in turns; half a minute on two quiet cores
    python benchmarks/deployed_speed.py int8             times both in float32 and int8; needs torchao
    python benchmarks/deployed_speed.py tables           result files become the tables of docs/benchmarks.md

Weights are random. Threads of ONNX Runtime wait busily for more work, so each turn starts after a pause, with a call
that is not timed. The numbers go to `results/deployed_<onnx or int8>_<threads>threads_torch<version>_<date>.csv`, with
the machine in the JSON file next to it. A mark in the page is a pair of comments, `<!-- deployed:NAME -->` and
`<!-- /deployed:NAME -->`; between them goes the newest result of that name from each machine.
"""

import csv
import datetime
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from pages import fill, machine, newest, protocol
from torch import Tensor, nn

import sgformer

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
OURS, SWIN = "sgformer_s", "swin_tiny_patch4_window7_224"
BUDGETS = {224: None, 1344: 196}
THREADS = 2
ROUNDS = {224: 31, 1344: 5}
PAUSE = 0.1  # seconds
ROUNDS_INT8, BATCH_SIZE = 7, 4


class Logits(nn.Module):
    """A model whose outputs are a tuple, as exporters want them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Logits of images `(B, 3, H, W)`, alone in a tuple."""
        return (self.model(x),)


def create(name: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    options = {"img_size": size} if name == SWIN else {"token_budget": BUDGETS[size]}
    return timm.create_model(name, **options).eval()


def export(folder: Path) -> None:
    """Write what is not there, by the exporter of each, and hold it against the model."""
    import onnx

    from sgformer.exporters.formats import onnx_file
    from sgformer.exporters.tracing import trace

    folder.mkdir(parents=True, exist_ok=True)
    for size in BUDGETS:
        x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        for name in (OURS, SWIN):
            path, model = folder / f"{name}_{size}.onnx", create(name, size)
            if not path.exists() and name == SWIN:
                names = {"input_names": ["images"], "output_names": ["logits"]}
                torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False, **names)
            elif not path.exists():
                fixed = (size, size)
                program = trace(Logits(model), 3, fixed=fixed, smallest=fixed, largest=fixed, batch=1, convs=True)
                about = {"outputs": ["logits"], "precision": "float32", "sizes": {"smallest": fixed, "largest": fixed}}
                onnx.save(onnx_file.model_of(program, about), str(path))
            with torch.inference_mode():
                expected = model(x)
            found = torch.from_numpy(session(path).run(None, {"images": x.numpy()})[0])
            difference = (found - expected).abs().max() / expected.abs().max()
            print(f"{path.name}: differs by {difference:.0e} of the largest logit")


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_times(folder: Path) -> None:
    rows = []
    for size, budget in BUDGETS.items():
        ways: dict[str, Callable[[], Any]] = {}
        x = {"images": torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).numpy()}
        for name in (OURS, SWIN):
            ways[name] = functools.partial(session(folder / f"{name}_{size}.onnx").run, None, x)
        times = in_turns(ways, ROUNDS[size], warm=size == 224)
        for name, of in times.items():
            shown = name if name == SWIN or budget is None else f"{name}@{budget}"
            rows.append(row(shown, "float32", f"1 of {size}x{size}", of, times[SWIN]))
    import onnxruntime

    write("onnx", rows, onnxruntime=onnxruntime.__version__)


def int8_times() -> None:
    import torchao
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    torch.set_num_threads(THREADS)
    sgformer.fast.keep_freed_memory()
    x, rows = torch.randn(BATCH_SIZE, 3, 224, 224), []
    models = {}
    for name in (OURS, SWIN):
        models[name, "float32"] = create(name, 224)
        models[name, "int8"] = create(name, 224)
        # torchao cannot compute products of a `Linear(c, 1)`.
        quantize_(
            models[name, "int8"],
            Int8DynamicActivationInt8WeightConfig(),
            filter_fn=lambda layer, _: isinstance(layer, nn.Linear) and layer.out_features > 1,
        )
    for products in ("default", "fast"):
        if products == "fast":
            sgformer.fast_float32()
            sgformer.fast.use_kernels()
        with torch.inference_mode():
            ways = {key: lambda model=model: model(x) for key, model in models.items()}
            times = in_turns(ways, ROUNDS_INT8, warm=False)
        for (name, dtype), of in times.items():
            cells = row(name, f"{dtype}, {products} products", f"{BATCH_SIZE} of 224x224", of, times[SWIN, dtype])
            rows.append(cells | {"time_over_own_float32": ratio(of, times[name, "float32"])})
    write("int8", rows, torchao=torchao.__version__)


def in_turns(ways: dict[Any, Callable[[], Any]], rounds: int, *, warm: bool) -> dict[Any, list[float]]:
    times: dict[Any, list[float]] = {key: [] for key in ways}
    for turn in range(rounds + 1):
        for key, way in ways.items():
            time.sleep(PAUSE)
            if warm:
                way()
            start = time.perf_counter()
            way()
            if turn:
                times[key].append(time.perf_counter() - start)
    return times


def ratio(of: list[float], over: list[float]) -> str:
    return f"{statistics.median(of) / statistics.median(over):.2f}"


def row(name: str, dtype: str, images: str, of: list[float], of_swin: list[float]) -> dict[str, str]:
    quarters = statistics.quantiles(of, n=4)
    spread = f"{1e3 * quarters[1]:.1f} ({1e3 * quarters[0]:.1f} to {1e3 * quarters[2]:.1f})"
    return {
        "model": name,
        "images": images,
        "dtype": dtype,
        "milliseconds": spread,
        "speed_over_swin": ratio(of_swin, of),
    }


def write(name: str, rows: list[dict[str, str]], **versions: str) -> None:
    from sgformer.engine.environment import environment

    date, version = datetime.date.today(), torch.__version__.split("+")[0]
    path = RESULTS / f"deployed_{name}_{THREADS}threads_torch{version}_{date}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    known = environment()
    about = {key: known[key] for key in ("date", "processor", "num_cpus", "git_commit", "git_changes")}
    about |= {"threads": THREADS, "torch": version, **versions}
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"), path, sep="\n")


def table(name: str) -> str:
    """The newest result of a name from each machine, with its protocol; or a sentence that there is none."""
    found = newest(RESULTS.glob(f"deployed_{name}_*.csv"))
    if not found:
        return f"Not measured yet: `python benchmarks/deployed_speed.py {name}`.\n"
    return "\n".join(map(_table_of, found))


def _table_of(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    heads = {
        "model": "Model",
        "images": "Images a step",
        "dtype": "dtype",
        "milliseconds": "Milliseconds a step: median (quartiles)",
        "speed_over_swin": "Speed over Swin-T",
        "time_over_own_float32": "Time over its own float32",
    }
    lines = [[heads[key] for key in rows[0]], ["---"] * len(rows[0])]
    lines += [[f"`{cells['model']}`", *list(cells.values())[1:]] for cells in rows]
    said = protocol(path)
    tool = next(key for key in ("onnxruntime", "torchao") if key in said)
    note = f"`{path.name}`: {machine(path)}, threads: {said['threads']}, {tool} {said[tool]}."
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + f"\n{note}\n"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["export", folder]:
            export(Path(folder))
        case ["onnx", folder]:
            onnx_times(Path(folder))
        case ["int8"]:
            int8_times()
        case ["tables"]:
            fill(PAGE, r"deployed:(\w+)", table)
        case _:
            sys.exit(__doc__)
