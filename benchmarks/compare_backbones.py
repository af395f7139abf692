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
averaged weights reach as far back, as a share of the run, as in the recipe. Epochs are set with `--epochs nuclei=8`;
with 0 a table is left out. With `--scale auto` those of the other tables are scaled to fit into the limit, by the times
that `smoke` has measured with as many runs at once: into four fifths of it, since nothing is known of the machine but
these few steps.

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
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from comparison_plans import PLANS, Job, jobs, short, steps
from training_results import add, table

ROOT = Path(__file__).parents[1]
# Of `--scale auto`: which share of the limit it makes use of, the seconds in which the weights of an epoch are saved,
# and the scale where nothing was measured.
SHARE, SAVE, BLIND = 0.8, 1.0, 0.3
SMOKE_STEPS, SMOKE_EPOCHS = 4, 4


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
                job.seconds += seconds
                job.ended = f"failed with {job.process.returncode}" if job.process.returncode else ""
                (job.folder(out) / "last.ckpt").unlink(missing_ok=True)  # large, and of no use any more
                print(f"{seconds:4.0f} s: {job.name} {job.ended or 'is done'}", flush=True)
                if job.ended:
                    print(tail(job.log(out)), flush=True)
            if seconds > limit:
                for job in running + queue:
                    job.ended = "stopped at the limit" if job in running else "not begun"
                print(
                    f"{seconds:4.0f} s: the limit; {len(running)} runs are ended, {len(queue)} not begun",
                    flush=True,
                )
                break
            while queue and len(running) < at_once:
                running.append(queue.pop(0))
                running[-1].seconds = -seconds
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
    """Seconds of a step and of a validation picture, of each run that got to its end, from its last two epochs.

    ``start`` is what the slowest run took beside its epochs: imports, data, CUDA, the end.
    """
    times, beside = {}, [0.0]
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
            beside.append(job.seconds - sum(float(row["seconds"]) for row in rows))
    return {"at_once": min(at_once, len(finished)), "start": max(beside), "times": times}


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
    if not speed["times"]:
        print(f"nothing was measured; scale {BLIND}: {at(BLIND)}", flush=True)
        return at(BLIND)
    dry = argparse.Namespace(**{**vars(arguments), "from_scratch": True})

    def estimate() -> float:
        return speed["start"] + seconds_of(list(jobs(dry, at(scale), arguments.out)), speed)

    while scale > 0.05 and estimate() > SHARE * arguments.limit:
        scale -= 0.02
    print(f"scale {scale:.2f}: {at(scale)}", flush=True)
    print(f"about {estimate():.0f} s, {speed['start']:.0f} of them before and after the epochs", flush=True)
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
