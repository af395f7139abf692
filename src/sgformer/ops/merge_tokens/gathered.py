"""`merge_tokens` with one gather of whole rows for all bands and a matrix product a band."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import Merging


def merge(x: Tensor, ranking: Tensor, by: Merging) -> Tensor:
    """Compute `reference.merge` by gathering tokens."""
    weights, biases, bands, factor = by
    B, N, c = x.shape
    sizes = [band.num_groups(factor) * band.group_size * factor for band in bands]
    ranks = [
        band.start + torch.arange(size, device=x.device) % band.length
        for band, size in zip(bands, sizes, strict=True)
        if size
    ]
    index = ranking.index_select(1, torch.cat(ranks))  # (B, sum of sizes)
    index = index + torch.arange(0, B * N, N, device=x.device).unsqueeze(1)
    members = F.embedding(index, x.reshape(B * N, c))  # (B, sum of sizes, c)
    summary = []
    for band, members_of_band, weight, bias in zip(bands, members.split(sizes, 1), weights, biases, strict=True):
        if band.length == 0:
            continue
        # The mean over `factor` tokens and the weighted sum over `r` members are one weighted sum.
        weight = weight.repeat_interleave(factor) / factor
        groups = members_of_band.unflatten(1, (-1, len(weight)))  # (B, groups, r * factor, c)
        summary.append((weight @ groups if len(weight) > 1 else groups.squeeze(2) * weight) + bias)
    return torch.cat(summary, 1)
