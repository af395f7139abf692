import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from sgformer.engine import devices
from sgformer.engine.sampling import seeded
from sgformer.tasks.errors import DataError
from sgformer.tasks.loading import Batch, Unreadable, collate_readable, make_loader, nothing_read


class Numbers(Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([float(seeded(index))]), 0


class Trainer:
    def __init__(self, rank, num_processes):
        self.global_rank, self.world_size = rank, num_processes
        progress = SimpleNamespace(current=SimpleNamespace(processed=0))
        self.fit_loop = SimpleNamespace(epoch_progress=progress)


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5])
def test_each_validation_sample_is_judged_once(num_processes):
    seen = []
    for rank in range(num_processes):
        loader = make_loader(
            Numbers(7), "val", batch_size=2, workers=0, trainer=Trainer(rank, num_processes), collate=collate_readable
        )
        seen += [int(x) for batch in loader for x in batch.images]
    assert sorted(seen) == list(range(7))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_no_process_is_without_something_to_judge(rank):
    """It would skip the end of validation, where the others wait for it."""
    with pytest.raises(DataError, match=r"3 processes and only 2 images .*--trainer\.devices 2"):
        make_loader(Numbers(2), "val", batch_size=2, workers=0, trainer=Trainer(rank, 3))


def test_what_cannot_be_read_is_left_out():
    bad = Unreadable("a.jpg", "is empty")
    batch = collate_readable([(torch.zeros(1), 3), bad, (torch.ones(1), 4)])
    assert isinstance(batch, Batch)
    assert batch.targets.tolist() == [3, 4]
    assert batch.unreadable == (bad,)
    batch = collate_readable([bad, bad])
    assert len(batch.images) == len(batch.targets) == 0
    assert batch.unreadable == (bad, bad)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted on Linux")
def test_a_hundred_epochs_leave_no_process_and_no_open_file():
    def files():
        return len(os.listdir("/proc/self/fd"))

    before = files()
    loaders = [make_loader(Numbers(8), split, batch_size=4, workers=1) for split in ("train", "val")]
    for epoch in range(100):
        loaders[0].order.set_epoch(epoch)
        for loader in loaders:
            assert sum(len(batch[0]) for batch in loader) == 8
        if epoch == 2:
            settled = files()
    assert files() <= settled + 2  # nothing is added from epoch to epoch
    assert len(multiprocessing.active_children()) == 2
    del loader, loaders
    assert not multiprocessing.active_children()
    assert files() <= before + 2


@pytest.mark.parametrize(("split", "purpose"), [("train", "training"), ("val", "validation")])
@pytest.mark.parametrize("rank", [0, 2])
def test_fewer_samples_than_processes_are_refused_in_every_process(rank, split, purpose):
    message = rf"3 processes and only 2 images for {purpose}; set --trainer\.devices 2 or less"
    with pytest.raises(DataError, match=message):
        make_loader(Numbers(2), split, batch_size=3, workers=0, trainer=Trainer(rank, 3))


def test_a_batch_that_processes_cannot_share_is_refused_with_those_they_can():
    with pytest.raises(ValueError, match=r"data\.batch_size 8 .*among 3 .*set --data\.batch_size 6 or 9"):
        make_loader(Numbers(20), "train", batch_size=8, workers=0, trainer=Trainer(0, 3))
    loaders = [make_loader(Numbers(20), "train", batch_size=6, workers=0, trainer=Trainer(i, 3)) for i in range(3)]
    assert [len(next(iter(loader))[0]) for loader in loaders] == [2, 2, 2]


def test_a_step_is_left_out_where_layers_would_wait_for_a_process_without_images(monkeypatch):
    plain, waits = torch.nn.BatchNorm2d(2), torch.nn.SyncBatchNorm(2)
    image = torch.zeros(1, 2, 4, 4)
    assert nothing_read(waits, image[:0])
    assert not nothing_read(waits, image)
    # As if one of two processes had none.
    monkeypatch.setattr(devices, "mean_over_processes", lambda values: torch.full_like(values, 0.5))
    assert not nothing_read(plain, image)
    assert nothing_read(waits, image)
    assert nothing_read(plain, [image], wait=True)
