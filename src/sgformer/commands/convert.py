"""Turn released SG-Former weights into a weights file of this package.

Takes a checkpoint as the authors released it, which is read without running any
code from it; or a run folder or weights file of this package, to pass on in
half the space.

Examples:
  sgformer convert sgformer_s.pth sgformer_s.safetensors
  sgformer convert sgformer_s.pth sgformer_s.safetensors --no-ema
  sgformer convert runs/flowers flowers.safetensors --half
"""

from pathlib import Path
from typing import Any


def convert(
    source: str | Path, out: str | Path, *, ema: bool = True, names: str | Path | None = None, half: bool = False
) -> Path:
    """Turn released SG-Former weights, or those of a run, into a weights file to keep and to pass on.

    Args:
        source: A checkpoint as the authors released it, which is read without running any code from it; or a run
            folder or weights file of this package.
        out: The weights file to write.
        ema: Whether to take the averaged weights of a released checkpoint, which the paper's numbers belong to.
        names: A file with display names of a classifier's classes, a line ``class name`` each.
        half: Whether to write half precision.

    Returns:
        The file that was written.

    Raises:
        ValueError: It is no such checkpoint, or names are missing or unexpected.
    """
    out, source = Path(out), Path(source)
    if out.suffix != ".safetensors":
        raise ValueError(f"the file to write is called {out}; its name must end in .safetensors")
    if not source.exists():
        raise FileNotFoundError(f"no file at {source}; check the path")
    if source.is_dir() or source.suffix == ".safetensors":
        from ..tasks import load

        model = load(source)
        if names:
            from ..tasks.classification.sources import read_descriptions

            model.call_classes(read_descriptions(Path(names)))
        model.save(out, recipe=model.metadata["recipe"], metrics=model.metadata["metrics"], half=half)
        print(f"{model.name}, {len(model.classes)} classes -> {out}")
        return out
    model = _released(source, ema=ema)
    model.save(out, half=half)
    print(f"{model.name}, {len(model.classes)} classes -> {out}. Next: sgformer predict {out} IMAGES")
    return out


def _released(source: Path, *, ema: bool) -> Any:
    from timm.data.imagenet_info import ImageNetInfo

    from ..backbone import official
    from ..engine import weights
    from ..tasks.backbones import preprocessing_of
    from ..tasks.classification.model import Classifier

    state_dict = official.read_released(source, ema=ema)
    name = official.variant_of(state_dict)
    tensors = official.from_official(state_dict)
    num_classes = len(tensors["head.fc.weight"]) if "head.fc.weight" in tensors else 0
    if not num_classes:
        raise ValueError(f"{source} has no classifier head; only whole classifiers can be converted")
    classes, names = [f"class {i}" for i in range(num_classes)], {}
    if num_classes == 1000:
        # The classes are called like ImageNet's folders, so that the weights can be judged on them.
        info = ImageNetInfo()
        classes = [info.index_to_label_name(i) for i in range(1000)]
        names = {label: info.label_name_to_description(label) for label in classes}
    model = Classifier(name, classes=classes, names=names, preprocessing=preprocessing_of(name, image_size=224))
    weights.fill(model.backbone, tensors, source=source)
    return model
