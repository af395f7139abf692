"""Changes to a resumed run: each recipe key is followed, or refused by name before anything is written."""

import dataclasses
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .checkpoints import epochs_begun
from .recipe import to_dict

# Keys that a resumed run follows, where their value differs from the run's own. All others would be ignored by the
# checkpoint, or would make it another run: which samples are in a batch, which weights there are, what they mean.
FOLLOWED = (
    *("optim.lr", "optim.weight_decay", "optim.warmup_epochs", "optim.warmup_lr", "optim.final_lr"),
    *("optim.final_epochs", "optim.schedule", "optim.step_epochs", "optim.decay_epochs"),
    *(
        "trainer.max_epochs",
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.sync_batch_norm",
    ),
    *("trainer.clip_grad", "trainer.ema_decay", "trainer.checkpoint_minutes", "trainer.keep_best"),
    *("trainer.validate_every", "trainer.limit_val_batches", "trainer.significance", "trainer.report"),
    *("trainer.tensorboard", "trainer.compile", "trainer.grad_checkpointing", "trainer.channels_last"),
    *("model.drop_path_rate", "head.dropout", "loss.*"),
    *("heads.num_proposals", "heads.num_sampled", "heads.max_detections"),
    *(
        "data.root",
        "data.roots*",
        "data.images",
        "data.masks",
        "data.train.*",
        "data.val.*",
        "data.train_list",
        "data.val_list",
    ),
    *("data.train_shards", "data.val_shards", "data.val_labels", "data.download", "data.workers"),
    *(
        "data.max_unreadable",
        "data.invalid",
        "data.faults",
        "data.augment.*",
        "data.inference.*",
        "data.views",
    ),
)
# Weights stay in float32 in all of these, so that a checkpoint of one is one of the others.
_SAME_WEIGHTS = {"auto", "32-true", "bf16-mixed"}


def changes(own: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two recipes of a task differ, with both values.

    Args:
        own: The parsed recipe of a run.
        now: The same with overrides.
    """
    before, after = _flat(own), _flat(now)
    names = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in names if before.get(key) != after.get(key)}


def check_changes(folder: Path, own: Any, now: Any) -> None:
    """Make sure that a run can go on with another recipe than its own.

    Args:
        folder: The run folder.
        own: Its parsed recipe.
        now: The same with overrides.

    Raises:
        ValueError: A key that differs cannot be followed; all such keys are named with both values.
    """
    differ = changes(own, now)
    refused = [
        f"{key} ({a} in the run, {b} now)" for key, (a, b) in differ.items() if not _follows(key, a, b)
    ]
    if refused:
        raise ValueError(
            f"a resumed run cannot change {', '.join(refused)}; leave it as it was, or start a new run from the "
            f"weights: --model.weights {folder}"
        )
    if "trainer.max_epochs" in differ and now.trainer.max_epochs < (begun := epochs_begun(folder)):
        raise ValueError(
            f"trainer.max_epochs {now.trainer.max_epochs}: epoch {begun} of {folder} has begun; "
            f"set --trainer.max_epochs {begun} or more"
        )


def _follows(key: str, own: Any, now: Any) -> bool:
    if key == "trainer.precision":
        return {own, now} <= _SAME_WEIGHTS
    if key == "trainer.ema_decay":  # the checkpoint holds an average, or none
        return own is not None and now is not None
    return any(fnmatchcase(key, pattern) for pattern in FOLLOWED)


def _flat(section: Any, prefix: str = "") -> dict[str, Any]:
    """The keys of a recipe and its sections, dotted; what a free dictionary such as `kwargs` holds is one value."""
    flat: dict[str, Any] = {}
    for name, value in to_dict(section).items():
        inner = getattr(section, name)
        if dataclasses.is_dataclass(inner):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
