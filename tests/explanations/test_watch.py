"""How significance evolves: what is kept of each epoch, and the strip of them."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("lightning", reason="training needs lightning")

from lightning.pytorch import LightningModule, Trainer

from sgformer.explanations.watch import MAX_EPOCHS, WatchSignificance

SIZE = (64, 96)


class Evolves(LightningModule):
    """Finds another place significant after every step."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def forward_significance(self, x):
        rng = np.random.default_rng(self.global_step)
        return [torch.from_numpy(rng.random((len(x), side, side))) for side in (16, 8, 8)]

    def training_step(self, batch, index):
        return self.scale.square()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(watch, num_epochs):
    loader = torch.utils.data.DataLoader(torch.zeros(2, 1))
    trainer = Trainer(
        max_epochs=num_epochs,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Evolves(), loader, loader)


def watching(folder, num=2):
    images = [Image.new("RGB", SIZE[::-1], (90, 120, 40 * i)) for i in range(num)]
    return WatchSignificance(folder, images, torch.zeros(num, 3, *SIZE))


def test_a_strip_shows_the_first_epoch_the_last_and_some_between(tmp_path):
    watch = watching(tmp_path)
    strips = []
    for num_epochs in (1, MAX_EPOCHS + 4):
        train(watch, num_epochs)
        strips.append(Image.open(tmp_path / "significance" / "evolution.png").size)
    assert len(list((tmp_path / "significance").glob("epoch-*.png"))) == MAX_EPOCHS + 4
    assert strips[0][1] == strips[1][1]
    assert strips[1][0] > (MAX_EPOCHS + 1) * 112 > 2 * strips[0][0]  # the least is as wide as the legend
    # Another process, after a resume, draws the same from what lies in the folder.
    again = watching(tmp_path).evolution()
    assert np.array_equal(np.asarray(again), np.asarray(Image.open(tmp_path / "significance" / "evolution.png")))
    assert again.width < (MAX_EPOCHS + 2) * 122  # the image, and no more than so many epochs


def test_what_is_kept_is_small_and_of_that_epoch(tmp_path):
    train(watching(tmp_path, num=3), 2)
    first, second = (np.load(tmp_path / "significance" / f"epoch-00{n}.npz")["significance"] for n in (1, 2))
    assert first.shape == (3, *SIZE)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
