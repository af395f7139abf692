"""Cases of `sgformer benchmark`: one case, its timed step, and its counts of parameters and GMACs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sgformer  # registers the models


@dataclass(frozen=True)
class Case:
    """A model under one set of conditions."""

    model: str  # a name in timm's registry; @ and a number after it are a token budget
    height: int
    width: int
    batch_size: int = 1
    mode: str = "inference"  # or "training": forward, backward and a step of AdamW
    dtype: str = "float32"  # of the weights in inference; in training, of autocast
    compiled: bool = False
    device: str = "cpu"
    # Or "fast", products as `sgformer.fast_float32` has them, and the kernels of `sgformer.fast.use_kernels`.
    float32: str = "default"
    keep_memory: bool = True  # by `sgformer.fast.keep_freed_memory`


def create(case: Case, *, device: str | None = None) -> nn.Module:
    """The model of a case; ValueError where timm has no such model, or it takes no token budget."""
    name, at, budget = case.model.partition("@")
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}; sgformer list models '*' names them all")
    options: dict[str, Any] = {}
    if at:
        if not name.startswith("sgformer") or not budget.isdigit():
            raise ValueError(f"{case.model!r}: a token budget is a number after @, for models of this package")
        options["token_budget"] = int(budget)
    cfg = timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size:
        options["img_size"] = (case.height, case.width)
    return timm.create_model(name, **options).to(case.device if device is None else device)


def step_of(case: Case) -> Callable[[], None]:
    """Build the timed step on images of noise, ready to be called again and again.

    Of a case with fast products, settings hold for the whole process from here on.
    """
    if case.keep_memory:
        sgformer.fast.keep_freed_memory()
    if case.float32 == "fast":
        sgformer.fast_float32()
        sgformer.fast.use_kernels()
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    model = create(case)
    images = torch.randn(case.batch_size, 3, case.height, case.width, device=case.device)
    if case.mode == "inference":
        model.eval().to(dtype)
        images = images.to(dtype)
        run = torch.compile(model) if case.compiled else model

        def infer() -> None:
            # Not inference mode: what was compiled in it is compiled anew outside, and it saves little.
            with torch.no_grad():
                run(images)

        return infer
    model.train()
    labels = torch.zeros(case.batch_size, dtype=torch.long, device=case.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    run = torch.compile(model) if case.compiled else model
    low = case.dtype != "float32"

    def train() -> None:
        with torch.autocast(case.device.split(":")[0], dtype if low else None, enabled=low):
            loss = nn.functional.cross_entropy(run(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def count(case: Case) -> tuple[float, float]:
    """Millions of parameters, and GMACs an image in inference, products inside attention included."""
    with torch.device("meta"):
        model = create(case, device="meta").eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, case.height, case.width))
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e9
