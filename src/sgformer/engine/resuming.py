"""Recipe keys that a resumed run may change; any other is refused before anything is written."""

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .checkpoints import epochs_begun
from .recipe import to_dict

# Keys that a resumed run follows, where their value differs from the run's own; those of its task are in the `FOLLOWED`
# of its recipe. All others would be ignored by the checkpoint, or would make it another run: which samples are in a
# batch, which weights there are, what they mean.
OPTIM = (
    "lr weight_decay warmup_epochs warmup_lr final_lr final_epochs schedule step_epochs decay_epochs freeze_batch_norm"
)
TRAINER = (
    "max_epochs accelerator devices num_nodes strategy sync_batch_norm clip_grad checkpoint_minutes keep_best "
    "validate_every limit_val_batches significance report tensorboard compile kernels "
    "grad_checkpointing channels_last"
)
FOLLOWED = (*(f"optim.{name}" for name in OPTIM.split()), *(f"trainer.{name}" for name in TRAINER.split()))
# Weights stay in float32 in all of these, so that a checkpoint of one is one of the others.
_SAME_WEIGHTS = {"auto", "32-true", "bf16-mixed"}


def changes(own: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which a run's recipe and the one with overrides differ, with both values."""
    before, after = _flat(own), _flat(now)
    names = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in names if before.get(key) != after.get(key)}


def check_changes(folder: Path, own: Any, now: Any) -> None:
    """Make sure that a run can go on with another recipe than its own.

    ValueError where a key that differs cannot be followed; all such keys are named with both values.
    """
    differ = changes(own, now)
    followed = (*FOLLOWED, *now.FOLLOWED)
    refused = [
        f"{key} ({a} in the run, {b} now)" for key, (a, b) in differ.items() if not _follows(followed, key, a, b)
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


def _follows(patterns: Sequence[str], key: str, own: Any, now: Any) -> bool:
    if key == "trainer.precision":
        return {own, now} <= _SAME_WEIGHTS
    if key == "trainer.ema_decay":  # the checkpoint holds an average, or none
        return own is not None and now is not None
    return any(fnmatchcase(key, pattern) for pattern in patterns)


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
