"""Parity check before any speed is reported.

Weights and an image are drawn from names by a formula, in float64. The logits that belong to them were stored when
the models agreed with the released ones to 1e-9 (`tests/backbone/test_parity.py` holds that). A second look, in the
precision and on the device that are to be timed, is at what the first pair of blocks measures, before any ranking:
behind a ranking, low precision is no criterion (DESIGN.md says why).
"""

import math
import zlib
from typing import Any

import timm
import torch

import sgformer  # noqa: F401  registers the models

# Logits of `sgformer_test` with five classes, by (height, width, token budget).
EXPECTED: dict[tuple[int, int, int | None], tuple[float, ...]] = {
    (33, 47, None): (-1.19785165013, 0.140021068503, 0.575171834553, -0.899828002861, -1.73184928569),
    (224, 224, None): (-0.961419986401, 0.0273654880268, -0.585793855783, -1.24788927589, -1.88886068695),
    (97, 130, 20): (-1.45250202998, -0.0991855005967, -0.337325687918, -0.73072141133, -1.638198812),
}
TOLERANCE = 1e-8
# Of the mean-1 significance that the first pair measures.
TOLERANCES = {"float64": 1e-8, "float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers in (-1, 1) without visible order, the same everywhere."""
    steps = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(steps * steps * 0.7310585 + zlib.crc32(name.encode()) % 100_003).reshape(shape)


@torch.no_grad()
def model_and_image(height: int, width: int, budget: int | None) -> tuple[Any, torch.Tensor]:
    """The small model with drawn weights, and a drawn image; float64, on the CPU."""
    model = timm.create_model("sgformer_test", num_classes=5, token_budget=budget).double().eval()
    for name, parameter in model.named_parameters():
        noise = drawn(name, tuple(parameter.shape))
        if ".merge." in name and parameter.ndim == 2:
            noise = (1 + 0.9 * noise) / parameter.shape[1]
        elif parameter.ndim == 1:
            noise = noise / 5 if name.endswith("bias") else 1 + noise / 2
        elif "pos_embed" not in name:
            noise = noise * math.sqrt(2 / math.prod(parameter.shape[1:]))
        parameter.copy_(noise)
    return model, drawn("picture", (1, 3, height, width))


@torch.no_grad()
def failures(*, device: str = "cpu", dtype: str = "float32") -> list[str]:
    """A sentence for each number that is not what it must be, on the device and in the precision that will be timed."""
    found = []
    for (height, width, budget), expected in EXPECTED.items():
        where = f"sgformer_test at {height}x{width}, token budget {budget}"
        model, image = model_and_image(height, width, budget)
        exact_map = model.forward_significance(image)[0]
        if not device.startswith("mps"):  # Apple's GPUs have no float64
            logits = model.to(device)(image.to(device)).flatten().cpu()
            if not (error := _distance(logits, torch.tensor(expected, dtype=torch.float64))) <= TOLERANCE:
                found.append(f"{where}: logits in float64 are off by {error:.1e}")
        low = getattr(torch, dtype)
        low_map = model.to(device, low).forward_significance(image.to(device, low))[0].cpu().double()
        if not (error := _distance(low_map, exact_map)) <= TOLERANCES[dtype]:
            found.append(f"{where}: significance in {dtype} is off by {error:.1e}")
    return found


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, in units of the largest number; NaN if there is one."""
    return float((a - b).abs().max() / b.abs().max())
