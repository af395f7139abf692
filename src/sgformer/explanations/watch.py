"""Callback that draws the significance maps of a few images after every epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from .render import Cell, combine, contact_sheet, covered_shares, overlay, significance_sheet
from .significance import significance_maps

MAX_EPOCHS = 8  # of a strip: the first, the last, and others evenly between them
_KEPT_SIDE = 96  # of the maps that are kept for it, in pixels


class WatchSignificance(Callback):
    """Draws ``significance/epoch-<number>.png`` in the run folder, and hands the image to TensorBoard.

    ``significance/evolution.png`` shows the same images through the epochs. Drawn with the weights that are validated:
    the averaged ones, where the run has some. ``x`` are the images, prepared for the model, `(n, 3, height, width)`.
    """

    def __init__(self, folder: Path, images: Sequence[Image.Image], x: Tensor) -> None:
        self.folder, self.images, self.x = folder / "significance", list(images), x
        self.size = int(x.shape[-2]), int(x.shape[-1])

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws; the averaged weights are in place by now."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        maps = [m.numpy() for m in significance_maps(pl_module, self.x.to(pl_module.device))]
        epoch = trainer.current_epoch + 1
        cells = [Cell(image) for image in self.images]
        sheet = significance_sheet(cells, maps, self.size, title=f"Significance, epoch {epoch}")
        self.folder.mkdir(exist_ok=True)
        sheet.save(self.folder / f"epoch-{epoch:03}.png")
        self._keep(maps, epoch)
        self.evolution().save(self.folder / "evolution.png")
        for logger in trainer.loggers:
            writer: Any = getattr(logger, "experiment", None)
            if hasattr(writer, "add_image"):
                writer.add_image("significance", np.asarray(sheet), epoch, dataformats="HWC")

    def evolution(self) -> Image.Image:
        """A row for each image: the image, and all pairs together after up to `MAX_EPOCHS` epochs.

        Maps of epochs before a run was resumed are found in the run folder.
        """
        files = sorted(self.folder.glob("epoch-*.npz"))
        places = np.linspace(0, len(files) - 1, min(len(files), MAX_EPOCHS)).round().astype(int)
        chosen = [files[place] for place in places]
        kept = [np.load(file)["significance"] for file in chosen]  # (n, height, width) each
        rows = [[Cell(image), *(Cell(overlay(image, maps[n])) for maps in kept)] for n, image in enumerate(self.images)]
        headings = ["image", *(f"epoch {int(file.stem.removeprefix('epoch-'))}" for file in chosen)]
        return contact_sheet(
            rows, title="Significance through the epochs", headings=headings, legend=True, cell_size=112
        )

    def _keep(self, maps: Sequence[np.ndarray], epoch: int) -> None:
        """All pairs together, small, in a file of a few kilobytes."""
        scale = min(1.0, _KEPT_SIDE / max(self.size))
        size = max(1, round(self.size[0] * scale)), max(1, round(self.size[1] * scale))
        covered = covered_shares(maps, self.size)
        together = np.stack([combine([m[n] for m in maps], size, covered=covered) for n in range(len(self.images))])
        path = self.folder / f"epoch-{epoch:03}.npz"
        np.savez_compressed(path, significance=(together * 255).round().astype(np.uint8))
