"""`benchmarks/compare_backbones.py` and the tables of `benchmarks/training_results.py`."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from engine.killed_runs import OVERRIDES
from sgformer import tasks
from sgformer.commands.train import train
from sgformer.engine import recipe

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import compare_backbones
import comparison_page
import training_results


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_backbones, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def done(run, **metrics):
    """Pretends that a run reached these numbers."""
    run.result.write_text(json.dumps({"epochs": [{"epoch": 1, "train_loss": 0.25, **metrics}]}))


def test_every_run_has_a_recipe_and_a_name_of_its_own(results):
    runs = list(compare_backbones.planned())
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        path = compare_backbones.TABLES[run.table].recipe
        parsed = recipe.parse(recipe.find(path), tasks.get(path.split("/")[0]).Recipe, run.settings(Path("data")))
        assert timm.is_model(parsed.model.name)
        assert parsed.model.weights is None
        assert parsed.optim.lr == run.rate


@pytest.mark.parametrize("table", compare_backbones.TABLES)
def test_runs_of_a_table_differ_in_nothing_but_backbone_and_learning_rate(results, table):
    own = {"model.name", "model.kwargs", "optim.lr", "trainer.channels_last"}
    settings = [
        {key: value for key, value in run.settings(Path("data")).items() if key not in own}
        for run in compare_backbones.planned()
        if run.table == table
    ]
    assert len(settings) == 2 * len(compare_backbones.BACKBONES)
    assert all(each == settings[0] for each in settings)


def test_the_other_seeds_take_the_better_learning_rate(results):
    first, second = compare_backbones.TABLES["classification"].rates
    rates = {first: 0.4, second: 0.5}
    for rate, score in rates.items():
        assert compare_backbones.better_rate("classification", "resnet10t") is None
        done(compare_backbones.Run("classification", "resnet10t", rate, 0), val_top1=score)
    others = [run for run in compare_backbones.planned() if run.seed > 0]
    assert {(run.table, run.backbone, run.rate) for run in others} == {("classification", "resnet10t", second)}
    done(others[0], val_top1=0.7)
    assert "## Classification" in comparison_page.page()
    assert "## Detection" not in comparison_page.page()
    rows = comparison_page.table("classification", {}).splitlines()[2:]
    assert len(rows) == 2
    assert "40.0% (one seed)" in rows[0]
    assert "(kept)" in rows[1]
    assert "60.0% ± 14.1% (2 seeds) | 0.25 |" in rows[1]
    assert comparison_page.standing("classification") == ""
    done(compare_backbones.Run("classification", "sgformer_t", first, 0), val_top1=0.65)
    assert "reaches 65.0% (Top-1). In percentage points that is 5.0 ahead of `resnet10t`" in comparison_page.standing(
        "classification"
    )


def test_a_run_that_fails_does_not_stop_the_others_and_none_is_done_twice(results, monkeypatch, tmp_path):
    begun = []

    def train(run, data, out, threads):
        begun.append(run.name)
        if run.backbone == "swin_48":
            raise subprocess.CalledProcessError(3, "sgformer")
        done(run, **{compare_backbones.TABLES[run.table].metric: 0.5})

    monkeypatch.setattr(compare_backbones, "train", train)
    assert compare_backbones.run_all(tmp_path, tmp_path, hours=1, threads=1) > 0
    assert len(begun) == len(set(begun))
    assert not any("swin_48" in path.name for path in results.iterdir())
    begun.clear()
    compare_backbones.run_all(tmp_path, tmp_path, hours=1, threads=1)
    assert begun
    assert all("swin_48" in name for name in begun)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_in_a_result_file(results, monkeypatch, tmp_path):
    settings = {**OVERRIDES, "trainer.report": False, "trainer.tensorboard": False, "trainer.significance": False}
    smoke = dataclasses.replace(
        compare_backbones.TABLES["classification"], recipe="classification/smoke", settings=settings
    )
    monkeypatch.setitem(compare_backbones.TABLES, "classification", smoke)
    monkeypatch.setitem(compare_backbones.BACKBONES, "small", compare_backbones.Backbone("sgformer_test"))
    run = compare_backbones.Run("classification", "small", 1e-3, 0)
    place = tmp_path / "runs" / run.name
    monkeypatch.setattr(compare_backbones.Run, "settings", lambda self, data: {**settings, "optim.lr": self.rate})
    train("smoke", {**settings, "optim.lr": run.rate, "trainer.max_epochs": 1}, out=place)
    compare_backbones.train(run, tmp_path, tmp_path / "runs", 1)  # from the checkpoint: no second folder
    assert [path.name for path in place.iterdir() if path.is_dir()] == ["smoke"]
    content = json.loads(run.result.read_text())
    assert content["recipe"]["optim"]["lr"] == run.rate
    assert content["commit"]


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
                {"epoch": i + 1, "step": 10 * (i + 1), "seconds": 30, **({"val_top1": s} if s is not None else {})}
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
