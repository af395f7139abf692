"""Class map of an image, from the scores of one view or the mean probabilities of several."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..images import Preprocessing
from ..windows import InferenceOptions, Progress, Scorer, dense_map


def class_map(
    score: Scorer, image: Any, preprocessing: Preprocessing, options: InferenceOptions, *, progress: Progress = iter
) -> NDArray[np.uint8]:
    """The class of each pixel of an image that was read, `(H, W)`; see `dense_map`."""
    return dense_map(score, image, preprocessing, options, _most_likely, dtype=np.uint8, progress=progress)


def _most_likely(scores: list[Tensor]) -> Tensor:
    # Scores of one view are taken as they are; the mean of several is one of probabilities.
    total = scores[0] if len(scores) == 1 else torch.stack([each.softmax(0) for each in scores]).sum(0)
    # Of equal scores both give the first, and argmax takes twice the time.
    return total.max(0).indices.to(torch.uint8)
