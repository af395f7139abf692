"""Watch significance evolve: its maps for the same few pictures, after every epoch of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from .render import Cell, combine, contact_sheet, overlay
from .significance import significance_maps


class WatchSignificance(Callback):
    """Draws ``significance/epoch-<number>.png`` in the run folder, and hands the picture to TensorBoard.

    Drawn with the weights that are validated: the averaged ones, where the run has some.

    Args:
        folder: The run folder.
        pictures: What the model sees, for people.
        images: The same, prepared for the model, `(n, 3, height, width)`.
    """

    def __init__(self, folder: Path, pictures: Sequence[Image.Image], images: Tensor) -> None:
        self.folder, self.pictures, self.images = folder / "significance", list(pictures), images

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws; the averaged weights are in place by now."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        maps = significance_maps(pl_module, self.images.to(pl_module.device))
        sheet = self.draw([m.numpy() for m in maps], trainer.current_epoch + 1)
        self.folder.mkdir(exist_ok=True)
        sheet.save(self.folder / f"epoch-{trainer.current_epoch + 1:03}.png")
        for logger in trainer.loggers:
            writer: Any = getattr(logger, "experiment", None)
            if hasattr(writer, "add_image"):
                writer.add_image(
                    "significance", np.asarray(sheet), trainer.current_epoch + 1, dataformats="HWC"
                )

    def draw(self, maps: Sequence[np.ndarray], epoch: int) -> Image.Image:
        """A row for each picture: the picture, all pairs together, and the last pair of each stage.

        Args:
            maps: for each pair `(n, H, W)`.
            epoch: for the title.
        """
        # The grid shrinks from stage to stage; the last map before it does is the stage's last pair.
        last = [i for i, m in enumerate(maps) if i + 1 == len(maps) or maps[i + 1].shape != m.shape]
        rows = []
        for n, picture in enumerate(self.pictures):
            size = (picture.height, picture.width)
            together = combine([m[n] for m in maps], size)
            cells = [Cell(picture), Cell(overlay(picture, together))]
            rows.append(cells + [Cell(overlay(picture, maps[i][n])) for i in last])
        headings = ["picture", "all pairs", *(f"stage {k + 1}" for k in range(len(last)))]
        return contact_sheet(
            rows, title=f"Significance, epoch {epoch}", headings=headings, legend=True, cell_size=144
        )
