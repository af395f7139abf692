"""``trainer.validate_every``: which epochs are judged, what is best, and what a run leaves behind."""

import csv

import pytest

from engine.killed_runs import OVERRIDES
from sgformer.commands.report import report
from sgformer.commands.train import train
from sgformer.engine import weights
from sgformer.engine.fit import TrainerOptions
from sgformer.tasks.classification.task import ClassificationTask

SETTINGS = {**OVERRIDES, "trainer.checkpoint_minutes": None, "trainer.tensorboard": False}


def rows_of(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def judged(folder):
    return [int(row["epoch"]) for row in rows_of(folder) if row["val_top1"]]


@pytest.mark.parametrize(("every", "num_epochs", "expected"), [(2, 5, [2, 4, 5]), (9, 2, [2]), (1, 2, [1, 2])])
def test_the_last_epoch_is_always_validated(every, num_epochs, expected, tmp_path, capsys):
    settings = {**SETTINGS, "trainer.validate_every": every, "trainer.max_epochs": num_epochs}
    folder = train("smoke", {**settings, "trainer.report": False}, out=tmp_path)
    assert judged(folder) == expected
    assert len(rows_of(folder)) == num_epochs
    assert all(row["train_loss"] for row in rows_of(folder))
    # Lightning remembers metrics; what is printed must be the epoch's own.
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [number for number, line in enumerate(lines, 1) if "val_top1" in line] == expected
    assert weights.read_metadata(folder / "best.safetensors")["metrics"]["epoch"] in expected
    images = [path.name for path in sorted((folder / "significance").glob("epoch-*.png"))]
    assert images == [f"epoch-{number:03}.png" for number in expected]


def test_a_run_that_is_resumed_within_an_epoch_validates_the_same_epochs(tmp_path, monkeypatch):
    settings = {**SETTINGS, "trainer.validate_every": 2, "trainer.report": False}
    whole = train("smoke", settings, out=tmp_path / "whole")

    step, count = ClassificationTask.training_step, iter(range(1000))

    def step_or_fail(self, batch, batch_idx):
        if next(count) == 9:  # the fourth of the six batches of the second epoch
            raise RuntimeError("as if the power was cut")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", step_or_fail)
    settings["trainer.checkpoint_minutes"] = 0
    with pytest.raises(RuntimeError, match="power"):
        train("smoke", settings, out=tmp_path / "cut")
    monkeypatch.undo()
    folder = train("smoke", resume=tmp_path / "cut" / "smoke")
    assert judged(folder) == judged(whole) == [2, 3]
    assert [row["val_top1"] for row in rows_of(folder)] == [row["val_top1"] for row in rows_of(whole)]


@pytest.mark.parametrize("failing", [6, pytest.param(9, marks=pytest.mark.exhaustive)])
def test_with_data_workers_a_resumed_run_sees_what_the_whole_one_sees(tmp_path, monkeypatch, failing):
    """Workers begin before Lightning says which epoch it is. Step 6 is the first of the second epoch."""
    settings = {**SETTINGS, "data.workers": 1, "trainer.report": False, "trainer.significance": False}
    settings |= {"trainer.max_epochs": 2, "trainer.checkpoint_minutes": 0}
    step, seen, fail_at = ClassificationTask.training_step, [], None

    def step_and_look(self, batch, batch_idx):
        if len(seen) == fail_at:
            raise RuntimeError("as if the power was cut")
        seen.append(float(batch.images.sum()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", step_and_look)
    train("smoke", settings, out=tmp_path / "whole")
    whole, fail_at = seen[:], failing
    assert len({*whole}) == len(whole) == 12
    seen.clear()
    with pytest.raises(RuntimeError, match="power"):
        train("smoke", settings, out=tmp_path / "cut")
    fail_at = None
    train("smoke", resume=tmp_path / "cut" / "smoke")
    assert seen == whole


def test_the_page_can_wait(tmp_path):
    settings = {"trainer.report": False, "trainer.significance": False, "trainer.validate_every": 2}
    folder = train("smoke", {**SETTINGS, **settings}, out=tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert not names & {"report.html", "significance"}
    # Curves with gaps.
    assert "top1" in report(folder, device="cpu").read_text()


def test_less_than_every_epoch_is_refused():
    with pytest.raises(ValueError, match=r"validate_every 0 must be at least 1"):
        TrainerOptions(validate_every=0)
