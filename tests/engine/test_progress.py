"""What is printed while a run goes on, where nobody watches a bar."""

import re

import sgformer  # noqa: F401
from sgformer.commands.train import train
from sgformer.engine import progress

OVERRIDES = {
    "data.scenes": {"num_train": 32, "num_val": 8, "size": 32},
    "data.image_size": 32,
    "data.batch_size": 8,
    "model.name": "test_resnet",
    "trainer.tensorboard": False,
    "trainer.max_epochs": 2,
}


def seconds_left(printed):
    """All that was announced, in seconds."""
    found = re.findall(r"· ([\d:]+) left", printed)
    clocks = [[int(part) for part in clock.split(":")] for clock in found]
    return [sum(part * 60**i for i, part in enumerate(reversed(clock))) for clock in clocks]


def test_time_left_is_plausible_also_after_a_run_was_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    folder = train("smoke", OVERRIDES, out=tmp_path)
    first = capsys.readouterr().out
    assert "batch 2/4" in first
    train("smoke", {"trainer.max_epochs": 5}, resume=folder)
    printed = capsys.readouterr().out
    assert "epoch 3/5" in printed
    left = seconds_left(printed)
    assert len(left) == 3 * (4 + 1) - 1  # nothing is left after the last epoch
    assert max(left) < 600  # one that divides by nothing is in the millions of hours
    assert left[-1] == 0
    assert " · best\n" in first
    *_, page, best, heading, evaluate, predict = printed.splitlines()
    assert "report.html" in page
    assert "val_top1" in best
    assert (heading, evaluate) == ("Next:", f"  sgformer evaluate {folder}")
    assert predict == f"  sgformer predict {folder} IMAGES"
    train("smoke", resume=folder)
    assert "all 5 epochs are over; to train on: --trainer.max_epochs 6 or more" in capsys.readouterr().out


def test_slow_images_are_counted_in_seconds():
    said = [progress.image_rate(images) for images in (250.4, 2.5, 0.04)]
    assert said == ["250 images/s", "2.5 images/s", "25 s an image"]
