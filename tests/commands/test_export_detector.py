"""What `sgformer export` makes of a detector: lists of objects, against what torchvision's heads find."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from backbone import fill
from sgformer.commands import export
from sgformer.exporters import check, formats, parts
from sgformer.tasks.images import read_image

pytest.importorskip("pycocotools", reason="detection needs pycocotools")

from sgformer.tasks.detection import Detector
from sgformer.tasks.detection import export as detector
from sgformer.tasks.detection.model import HeadOptions, Preprocessing

CLASSES = list("abcde")
KINDS = {
    "mask": {},
    "box": {"masks": False},
    "few proposals": {"num_proposals": 30, "max_detections": 7},
    "retina": {"kind": "retinanet", "masks": False, "anchor_sizes": (8, 16, 32, 64, 128)},
}


def make(kind="mask", classes=CLASSES, **options):
    """A detector that finds something: heads with outputs that differ from place to place."""
    heads = HeadOptions(**{"channels": 32, "box_channels": 32, "num_proposals": 200, **KINDS[kind], **options})
    preprocessing = Preprocessing.of("sgformer_test", (160, 208))
    model = Detector(
        "sgformer_test", classes=classes, preprocessing=preprocessing, kwargs={"depths": [2, 0, 2, 1]}, heads=heads
    )
    fill.fill_(model.backbone)
    for name, parameter in model.named_parameters():
        if "predictor" in name or "rpn.head" in name or "retina.head" in name:
            nn.init.normal_(parameter, std=0.05 if parameter.ndim == 4 else 0.3)
    return model.eval()


def lists(model, x):
    """What the exportable form finds in an image, and what the model does."""
    part = parts.part_of(model)
    with torch.no_grad():
        return part, part.module(x)[: len(part.outputs)], part.reference(x)


@pytest.mark.parametrize("size", [(160, 208), (333, 250), (65, 100)])
@pytest.mark.parametrize("kind", KINDS)
def test_it_lists_what_the_heads_find(kind, size):
    part, given, expected = lists(make(kind).double(), check.make_images(1, 3, *size).double())
    assert (given[2] > 0).sum() >= 7
    assert set(given[1].tolist()) <= set(range(len(CLASSES) + 1))
    for name, ours, theirs in zip(part.outputs, given, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["box", "retina"])
def test_anchors_follow_a_model_that_computed_in_another_precision(kind):
    model = make(kind)
    found = model.retina if kind == "retina" else model.rpn
    found.anchor_generator.set_cell_anchors(torch.bfloat16, torch.device("cpu"))  # as the last images were
    finder = detector.RetinaBoxes(model) if kind == "retina" else detector.RegionBoxes(model)
    generator = (finder.retina if kind == "retina" else finder.rpn).anchor_generator
    assert {anchors.dtype for anchors in generator.of_levels([torch.zeros(1, 32, 2, 3)] * 5)} == {torch.float32}


def test_few_proposals_of_which_every_class_is_likely_lose_none():
    """As after a first epoch: each proposal is a box of ten classes, far more than twice the proposals."""
    model = make("box", classes=list("abcdefghij"), num_proposals=20)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight *= 0.01
        model.roi_heads.box_predictor.cls_score.bias *= 0
    _, given, expected = lists(model.double(), check.make_images(1, 3, 160, 208).double())
    assert (expected[2] > 0).sum() > 40
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_one_class_and_places_that_stay_empty():
    model = make(classes=["a"], max_detections=90)
    with torch.no_grad():  # a few regions are objects
        model.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([2.0, -1.0]))
        model.roi_heads.box_predictor.cls_score.weight *= 3
    _, given, expected = lists(model.double(), check.make_images(1, 3, 160, 208).double())
    assert 0 < (given[2] > 0).sum() < 90
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    with torch.no_grad():  # and now nothing
        model.roi_heads.box_predictor.cls_score.bias[0] += 100
    _, given, _ = lists(model, check.make_images(1, 3, 160, 208).double())
    assert not any(values.any() for values in given)


def test_lists_are_compared_by_objects():
    boxes = torch.rand(100, 2) * 200
    boxes = torch.cat((boxes, boxes + 10 + torch.rand(100, 2) * 30), 1)
    labels, scores = torch.arange(100) % 3 + 1, torch.linspace(0.9, 0.3, 100)
    scores[60:] = 0

    def apart(*changed):
        names = ("boxes", "labels", "scores")
        found = detector.compare(changed, (boxes, labels, scores), names=names, least=0.05)
        return [found[name][0] for name in names]

    order = torch.randperm(100)
    order = order[scores[order].argsort(descending=True, stable=True)]
    assert apart(boxes[order], labels[order], scores[order]) == [0, 0, 0]
    assert apart(boxes + 0.01, labels, scores) == pytest.approx([0.01, 0, 0], abs=1e-4)
    assert apart(boxes, labels, scores - 0.01 * (scores > 0))[2] == pytest.approx(0.01, abs=1e-4)
    assert apart(boxes, labels % 3 + 1, scores)[0] == torch.inf
    missing = scores.clone()
    missing[10:12] = 0  # two of sixty, which rounding may do
    assert apart(boxes, labels, missing) == [0, 0, 0]
    missing[10:20] = 0
    assert apart(boxes, labels, missing)[0] == torch.inf
    assert apart(boxes, labels, torch.zeros(100))[0] == torch.inf


def test_a_check_without_objects_says_so(monkeypatch):
    """And with objects it judges, here what is followed, in place of a file."""
    model = make()
    part = parts.part_of(model)
    monkeypatch.setattr(check, "open_exported", lambda path: torch.no_grad()(part.module))
    assert check.verify("", part, fixed=(96, 96), largest=(96, 96)) < 1e-4
    with torch.no_grad():
        part.module.module.find.heads.box_predictor.cls_score.bias[1] += 1
    with pytest.raises(parts.ExportError, match="differs from the model"):
        check.verify("", part, fixed=(96, 96), largest=(96, 96))
    with torch.no_grad():
        for heads in (model.roi_heads, part.module.module.find.heads):
            heads.box_predictor.cls_score.bias[0] += 100
    with pytest.warns(UserWarning, match="no object was found"):
        assert check.verify("", part, fixed=(96, 96), largest=(96, 96)) == 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file for images of any size, which was checked before it was kept."""
    pytest.importorskip("onnxruntime", reason="what checks and runs the exported files")
    pytest.importorskip("onnxscript", reason="what torch exports to ONNX with")
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    model = make()
    model.save(folder / "weights.safetensors")
    return model, export.export(folder / "weights.safetensors", folder / "model.onnx", max_size=512)


@pytest.mark.exhaustive
def test_a_file_finds_what_the_model_finds(exported):
    model, path = exported
    part, run = parts.part_of(model), formats.open_exported(path)
    for size in [(131, 397), (512, 512), (128, 128)]:
        x = check.make_images(1, 3, *size)
        given = run(x)
        assert (given[2] > 0).sum() == 100
        for name, (difference, scale) in check.differences(part, x, given).items():
            assert difference < 1e-4 * max(1, scale), name
    about = formats.about_exported(path)
    assert (about["task"], about["part"], about["batch"], about["max_detections"]) == ("detection", "objects", 1, 100)
    assert about["outputs"][:4] == ["boxes", "labels", "scores", "masks"]
    with pytest.raises(Exception, match="images must be 128x128 to 512x512"):
        run(torch.zeros(1, 3, 127, 200))


@pytest.mark.exhaustive
def test_the_script_in_the_docs_finds_objects_without_this_package(exported, tmp_path, detector_script, run_alone):
    model, path = exported
    values = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    image = tmp_path / "image.png"
    Image.fromarray(values).resize((300, 240), Image.Resampling.BICUBIC).save(image)
    found = [json.loads(line) for line in run_alone(detector_script, path, image, 0.3).splitlines()]
    expected = model.predict(read_image(image), score_threshold=0.3)
    assert len(found) == pytest.approx(len(expected), abs=2)
    assert len(found) > 20
    # Pillow and torchvision resize an image a little differently.
    places = {(label, *map(round, box)) for label, box in zip(expected.labels, expected.boxes / 8, strict=True)}
    same = [one for one in found if (one["label"], *(round(side / 8) for side in one["box"])) in places]
    assert len(same) > 0.6 * len(found)


@pytest.mark.exhaustive
def test_a_program_for_pytorch_with_a_retinanet(tmp_path):
    model = make("retina")
    model.save(tmp_path / "weights.safetensors")
    path = export.export(tmp_path / "weights.safetensors", tmp_path / "model.pt2", size="160x208")
    boxes, labels, scores, *_ = formats.open_exported(path)(check.make_images(1, 3, 160, 208))
    assert boxes.shape == (100, 4)
    assert labels.dtype == torch.int64
    assert (scores > 0.05).all()
