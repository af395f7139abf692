"""SG-Former beside other backbones of like cost: the same recipe, the same steps, three seeds, pretrained on nothing.

    python benchmarks/compare_backbones.py list                              every run, and which are done
    python benchmarks/compare_backbones.py run --data FOLDER [--hours 2]     the runs that are left, one at a time
                                           [--table segmentation]           of one table
    python benchmarks/compare_backbones.py costs                             parameters, GMACs and seconds an image

FOLDER holds `imagenette160`, `camvid11` and `nuclei`. The first seed of each backbone is trained with each learning
rate of its table; the other seeds with the better of them, by the validation images. Segmenters are judged on CamVid's
test images, which choose nothing. A run that was killed goes on from its checkpoint, one that is done is never begun
again, and after `--hours` no further run is begun. Runs have one process of `--threads` threads.

A run's folder is `--out`/NAME, its result file `benchmarks/results/comparison/NAME.json`: recipe, seed, commit,
machine, every epoch. `comparison_page.py` makes docs/comparison.md of them. Accuracy does not mind a busy machine, but
seconds do, so `costs` measures them apart, in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training_results import add

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "comparison"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Backbone:
    """A backbone of timm, of about the cost of `sgformer_t`.

    Attributes:
        model: Its name in timm.
        kwargs: Arguments that narrow it.
        channels_last: Whether it is faster with channels last; that changes nothing of what it learns.
    """

    model: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    channels_last: bool = False


BACKBONES = {
    "sgformer_t": Backbone("sgformer_t"),
    "swin_48": Backbone(
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 48, "num_heads": [2, 4, 8, 16], "always_partition": True, "strict_img_size": False},
    ),
    "pvt_v2_48": Backbone("pvt_v2_b1", {"embed_dims": [48, 96, 240, 384]}),
    "convnext_pico": Backbone("convnext_pico", channels_last=True),
    "resnet10t": Backbone("resnet10t", channels_last=True),
}


@dataclass(frozen=True)
class Table:
    """Runs that differ in nothing but backbone, learning rate and seed.

    Attributes:
        title: Of the table.
        recipe: `task/name`.
        folder: Of its images, in the folder of all sets.
        settings: Keys of the recipe that differ.
        rates: The two learning rates.
        metric: The metric that chooses the learning rate and is shown.
        judged: Keys under which the best weights are evaluated once more, on images that chose nothing.
        shown: Metrics in the table.
    """

    title: str
    recipe: str
    folder: str
    settings: dict[str, Any]
    rates: tuple[float, float]
    metric: str
    shown: dict[str, str]
    judged: dict[str, str] = field(default_factory=dict)


# The precision is named, since what recipes leave open follows the processor.
SHORT = {
    "trainer.precision": "bf16-mixed",
    "trainer.report": False,
    "trainer.significance": False,
    "trainer.tensorboard": False,
}
TABLES = {
    "classification": Table(
        "Classification: Imagenette at 112 pixels, 15 epochs",
        "classification/imagenette160",
        "imagenette160",
        {"trainer.max_epochs": 15, "data.augment.mix_epochs": 12, "trainer.ema_decay": 0.99},
        (2.5e-3, 1e-3),
        "val_top1",
        {"val_top1": "Top-1"},
    ),
    "segmentation": Table(
        "Segmentation: CamVid with UPerNet, 900 steps",
        "segmentation/camvid",
        "camvid11",
        {"model.weights": None, "head.name": "upernet", "trainer.max_epochs": 20},
        (1e-3, 3e-4),
        "val_miou",
        {"test_miou": "mIoU, test", "val_miou": "mIoU, val"},
        {"data.images": "images/test", "data.masks": "annotations/test"},
    ),
    "detection": Table(
        "Detection: nuclei with Mask R-CNN, 8 epochs",
        "detection/nuclei",
        "nuclei",
        {"model.weights": None, "trainer.max_epochs": 8},
        (1e-3, 3e-4),
        "val_mask_ap",
        {"val_mask_ap": "Mask AP", "val_box_ap": "Box AP"},
    ),
}


@dataclass(frozen=True)
class Run:
    """One run of a table."""

    table: str
    backbone: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and its result file."""
        return f"{self.table}_{self.backbone}_lr{self.rate:g}_seed{self.seed}"

    @property
    def result(self) -> Path:
        """Its result file, which is there once the run is done."""
        return RESULTS / f"{self.name}.json"

    def settings(self, data: Path) -> dict[str, Any]:
        """What differs from the recipe."""
        table, backbone = TABLES[self.table], BACKBONES[self.backbone]
        return {
            "model.name": backbone.model,
            "model.kwargs": backbone.kwargs,
            "data.root": str(data / table.folder),
            "optim.lr": self.rate,
            "trainer.channels_last": backbone.channels_last and self.table != "detection",
            **SHORT,
            **table.settings,
        }


def value(run: Run, metric: str) -> float | None:
    """The metric of a run that is done, of its best epoch."""
    if not run.result.is_file():
        return None
    content = json.loads(run.result.read_text(encoding="utf-8"))
    if metric in content:
        return content[metric]
    return max((epoch[metric] for epoch in content["epochs"] if metric in epoch), default=None)


def last_loss(run: Run) -> float | None:
    """The loss on training images in the last epoch of a run that is done."""
    if not run.result.is_file():
        return None
    return json.loads(run.result.read_text(encoding="utf-8"))["epochs"][-1]["train_loss"]


def better_rate(table: str, backbone: str) -> float | None:
    """The learning rate with the better first seed; None while one of them is missing."""
    found = {rate: value(Run(table, backbone, rate, SEEDS[0]), TABLES[table].metric) for rate in TABLES[table].rates}
    if any(score is None for score in found.values()):
        return None
    return max(found, key=lambda rate: found[rate] or 0.0)


def planned() -> Iterator[Run]:
    """All runs that can be named by now, both rates of the first seed before the other seeds."""
    for table in TABLES:
        for rate in TABLES[table].rates:
            for backbone in BACKBONES:
                yield Run(table, backbone, rate, SEEDS[0])
    for seed in SEEDS[1:]:
        for table in TABLES:
            for backbone in BACKBONES:
                if (rate := better_rate(table, backbone)) is not None:
                    yield Run(table, backbone, rate, seed)


def train(run: Run, data: Path, out: Path, threads: int) -> None:
    """Trains, from the checkpoint where there is one, and writes the result file."""
    place = out / run.name
    folder = place / Path(TABLES[run.table].recipe).name
    command = [sys.executable, "-m", "sgformer", "train"]
    if (folder / "last.ckpt").is_file():
        command += ["--resume", str(folder)]
    else:
        if folder.exists():  # killed before its first checkpoint: out of the way, not away
            folder.rename(place / f"before-{time.time():.0f}")
        command += [TABLES[run.table].recipe, "--out", str(place), "--seed", str(run.seed)]
        for key, setting in run.settings(data).items():
            command += [f"--{key}", setting if isinstance(setting, str) else json.dumps(setting)]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    place.mkdir(parents=True, exist_ok=True)
    with (place / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, check=True)
    more = {"table": run.table, "backbone": run.backbone, "commit": commit(folder), **judge(run, folder, data)}
    add(folder, run.name, folder=RESULTS, more=more)
    (folder / "last.ckpt").unlink(missing_ok=True)


def commit(folder: Path) -> str:
    return json.loads((folder / "environment.json").read_text(encoding="utf-8"))["git_commit"]


def judge(run: Run, folder: Path, data: Path) -> dict[str, float]:
    """The mIoU of the best weights on images that chose nothing, where the table has such."""
    table = TABLES[run.table]
    if not table.judged:
        return {}
    from sgformer.commands.evaluate import evaluate

    report = evaluate(folder, {"data.root": str(data / table.folder), **table.judged})
    return {"test_miou": report.to_dict()["miou"]}


def run_all(data: Path, out: Path, hours: float, threads: int, tables: Sequence[str] = tuple(TABLES)) -> int:
    begun, failed = time.monotonic(), set()
    while time.monotonic() - begun < hours * 3600:
        todo = (run for run in planned() if run.table in tables and not run.result.is_file())
        left = [run for run in todo if run.name not in failed]
        if not left:
            break
        print(f"{left[0].name} ...", flush=True)
        try:
            train(left[0], data, out, threads)
        except subprocess.CalledProcessError:
            failed.add(left[0].name)
            print(f"{left[0].name} failed: see {out / left[0].name / 'log.txt'}", flush=True)
    return len(failed)


def costs(rounds: int = 5) -> dict[str, dict[str, float]]:
    """Parameters, GMACs at 224, and seconds of an image at 224 in inference, in turns."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import sgformer  # noqa: F401 (registers our models with timm)

    x, found, models = torch.randn(1, 3, 224, 224), {}, {}
    for name, backbone in BACKBONES.items():
        model = timm.create_model(backbone.model, **backbone.kwargs).eval()
        models[name] = model.to(memory_format=torch.channels_last) if backbone.channels_last else model
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found[name] = {"parameters": parameters, "gmacs": counter.get_total_flops() / 2e9}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, model in models.items():
                begun = time.perf_counter()
                for _ in range(10):
                    model(x)
                if turn:  # the first warms up
                    seconds[name].append((time.perf_counter() - begun) / 10)
    for name in models:
        found[name]["seconds"] = statistics.median(seconds[name])
    threads, machine = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    about = {"torch": torch.__version__.split("+")[0], "threads": threads, "cpu": machine, "backbones": found}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "costs.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return found


def measured_costs() -> dict[str, dict[str, float]]:
    """What `costs` measured, by backbone; nothing where it has not run."""
    path = RESULTS / "costs.json"
    return json.loads(path.read_text(encoding="utf-8"))["backbones"] if path.is_file() else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["list", "run", "costs"])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--table", choices=TABLES, nargs="+", default=list(TABLES))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.verb == "run":
        data, out = arguments.data.absolute(), arguments.out.absolute()
        return run_all(data, out, arguments.hours, arguments.threads, arguments.table)
    if arguments.verb == "list":
        for run in planned():
            print(f"{run.name}: {'done' if run.result.is_file() else 'left'}")
    else:
        for name, cost in costs().items():
            print(f"{name}: {cost['parameters'] / 1e6:.1f}M, {cost['gmacs']:.2f} GMACs, {cost['seconds'] * 1e3:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
