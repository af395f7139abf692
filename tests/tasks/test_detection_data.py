import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from coco_files import make_coco
from sgformer.engine.sampling import Draw
from sgformer.tasks.detection import coco
from sgformer.tasks.detection.augment import AugmentOptions
from sgformer.tasks.detection.data import DetectionData
from sgformer.tasks.detection.options import DataOptions, ScenesOptions
from sgformer.tasks.detection.sources import SplitOptions
from sgformer.tasks.errors import DataError

TRAIN = "annotations/instances_train.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("coco"))


def data(root, *, masks=True, **kwargs):
    options = DataOptions(root=str(root), shorter_side=48, max_side=96, workers=0, **kwargs)
    return DetectionData(options, masks=masks)


def test_every_way_to_write_a_mask_is_read(root):
    module = data(root)
    assert module.classes == ("disc", "bar")  # in the order of the ids, not of the file
    assert module.category_ids == (3, 7)
    dataset = module.dataset("val")
    image, target = dataset[0]
    assert image.dtype == torch.uint8
    assert image.shape[1:] == target["masks"].shape[1:] == (48, 64)
    assert target["labels"].tolist() == [1, 2]
    assert target["boxes"].tolist() == [[8, 10, 28, 30], [10, 36, 50, 44]]
    for mask, (left, top, right, bottom) in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
        assert mask[top:bottom, left:right].all()
        assert mask.sum() == (bottom - top) * (right - left)
    _, crowd = dataset[1]
    assert crowd["iscrowd"].tolist() == [1]
    assert crowd["masks"].sum() == 35 * 45
    _, empty = dataset[2]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape[0] == 0


def test_images_without_objects_are_kept_and_crowds_are_not_learned(root):
    dataset = data(root).dataset("train")
    assert len(dataset) == 4
    counts = [len(dataset[index][1]["labels"]) for index in range(4)]
    assert counts == [2, 2, 0, 0]


def test_boxes_and_masks_follow_their_image(root):
    """Whatever the variation: the mask lies where the bright pixels are, and the box around it."""
    augment = AugmentOptions(shorter_sides=[40, 64, 90], crop=60, flip=0.5, flip_vertical=0.5)
    dataset = data(root, augment=augment).dataset("train")
    sizes = set()
    for seed in range(30):
        image, target = dataset[Draw(0, seed)]
        sizes.add(tuple(image.shape))
        assert type(image) is type(target["boxes"]) is type(target["masks"]) is torch.Tensor
        for mask, box, label in zip(target["masks"], target["boxes"], target["labels"], strict=True):
            bright = image[0 if label == 1 else 1] > 160
            agreement = (bright & mask.bool()).sum() / (bright | mask.bool()).sum()
            assert agreement > 0.75
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (tight - box).abs().max() <= 2
    assert len(sizes) > 1
    assert max(max(size[1:]) for size in sizes) <= 60


def test_masks_lie_in_the_middle_of_their_boxes(root):
    """Resized by torchvision as masks they lay half a pixel to the bottom right."""
    dataset = data(root, augment=AugmentOptions(shorter_sides=[*range(33, 95)], flip=0.0)).dataset("train")
    apart = []
    for seed in range(60):
        _, target = dataset[Draw(0, seed)]
        for mask, (left, top, right, bottom) in zip(target["masks"], target["boxes"], strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            apart.append([rows.min() + rows.max() + 1 - top - bottom, columns.min() + columns.max() + 1 - left - right])
    assert (torch.tensor(apart).mean(0) / 2).abs().max() < 0.15


def test_the_same_draw_is_the_same_sample(root):
    augment = AugmentOptions(shorter_sides=[40, 64], photometric=1.0)
    dataset = data(root, augment=augment).dataset("train")
    (first, one), (again, two) = dataset[Draw(1, 5)], dataset[Draw(1, 5)]
    assert torch.equal(first, again)
    assert torch.equal(one["boxes"], two["boxes"])
    assert any(not torch.equal(first, dataset[Draw(1, seed)][0]) for seed in range(5))


def test_digit_scenes_have_boxes_and_masks():
    options = DataOptions(
        source="digit_scenes",
        shorter_side=64,
        max_side=64,
        workers=0,
        batch_size=3,
        scenes=ScenesOptions(num_train=9, num_val=4, size=64, num_digits=(0, 3)),
    )
    module = DetectionData(options, masks=True)
    images, targets, _ = next(iter(module.train_dataloader()))
    assert len(images) == len(targets) == 3
    for index in (0, 1, 0):  # made, then kept
        image, target = module.dataset("val")[index]
        scene = module.dataset("val").source.scenes[index]
        assert torch.equal(image, torch.from_numpy(np.array(scene.image)).permute(2, 0, 1))
        assert torch.equal(target["masks"].bool(), torch.from_numpy(scene.masks))
        assert torch.equal(target["labels"], torch.from_numpy(scene.labels) + 1)


# ---- faults


def change(path, **first):
    content = json.loads(path.read_text())
    content["annotations"][0] |= first
    path.write_text(json.dumps(content))


FAULTS = {
    "no width": ({"bbox": [8, 10, 0, 20]}, r"annotation 100 of image 11 \(train0\.png\).*has no width"),
    "no height": ({"bbox": [8, 10, 5, -1]}, "annotation 100 .*has no height"),
    "outside": ({"bbox": [200, 10, 20, 20]}, "annotation 100 .*lies outside the image, 64x48"),
    "beyond the edge": ({"bbox": [50, 10, 30, 20]}, "annotation 100 .*lies outside the image"),
    "no box": ({"bbox": [1, 2, 3]}, r"annotation 100 .*is not \[left, top, width, height\]"),
    "not a number": ({"bbox": [1, 2, 3, float("nan")]}, "annotation 100 .*is not"),
    "category": ({"category_id": 99}, "annotation 100 .*unknown category id 99"),
    "image": ({"image_id": 999}, "annotation 100: there is no image of id 999"),
    "no mask": ({"segmentation": []}, r"annotation 100 .*has no mask; for boxes alone train with --heads\.masks false"),
    "a line": ({"segmentation": [[1, 2, 3, 4]]}, "annotation 100 .*a polygon needs three points"),
    "no counts": ({"segmentation": {"size": [48, 64]}}, "annotation 100 .*its RLE mask cannot be read"),
    "mask size": (
        {"segmentation": {"size": [3, 3], "counts": [9]}},
        r"annotation 100 .*its RLE mask has the size \[3, 3\]",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_file_and_id_and_can_be_left_out(tmp_path, fault):
    root = make_coco(tmp_path / "data")
    changed, message = FAULTS[fault]
    change(root / TRAIN, **changed)
    with pytest.raises(DataError, match=f"instances_train.json: {message}") as error:
        data(root)
    assert "\n" not in str(error.value)
    module = data(root, invalid="drop")
    assert "train: 1 faults left out" in str(module)
    assert len(module.dataset("train")) == 4
    assert len(module.dataset("train")[0][1]["labels"]) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"image 11 \(train0\.png\): there is no such file"),
        (lambda path: Image.new("RGB", (9, 48)).save(path), r"image 11 .*has 9x48 pixels, the annotations 64x48"),
        (lambda path: path.write_bytes(b"hello"), r"image 11 \(train0\.png\): is no image"),
    ],
)
def test_a_fault_of_an_image(tmp_path, spoil, message):
    root = make_coco(tmp_path / "data")
    spoil(root / "images" / "train0.png")
    with pytest.raises(DataError, match=message) as error:
        data(root)
    assert "\n" not in str(error.value)
    assert len(data(root, invalid="drop").dataset("train")) == 3


def test_two_images_of_one_id(tmp_path):
    root = make_coco(tmp_path / "data")
    content = json.loads((root / TRAIN).read_text())
    content["images"][2]["id"] = 11
    content["annotations"] = content["annotations"][:4]
    (root / TRAIN).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"image 11 \(train2\.png\): another image has this id"):
        data(root)
    # Of which of the two the objects of image 11 are cannot be told.
    dataset = data(root, invalid="drop").dataset("train")
    assert [record.path.name for record in dataset.source.records] == ["train1.png", "train3.png"]


def test_many_faults_are_counted(tmp_path):
    root = make_coco(tmp_path / "data", num_train=12)
    content = json.loads((root / TRAIN).read_text())
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    (root / TRAIN).write_text(json.dumps(content))
    with pytest.raises(DataError, match="and 18 more"):
        data(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is no JSON file"),
        ("[]", "has no list of 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "has no images"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "two categories of the id 1",
        ),
    ],
)
def test_a_file_that_is_not_in_the_format(tmp_path, content, message):
    root = make_coco(tmp_path / "data")
    (root / TRAIN).write_text(content)
    with pytest.raises(DataError, match=message):
        data(root)


def test_what_is_where(tmp_path, root):
    with pytest.raises(DataError, match=r"--data\.root"):
        DetectionData(DataOptions(), masks=True)
    with pytest.raises(DataError, match="there is no folder"):
        data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no file"):
        data(root, train=SplitOptions(annotations="other.json"))
    with pytest.raises(DataError, match=r"there is no folder .*other"):
        data(root, train=SplitOptions(images="other"))


def test_categories_that_differ(tmp_path):
    root = make_coco(tmp_path / "data")
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 9, "name": "star"})
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="only in the second: 9 star"):
        data(root)


def test_boxes_alone_need_no_masks(tmp_path):
    root = make_coco(tmp_path / "data")
    change(root / TRAIN, segmentation=[])
    _image, target = data(root, masks=False).dataset("train")[0]
    assert "masks" not in target
    assert len(target["boxes"]) == 2


def test_boxes_that_stick_out_a_little_are_cut(tmp_path):
    root = make_coco(tmp_path / "data")
    change(root / TRAIN, bbox=[-1, -1, 66, 30])
    found = coco.check(coco.read(root / TRAIN, root / "images"), with_masks=True)
    assert found.images[0].boxes[0].tolist() == [0, 0, 64, 29]
