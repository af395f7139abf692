"""The tasks of `guidance.py`: each trains one small model from nothing in minutes on one core, and judges it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import small_digits
import taught
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sgformer import SGFormer
from sgformer.backbone.attention import SelfGuidedAttention

Batch = tuple[Tensor, Any]


@dataclass(frozen=True)
class Task:
    """A task, its model and its recipe.

    Attributes:
        title: of its table.
        metric: the one that arms are compared by.
        shown: the metrics in the table, with their heads.
        budget: the token budget.
        steps: optimizer steps.
        judged_every: steps between two judgements.
        batch_size: images a step.
        lr: the greatest learning rate, of a cycle with a warm-up of 15 %.
        depths, channels, num_heads: of the backbone.
    """

    title: str
    metric: str
    shown: dict[str, str]
    budget: int | None
    steps: int
    judged_every: int
    batch_size: int = 16
    lr: float = 3e-3
    depths: tuple[int, ...] = (2, 2, 4, 1)
    channels: tuple[int, ...] = (16, 32, 96, 192)
    num_heads: tuple[int, ...] = (2, 2, 4, 8)
    in_chans: ClassVar[int] = 3

    def backbone(self, merging: str) -> SGFormer:
        """A backbone with random weights, whose merging begins with means of either kind.

        Args:
            merging: `"ranking"`, `"regions"`, or `"taught"`, which is ranking by a map that gradients teach.
        """
        model = SGFormer(
            in_chans=self.in_chans,
            num_classes=0,
            depths=self.depths,
            channels=self.channels,
            num_heads=self.num_heads,
            mlp_ratio=2.0,
            token_budget=self.budget,
            merging="regions" if merging == "regions" else "ranking",
        )
        for module in model.modules():
            if isinstance(module, SelfGuidedAttention):
                for f in module.merge:
                    nn.init.constant_(f.weight, 1 / f.in_features)
        if merging == "taught":
            taught.teach(model)
        return model

    def build(self, merging: str) -> nn.Module:
        """The model of an arm."""
        raise NotImplementedError

    def batches(self, data: Path, seed: int) -> Iterator[Batch]:
        """Training batches without end."""
        raise NotImplementedError

    def loss(self, output: Any, target: Any) -> Tensor:
        """What is minimised."""
        raise NotImplementedError

    def judge(self, model: nn.Module, data: Path) -> dict[str, float]:
        """Metrics on validation images, the same for all arms and seeds."""
        raise NotImplementedError


NO_DIGIT = 10  # the class of a token in which no digit has its centre


class Finder(nn.Module):
    """A backbone of three stages, asked for a digit at each token of the last two, and for others at points."""

    def __init__(self, backbone: SGFormer, channels: tuple[int, ...]) -> None:
        super().__init__()
        backbone.prune_intermediate_layers([1, 2])
        self.backbone = backbone
        self.names = nn.ModuleList(nn.Linear(c, NO_DIGIT + 1) for c in channels[1:3])
        self.others = nn.Sequential(nn.Linear(channels[2], 64), nn.GELU(), nn.Linear(64, 10))

    def forward(self, x: Tensor, centres: Tensor) -> tuple[list[Tensor], Tensor]:
        """Which digit each token of two stages holds, or none, `(B, h, w, 11)`; which others, at each centre."""
        maps = self.backbone.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
        grid = (centres.flip(-1) / x.shape[-1] * 2 - 1).unsqueeze(2)  # (B, n, 1, 2)
        sampled = F.grid_sample(maps[-1], grid, align_corners=False).squeeze(-1).mT  # (B, n, c)
        names = [f(of_stage.permute(0, 2, 3, 1)) for f, of_stage in zip(self.names, maps, strict=True)]
        return names, self.others(sampled)


def held_by_tokens(centres: Tensor, labels: Tensor, side: int) -> Tensor:
    """The digit whose centre lies in each token of a map of `side`, or `NO_DIGIT`: `(B, side, side)`."""
    held = torch.full((len(labels), side, side), NO_DIGIT)
    row, column = (centres * side / small_digits.SIZE).long().clamp(max=side - 1).unbind(-1)  # (B, n) each
    held[torch.arange(len(labels)).unsqueeze(1), row, column] = labels
    return held


@dataclass(frozen=True)
class SmallDigits(Task):
    """Digits of 4 to 8 % of the side: which one is it, and which others are there?

    The second can be learned once the first is. So that digits differ from the rest of the image early on, each token
    of stages 2 and 3 is asked which digit it holds, or none.
    """

    in_chans: ClassVar[int] = 1
    num_judged: ClassVar[int] = 512

    def build(self, merging: str) -> nn.Module:
        """A backbone of three stages, asked at each token and at the digits."""
        return Finder(self.backbone(merging), self.channels)

    def batches(self, data: Path, seed: int) -> Iterator[Batch]:
        """New scenes for each step."""
        rng = np.random.default_rng((seed, 1))
        while True:
            x, target = small_digits.scenes("train", self.batch_size, rng)
            yield (x, target["centres"]), target  # pyright: ignore

    def loss(self, output: Any, target: Any) -> Tensor:
        """Both questions, the second twice; all tokens without a digit weigh twice what those with one do."""
        names, others = output
        total = 2 * F.binary_cross_entropy_with_logits(others, target["others"].float())
        for of_stage in names:
            side, weight = of_stage.shape[1], torch.ones(NO_DIGIT + 1)
            weight[NO_DIGIT] = 2 * small_digits.NUM_DIGITS / side**2
            held = held_by_tokens(target["centres"], target["labels"], side)
            total = total + F.cross_entropy(of_stage.flatten(0, 2), held.flatten(), weight)
        return total

    def judge(self, model: nn.Module, data: Path) -> dict[str, float]:
        """Top-1 of the first question in stage 3, and ROC areas of the second."""
        rng, found = np.random.default_rng(0), []
        for _ in range(self.num_judged // 32):
            x, target = small_digits.scenes("val", 32, rng)
            names, others = model(x, target["centres"])
            held = held_by_tokens(target["centres"], target["labels"], names[-1].shape[1])
            named, own = names[-1][..., :NO_DIGIT].argmax(-1), target["labels"].unsqueeze(-1)
            found.append(
                (
                    (named == held)[held != NO_DIGIT],
                    others.sigmoid(),
                    target["others"],
                    others.gather(-1, own),
                    target["others"].gather(-1, own),
                )
            )
        right, others, are, same, are_same = (torch.cat(values).numpy() for values in zip(*found, strict=True))
        return {"top1": float(right.mean()), "others_auc": auc(others, are), "same_auc": auc(same, are_same)}


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """How often something true scores higher than something false."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth.ravel(), scores.ravel()))


@dataclass(frozen=True)
class Imagenette(Task):
    """Ten classes of photographs at 96 pixels, all of them decoded once."""

    size: int = 96

    def build(self, merging: str) -> nn.Module:
        """A classifier."""
        model = self.backbone(merging)
        model.reset_classifier(10)
        return model

    def images(self, folder: Path) -> tuple[Tensor, Tensor]:
        """The middles of all images as bytes, a little larger than what is shown, and their classes."""
        side, images, labels = self.size * 7 // 6, [], []
        for label, of_class in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
            for path in sorted(of_class.iterdir()):
                image = Image.open(path).convert("RGB")
                scale = side / min(image.size)
                image = image.resize((max(side, round(image.width * scale)), max(side, round(image.height * scale))))
                top, left = (image.height - side) // 2, (image.width - side) // 2
                images.append(np.asarray(image.crop((left, top, left + side, top + side))))
                labels.append(label)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)

    def batches(self, data: Path, seed: int) -> Iterator[Batch]:
        """Random parts of the training images."""
        images, labels = self.images(data / "imagenette160" / "train")
        rng = np.random.default_rng((seed, 1))
        while True:
            for index in np.array_split(rng.permutation(len(images)), len(images) // self.batch_size):
                x = torch.stack([self.cut(images[i], rng) for i in index])
                yield (prepared(x),), labels[index]

    def cut(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """A random part, mirrored half the time."""
        side = int(rng.integers(self.size * 3 // 4, image.shape[-1] + 1))
        top, left = rng.integers(0, image.shape[-1] - side + 1, 2)
        part = image[None, :, top : top + side, left : left + side].float()
        part = F.interpolate(part, (self.size, self.size), mode="bilinear", antialias=True)[0]
        return part.flip(-1) if rng.random() < 0.5 else part

    def loss(self, output: Any, target: Any) -> Tensor:
        """Cross-entropy with smoothed labels."""
        return F.cross_entropy(output, target, label_smoothing=0.1)

    def judge(self, model: nn.Module, data: Path) -> dict[str, float]:
        """Top-1 and loss on the middles of the validation images."""
        images, labels = self.images(data / "imagenette160" / "val")
        margin = (images.shape[-1] - self.size) // 2
        images = images[..., margin : margin + self.size, margin : margin + self.size]
        logits = torch.cat([model(prepared(part)) for part in images.split(64)])
        return {
            "top1": float((logits.argmax(1) == labels).float().mean()),
            "loss": float(F.cross_entropy(logits, labels)),
        }


def prepared(images: Tensor) -> Tensor:
    return (images.float() - 117) / 58


class Pyramid(nn.Module):
    """A segmenter: the stages' maps, each projected and enlarged, are added and classified."""

    def __init__(self, backbone: SGFormer, channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(c, 64, 1) for c in channels)
        self.classify = nn.Sequential(nn.GroupNorm(1, 64), nn.GELU(), nn.Conv2d(64, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each class at each pixel."""
        maps = self.backbone.forward_intermediates(x, intermediates_only=True)
        total = self.lateral[0](maps[0])
        for lateral, of_stage in zip(list(self.lateral)[1:], maps[1:], strict=True):
            total = total + F.interpolate(lateral(of_stage), total.shape[-2:], mode="bilinear")
        return F.interpolate(self.classify(total), x.shape[-2:], mode="bilinear")


@dataclass(frozen=True)
class CamVid(Task):
    """Road scenes at a third of their size; judged at that size."""

    size: tuple[int, int] = (180, 240)
    crop: tuple[int, int] = (128, 160)

    def build(self, merging: str) -> nn.Module:
        """A segmenter."""
        return Pyramid(self.backbone(merging), self.channels, 11)

    def images(self, data: Path, split: str) -> tuple[Tensor, Tensor]:
        """Images and masks of a split, as bytes and classes."""
        folder, size = data / "camvid11", self.size[::-1]
        images, masks = [], []
        for path in sorted((folder / "images" / split).iterdir()):
            mask = Image.open((folder / "annotations" / split / path.name).with_suffix(".png"))
            images.append(np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.BOX)))
            masks.append(np.asarray(mask.resize(size, Image.Resampling.NEAREST)))
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks)).long()

    def batches(self, data: Path, seed: int) -> Iterator[Batch]:
        """Random crops of the training images, mirrored half the time."""
        images, masks = self.images(data, "train")
        rng, (height, width) = np.random.default_rng((seed, 1)), self.crop
        while True:
            for index in np.array_split(rng.permutation(len(images)), len(images) // self.batch_size):
                parts = []
                for i in index:
                    top = int(rng.integers(self.size[0] - height + 1))
                    left = int(rng.integers(self.size[1] - width + 1))
                    cut = (..., slice(top, top + height), slice(left, left + width))
                    pair = images[i][cut], masks[i][cut]
                    parts.append(tuple(p.flip(-1) for p in pair) if rng.random() < 0.5 else pair)
                x, y = (torch.stack(list(values)) for values in zip(*parts, strict=True))
                yield (prepared(x),), y

    def loss(self, output: Any, target: Any) -> Tensor:
        """Cross-entropy over the pixels that have a class."""
        return F.cross_entropy(output, target, ignore_index=255)

    def judge(self, model: nn.Module, data: Path) -> dict[str, float]:
        """MIoU and pixel accuracy on test images, which choose nothing."""
        images, masks = self.images(data, "test")
        confusion = torch.zeros(11, 11)
        for x, y in zip(images.split(16), masks.split(16), strict=True):
            found, known = model(prepared(x)).argmax(1), y != 255
            confusion += torch.bincount(y[known] * 11 + found[known], minlength=121).view(11, 11)
        hit, union = confusion.diag(), confusion.sum(0) + confusion.sum(1) - confusion.diag()
        return {"miou": float((hit / union).mean()), "pixels": float(hit.sum() / confusion.sum())}


def _digits(budget: int) -> SmallDigits:
    return SmallDigits(
        title=f"Small digits in large images, budget of {budget} keys",
        metric="others_auc",
        shown={
            "others_auc": "Which others, ROC area",
            "same_auc": "Is there an equal one, ROC area",
            "top1": "Which digit, top-1",
        },
        budget=budget,
        steps=1500,
        judged_every=300,
        batch_size=8,
        lr=2e-3,
        channels=(16, 32, 64, 64),
        num_heads=(2, 2, 4, 4),
    )


TASKS: dict[str, Task] = {
    "camvid": CamVid(
        title="CamVid at 240x180, budget of 16 keys",
        metric="miou",
        shown={"miou": "mIoU, test", "pixels": "Pixel accuracy"},
        budget=16,
        steps=440,
        judged_every=110,
    ),
    "digits48": _digits(48),
    "imagenette": Imagenette(
        title="Imagenette at 96 pixels, budget of 16 keys",
        metric="top1",
        shown={"top1": "Top-1", "loss": "Loss"},
        budget=16,
        steps=1680,
        judged_every=336,
        lr=1e-3,
    ),
    "digits16": _digits(16),
}
