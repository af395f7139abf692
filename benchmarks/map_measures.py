"""Is a map worth anything? Measures that hold it against object masks, and against what the model needs to see."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sgformer.explanations.spending import as_map, overlap, token_of_pixels


def mask_on_tokens(
    mask: ArrayLike, tokens: tuple[int, int], *, covered: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.float64]:
    """Compute the share of each token's area that lies on a mask.

    Args:
        mask: boolean `(height, width)`.
        tokens: (H, W) of the map.
        covered: share of the map's height and width that the image fills; beyond it, its edge goes on.

    Returns:
        `tokens`, 0 to 1.
    """
    pixels = np.asarray(mask, np.float64)
    down, right = (overlap(n, length, share) for n, length, share in zip(tokens, pixels.shape, covered, strict=True))
    return np.clip(down.T @ pixels @ right, 0, 1)


def roc_auc(significance: ArrayLike, mask: ArrayLike, *, covered: tuple[float, float] = (1.0, 1.0)) -> float | None:
    """Compute the area under the ROC curve: how often a place on an object is more significant than one beside it.

    Each token counts for the mask and against it by area; ties count half. 0.5 is chance.

    Args:
        significance: `(H, W)`.
        mask: boolean `(height, width)`, True on objects.
        covered: as for `mask_on_tokens`.

    Returns:
        0 to 1; None where the mask is empty or full, so that there is nothing to tell apart.
    """
    values = as_map(significance)
    on = mask_on_tokens(mask, values.shape, covered=covered).ravel()
    off = 1 - on
    if on.sum() < 1e-9 or off.sum() < 1e-9:
        return None
    _, place = np.unique(values.ravel(), return_inverse=True)
    on_at, off_at = np.bincount(place, on), np.bincount(place, off)
    below = np.cumsum(off_at) - off_at
    return float((on_at * (below + off_at / 2)).sum() / (on.sum() * off.sum()))


def points_at_object(significance: ArrayLike, mask: ArrayLike, *, covered: tuple[float, float] = (1.0, 1.0)) -> float:
    """The pointing game: the share of the most significant token that lies on an object.

    Where several tokens are the most significant, the mean over them. By chance it is the share of the image that
    objects cover.
    """
    values = as_map(significance)
    on = mask_on_tokens(mask, values.shape, covered=covered)
    return float(on[values == values.max()].mean())


@torch.no_grad()
def deletion_and_insertion(
    classify: Callable[[Tensor], Tensor],
    x: Tensor,
    significance: ArrayLike,
    *,
    steps: int = 10,
    covered: tuple[float, float] = (1.0, 1.0),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score a classifier while the most significant places are painted over, or only they are shown.

    Paint is the mean colour, 0 in a normalised image. A map that knows what the classifier needs makes the first
    curve fall early and the second rise early.

    Args:
        classify: images `(B, 3, height, width)` to logits.
        x: one normalised image, `(1, 3, height, width)`.
        significance: `(H, W)`; ties fall in row-major order.
        steps: into how many equal parts the tokens are cut.
        covered: as for `mask_on_tokens`.

    Returns:
        The probability of the class that is named on the whole image: with the first 0, 1/steps, ... of the tokens
        painted over, and with only them shown; `(steps + 1,)` both.
    """
    values = as_map(significance)
    rows, columns = token_of_pixels(values.shape, (x.shape[2], x.shape[3]), covered)
    rank = np.empty(values.size, int)
    rank[np.argsort(-values.ravel(), kind="stable")] = np.arange(values.size)
    rank_of_pixel = torch.from_numpy(rank.reshape(values.shape)[rows][:, columns])
    shown = torch.stack([rank_of_pixel < round(values.size * i / steps) for i in range(steps + 1)])
    shown = shown.unsqueeze(1).to(x.device)  # (steps + 1, 1, height, width)
    scores = classify(torch.cat((x * ~shown, x * shown))).double().softmax(-1).cpu()
    named = int(scores[0].argmax())  # nothing is painted over in the first
    deleted, inserted = scores[:, named].numpy().reshape(2, steps + 1)
    return deleted, inserted
