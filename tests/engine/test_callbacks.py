import json
import types

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from sgformer.engine.callbacks import AveragedWeights, CountUnreadable, UnreadableError, find_origin
from sgformer.engine.run_folder import RunFolder
from sgformer.tasks.loading import Batch, Unreadable


class Module(nn.Module):
    """Two layers and a loss; the second can be told to divide by zero."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.first, self.second, self.factor = nn.Linear(3, 4), nn.Linear(4, 2), factor

    def loss(self, batch):
        return self.second(self.first(batch.images) * self.factor).sum()


def batch(value=1.0):
    return Batch(torch.full((2, 3), value), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("module", "images", "words"),
    [
        (Module(), batch(float("nan")), "images or targets of the batch"),
        (Module(factor=float("inf")), batch(), r"output of second \(Linear\)"),
        (Module(), batch(), "it is the loss itself"),
    ],
)
def test_where_a_nan_comes_from(module, images, words):
    import re

    assert re.search(words, find_origin(module, images))


def test_weights_that_are_not_finite_are_named():
    module = Module()
    module.second.bias.data[1] = float("inf")
    assert "weights second.bias" in find_origin(module, batch())


def test_average_is_its_formula():
    average = AveragedWeights(0.9)._kwargs["multi_avg_fn"]
    rng, expected = torch.Generator().manual_seed(0), torch.zeros(3)
    averaged = [torch.zeros(3)]
    for step in range(30):
        current = torch.randn(3, generator=rng)
        average(averaged, [current], torch.tensor(step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * current
    assert torch.allclose(averaged[0], expected)


def test_the_average_is_where_the_model_is():
    class Task(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)

    task, average = Task(), AveragedWeights(0.9)
    average.setup(None, task, "fit")  # as Lightning does, before the model goes to its device
    average.on_fit_start(None, task.to("meta"))
    assert {p.device.type for p in average.averaged(task).parameters()} == {"meta"}
    assert average._average_model.n_averaged.device.type == "cpu"  # read after every step


def test_unreadable_images_are_listed_and_limited(tmp_path, capsys):
    trainer = types.SimpleNamespace(global_rank=0, world_size=1)
    callback = CountUnreadable(tmp_path, num_images=100, max_share=0.02)

    def look(*names):
        callback.on_train_batch_start(
            trainer, None, batch()._replace(unreadable=tuple(Unreadable(n, "is empty") for n in names)), 0
        )

    look("a.jpg")
    look("a.jpg")  # seen in every epoch, counted once
    look("b.jpg")
    assert (tmp_path / "unreadable.csv").read_text() == "path,reason\na.jpg,is empty\nb.jpg,is empty\n"
    assert capsys.readouterr().out.count("left out") == 2
    trainer.world_size = 8  # each of which may see all of them in time
    restored = CountUnreadable(tmp_path, num_images=100, max_share=0.02)
    restored.load_state_dict(callback.state_dict())
    callback = restored
    with pytest.raises(UnreadableError, match=r"3 of 100 .*data\.max_unreadable"):
        look("c.jpg")


def test_too_many_unreadable_images_in_a_row(tmp_path):
    trainer = types.SimpleNamespace(global_rank=0, world_size=1)
    callback = CountUnreadable(tmp_path, num_images=100, max_share=1.0)
    empty = Batch(torch.empty(0, 3), torch.empty(0), (Unreadable("a.jpg", "is empty"),) * 4)
    for look in (empty, empty, batch(), empty, empty):
        callback.on_train_batch_start(trainer, None, look, 0)
    callback.on_validation_batch_start(trainer, None, empty, 0)  # there images lie in order
    with pytest.raises(UnreadableError, match=r"none of 12 images in a row .*a\.jpg: is empty"):
        callback.on_train_batch_start(trainer, None, empty, 0)


def test_all_processes_write_to_the_folder_of_the_first(tmp_path):
    strategy = types.SimpleNamespace(broadcast=lambda folder: str(tmp_path / "run"))
    trainer = types.SimpleNamespace(global_rank=1, world_size=2, strategy=strategy)
    callback = CountUnreadable(tmp_path, num_images=100, max_share=1.0)
    callback.setup(trainer, None, "fit")
    callback.on_train_batch_start(trainer, None, batch()._replace(unreadable=(Unreadable("a.jpg", "bad"),)), 0)
    assert [path.name for path in tmp_path.rglob("*.csv")] == ["unreadable-1.csv"]
    assert (tmp_path / "run" / "unreadable-1.csv").is_file()


def test_metrics_that_are_not_finite_are_named_once_and_never_best(tmp_path, capsys):
    saved = {}

    def save(model, path, metrics):
        json.dumps(metrics, allow_nan=False)
        path.touch()
        saved[path.name] = metrics

    run = RunFolder(tmp_path, lambda module: module, save, monitor="val_top1", keep_best=2)
    optimizer = types.SimpleNamespace(param_groups=[{"lr": 0.1}])
    for epoch, value in enumerate([float("nan"), 0.5, float("inf"), 0.4, float("nan"), 0.6]):
        metrics = {"val_top1": torch.tensor(value)}
        trainer = types.SimpleNamespace(
            callback_metrics=metrics,
            current_epoch=epoch,
            global_step=epoch,
            optimizers=[optimizer],
            is_global_zero=True,
        )
        run.on_validation_end(trainer, None)
        run.on_train_epoch_end(trainer, None)
        if epoch == 0:
            assert saved["last.safetensors"]["val_top1"] is None
            assert not (tmp_path / "best.safetensors").exists()
    assert saved["best.safetensors"]["epoch"] == 6
    assert {path.name for path in tmp_path.glob("epoch-*")} == {"epoch-2.safetensors", "epoch-6.safetensors"}
    assert capsys.readouterr().out.count("val_top1 is") == 1
    assert (tmp_path / "metrics.csv").read_text().count("nan") == 2
