"""SG-Former: a vision backbone with global, self-guided attention that stays affordable on large images.

Importing the package registers the models with timm:

Example:
    >>> import timm, sgformer
    >>> model = timm.create_model("sgformer_test", num_classes=10)
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backbone import SGFormer, hold_significance
from .fast import plain
from .ops.float32 import fast_float32

if TYPE_CHECKING:
    from .commands.evaluate import evaluate
    from .commands.explain import explain
    from .commands.export import export
    from .commands.predict import predict
    from .commands.train import train
    from .tasks.classification import Classifier
    from .tasks.detection import Detector
    from .tasks.segmentation import Segmenter

__version__ = "0.1.0.dev0"

__all__ = [
    "SGFormer",
    "__version__",
    "evaluate",
    "explain",
    "export",
    "fast_float32",
    "hold_significance",
    "load",
    "plain",
    "predict",
    "train",
]


def load(weights: str | Path, *, device: str = "cpu") -> Classifier | Detector | Segmenter:
    """The trained model in a weights file or a run folder, ready to predict; no code in the file is run.

    Needs the extra `predict`; of the libraries for training, none.

    Args:
        weights: A file that `sgformer train` or `sgformer convert` wrote, a run folder, for its best weights, or the
            name of weights that ship, such as ``sgformer_t``.
        device: Where the model goes, such as ``cpu`` or ``cuda``.

    Returns:
        A `Classifier`, `Detector` or `Segmenter`, in evaluation mode.

    Raises:
        ValueError: The file is damaged or of another kind.
        FileNotFoundError: There is none.
    """
    from .tasks import load

    return load(weights, device=device)  # pyright: ignore[reportReturnType] (these are all)


def __getattr__(name: str) -> Any:
    """The commands as functions, imported when they are asked for, since they need more packages."""
    if name in ("evaluate", "explain", "export", "predict", "train"):
        return getattr(importlib.import_module(f".commands.{name}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
