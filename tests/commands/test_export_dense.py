"""What `sgformer export` makes of segmenters, and of a detector's pyramid; its objects: test_export_detector.py."""

import pytest
import torch

from backbone import fill
from sgformer.commands import export
from sgformer.exporters import check, formats, parts
from sgformer.tasks.images import Preprocessing

pytest.importorskip("onnxruntime", reason="what checks and runs the exported files")
pytest.importorskip("onnxscript", reason="what torch exports to ONNX with")

OPTIONS = {"depths": [2, 0, 2, 1]}


def segmenter(head):
    pytest.importorskip("segmentation_models_pytorch", reason="whose decoders segmenters have")
    from sgformer.tasks.decoders import HeadOptions
    from sgformer.tasks.segmentation import Segmenter

    model = Segmenter(
        "sgformer_test",
        classes=list("abcd"),
        preprocessing=Preprocessing(image_size=(160, 160)),
        kwargs=OPTIONS,
        head=HeadOptions(name=head, channels=64, auxiliary=0),
    )
    return filled(model)


def detector():
    from sgformer.tasks.detection import Detector
    from sgformer.tasks.detection.model import HeadOptions, Preprocessing

    return filled(
        Detector(
            "sgformer_test",
            classes=list("abc"),
            preprocessing=Preprocessing.of("sgformer_test", (160, 208)),
            kwargs=OPTIONS,
            heads=HeadOptions(channels=32, box_channels=32),
        )
    )


def filled(model):
    fill.fill_(model.backbone)  # maps that depend on the image
    return model.eval()


MODELS = {
    "upernet": lambda: segmenter("upernet"),
    "semantic_fpn": lambda: segmenter("semantic_fpn"),
    "detector": detector,
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_exported_form_computes_what_the_model_computes(name):
    part = parts.part_of(MODELS[name]().double(), pyramid=name == "detector")
    for batch, height, width in [(1, 224, 224), (2, 160, 208), (1, 333, 250), (1, 65, 100)]:
        x = check.make_images(batch, 3, height, width).double()
        given = part.module(x)
        assert given[0].std() > 1e-2
        for difference, scale in check.differences(part, x, given).values():
            assert difference < 1e-6 * max(1, scale)  # a segmenter's logits are float32
    expected = {"detector": ["stride4", "stride8", "stride16", "stride32", "stride64"]}.get(name, ["logits"])
    assert part.names == [*expected, "significance1", "significance2"]


def test_a_segmenter_of_one_size(tmp_path):
    model = segmenter("semantic_fpn")
    model.save(tmp_path / "weights.safetensors")
    path = export.export(tmp_path / "weights.safetensors", tmp_path / "model.pt2", size="65x100")
    x = check.make_images(2, 3, 65, 100)
    logits, *_ = given = formats.open_exported(path)(x)
    assert logits.shape == (2, 4, 65, 100)
    for difference, scale in check.differences(parts.part_of(model), x, given).values():
        assert difference < 1e-4 * max(1, scale)


@pytest.mark.exhaustive
@pytest.mark.parametrize("head", ["upernet", "semantic_fpn"])
def test_a_segmenter_with_open_sizes(tmp_path, head):
    """The command checks the file on several sizes before it keeps it; here on one more, of odd sides."""
    model = segmenter(head)
    model.save(tmp_path / "weights.safetensors")
    suffix = ".onnx" if head == "upernet" else ".pt2"
    path = export.export(tmp_path / "weights.safetensors", tmp_path / f"model{suffix}", max_size=512)
    x = check.make_images(2, 3, 131, 397)
    logits, *_ = given = formats.open_exported(path)(x)
    assert logits.shape == (2, 4, 131, 397)
    for difference, scale in check.differences(parts.part_of(model), x, given).values():
        assert difference < 1e-4 * max(1, scale)
    about = formats.about_exported(path)
    assert about["task"] == "segmentation"
    assert about["palette"] == [list(colour) for colour in model.palette]


@pytest.mark.exhaustive
def test_a_detectors_pyramid(tmp_path):
    detector().save(tmp_path / "weights.safetensors")
    path = export.export(tmp_path / "weights.safetensors", tmp_path / "model.onnx", size="96x130", pyramid=True)
    maps = formats.open_exported(path)(torch.zeros(2, 3, 96, 130))[:5]
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(24, 33), (12, 17), (6, 9), (3, 5), (2, 3)]
    about = formats.about_exported(path)
    assert (about["task"], about["part"]) == ("detection", "pyramid")
    assert about["outputs"][:5] == ["stride4", "stride8", "stride16", "stride32", "stride64"]
