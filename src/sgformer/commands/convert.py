"""``sgformer convert released.pth out.safetensors``."""

import argparse
from pathlib import Path

EXAMPLES = """The file is read without running any code from it.

examples:
  sgformer convert sgformer_s.pth sgformer_s.safetensors
  sgformer convert sgformer_s.pth sgformer_s.safetensors --no-ema
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("released", help="a checkpoint as the authors released it (.pth)")
    parser.add_argument("out", help="the weights file to write (.safetensors)")
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take the averaged weights, which the paper's numbers belong to (default), or the last ones",
    )


def convert(released: str | Path, out: str | Path, *, ema: bool = True) -> Path:
    """Turn released SG-Former weights into a weights file of this package.

    Args:
        released: A checkpoint as the authors released it. It is read without running any code from it.
        out: The weights file to write.
        ema: Whether to take the averaged weights, which the paper's numbers belong to.

    Returns:
        The file that was written.

    Raises:
        ValueError: It is no such checkpoint, or names are missing or unexpected.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"the file to write is called {out}; its name must end in .safetensors")
    if not Path(released).is_file():
        raise FileNotFoundError(f"no file at {released}; check the path")

    from timm.data.imagenet_info import ImageNetInfo

    from ..backbone import official
    from ..engine import weights
    from ..tasks.classification.model import Classifier, preprocessing_of

    state_dict = official.read_released(released, ema=ema)
    name = official.variant_of(state_dict)
    tensors = official.from_official(state_dict)
    num_classes = len(tensors["head.fc.weight"]) if "head.fc.weight" in tensors else 0
    if not num_classes:
        raise ValueError(f"{released} has no classifier head; only whole classifiers can be converted")
    if num_classes == 1000:
        info = ImageNetInfo()
        classes = [info.index_to_description(i) for i in range(1000)]
    else:
        classes = [f"class {i}" for i in range(num_classes)]
    model = Classifier(name, classes=classes, preprocessing=preprocessing_of(name, image_size=224))
    weights.fill(model.backbone, tensors, source=released)
    model.save(out)
    print(f"{name}, {num_classes} classes -> {out}. Next: sgformer predict {out} PICTURES")
    return out
