"""What torchvision's heads are made to do beyond what they do by themselves: crowds, and RetinaNet."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("pycocotools", reason="the task needs pycocotools")

from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import box_iou

import sgformer  # noqa: F401
from coco_files import make_coco
from sgformer import tasks
from sgformer.engine.optim import OptimOptions, create_optimizer
from sgformer.ops import native
from sgformer.ops.native import library
from sgformer.tasks.backbones import ModelOptions
from sgformer.tasks.detection import Detector
from sgformer.tasks.detection.augment import AugmentOptions
from sgformer.tasks.detection.data import Batch, DataOptions
from sgformer.tasks.detection.evaluation import evaluate
from sgformer.tasks.detection.heads import STRIDES, HeadOptions, MaskHead, RegionPooling, create_heads, in_crowd
from sgformer.tasks.detection.model import Preprocessing
from sgformer.tasks.detection.task import Recipe, build

HEADS = HeadOptions(
    masks=False, channels=16, box_channels=32, anchor_sizes=(16, 24, 32, 64, 128), num_proposals=50, num_sampled=32
)
RETINA = replace(HEADS, kind="retinanet")
NO_BOXES = torch.zeros(0, 4)


def detector(heads, classes=("disc", "bar")):
    torch.manual_seed(0)
    preprocessing = Preprocessing.of("sgformer_test", (48, 96))
    return Detector("sgformer_test", classes=classes, preprocessing=preprocessing, heads=heads).eval()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("coco"))


def options(root):
    return DataOptions(
        root=str(root), shorter_side=48, max_side=96, workers=0, batch_size=2, augment=AugmentOptions(flip=0.0)
    )


# ---- crowds


def test_half_a_box_in_a_crowd_is_in_it():
    crowds = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[1.0, 1, 3, 3], [8, 0, 12, 4], [9, 0, 13, 4], [0, 0, 100, 100], [52, 52, 58, 58]])
    assert in_crowd(boxes, crowds).tolist() == [True, True, False, False, True]
    assert not in_crowd(boxes, NO_BOXES).any()


CROWD = torch.tensor([[0.0, 0, 40, 40]])
OBJECT = torch.tensor([[10.0, 10, 20, 20]])


def test_anchors_in_a_crowd_are_no_background():
    proposals, _ = create_heads(HEADS, num_classes=2)
    anchors = torch.tensor([[10.0, 10, 20, 20], [25, 25, 35, 35], [60, 60, 70, 70]])

    def labels(boxes, crowds):
        targets = [{"boxes": boxes, "crowds": crowds}]
        return proposals.assign_targets_to_anchors([anchors], targets)[0][0].tolist()

    assert labels(OBJECT, CROWD) == [1, -1, 0]  # an object within a crowd is one
    assert labels(OBJECT, NO_BOXES) == [1, 0, 0]
    assert labels(NO_BOXES, CROWD) == [-1, -1, 0]
    everywhere = torch.tensor([[0.0, 0, 100, 100]])
    assert labels(NO_BOXES, everywhere) == [0, 0, 0]  # of nothing there would be no mean


def test_regions_in_a_crowd_are_no_background():
    _, regions = create_heads(HEADS, num_classes=2)
    places = torch.tensor([[25.0, 25, 35, 35], [10, 10, 20, 21], [60, 60, 70, 70]])

    def labels(boxes, crowds):
        targets = [{"boxes": boxes, "crowds": crowds, "labels": torch.full((len(boxes),), 2)}]
        return regions.select_training_samples([places], targets)[2][0].tolist()

    assert labels(OBJECT, NO_BOXES) == [0, 2, 0, 2]  # the last one is the object itself
    assert labels(OBJECT, CROWD) == [2, 0, 2]
    assert labels(NO_BOXES, CROWD) == [0]
    assert labels(NO_BOXES, torch.tensor([[0.0, 0, 100, 100]])) == [0]


@pytest.mark.parametrize("heads", [HEADS, RETINA], ids=["rcnn", "retinanet"])
@pytest.mark.parametrize("crowd", [[[5.0, 5, 50, 40]], [[0.0, 0, 64, 48]]])  # a part, and all of the image
def test_an_image_with_nothing_but_a_crowd_teaches_less(heads, crowd):
    """It gives a gradient, and another one than an empty image."""
    model = detector(heads).train()
    image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    totals = []
    for crowds in (torch.tensor(crowd), NO_BOXES):
        torch.manual_seed(0)
        target = {"boxes": NO_BOXES, "labels": torch.zeros(0, dtype=torch.int64), "crowds": crowds}
        totals.append(torch.stack(list(model([image], [target]).values())).sum())
    assert torch.isfinite(totals[0])
    assert totals[0] != totals[1]
    totals[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_crowds_follow_their_image(root):
    _, data = build(Recipe(model=ModelOptions(name="sgformer_test"), heads=HEADS, data=options(root)))
    _, plain = data.dataset("train")[2]
    assert plain["crowds"].tolist() == [[3.75, 3.75, 37.5, 30]]  # 64x64 pixels became 48x48
    data.options.augment.flip = 1.0
    image, target = data.dataset("train")[2]
    width = image.shape[2]
    assert target["crowds"].tolist() == [[width - 37.5, 3.75, width - 3.75, 30]]
    assert len(target["labels"]) == 0


# ---- RetinaNet


def test_retinanet_has_no_masks():
    with pytest.raises(ValueError, match=r"--heads\.masks false"):
        HeadOptions(kind="retinanet")


@pytest.mark.parametrize("size", [(33, 47), (97, 64)])
def test_strides_of_retinanet(size):
    model = detector(RETINA)
    maps = model._maps([torch.zeros(3, *size)])
    grids = [map_.shape[2:] for map_ in maps.values()]
    assert grids == [tuple(-(-side // stride) for side in size) for stride in (8, 16, 32, 64, 128)]
    image_list = type("Images", (), {"image_sizes": [size]})
    anchors = model.retina.anchor_generator(image_list, list(maps.values()))[0]
    assert len(anchors) == 9 * sum(H * W for H, W in grids)
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).view(-1, 9, 2)[:, 0]
    assert centres[:2].tolist() == [[0, 0], [8, 0]]
    assert centres[-1].tolist() == [128 * (grids[-1][1] - 1), 128 * (grids[-1][0] - 1)]


def test_retinanet_learns_one_batch_and_is_found_again_in_its_weights(root, tmp_path):
    torch.manual_seed(0)
    heads = replace(RETINA, channels=64)
    task, data = build(Recipe(model=ModelOptions(name="sgformer_test"), heads=heads, data=options(root)))
    assert task.monitor == "val_box_ap"
    images, targets = zip(*(data.dataset("train")[index] for index in (0, 1)), strict=True)
    optimizer = create_optimizer(task.model, OptimOptions(lr=1e-3, weight_decay=0.0))
    task.train()
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = task.loss(Batch(list(images), list(targets)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    task.eval()
    task.model.save(tmp_path / "w.safetensors")
    again = tasks.load(tmp_path / "w.safetensors")
    for image, target in zip(images, targets, strict=True):
        (found,), (other,) = task.model([image]), again([image])
        assert all(torch.equal(found[name], other[name]) for name in found)
        for label in (1, 2):
            best = (found["labels"] == label).nonzero()[0, 0]
            assert box_iou(found["boxes"][best][None], target["boxes"][target["labels"] == label]) > 0.6
    together = again(list(images))
    assert all(torch.equal(together[0][name], again([images[0]])[0][name]) for name in together[0])
    assert evaluate(again, options(root)).box["ap50"] > 0.5
    prediction = again.predict(images[0].permute(1, 2, 0).numpy(), score_threshold=0.05)
    assert prediction.masks is None
    assert prediction.draw(images[0].permute(1, 2, 0).numpy()).size[0] % images[0].shape[2] == 0


def test_retinanet_starts_from_one_of_other_classes(tmp_path):
    detector(RETINA).save(tmp_path / "w.safetensors")
    model = detector(RETINA, classes=("a", "b", "c"))
    head = model.retina.head.classification_head
    torch.nn.init.zeros_(head.conv[0][0].weight)
    before = head.cls_logits.weight.clone()
    model.start_from(tmp_path / "w.safetensors")
    assert head.conv[0][0].weight.any()
    assert torch.equal(head.cls_logits.weight, before)
    with pytest.raises(ValueError, match="does not fit"):
        detector(HEADS).start_from(tmp_path / "w.safetensors")


@pytest.mark.parametrize("side", [7, 14])
def test_a_kernel_cuts_out_the_regions_that_torchvision_does(side, monkeypatch):
    monkeypatch.setattr(library, "_library", None)
    height, width = 170, 301
    torch.manual_seed(0)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    maps = {str(i): torch.randn(2, *size, 48).permute(0, 3, 1, 2) for i, size in enumerate(sizes)}
    corners, sides = torch.rand(80, 2) * torch.tensor([width, height]), 400 * torch.rand(80, 2) ** 4
    boxes = torch.cat([corners, corners + sides], 1)  # some reach beyond the image
    boxes[0] = torch.tensor([5.0, 5, 5, 5])
    boxes[1] = torch.tensor([-90.0, -90, -80, -70])
    pooling, images = RegionPooling(side), [boxes[:30], boxes[30:]]
    cut, calls = native.cut_regions, []
    monkeypatch.setattr(native, "cut_regions", lambda *x, **given: calls.append(0) or cut(*x, **given))
    with torch.no_grad():
        expected = pooling({name: x.double() for name, x in maps.items()}, [x.double() for x in images], [])
        assert not calls
        if objection := native.use_kernels().objection:
            pytest.skip(objection)
        found = pooling(maps, images, [])
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
        assert len(calls) == 1
        channels_first = {name: x.contiguous() for name, x in maps.items()}
        assert torch.equal(pooling(channels_first, images, []), found)
        assert len(calls) == 2
        assert pooling(maps, [boxes[:0]] * 2, []).shape == (0, 48, side, side)
        assert torch.equal(pooling(maps, [boxes[:0], boxes[30:]], []), found[30:])
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.equal(pooling(maps, images, []), found)
        finally:
            torch.set_default_dtype(torch.float32)


def test_the_mask_head_computes_what_torchvisions_does_with_channels_last():
    ours = MaskHead(4, (8, 8), 1).double()
    theirs = MaskRCNNHeads(4, (8, 8), 1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 4, 14, 14, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    assert ours(x).is_contiguous(memory_format=torch.channels_last)
    assert ours(x[:0]).shape == (0, 8, 14, 14)
