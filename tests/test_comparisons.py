"""`benchmarks/compare_backbones.py` and the tables of `benchmarks/training_results.py`."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm

from engine.killed_runs import OVERRIDES
from sgformer import tasks
from sgformer.commands.train import train
from sgformer.engine import recipe

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import compare_backbones
import comparison_plans
import training_results
from comparison_plans import PLANS

TABLES = [table for tables in PLANS.values() for table in tables]


def planned(plan, out, epochs=2, **changes):
    arguments = {
        "plan": plan,
        "seeds": [0],
        "data": Path("data"),
        "workers": None,
        "from_scratch": True,
        "set": [],
    }
    names = (table.name for table in PLANS[plan])
    return list(
        comparison_plans.jobs(argparse.Namespace(**arguments | changes), dict.fromkeys(names, epochs), out)
    )


@pytest.mark.parametrize("plan", PLANS)
def test_every_run_has_a_recipe_and_a_name_of_its_own(plan, tmp_path):
    runs = planned(plan, tmp_path, seeds=[0, 1])
    assert len({job.name for job in runs}) == len(runs)
    for job in runs:
        assert timm.is_model(job.model)
        task = tasks.get(job.table.recipe.split("/")[0])
        parsed = recipe.parse(recipe.find(job.table.recipe), task.Recipe, job.settings)
        assert parsed.model.name == job.model
        assert parsed.trainer.max_epochs == 2
        assert parsed.model.weights is None


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_runs_of_a_table_differ_in_nothing_but_the_backbone(table, tmp_path):
    (plan,) = (name for name, tables in PLANS.items() if table in tables)
    own = {"model.name", "model.kwargs", "model.weights", "trainer.channels_last"}
    settings = [
        {key: value for key, value in job.settings.items() if key not in own}
        for job in planned(plan, tmp_path)
        if job.table is table
    ]
    assert len(settings) == len(table.models) > 1
    assert all(each == settings[0] for each in settings)


def test_the_recipes_own_length_is_the_recipe():
    (packaged,) = (table for table in TABLES if table.name == "imagenette112")
    settings = comparison_plans.stretched(packaged, 36)
    assert settings == {
        "trainer.max_epochs": 36,
        "optim.warmup_epochs": 2,
        "data.augment.mix_epochs": 28,
        "trainer.ema_decay": 0.996,
    }
    half = comparison_plans.stretched(packaged, 18)
    assert (half["optim.warmup_epochs"], half["data.augment.mix_epochs"]) == (1, 14)
    assert half["trainer.ema_decay"] == pytest.approx(0.992, abs=1e-4)


def test_a_run_that_fails_or_takes_too_long_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    scripts = {"sgformer_s": "sleep 0.3; echo no such kernel >&2; exit 3", "resnet50": "sleep 99 & sleep 99"}
    most = [0]

    def start(job, out, threads):
        job.log(out).parent.mkdir(parents=True, exist_ok=True)
        with job.log(out).open("w") as log:
            command = ["sh", "-c", scripts.get(job.model, "sleep 0.3")]
            job.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        most[0] = max(most[0], sum(j.process is not None and j.process.poll() is None for j in runs))

    runs = planned("imagenette160", tmp_path)
    monkeypatch.setattr(compare_backbones, "start", start)
    began = time.monotonic()
    compare_backbones.run_all(runs, tmp_path, at_once=2, limit=10, threads=1)
    assert time.monotonic() - began < 30
    ended = {job.model: job.ended for job in runs}
    assert ended.pop("sgformer_s") == "failed with 3"
    assert ended.pop("resnet50") == "stopped at the limit"
    assert set(ended.values()) == {""}
    assert most[0] == 2
    assert "no such kernel" in capsys.readouterr().out
    # The one that was ended, and what it had started; nobody may have fetched their exit codes yet.
    group = next(job.process.pid for job in runs if job.model == "resnet50")
    alive = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True).stdout.splitlines()
    assert not [line for line in alive if line.split()[0] == str(group) and "Z" not in line]


def test_epochs_are_chosen_to_fit_into_the_limit(tmp_path):
    names = [f"{table.name} {comparison_plans.short(m)}" for table in PLANS["dense"] for m in table.models]
    times = {name: {"step": 0.5, "picture": 0.01} for name in names}
    speed = {"at_once": 12, "start": 20.0, "times": times}
    (tmp_path / "speed_dense.json").write_text(json.dumps(speed))
    asked = {"plan": "dense", "out": tmp_path, "epochs": ["camvid=7"], "scale": "auto", "seeds": [0]}
    asked |= {"data": tmp_path, "workers": None, "from_scratch": True, "set": []}
    chosen = {
        limit: compare_backbones.chosen_epochs(argparse.Namespace(limit=limit, **asked))
        for limit in (100, 300, 90000)
    }
    assert chosen[90000] == {"nuclei": 24, "coco_tiny80": 24, "camvid": 7, "semantic_coco_tiny80": 40}
    assert chosen[100]["nuclei"] < chosen[300]["nuclei"] < 24
    (table,) = (table for table in PLANS["dense"] if table.name == "semantic_coco_tiny80")
    steps = comparison_plans.steps(table) * chosen[300]["semantic_coco_tiny80"]
    assert 100 < 0.5 * steps < 300


def test_an_unknown_table_is_refused(tmp_path):
    asked = argparse.Namespace(plan="dense", epochs=["cityscapes=7"])
    with pytest.raises(SystemExit, match="no table cityscapes in the plan dense"):
        compare_backbones.chosen_epochs(asked)


def test_a_run_becomes_a_result_file(tmp_path):
    settings = {"trainer.validate_every": 2, "trainer.report": False, "trainer.checkpoint_minutes": None}
    run = train("smoke", {**OVERRIDES, **settings}, out=tmp_path)
    path = training_results.add(run, "smoke_seed0", folder=tmp_path / "results", more={"runs_at_once": 3})
    content = json.loads(path.read_text())
    model = tasks.load(run)
    assert content["parameters"] == sum(p.numel() for p in model.parameters())
    assert ["val_top1" in epoch for epoch in content["epochs"]] == [False, True, True]
    table = training_results.table([path])
    assert "| `smoke_seed0` | `sgformer_test` | 0.2M | 32, 32 | 3 | 18 |" in table
    assert "up to 3 runs at once" in table


def test_seeds_share_a_row_and_a_run_that_was_stopped_says_so(tmp_path):
    def write(name, scores, *, parameters=True):
        content = {
            "recipe": {
                "task": "classification",
                "model": {"name": "resnet50"},
                "data": {"image_size": 160, "eval_image_size": None},
                "trainer": {"max_epochs": 3},
            },
            "machine": {"gpus": ["GPU"], "processor": "", "num_threads": 1},
            "versions": {"torch": "2.11.0+cu130"},
            "epochs": [
                {
                    "epoch": i + 1,
                    "step": 10 * (i + 1),
                    "seconds": 30,
                    **({"val_top1": s} if s is not None else {}),
                }
                for i, s in enumerate(scores)
            ],
        }
        content |= {"parameters": 25_000_000} if parameters else {}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path / f"{name}.json"

    paths = [
        write("a_seed0", [None, 0.7, 0.6]),
        write("a_seed1", [0.5, None, 0.8]),
        write("b_seed0", [0.4]),
        write("c_seed0", [None]),
    ]
    rows = training_results.table(paths).splitlines()[2:6]
    assert rows[0] == (
        "| `a`, seeds 0, 1 | `resnet50` | 25.0M | 160, 160 | 3 | 30 | 1.5 "
        "| 75.0% (70.0% to 80.0%) | 70.0% (60.0% to 80.0%) |"
    )
    assert rows[1] == "| `b_seed0` | `resnet50` | 25.0M | 160, 160 | 1 of 3 | 10 | 0.5 | 40.0% | 40.0% |"
    assert rows[2].endswith("| 1 of 3 | 10 | 0.5 |  |  |")
    # Files from before look as before.
    assert training_results.table([write("d", [0.4, 0.5, 0.6], parameters=False)]).splitlines()[2] == (
        "| `d` | `resnet50` | 160, 160 | 3 | 2 | 60.0% | 60.0% |"
    )
    assert "no such runs yet" in training_results.table([])
