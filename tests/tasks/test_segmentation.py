import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from mask_folders import CLASSES, make_mask_folders, stripes
from sgformer import tasks
from sgformer.engine import weights
from sgformer.engine.weights import WeightsError
from sgformer.explanations import significance_maps
from sgformer.tasks.backbones import ModelOptions
from sgformer.tasks.classification import Classifier
from sgformer.tasks.decoders import HeadOptions
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.loading import Batch, make_loader
from sgformer.tasks.segmentation import Segmenter, SemanticMap
from sgformer.tasks.segmentation.augment import AugmentOptions
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.evaluation import Report, confusion_matrix, count, evaluate
from sgformer.tasks.segmentation.masks import IGNORE
from sgformer.tasks.segmentation.options import DataOptions
from sgformer.tasks.segmentation.task import Recipe, build
from sgformer.tasks.windows import InferenceOptions

PREPROCESSING = Preprocessing(image_size=(32, 32), crop_fraction=1.0)
HEADS = {
    "upernet": HeadOptions(name="upernet", channels=16, auxiliary=8),
    "semantic_fpn": HeadOptions(name="semantic_fpn", channels=64, auxiliary=0),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_mask_folders(tmp_path_factory.mktemp("stripes"))


def segmenter(head="upernet", name="sgformer_test", classes=CLASSES, **kwargs):
    torch.manual_seed(0)
    return Segmenter(name, classes=classes, preprocessing=PREPROCESSING, head=HEADS[head], **kwargs).eval()


def options(root, **kwargs):
    return DataOptions(root=str(root), **{"image_size": 32, "batch_size": 4, "workers": 0, **kwargs})


def prepared(root, head="upernet", **kwargs):
    return build(Recipe(model=ModelOptions(name="sgformer_test"), head=HEADS[head], data=options(root, **kwargs)))


@pytest.fixture
def trained(root, trained_weights):
    """A model that knows stripes a little, so that what it says varies."""
    model = segmenter()
    model.load_state_dict(trained_weights)
    return model


@pytest.fixture(scope="module")
def trained_weights(root):
    torch.manual_seed(0)
    task, module = prepared(root)
    learn(task, next(iter(module.train_dataloader())), steps=30)
    return task.model.state_dict()


def learn(task, batch, steps):
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(batch).backward()
        optimizer.step()


# ---- model


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(32, 32), (33, 65), (61, 45), (64, 160)])
def test_logits_have_the_size_of_the_image(head, size):
    model = segmenter(head)
    with torch.inference_mode():
        assert model(torch.randn(2, 3, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_other_backbones(name):
    model = segmenter(name=name)
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 70, 45)).shape == (1, 3, 70, 45)
    assert model.divisor == (1 if name == "resnet10t" else 32)


@pytest.mark.parametrize("head", HEADS)
def test_weights_file_gives_the_same_model_back(tmp_path, head):
    model = segmenter(head, kwargs={"token_budget": 9}, inference=InferenceOptions(shorter_side=64, scales=[1.0, 1.5]))
    model.save(tmp_path / "w.safetensors", metrics={"val_miou": 0.5})
    again = tasks.load(tmp_path / "w.safetensors")
    assert not again.training
    for name in ("name", "classes", "preprocessing", "kwargs", "options", "inference", "palette"):
        assert getattr(again, name) == getattr(model, name)
    images = torch.randn(1, 3, 40, 56)
    with torch.inference_mode():
        assert torch.equal(model(images), again(images))
    assert weights.read_metadata(tmp_path / "w.safetensors")["task"] == "segmentation"


def test_what_a_model_starts_from(tmp_path):
    torch.manual_seed(1)
    classifier = Classifier("sgformer_test", classes=("a", "b"), preprocessing=PREPROCESSING)
    classifier.save(tmp_path / "c.safetensors")
    model = segmenter()
    head = model.decoder.state_dict()
    model.start_from(tmp_path / "c.safetensors")
    own, theirs = model.backbone.backbone.state_dict(), classifier.backbone.state_dict()
    assert all(torch.equal(tensor, theirs[name.removeprefix("model.")]) for name, tensor in own.items())
    assert all(torch.equal(t, head[name]) for name, t in model.decoder.state_dict().items())
    model.classifier.weight.data.fill_(0.125)
    model.save(tmp_path / "s.safetensors")

    torch.manual_seed(2)
    same = Segmenter("sgformer_test", classes=CLASSES, preprocessing=PREPROCESSING, head=HEADS["upernet"])
    same.start_from(tmp_path / "s.safetensors")
    assert all(torch.equal(t, same.state_dict()[name]) for name, t in model.state_dict().items())
    other = segmenter(classes=("x", "y"))
    other.start_from(tmp_path / "s.safetensors")
    assert all(torch.equal(t, other.decoder.state_dict()[n]) for n, t in model.decoder.state_dict().items())
    assert (other.classifier.weight != 0.125).all()
    with pytest.raises(WeightsError, match="not a resnet10t"):
        segmenter(name="resnet10t").start_from(tmp_path / "s.safetensors")


def test_damaged_metadata(tmp_path):
    model = segmenter()
    weights.save(tmp_path / "w.safetensors", model.state_dict(), {"task": "segmentation", "model": {}})
    with pytest.raises(WeightsError, match="damaged"):
        tasks.load(tmp_path / "w.safetensors")


def test_predictions(tmp_path):
    model = segmenter()
    model.train()
    pixels, _ = stripes(0, (50, 70))
    first, second = model.predict([pixels, Image.fromarray(pixels).resize((33, 90))], window=32, flip=True)
    assert model.training
    assert (first.indices.shape, second.indices.shape) == ((50, 70), (90, 33))
    assert first.indices.dtype == np.uint8
    assert sum(first.shares.values()) == pytest.approx(1)
    assert json.loads(json.dumps(first.to_dict()))["height"] == 50
    assert any(name in first.summary() for name in CLASSES)
    first.save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.mode == "P"
        assert (np.asarray(image) == first.indices).all()
        present = np.unique(first.indices)[0]
        assert tuple(image.getpalette()[3 * present : 3 * present + 3]) == model.palette[present]
    drawn = first.draw(pixels)
    assert drawn.width > 70
    assert drawn.height >= 50
    assert first.paint(pixels).size == (70, 50)
    with pytest.raises(ValueError, match="the map is 50x70 and the image 90x33"):
        first.draw(Image.new("RGB", (33, 90)))
    with pytest.raises(ValueError, match=r"must end in \.png"):
        first.save(tmp_path / "map.jpg")


def test_a_legend_of_many_classes():
    names = tuple(f"class {i}" for i in range(60))
    indices = np.arange(60, dtype=np.uint8).repeat(60).reshape(60, 60)
    sheet = SemanticMap(indices, names, tuple((i, i, i) for i in range(60))).draw(Image.new("RGB", (60, 60)))
    assert sheet.height < 200


def test_significance_of_a_segmenter():
    maps = significance_maps(segmenter(), torch.randn(2, 3, 64, 96))
    assert maps[0].shape == (2, 16, 24)


def test_unknown_settings():
    with pytest.raises(ValueError, match="multiple of 64"):
        HeadOptions(name="semantic_fpn", channels=100)
    with pytest.raises(ValueError, match="unknown model 'sgformer_z'"):
        segmenter(name="sgformer_z")


# ---- training


def test_a_batch_without_a_labelled_pixel(root):
    task, _ = prepared(root)
    loss = task.loss(Batch(torch.randn(2, 3, 32, 32), torch.full((2, 32, 32), IGNORE)))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in task.parameters())


def test_the_auxiliary_head_weighs_what_the_recipe_says(root):
    task, module = prepared(root)
    task.model.eval()  # without dropout
    batch = next(iter(module.train_dataloader()))
    losses = {}
    for task.auxiliary in (0.0, 0.4, 1.0):
        losses[task.auxiliary] = task.loss(batch).item()
    assert losses[0.4] - losses[0.0] == pytest.approx(0.4 * (losses[1.0] - losses[0.0]), rel=1e-4)


def test_a_batch_needs_two_images(root):
    with pytest.raises(ValueError, match="two images or more"):
        prepared(root, batch_size=1)


# ---- evaluation


def random_counts(num_classes=5, num_pixels=4000, absent=()):
    """Given and true classes, some ignored, some classes nowhere."""
    generator = torch.Generator().manual_seed(0)
    known = torch.tensor([i for i in range(num_classes) if i not in absent])
    true = known[torch.randint(len(known), (num_pixels,), generator=generator)]
    given = torch.where(
        torch.rand(num_pixels, generator=generator) < 0.6, true, known[torch.randint(len(known), (num_pixels,))]
    )
    true[::7] = IGNORE
    return given, true


@pytest.mark.parametrize("absent", [(), (1, 4)])
def test_numbers_are_those_of_torchmetrics(absent):
    given, true = random_counts(absent=absent)
    confusion = confusion_matrix(5)
    confusion.update(given, true)
    report = Report.of(confusion.compute(), "abcde")
    for average, found in [("micro", report.pixel_accuracy), ("macro", report.mean_accuracy)]:
        metric = MulticlassAccuracy(5, average=average, ignore_index=IGNORE)
        assert found == pytest.approx(metric(given, true).item(), abs=1e-6)
    metric = MulticlassJaccardIndex(5, ignore_index=IGNORE)
    assert report.miou == pytest.approx(metric(given, true).item(), abs=1e-6)
    each = MulticlassJaccardIndex(5, ignore_index=IGNORE, average="none")(given, true)
    for row, value in zip(report.classes, each, strict=True):
        assert (row.iou or 0) == pytest.approx(value.item(), abs=1e-6)
    assert [row.name for row in report.classes if row.iou is None] == ["abcde"[i] for i in absent]


def test_a_class_that_is_only_given_counts_zero():
    counts = torch.tensor([[4, 4], [0, 0]])
    report = Report.of(counts, ("a", "b"))
    assert report.miou == 0.25
    assert report.mean_accuracy == 0.5
    assert report.classes[1].accuracy is None
    assert report.to_table()[1][1] == ("b", "0.0%", "0.0%", "", "")


def test_evaluation_does_not_depend_on_batches_nor_processes(root, trained):
    model = trained
    reports = [evaluate(model, options(root, batch_size=size)) for size in (1, 2, 3)]
    assert reports[0] == reports[1] == reports[2]
    assert reports[0].num_images == 3
    assert min(sum(column) for column in zip(*reports[0].confusion, strict=True)) > 0  # all classes are given
    module = SegmentationData(options(root), PREPROCESSING, classes=CLASSES, splits=("val",))
    counts = torch.zeros(3, 3, dtype=torch.long)
    for rank in range(2):
        process = type("Process", (), {"global_rank": rank, "world_size": 2})
        confusion = confusion_matrix(3)
        for image, mask in make_loader(
            module.images("val"), "val", batch_size=1, workers=0, trainer=process, collate=lambda x: x[0]
        ):
            count(model, Batch([image], [mask]), confusion)
        counts += confusion.compute()
    assert counts.tolist() == [list(row) for row in reports[0].confusion]


def test_images_that_are_ignored_altogether(tmp_path):
    root = make_mask_folders(tmp_path / "data")
    model = segmenter()
    whole = evaluate(model, options(root))
    counts = confusion_matrix(3)
    images = SegmentationData(options(root), PREPROCESSING).images("val")
    count(model, Batch([images[0][0]], [images[0][1]]), counts)
    mask = root / "annotations" / "val" / "0.png"
    Image.fromarray(np.full_like(np.asarray(Image.open(mask)), IGNORE)).save(mask)
    report = evaluate(model, options(root))
    assert report.num_images == 3
    assert (torch.tensor(report.confusion) == torch.tensor(whole.confusion) - counts.compute()).all()


def test_the_worst_images_and_why(root, trained):
    inference = InferenceOptions(shorter_side=32)
    shown = evaluate(trained, options(root, inference=inference), num_worst=2).worst
    assert len(shown) == 2
    images = SegmentationData(options(root), PREPROCESSING, splits=("val",)).images("val")
    shares = []
    for image, mask in (images[i] for i in range(3)):
        wrong = trained.indices(image)[mask != IGNORE] != mask[mask != IGNORE]
        shares.append(f"{wrong.mean():.1%}")
    expected = sorted(shares, key=lambda text: -float(text.rstrip("%")))[:2]
    assert [caption.split(" of pixels")[0] for *_, caption in shown] == expected
    for panels, seen, caption in shown:
        assert len(panels) == 3
        assert len({panel.size for panel in panels}) == 1
        assert min(seen.shape[1:]) == 32
        assert re.search(r"most often (sky|grass|brick) taken for (sky|grass|brick)$", caption)


def test_the_worst_are_drawn_small(tmp_path):
    root = make_mask_folders(tmp_path / "data", num_val=1)
    pixels, mask = stripes(1, (500, 1500))
    Image.fromarray(pixels).save(root / "images/val/0.png")
    Image.fromarray(mask).save(root / "annotations/val/0.png")
    ((panels, seen, _),) = evaluate(segmenter(), options(root), num_worst=12).worst
    assert {panel.size for panel in panels} == {(480, 160)}
    assert seen.shape == (3, 341, 1023)


def test_how_images_go_through_can_be_changed(root, trained):
    inference = InferenceOptions(window=32, scales=[0.9, 1.2], flip=True)
    model = trained
    report = evaluate(model, options(root, inference=inference))
    assert model.inference == inference
    whole = evaluate(model, options(root))
    assert model.inference == InferenceOptions()
    assert sum(map(sum, report.confusion)) == sum(map(sum, whole.confusion))
    assert report.confusion != whole.confusion


def test_the_recipe_keeps_what_training_needs(root):
    task, module = prepared(root, augment=AugmentOptions(flip=0.0), inference=InferenceOptions(window=48))
    assert task.monitor == "val_miou"
    assert task.model.inference.window == 48
    assert dataclasses.asdict(task.model.options)["name"] == "upernet"
    assert module.classes == task.model.classes
