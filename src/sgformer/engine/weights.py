"""The weights file: tensors in safetensors, and everything needed to use them in its metadata.

Reading one never runs code from it. The metadata is one JSON object under the key ``sgformer``:

========================= =======================================================================
``format``                version of this layout, an integer
``task``                  which task reads it, such as ``classification``
``model``                 ``name`` and ``kwargs`` for timm
``classes``               class names in the order of the model's outputs
``preprocessing``         image size, mean, standard deviation, interpolation, crop fraction
``recipe``, ``metrics``   how it was trained and how good it is, for the record; may be empty
========================= =======================================================================
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .files import write_atomically

FORMAT = 1
FOLDER = Path(__file__).parent.parent / "weights"  # those that ship with the package
_KEY = "sgformer"
# How the files that we refuse begin: a zip archive (torch.save), and a bare pickle of protocol 2 to 5.
_ZIP = b"PK\x03\x04"
_PICKLE = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


class WeightsError(ValueError):
    """A weights file that cannot be used, with the reason and the remedy."""


def save(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], *, half: bool = False) -> None:
    """Save tensors and their metadata, which the module's docstring lists, to one file, atomically.

    Tensors that share memory are written apart; with ``half``, floating-point ones as float16. WeightsError where a
    tensor holds numbers that are too large for half precision.
    """
    if half:
        full = tensors
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in full.items()}
        for name, tensor in tensors.items():
            if bool((full[name].isfinite() & ~tensor.isfinite()).any()):
                raise WeightsError(
                    f"{name} holds numbers up to {full[name].abs().max().item():g}, beyond the "
                    f"{torch.finfo(tensor.dtype).max:g} of half precision; {path} is not written: leave out --half"
                )
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # "format": "pt" is what other readers of safetensors, transformers among them, look for.
    header = {"format": "pt", _KEY: json.dumps({"format": FORMAT, **metadata}, allow_nan=False)}
    write_atomically(path, safetensors.torch.save(plain, header))


def locate(run_or_weights: str | Path) -> Path:
    """The weights file that a person means by a run folder (its best, else its last), a file, or a packaged name."""
    path = Path(run_or_weights)
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(
            f"the folder {path} has no best.safetensors and no last.safetensors; "
            "name a run folder whose first epoch is over, or a weights file"
        )
    if path.is_file():
        return path
    if (packaged := FOLDER / f"{path}.safetensors").is_file() and path.name == str(path):
        return packaged
    known = ", ".join(file.stem for file in sorted(FOLDER.glob("*.safetensors")))
    raise FileNotFoundError(
        f"no weights file at {path}; check the path, train one (sgformer train), or take packaged ones: {known}"
    )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of a weights file, without reading the tensors; WeightsError where it is none, or damaged."""
    with _open(locate(path)) as file:
        return _metadata(file, path)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the metadata of a weights file; WeightsError where it is none, or damaged."""
    with _open(locate(path)) as file:
        metadata = _metadata(file, path)
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (no dict)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Load a state dict into a module, all or nothing.

    WeightsError where names are missing or unexpected, or a shape differs; says from which ``source``.
    """
    own = module.state_dict()
    faults = [
        _fault("missing", own.keys() - tensors.keys()),
        _fault("unexpected", tensors.keys() - own.keys()),
        _fault(
            "of another shape",
            (
                f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} in the model"
                for name in own.keys() & tensors.keys()
                if own[name].shape != tensors[name].shape
            ),
        ),
    ]
    if any(faults):
        raise WeightsError(
            f"{source} does not fit this model: {'; '.join(filter(None, faults))}. "
            "Build the model with the name and arguments that the file was trained with"
        )
    module.load_state_dict(dict(tensors))


def _fault(kind: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    if not listed:
        return ""
    more = f", ... and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{len(listed)} {kind} ({', '.join(listed[:3])}{more})"


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise WeightsError(f"{path} is empty; copy or download it again")
    if start == _ZIP or start.startswith(_PICKLE):
        misnamed = path.suffix == ".safetensors"
        target = path.with_suffix(".safetensors")
        remedy = "call it .pth and use sgformer convert" if misnamed else f"sgformer convert {path} {target}"
        raise WeightsError(
            f"{path} is a PyTorch pickle, which can run code when it is read, and is not opened here; "
            f"if it is a released SG-Former checkpoint, convert it: {remedy}"
        )
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is no complete safetensors file: it is cut off, damaged or of another kind "
            f"({error}); copy or download it again"
        ) from error


def _metadata(file: Any, path: str | Path) -> dict[str, Any]:
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise WeightsError(
            f"{path} is a safetensors file without this package's metadata, so its model is unknown; "
            "use a file written by `sgformer train` or `sgformer convert`"
        )
    try:
        metadata = json.loads(text)
        version = metadata["format"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise WeightsError(f"the metadata of {path} is damaged; copy or download the file again") from error
    if version != FORMAT:
        raise WeightsError(f"{path} has weights format {version}, this version reads {FORMAT}; update sgformer")
    return metadata
