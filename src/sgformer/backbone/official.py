"""Released weights: their names and ours, both ways, and a reader that runs no code from the file.

A released attention has a `Linear` for each projection. Ours has one for all projections of the same input, so their
rows are stacked here, or cut apart; everything else is only renamed.
"""

import argparse
import functools
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..ops import resize_positions
from .recorded import stored_grid
from .stem import Stem

# Modules, as (released, ours). "#" is a number that counts from 1 there and from 0 here, "@" one that is the same.
_RENAMED = [
    ("patch_embed1.conv.0.c", "stem.conv1"),
    ("patch_embed1.conv.0.bn", "stem.norm1"),
    ("patch_embed1.conv.2.c", "stem.conv2"),
    ("patch_embed1.conv.2.bn", "stem.norm2"),
    ("patch_embed1.conv.4.c", "stem.conv3"),
    ("patch_embed1.conv.4.bn", "stem.norm3"),
    ("patch_embed1.norm", "stem.norm"),
    ("patch_embed#.conv@.c", "stages.#.downsample.conv@"),
    ("patch_embed#.conv@.bn", "stages.#.downsample.norm@"),
    ("block#.@.norm@", "stages.#.blocks.@.norm@"),
    ("block#.@.mlp.fc@", "stages.#.blocks.@.mlp.fc@"),
    ("block#.@.mlp.dwconv.dwconv", "stages.#.blocks.@.mlp.conv"),
    ("block#.@.attn.sr", "stages.#.blocks.@.attn.coarse"),
    ("block#.@.attn.norm", "stages.#.blocks.@.attn.coarse_norm"),
    ("block#.@.attn.f#", "stages.#.blocks.@.attn.merge.#"),
    ("block#.@.attn.lepe_conv", "stages.#.blocks.@.attn.positional"),
    ("block#.@.attn.proj", "stages.#.blocks.@.attn.proj"),
    ("norm#", "stages.#.norm"),
    ("head", "head.fc"),
]


def is_official(state_dict: Mapping[str, Any]) -> bool:
    """Whether names are those of released weights; a prefix `module.` may stand before them."""
    return any(name.removeprefix("module.").startswith("patch_embed1.") for name in state_dict)


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released weights under our names, for `load_state_dict` of the model that `variant_of` names.

    Any number of classes will do, also no head at all. A prefix `module.` is dropped.

    Raises:
        ValueError: if names are missing or unexpected, or a shape differs; the message says which.
    """
    official = _without_prefix(state_dict)
    _check_complete(official)
    ours = {"stem.pos_embed": official.pop("pos_embed")}
    for name in [n for n in official if ".attn.lepe_linear." in n]:
        prefix, leaf = name.split("lepe_linear.")
        q, kv = _take_projections(official, prefix, leaf)
        attention = _rename(prefix + "proj", _FROM_OFFICIAL).removesuffix("proj")
        ours[f"{attention}in_proj.{leaf}"], ours[f"{attention}kv.{leaf}"] = q, kv
    for name, tensor in official.items():
        module, leaf = name.rsplit(".", 1)
        ours[f"{_rename(module, _FROM_OFFICIAL)}.{leaf}"] = tensor
    return ours


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under released names: the inverse of `from_official`."""
    ours = dict(state_dict)
    official = {"pos_embed": ours.pop("stem.pos_embed")}
    for name in [n for n in ours if ".attn.in_proj." in n]:
        prefix, leaf = name.split("in_proj.")
        attention = _rename(prefix + "proj", _TO_OFFICIAL).removesuffix("proj")
        q, kv = ours.pop(name), ours.pop(f"{prefix}kv.{leaf}")
        for module, tensor in _cut_projections(q, kv, guided=f"{prefix}merge.0.weight" in state_dict).items():
            official[f"{attention}{module}.{leaf}"] = tensor
    for name, tensor in ours.items():
        module, leaf = name.rsplit(".", 1)
        official[f"{_rename(module, _TO_OFFICIAL)}.{leaf}"] = tensor
    return official


def variant_of(state_dict: Mapping[str, Tensor]) -> str:
    """The name of the model that released weights belong to, `"sgformer_s"` for instance; ValueError if to none."""
    official = _without_prefix(state_dict)
    if "pos_embed" not in official:
        raise ValueError("these are no released SG-Former weights: there is no pos_embed among them")
    found = official["pos_embed"].shape[-1], _depths(official)
    for name in timm.list_models("sgformer*"):
        names = _shapes(name)
        if found == (names["pos_embed"].shape[-1], _depths(names)):
            return name
    raise ValueError(
        f"no variant of ours has {found[0]} channels in stage 1 and depths {found[1]}, as these weights do"
    )


def read_released(path: str | Path, *, ema: bool = True) -> dict[str, Tensor]:
    """The state dict in a released file, a `torch.save` dictionary, read without running any code from it.

    `ema` takes the exponential moving average of the weights, to which the paper's numbers belong. The file may also
    hold a bare state dict.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, holds anything but plain data, or lacks the weights that are asked for.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it refers to {found[1]}, which is no plain data" if found else "it is cut off or of another kind"
        raise ValueError(f"{path}: not read, {what}; nothing in it was run. Is it the released file?") from None
    except Exception as error:  # a damaged file can make torch raise anything, an IndexError for instance
        raise ValueError(
            f"{path}: not a readable torch.save file, it may be cut off; get it again ({type(error).__name__})"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    if is_official(content):
        return _tensors_of(content, path)
    key = "state_dict_ema" if ema else "state_dict"
    if not isinstance(content.get(key), Mapping):
        remedy = "leave out --no-ema" if not ema and "state_dict_ema" in content else "pass --no-ema"
        if not {"state_dict", "state_dict_ema"} & content.keys():
            remedy = "it is no checkpoint of the SG-Former authors, and only theirs can be converted"
        held = f"only {_some(map(str, content))}" if content else "and nothing else"
        raise ValueError(f"{path}: has no {key}, {held}; {remedy}")
    return _tensors_of(content[key], path)


def _tensors_of(state_dict: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    if others := [name for name, value in state_dict.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{path}: {_some(others)} are no tensors; a state dict is expected")
    return dict(state_dict)


def _without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}


@functools.cache
def _shapes(name: str) -> Mapping[str, Tensor]:
    """A variant's state dict under released names, without memory for the weights."""
    return to_official(timm.create_model(name, device="meta").state_dict())


def _depths(official: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Number of blocks of each stage."""
    blocks = {found.groups() for name in official if (found := re.match(r"block(\d+)\.(\d+)\.", name))}
    stages = sorted({int(stage) for stage, _ in blocks})
    return tuple(sum(int(s) == stage for s, _ in blocks) for stage in stages)


def _check_complete(official: Mapping[str, Tensor]) -> None:
    """Raises ValueError if names or shapes are not those of a variant; the class count and the grid may be any."""
    name = variant_of(official)
    expected = dict(_shapes(name))
    if not {"head.weight", "head.bias"} & official.keys():
        del expected["head.weight"], expected["head.bias"]
    elif "head.weight" in official:  # the class count may be any, but the same in both
        expected["head.bias"] = official["head.weight"].new_empty(official["head.weight"].shape[:1])
    if missing := expected.keys() - official.keys():
        raise ValueError(f"these weights of {name} lack {_some(missing)}; is the file complete?")
    if unexpected := official.keys() - expected.keys():
        raise ValueError(f"these weights of {name} hold unexpected {_some(unexpected)}; is it another model?")
    free = {"pos_embed": 1, "head.weight": 0}  # the dimension that may be of any size
    for key, tensor in expected.items():
        want, got = list(tensor.shape), list(official[key].shape)
        if key in free and len(want) == len(got):
            want[free[key]] = got[free[key]]
        if want != got:
            raise ValueError(f"{key} of these weights of {name} has shape {got} in place of {want}")


def _some(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _take_projections(official: dict[str, Tensor], prefix: str, leaf: str) -> tuple[Tensor, Tensor]:
    """Takes an attention's projections out of a released state dict, stacked as `in_proj` and `kv`."""

    def take(module: str) -> Tensor:
        return official.pop(f"{prefix}{module}.{leaf}")

    if f"{prefix}q1.{leaf}" in official:  # hybrid-scale: 1 is the global half, 2 the local one
        return torch.cat([take("q1"), take("q2"), take("kv2"), take("lepe_linear")]), take("kv1")
    q = torch.cat([take("q"), take("lepe_linear")])
    if f"{prefix}kv.{leaf}" in official:  # global
        return q, take("kv")
    (k1, v1), (k2, v2) = take("kv1").chunk(2), take("kv2").chunk(2)  # self-guided: two halves of the heads
    return q, torch.cat([k1, k2, v1, v2])


def _cut_projections(q: Tensor, kv: Tensor, *, guided: bool) -> dict[str, Tensor]:
    """Released projections by name, from an attention's `in_proj` and `kv`."""
    c = kv.shape[0] // 2
    if len(q) == 3 * len(kv):  # hybrid-scale, where kv has c rows and not 2c
        q1, q2, kv2, lepe = q.split([c, c, 2 * c, 2 * c])
        return {"q1": q1, "kv1": kv, "q2": q2, "kv2": kv2, "lepe_linear": lepe}
    q, lepe = q.chunk(2)
    if not guided:
        return {"q": q, "kv": kv, "lepe_linear": lepe}
    k1, k2, v1, v2 = kv.chunk(4)
    return {"q": q, "kv1": torch.cat([k1, v1]), "kv2": torch.cat([k2, v2]), "lepe_linear": lepe}


def _rename(module: str, rules: list[tuple[re.Pattern[str], str, int]]) -> str:
    for pattern, template, shift in rules:
        if found := pattern.fullmatch(module):
            return _fill(template, found.groups(), shift)
    raise ValueError(f"{module} is no module of an SG-Former")


def _fill(template: str, numbers: tuple[str, ...], shift: int) -> str:
    """A template with its marks replaced by numbers in order, those of "#" shifted."""
    rest = iter(numbers)
    return re.sub("[#@]", lambda mark: str(int(next(rest)) + (shift if mark[0] == "#" else 0)), template)


def _rules(pairs: list[tuple[str, str]], shift: int) -> list[tuple[re.Pattern[str], str, int]]:
    return [(re.compile(re.sub("[#@]", r"(\\d+)", re.escape(a).replace(r"\#", "#"))), b, shift) for a, b in pairs]


_FROM_OFFICIAL = _rules(_RENAMED, -1)
_TO_OFFICIAL = _rules([(ours, released) for released, ours in _RENAMED], +1)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert loaded weights for timm: released names become ours, and positions take the model's grid.

    Released weights have a square grid. A folder that timm saved tells its grid, and weights files of `sgformer train`
    do. Other state dicts do not: the model's own number of positions is taken for the model's grid, any other for a
    square.
    """
    released = is_official(state_dict)
    if released:
        state_dict = from_official(state_dict)
    positions = state_dict.get("stem.pos_embed")
    stem = getattr(model, "stem", None)
    if isinstance(stem, Stem) and positions is not None:
        side = round(positions.shape[1] ** 0.5)
        grid = (side, side) if released else stored_grid(model)
        if grid is None and positions.shape[1] != stem.pos_embed.shape[1]:
            grid = (side, side)
        if grid is not None and grid[0] * grid[1] == positions.shape[1]:
            positions = resize_positions(positions, grid, stem.grid_size)
            state_dict = {**state_dict, "stem.pos_embed": positions}
    return state_dict
