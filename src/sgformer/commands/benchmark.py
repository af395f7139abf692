r"""Time models side by side, and weigh the memory that they take.

Names are timm's; sgformer_s@196 is sgformer_s with a token budget of 196. The
models take turns within each combination of size, mode, dtype and compilation;
medians and quartiles are reported. Nothing is reported while models of this
package compute something else than they should.

Examples:
  sgformer benchmark sgformer_s swin_tiny_patch4_window7_224 convnext_tiny \
      --batch-size 4
  sgformer benchmark sgformer_s sgformer_s@196 swin_tiny_patch4_window7_224 \
      --size 224 896 800x1333
  sgformer benchmark sgformer_t resnet50 --mode inference training \
      --dtype float32 bfloat16 --compile both
"""

import datetime
import itertools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .inputs import parse_size

if TYPE_CHECKING:
    from ..benchmark.measure import Case
    from ..benchmark.turns import Measured


COLUMNS: tuple[str, ...] = tuple(
    "model height width batch_size mode dtype float32 compiled device seconds_median seconds_q25 seconds_q75 "  # noqa: SIM905
    "images_per_second peak_memory_mb gmacs mparams neighbours".split()
)


def benchmark(
    models: Sequence[str],
    *,
    size: Sequence[str | int] = ("224",),
    batch_size: int = 1,
    mode: Sequence[Literal["inference", "training"]] = ("inference",),
    dtype: Sequence[Literal["float32", "bfloat16", "float16"]] = ("float32",),
    float32: Literal["fast", "default", "both"] = "fast",
    compile: Literal["no", "yes", "both"] = "no",
    neighbours: float = 0,
    rounds: int = 7,
    threads: int | None = None,
    time: bool = True,
    memory: bool = True,
    together: bool = False,
    keep_memory: bool = True,
    device: str = "auto",
    out: str | Path = "benchmarks",
    label: str = "benchmark",
) -> Path:
    """Time models side by side, and weigh the memory that a step takes.

    Args:
        models: Names in timm's registry; ``@`` and a number after one of ours are a token budget.
        size: Sides of square images, or ``HEIGHTxWIDTH``.
        batch_size: Images a step.
        mode: What is timed: a prediction, a step of training (forward, backward and AdamW), or each.
        dtype: Of the weights in inference, of autocast in training; several are taken one after the other.
        float32: Whose products in float32 on a CPU: ``default`` for PyTorch's own choice, ``fast`` for
            `sgformer.fast_float32`, with the kernels of `sgformer.fast.use_kernels` for models of this package, which
            have them in bfloat16, too, and where the setting would round; or ``both``.
        compile: Whether models run through torch.compile.
        neighbours: How many other processes keep a core busy meanwhile; 0.5 for one that sleeps half of the time.
        rounds: Samples of each model; each lasts a tenth of a second at least.
        threads: CPU threads; by default as torch chooses.
        time: Whether to take times.
        memory: Whether to report peak memory.
        together: Whether all models, of all sizes and modes, are built and compiled at the same time.
        keep_memory: Whether freed memory is kept (`sgformer.fast.keep_freed_memory`), for all models alike, rather than
            given back and cleared anew, as a program has it by itself. It helps most where maps are largest.
        device: ``cpu``, ``cuda`` or ``auto``.
        out: Folder for ``<label>_<device>_<threads>threads_torch<version>_<date>`` with the endings csv, json and png.
        label: First word of the files' names.

    Returns:
        The CSV file. The JSON file next to it names machine, versions, date and protocol.

    Raises:
        ValueError: A model, a size or an option is unknown, a model cannot take a size, or a model of this package
            computes something else than it should.
    """
    if rounds < 1 or batch_size < 1 or (threads is not None and threads < 1):
        raise ValueError("rounds, batch size and threads must be at least 1")
    if neighbours < 0:
        raise ValueError(f"{neighbours} neighbours: give 0, 0.5, 1 or more")
    if not (time or memory):
        raise ValueError("without time and memory there is nothing to measure; leave one of them on")
    sizes = [parse_size(text) for text in size]

    import torch

    from ..benchmark import machine_load, measure, turns
    from . import console

    if threads is not None:
        torch.set_num_threads(threads)
    where = console.device(device)
    _check_parity(models, where, dtype)
    compiled = {"no": [False], "yes": [True], "both": [False, True]}[compile]
    products, of_ours = _products(float32, where, models)

    def cases_of(size: tuple[int, int], how: str, precision: str, translate: bool) -> list["Case"]:
        """Cases that take turns."""

        def choices(model: str) -> list[str]:
            ours = model.startswith("sgformer")
            takes = precision == "float32" or (precision == "bfloat16" and how == "inference" and ours)
            return ["default"] if where != "cpu" or not takes else of_ours if ours else products

        ways = [choices(model) for model in models]
        cases = [(model, way[i]) for i in range(2) for model, way in zip(models, ways, strict=True) if i < len(way)]
        settings = batch_size, how, precision, translate, where
        return [measure.Case(model, *size, *settings, choice, keep_memory) for model, choice in cases]

    groups = [cases_of(*each) for each in itertools.product(sizes, mode, dtype, compiled)]
    # Counting builds each model once, without memory: a name that is wrong shows before anything is timed.
    counts = [[measure.count(case) for case in cases] for cases in groups]
    busy = machine_load.busy_cores() if time else None
    if complaint := machine_load.warning(busy):
        warnings.warn(complaint, stacklevel=2)
    measured = turns.measure_in_turns(
        groups, rounds=rounds if time else 0, threads=torch.get_num_threads(), together=together, neighbours=neighbours
    )
    rows: list[dict[str, Any]] = []
    for cases, counts_of_group, results in zip(groups, counts, measured, strict=True):
        of_group = [
            _row(case, result, mparams, gmacs, memory=memory) | {"neighbours": f"{neighbours:g}"}
            for case, result, (mparams, gmacs) in zip(cases, results, counts_of_group, strict=True)
        ]
        console.table(*_as_table(of_group))
        rows += of_group
    protocol = _protocol(where, rounds=rounds) | {
        "neighbours": neighbours,
        "busy_cores_before": None if busy is None else round(busy, 2),
        "kernels": _kernels(groups),
        "freed_memory": "kept" if keep_memory else "given back",
    }
    return _write(rows, protocol, Path(out), label=f"{label}_{where.split(':')[0]}")


def _write(rows: list[dict[str, Any]], protocol: dict[str, Any], folder: Path, *, label: str) -> Path:
    """Write table, protocol and plot under a name that tells machine, version and date; returns the table's path."""
    import torch

    from ..engine.files import numbered, to_csv, write_atomically

    version, today = torch.__version__.split("+")[0], datetime.date.today().isoformat()
    stem = f"{label}_{torch.get_num_threads()}threads_torch{version}_{today}"
    path = next(path for name in numbered(stem) if not (path := folder / f"{name}.csv").exists())
    write_atomically(path, to_csv(rows, COLUMNS).encode())
    path.with_suffix(".json").write_text(json.dumps(protocol, indent=1) + "\n", encoding="utf-8")
    _plot(rows, path.with_suffix(".png"))
    print(f"{path}, with the protocol (.json) and a plot (.png) next to it")
    return path


def _kernels(groups: "list[list[Case]]") -> str | None:
    """Say whether fast rows of this package's models had kernels in C++, or why not; None without such rows."""
    if not any(case.float32 == "fast" for cases in groups for case in cases):
        return None
    import sgformer

    with sgformer.fast.use_kernels() as kernels:
        return kernels.objection or "used"


def _products(float32: str, device: str, models: Sequence[str]) -> tuple[list[str], list[str]]:
    """The ways to time models in float32, and those of this package, which have kernels where there is no setting.

    ValueError where both ways are asked for and this machine has one.
    """
    import sgformer

    with sgformer.fast_float32() as setting:
        objection = setting.objection
    asked = ["default", "fast"] if float32 == "both" else [float32]
    if device != "cpu" or float32 == "default" or not objection:
        return asked, asked
    if not any(model.startswith("sgformer") for model in models) and float32 == "both":
        raise ValueError(f"--float32 both needs two ways, and here {objection}; take --float32 default")
    warnings.warn(f"float32 products as PyTorch has them: {objection}", stacklevel=3)
    return ["default"], asked


def _check_parity(models: Sequence[str], device: str, dtypes: Sequence[str]) -> None:
    """Raise ValueError where models of this package, if there are any, compute something else than they should."""
    from ..benchmark import parity

    if not any(model.startswith("sgformer") for model in models):
        return
    for dtype in dtypes:
        if failures := parity.failures(device=device, dtype=dtype):
            raise ValueError(
                f"no speed is reported while parity fails: {'; '.join(failures)}. "
                "Run the tests in tests/backbone, and report it"
            )


def _row(case: "Case", measured: "Measured", mparams: float, gmacs: float, *, memory: bool) -> dict[str, Any]:
    from dataclasses import asdict

    import numpy as np

    row: dict[str, Any] = {**asdict(case), "gmacs": f"{gmacs:.2f}", "mparams": f"{mparams:.2f}"}
    if measured.samples:
        low, middle, high = np.quantile(measured.samples, (0.25, 0.5, 0.75)).tolist()
        row |= {"seconds_q25": f"{low:.4g}", "seconds_median": f"{middle:.4g}", "seconds_q75": f"{high:.4g}"}
        row["images_per_second"] = f"{case.batch_size / middle:.4g}"
    if memory and measured.peak_memory_mb is not None:
        row["peak_memory_mb"] = f"{measured.peak_memory_mb:.1f}"
    return {column: row.get(column, "") for column in COLUMNS}


def _as_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows for a person: what is measured, and what the rows have in common in one word."""
    heads = ["model", "case", "images/s", "median s", "quartiles s", "peak MB", "GMACs", "Mparams"]
    lines = []
    for row in rows:
        how = [f"{row['batch_size']}x{row['height']}x{row['width']}", row["mode"], row["dtype"]]
        spread = f"{row['seconds_q25']}-{row['seconds_q75']}" if row["seconds_median"] else ""
        how += ["fast"] * (row["float32"] == "fast") + ["compiled"] * bool(row["compiled"])
        cells = [row["model"], " ".join(how)]
        cells += [row["images_per_second"], row["seconds_median"], spread]
        lines.append([*cells, row["peak_memory_mb"], row["gmacs"], row["mparams"]])
    return heads, lines


def _protocol(device: str, *, rounds: int) -> dict[str, Any]:
    """Describe the protocol behind the numbers."""
    from ..engine.environment import environment

    known = environment()
    kept = "date processor num_cpus num_threads gpus python versions git_commit git_changes".split()  # noqa: SIM905
    memory = (
        "what PyTorch's allocator holds at most during a second step, less what it holds before"
        if device.startswith("cuda")
        else "peak resident memory of a first step less resident memory before it, in a fresh process"
    )
    return {
        **{key: known[key] for key in kept},
        "device": device,
        "rounds": rounds,
        "time": "models, each in a process of its own, take turns, forth and back; a sample is at least 0.1 s of "
        "steps; seconds a step",
        "training": "forward in training mode, cross-entropy, backward, a step of AdamW",
        "weights": "random: values do not change the speed",
        "memory": f"MB of 2^20 bytes; {memory}",
        "parity": "checked before, in float64 and in the dtypes measured",
    }


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Speed, in megapixels a second, and memory over size: a column for each combination of all else."""
    from matplotlib.figure import Figure

    def side(row: dict[str, Any]) -> float:
        return (row["height"] * row["width"]) ** 0.5

    def value(row: dict[str, Any], key: str) -> float:
        per_second = key == "seconds_median"
        return row["batch_size"] * side(row) ** 2 / 1e6 / float(row[key]) if per_second else float(row[key])

    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["mode"], row["dtype"], row["float32"], row["compiled"]), []).append(row)
    measures = [
        (column, title)
        for column, title in (("seconds_median", "megapixels / s"), ("peak_memory_mb", "peak memory, MB"))
        if any(row[column] for row in rows)
    ]
    figure = Figure(figsize=(1 + 4.2 * len(groups), 0.6 + 3.2 * len(measures)), layout="constrained")
    axes = figure.subplots(len(measures), len(groups), squeeze=False)
    names = list(dict.fromkeys(row["model"] for row in rows))
    for column, ((mode, dtype, float32, compiled), members) in enumerate(groups.items()):
        for axis, (key, title) in zip(axes[:, column], measures, strict=True):
            sides: set[float] = set()
            for i, name in enumerate(names):
                shown = [row for row in members if row["model"] == name and row[key]]
                if points := sorted((side(row), value(row, key)) for row in shown):
                    sides |= {place for place, _ in points}
                    axis.plot(*zip(*points, strict=True), marker="os^Dv*"[i % 6], label=name)
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(sides), [f"{place:.0f}" for place in sorted(sides)], minor=False)
            axis.set_ylim(bottom=0)
            axis.set_ylabel(title)
            axis.grid(alpha=0.3)
        title = f"{mode}, {dtype}" + ", fast" * (float32 == "fast") + ", compiled" * bool(compiled)
        axes[0, column].set_title(title, fontsize="medium")
        axes[-1, column].set_xlabel("square root of the number of pixels")
    axes[0, 0].legend(fontsize="small")
    figure.savefig(path, dpi=120)
