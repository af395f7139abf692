"""Trains several backbones in the same recipe, steps and initialisation, many runs at once on one device.

    python benchmarks/compare_backbones.py list                         the plans, and what each run is
    python benchmarks/compare_backbones.py smoke PLAN --data FOLDER     a few steps of each run, to find faults early
    python benchmarks/compare_backbones.py run PLAN --data FOLDER       the runs, and their result files

The plan `imagenette160` trains five backbones from scratch at 160 pixels, and three small ones by the packaged recipe
as it is. The plan `dense` takes the backbones that it left, and trains detectors and segmenters on them. FOLDER holds
the sets: `imagenette160`; `nuclei`, `coco_tiny80` and `camvid11`.

Each run is a process of `sgformer train`, with a log of its own, up to `--at-once` of them together. One that fails is
reported, and the others go on. After `--limit` seconds those that still run are ended; the epochs that they have
finished count, and their result files and tables say how many of how many. All runs of a table have the same epochs,
steps, batches and augmentation. What a recipe says in epochs (warm-up, mixing) is stretched with their number, and the
averaged weights reach as far back, as a share of the run, as in the recipe. Epochs are set with `--epochs nuclei=8`.
With `--scale auto` those of all tables are scaled to fit into the limit, by the times that `smoke` has measured with as
many runs at once: three quarters of the limit, since nothing is known about the machine but these few steps.

`--out FOLDER` (default: `runs/compare`) receives:

    results/*.json          a result file for each run, as `training_results.py add` writes it, for tables named
                            compare_<table>; put them into benchmarks/results/training
    summary.md              the same as tables
    half/*.safetensors      last weights of the small classifiers, in half precision
    weights/*.safetensors   last weights of the classifiers of the first seed, from which `dense` starts
    logs/*.txt              what each run printed
    speed_<plan>.json       what `smoke` has measured
    runs/                   the run folders
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from comparison_plans import OWN, PLANS, Table
from training_results import add, table

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "src" / "sgformer" / "recipes"
# Seconds before the first step: imports, data, CUDA. And the share of the time left that `--scale auto` makes use of.
START, SHARE = 25.0, 0.75
SAVE = 1.0  # seconds in which the weights of an epoch are saved
SMOKE_STEPS, SMOKE_EPOCHS = 4, 4


@dataclass
class Job:
    """One run: what it is, its process, and what became of it."""

    table: Table
    model: str
    seed: int
    epochs: int
    settings: dict[str, Any]
    process: subprocess.Popen | None = None
    ended: str = ""  # "", or why it did not get to its end

    @property
    def name(self) -> str:
        """Of the result file."""
        return f"{self.group}_{short(self.model)}_seed{self.seed}"

    @property
    def group(self) -> str:
        """How the names of a table's files begin; those without trained backbones are a table of their own."""
        scratch = self.table.trained and self.settings["model.weights"] is None
        return f"{'scratch' if scratch else 'compare'}_{self.table.name}"

    def rows(self, out: Path) -> list[dict[str, str]]:
        """Its epochs so far."""
        try:
            with (self.folder(out) / "metrics.csv").open(encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except OSError:
            return []

    def folder(self, out: Path) -> Path:
        """The run folder."""
        return out / "runs" / self.name / Path(self.table.recipe).name

    def log(self, out: Path) -> Path:
        """What the process prints."""
        return out / "logs" / f"{self.name}.txt"


def short(model: str) -> str:
    return model.split("_patch")[0]


def stretched(table: Table, epochs: int) -> dict[str, Any]:
    """The recipe's schedule for another number of epochs and another batch."""
    recipe = yaml.safe_load((RECIPES / f"{table.recipe}.yaml").read_text(encoding="utf-8"))
    before, factor = recipe["trainer"]["max_epochs"], epochs / recipe["trainer"]["max_epochs"]
    settings = {
        "trainer.max_epochs": epochs,
        "optim.warmup_epochs": recipe["optim"]["warmup_epochs"] * factor,
    }
    if (mixed := recipe["data"]["augment"].get("mix_epochs")) is not None:
        settings["data.augment.mix_epochs"] = round(mixed * factor)
    if decay := recipe["trainer"].get("ema_decay"):
        num_steps = before * (table.num_train // recipe["data"]["batch_size"])
        reach = 1 / (1 - decay) / num_steps  # as a share of the run
        settings["trainer.ema_decay"] = round(max(1 - 1 / (reach * epochs * steps(table)), 0.5), 4)
    return settings


def steps(table: Table) -> int:
    """Of an epoch."""
    recipe = yaml.safe_load((RECIPES / f"{table.recipe}.yaml").read_text(encoding="utf-8"))
    return table.num_train // table.settings.get("data.batch_size", recipe["data"]["batch_size"])


def jobs(arguments: argparse.Namespace, epochs: dict[str, int], out: Path) -> Iterator[Job]:
    """All runs of a plan, those of the first seed first."""
    for seed in arguments.seeds:
        for each in PLANS[arguments.plan]:
            for model in each.models if seed == arguments.seeds[0] or not each.one_seed else ():
                yield Job(
                    each, model, seed, epochs[each.name], _settings(arguments, each, model, epochs, out)
                )


def _settings(
    arguments: argparse.Namespace, each: Table, model: str, epochs: dict[str, int], out: Path
) -> dict[str, Any]:
    number, task = epochs[each.name], each.recipe.split("/")[0]
    settings = {
        "model.name": model,
        "data.root": str(arguments.data / each.folder),
        "data.workers": each.workers if arguments.workers is None else arguments.workers,
        "trainer.validate_every": max(1, -(-number // each.num_validations)),
        **dict.fromkeys(("trainer.report", "trainer.significance", "trainer.tensorboard"), False),
        "trainer.checkpoint_minutes": None,
        **stretched(each, number),
        **each.settings,
        **OWN.get(model, {}).get(task, {}),
    }
    if each.trained:
        weights = out / "weights" / f"{short(model)}.safetensors"
        settings["model.weights"] = None if arguments.from_scratch else str(weights)
        if not arguments.from_scratch and not weights.is_file():
            sys.exit(f"there is no {weights}; first run the plan imagenette160, or say --from-scratch")
    settings |= dict(setting.split("=", 1) for setting in arguments.set)
    return settings


def start(job: Job, out: Path, threads: int) -> None:
    """Starts the process of a run, which leads a group with its data workers."""
    command = [sys.executable, "-m", "sgformer", "train", job.table.recipe]
    command += ["--out", str(job.folder(out).parent), "--seed", str(job.seed)]
    for key, value in job.settings.items():
        command += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    job.log(out).parent.mkdir(parents=True, exist_ok=True)
    with job.log(out).open("w", encoding="utf-8") as log:
        job.process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )


def end(group: list[Job]) -> None:
    """Ends processes and their data workers; all files of a run are written whole or not at all."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for job in group:
            assert job.process
            try:
                os.killpg(job.process.pid, how)
            except ProcessLookupError:
                continue
        until = time.monotonic() + 2
        while time.monotonic() < until and any(job.process and job.process.poll() is None for job in group):
            time.sleep(0.05)


def run_all(waiting: list[Job], out: Path, *, at_once: int, limit: float, threads: int) -> None:
    """Runs jobs, some at once, until all are over or the time is."""
    begun = spoken = time.monotonic()
    queue, running = list(waiting), []
    try:
        while queue or running:
            seconds = time.monotonic() - begun
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                job.ended = f"failed with {job.process.returncode}" if job.process.returncode else ""
                (job.folder(out) / "last.ckpt").unlink(missing_ok=True)  # large, and of no use any more
                print(f"{seconds:4.0f} s: {job.name} {job.ended or 'is done'}", flush=True)
                if job.ended:
                    print(tail(job.log(out)), flush=True)
            if seconds > limit:
                for job in running + queue:
                    job.ended = "stopped at the limit"
                print(
                    f"{seconds:4.0f} s: the limit; {len(running)} runs are ended, {len(queue)} not begun",
                    flush=True,
                )
                break
            while queue and len(running) < at_once:
                running.append(queue.pop(0))
                start(running[-1], out, threads)
            if time.monotonic() - spoken > 20:
                spoken = time.monotonic()
                states = (f"{job.name} {len(job.rows(out))}/{job.epochs}" for job in running)
                print(f"{seconds:4.0f} s: {', '.join(states)}", flush=True)
            time.sleep(0.2)
    finally:
        end(running)


def tail(path: Path, num_lines: int = 12) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line[:300]}" for line in lines[-num_lines:])


def collect(finished: list[Job], out: Path, at_once: int) -> None:
    """Result files, weights to go on with, and tables."""
    from sgformer import load
    from sgformer.engine.weights import read_metadata

    for job in finished:
        if not job.rows(out):
            continue
        more = {"runs_at_once": at_once, **({"ended": job.ended} if job.ended else {})}
        add(job.folder(out), job.name, folder=out / "results", more=more)
        if not job.table.kept or job.seed != finished[0].seed:
            continue
        last = job.folder(out) / "last.safetensors"
        kept = out / ("weights" if job.table.kept == "whole" else "half") / f"{short(job.model)}.safetensors"
        kept.parent.mkdir(exist_ok=True)
        if job.table.kept == "whole":
            shutil.copyfile(last, kept)
        else:
            metadata = read_metadata(last)
            load(last).save(kept, recipe=metadata["recipe"], metrics=metadata["metrics"], half=True)
    parts = []
    for group in dict.fromkeys(job.group for job in finished):
        parts.append(f"### {group}\n\n{table(list((out / 'results').glob(f'{group}_*.json')))}")
    parts += [f"- {job.name}: {job.ended}" for job in finished if job.ended]
    (out / "summary.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def measured(finished: list[Job], out: Path, at_once: int) -> dict[str, Any]:
    """Seconds of a step and of a validation picture, of each run that got to its end, from its last two epochs."""
    times = {}
    for job in finished:
        rows = job.rows(out)
        if len(rows) == SMOKE_EPOCHS:
            plain, validated = float(rows[-2]["seconds"]), float(rows[-1]["seconds"])
            num = min(job.table.num_val, _batch(job))
            num_steps = float(rows[-2]["step"]) - float(rows[-3]["step"])
            times[f"{job.table.name} {short(job.model)}"] = {
                "step": plain / num_steps,
                "picture": max(validated - plain, 0) / num,
            }
    return {"at_once": min(at_once, len(finished)), "times": times}


def _batch(job: Job) -> int:
    return job.table.num_train // steps(job.table)


def seconds_of(planned: list[Job], speed: dict[str, Any]) -> float:
    """How long jobs take, one after another in as many places as there were when their speed was measured."""
    places = [0.0] * speed["at_once"]
    for job in planned:
        if known := speed["times"].get(f"{job.table.name} {short(job.model)}"):
            validated = -(-job.epochs // int(job.settings["trainer.validate_every"]))
            seconds = job.epochs * (steps(job.table) * known["step"] + SAVE)
            first_free = places.index(min(places))
            places[first_free] += seconds + validated * job.table.num_val * known["picture"]
    return max(places)


def chosen_epochs(arguments: argparse.Namespace) -> dict[str, int]:
    """The epochs of each table: as said by name, else the plan's, scaled."""
    said = {name: int(number) for name, number in (one.split("=") for one in arguments.epochs)}
    if unknown := said.keys() - {each.name for each in PLANS[arguments.plan]}:
        sys.exit(f"--epochs: no table {', '.join(unknown)} in the plan {arguments.plan}")

    def at(scale: float) -> dict[str, int]:
        return {
            each.name: said.get(each.name, max(2, round(scale * each.epochs)))
            for each in PLANS[arguments.plan]
        }

    if arguments.scale != "auto":
        return at(float(arguments.scale))
    path = arguments.out / f"speed_{arguments.plan}.json"
    if not path.is_file():
        sys.exit(f"--scale auto needs {path}; first run `smoke {arguments.plan}`, or say --scale 0.5")
    speed, scale = json.loads(path.read_text(encoding="utf-8")), 1.0
    dry = argparse.Namespace(**{**vars(arguments), "from_scratch": True})
    available = SHARE * (arguments.limit - START)
    while scale > 0.05 and seconds_of(list(jobs(dry, at(scale), arguments.out)), speed) > available:
        scale -= 0.02
    estimate = seconds_of(list(jobs(dry, at(scale), arguments.out)), speed)
    print(
        f"scale {scale:.2f}: {at(scale)}, about {START + estimate:.0f} s of {arguments.limit:.0f} s",
        flush=True,
    )
    return at(scale)


def smoke(arguments: argparse.Namespace) -> int:
    """A few steps of each run; what they took is kept for `--scale auto`."""
    out = arguments.out / "smoke"
    shutil.rmtree(out / "runs", ignore_errors=True)
    few = {"trainer.limit_train_batches": SMOKE_STEPS, "trainer.limit_val_batches": 1}
    few["trainer.validate_every"] = 2  # so that the last epoch differs from the one before in nothing else
    arguments.set = [*(f"{key}={value}" for key, value in few.items()), *arguments.set]
    arguments.seeds = arguments.seeds[:1]
    planned = list(
        jobs(arguments, dict.fromkeys((each.name for each in PLANS[arguments.plan]), SMOKE_EPOCHS), out)
    )
    run_all(planned, out, at_once=arguments.at_once, limit=arguments.limit, threads=arguments.threads)
    speed = measured(planned, out, arguments.at_once)
    (arguments.out / f"speed_{arguments.plan}.json").write_text(
        json.dumps(speed, indent=1) + "\n", encoding="utf-8"
    )
    for name, times in speed["times"].items():
        print(
            f"{name}: {times['step']:.3f} s a step, {times['picture']:.3f} s a validation picture", flush=True
        )
    collect(planned, out, arguments.at_once)
    failed = [job.name for job in planned if job.ended]
    print(
        f"{len(planned) - len(failed)} of {len(planned)} runs work"
        + f"; not {', '.join(failed)}" * bool(failed)
    )
    return len(failed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["list", "smoke", "run"])
    parser.add_argument("plan", nargs="?", choices=list(PLANS))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", nargs="+", default=[], metavar="TABLE=NUMBER")
    parser.add_argument("--scale", default="1", help="factor on the plan's epochs, or auto")
    parser.add_argument("--at-once", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1, help="of each run, beside its data workers")
    parser.add_argument("--workers", type=int, help="data workers of each run; default: as the plan says")
    parser.add_argument("--from-scratch", action="store_true", help="dense: without trained backbones")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe keys, for all runs alike"
    )
    arguments = parser.parse_args()
    if arguments.verb == "list":
        for name, tables in PLANS.items():
            for each in tables:
                print(
                    f"{name}: {each.name}, {each.epochs} epochs of {steps(each)} steps: {', '.join(each.models)}"
                )
        return 0
    if arguments.plan is None:
        parser.error(f"name a plan: {', '.join(PLANS)}")
    arguments.data, arguments.out = arguments.data.absolute(), arguments.out.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGHUP):  # whoever ends this ends the runs, too
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    if arguments.verb == "smoke":
        return smoke(arguments)
    planned = list(jobs(arguments, chosen_epochs(arguments), arguments.out))
    for job in planned:
        if job.folder(arguments.out).exists():
            sys.exit(f"there is a run in {job.folder(arguments.out)}; name another --out, or remove it")
    at_once = min(arguments.at_once, len(planned))
    run_all(planned, arguments.out, at_once=at_once, limit=arguments.limit, threads=arguments.threads)
    collect(planned, arguments.out, at_once)
    print((arguments.out / "summary.md").read_text(encoding="utf-8"), flush=True)
    return sum(job.ended.startswith("failed") for job in planned)


if __name__ == "__main__":
    sys.exit(main())
