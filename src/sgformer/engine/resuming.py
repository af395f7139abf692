"""Changes to a resumed run: each recipe key is followed, or refused by name before anything is written."""

import dataclasses
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .checkpoints import epochs_begun
from .recipe import to_dict

# Keys that a resumed run follows, where their value differs from the run's own. All others would be ignored by the
# checkpoint, or would make it another run: which samples are in a batch, which weights there are, what they mean.
FOLLOWED = {
    "optim": "lr weight_decay warmup_epochs warmup_lr final_lr final_epochs schedule step_epochs decay_epochs",
    "trainer": "max_epochs accelerator devices num_nodes strategy sync_batch_norm clip_grad checkpoint_minutes "
    "keep_best validate_every limit_val_batches significance report tensorboard compile grad_checkpointing "
    "channels_last",
    "model": "drop_path_rate",
    "head": "dropout",
    "heads": "num_proposals num_sampled max_detections",
    "loss": "*",
    "data": "root roots* images masks train.* val.* train_list val_list train_shards val_shards val_labels download "
    "workers max_unreadable invalid faults augment.* inference.* views",
}
# Weights stay in float32 in all of these, so that a checkpoint of one is one of the others.
_SAME_WEIGHTS = {"auto", "32-true", "bf16-mixed"}


def changes(own: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which a run's recipe and the one with overrides differ, with both values."""
    before, after = _flat(own), _flat(now)
    names = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in names if before.get(key) != after.get(key)}


def check_changes(folder: Path, own: Any, now: Any) -> None:
    """Make sure that a run can go on with another recipe than its own.

    Raises:
        ValueError: A key that differs cannot be followed; all such keys are named with both values.
    """
    differ = changes(own, now)
    refused = [f"{key} ({a} in the run, {b} now)" for key, (a, b) in differ.items() if not _follows(key, a, b)]
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
    section, _, name = key.partition(".")
    return any(fnmatchcase(name, pattern) for pattern in FOLLOWED.get(section, "").split())


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
