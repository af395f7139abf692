"""SG-Former: a vision backbone with global, self-guided attention that stays affordable on large images.

Importing the package registers the models with timm:

Example:
    >>> import timm, sgformer
    >>> model = timm.create_model("sgformer_test", num_classes=10)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .backbone import SGFormer, hold_significance
from .fast import plain
from .ops.float32 import fast_float32

if TYPE_CHECKING:
    from .tasks.classification.model import Classifier

__version__ = "0.1.0.dev0"

__all__ = ["SGFormer", "__version__", "fast_float32", "hold_significance", "load", "plain"]


def load(weights: str | Path) -> Classifier:
    """The trained model in a weights file or a run folder, ready to predict; no code in the file is run.

    Needs the extra `train`.

    Args:
        weights: a file that `sgformer train` or `sgformer convert` wrote, or a run folder, for its best weights.

    Raises:
        ValueError: if the file is damaged or of another kind.
        FileNotFoundError: if there is none.
    """
    from .tasks import load

    return load(weights)
