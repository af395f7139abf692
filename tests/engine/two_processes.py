"""The gradients of one batch, of one process or of two that share it, for tests of what tasks promise of several."""

from pathlib import Path
from typing import Any

import torch

import sgformer  # noqa: F401
from sgformer.tasks.loading import Batch


def segmentation() -> tuple[Any, list[Any]]:
    """A task without batch norms, and a batch whose second image has fewer pixels that count."""
    from sgformer.tasks.decoders import HeadOptions
    from sgformer.tasks.images import Preprocessing
    from sgformer.tasks.segmentation.model import Segmenter
    from sgformer.tasks.segmentation.task import Recipe, SegmentationTask

    head = HeadOptions(name="semantic_fpn", channels=64, auxiliary=0, dropout=0.0)
    preprocessing = Preprocessing(image_size=(64, 64))
    model = Segmenter("sgformer_test", classes=["a", "b"], preprocessing=preprocessing, head=head)
    masks = torch.randint(0, 2, (2, 64, 64))
    masks[1, 5:] = 255
    batch = [torch.randint(0, 256, (2, 3, 64, 64)), masks]
    return SegmentationTask(model, Recipe()), batch


def detection(kind: str) -> tuple[Any, list[Any]]:
    """A task that draws every place, and a batch whose images have one object and three."""
    from sgformer.tasks.detection.heads import HeadOptions
    from sgformer.tasks.detection.model import Detector, Preprocessing
    from sgformer.tasks.detection.task import DetectionTask, Recipe

    heads = HeadOptions(
        kind=kind,  # pyright: ignore[reportArgumentType]
        masks=kind == "rcnn",
        channels=16,
        box_channels=32,
        anchor_sizes=(16, 24, 32, 64, 128),
        num_proposals=20,
        num_sampled=10**6,
    )
    preprocessing = Preprocessing.of("sgformer_test", (64, 64))
    model = Detector("sgformer_test", classes=["a", "b"], preprocessing=preprocessing, heads=heads)
    if kind == "rcnn":
        model.rpn.fg_bg_sampler.sampler.batch_size_per_image = 10**6
    targets = []
    for num in (1, 3):
        boxes = torch.tensor([[4.0, 6, 30, 40], [20, 20, 60, 50], [8, 40, 28, 62]])[:num]
        masks = torch.zeros(num, 64, 64, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        labels = torch.arange(num) % 2 + 1
        targets.append({"boxes": boxes, "labels": labels, "masks": masks, "crowds": torch.zeros(0, 4)})
    return DetectionTask(model, Recipe()), [list(torch.rand(2, 3, 64, 64) * 255), targets]


CASES = {"segmentation": segmentation, "rcnn": lambda: detection("rcnn"), "retinanet": lambda: detection("retinanet")}


def gradients(case: str, part: slice = slice(None)) -> dict[str, torch.Tensor]:
    """Loss and gradients of a part of the batch; weights and batch are the same in every call."""
    torch.manual_seed(0)
    task, batch = CASES[case]()
    loss = task.train().loss(Batch(*(each[part] for each in batch)))
    loss.backward()
    found = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


def share(case: str, rank: int, folder: Path) -> None:
    """Computes one image in a group of two processes; the first writes the mean over both."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    found = gradients(case, slice(rank, rank + 1))
    for tensor in found.values():  # as DDP does it
        torch.distributed.all_reduce(tensor)
        tensor /= 2
    if rank == 0:
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()
