"""What `compare_backbones.py` compares: tables of runs that differ in nothing but the backbone and the seed."""

from dataclasses import dataclass, field
from typing import Any

SWIN = "swin_tiny_patch4_window7_224"


@dataclass(frozen=True)
class Table:
    """Runs that differ in nothing but the backbone and the seed.

    Attributes:
        name: Of the table, and how result files begin.
        recipe: ``task/name``.
        folder: Of the pictures, in the folder of all sets.
        models: Names of timm.
        num_train: Pictures for training, to count steps.
        num_val: Pictures for validation.
        epochs: How many there should be, where there is time.
        num_validations: In each run, the one at the end among them.
        workers: Processes that read pictures for each run, on a machine of 16 cores.
        settings: Keys of the recipe that differ.
        trained: Whether backbones start from the weights of the plan imagenette160.
        kept: In which precision the last weights are kept: whole, half; empty: they are not.
        one_seed: Whether the first seed is enough.
    """

    name: str
    recipe: str
    folder: str
    models: tuple[str, ...]
    num_train: int
    num_val: int
    epochs: int
    num_validations: int = 2
    workers: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    trained: bool = False
    kept: str = ""
    one_seed: bool = False


PLANS = {
    "imagenette160": (
        Table(
            name="imagenette160",
            recipe="classification/imagenette160",
            folder="imagenette160",
            models=("sgformer_s", SWIN, "convnext_tiny", "pvt_v2_b2", "resnet50"),
            num_train=5400,
            num_val=1200,
            epochs=40,
            num_validations=6,
            workers=2,
            settings={"data.image_size": 160, "data.eval_image_size": 160, "data.batch_size": 128},
            kept="whole",
        ),
        Table(
            name="imagenette112",
            recipe="classification/imagenette160",
            folder="imagenette160",
            models=("sgformer_t", "tiny_vit_5m_224", "convnext_femto"),
            num_train=5400,
            num_val=1200,
            epochs=36,
            num_validations=6,
            workers=1,
            kept="half",
            one_seed=True,
        ),
    ),
    "dense": (
        Table(
            name="nuclei",
            recipe="detection/nuclei",
            folder="nuclei",
            models=("sgformer_s", SWIN, "resnet50"),
            num_train=300,
            num_val=56,
            epochs=24,
            workers=2,
            settings={"data.batch_size": 8, "data.multiple": 4},
            trained=True,
        ),
        Table(
            name="coco_tiny80",
            recipe="detection/coco_tiny80",
            folder="coco_tiny80",
            models=("sgformer_s", SWIN, "resnet50"),
            num_train=362,
            num_val=89,
            epochs=24,
            settings={"data.batch_size": 8, "data.multiple": 4},
            trained=True,
        ),
        Table(
            name="camvid",
            recipe="segmentation/camvid",
            folder="camvid11",
            models=("sgformer_s", SWIN, "convnext_tiny"),
            num_train=367,
            num_val=101,
            epochs=40,
            num_validations=4,
            trained=True,
        ),
        Table(
            name="semantic_coco_tiny80",
            recipe="segmentation/coco_tiny80_semantic",
            folder="coco_tiny80",
            models=("sgformer_s", SWIN, "convnext_tiny"),
            num_train=362,
            num_val=89,
            epochs=40,
            num_validations=4,
            trained=True,
        ),
    ),
}
# What a backbone needs, or is faster with, by task; nothing here changes what is learned. Swin's windows keep their 7x7
# on small maps, so that its weights fit pictures of any size.
OWN: dict[str, dict[str, dict[str, Any]]] = {
    SWIN: {
        "classification": {"model.kwargs": {"always_partition": True}},
        "detection": {"model.kwargs": {"strict_img_size": False}},
    },
    **{
        name: {task: {"trainer.channels_last": True} for task in ("classification", "segmentation")}
        for name in ("convnext_tiny", "convnext_femto", "resnet50")
    },
}
