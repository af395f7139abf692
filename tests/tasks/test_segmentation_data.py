import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from mask_folders import CLASSES, COLOURS, make_mask_folders, stripes
from sgformer.engine.sampling import Draw
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation.augment import Augment, AugmentOptions
from sgformer.tasks.segmentation.data import SegmentationData
from sgformer.tasks.segmentation.mapping import read_classes, read_mapping
from sgformer.tasks.segmentation.masks import IGNORE, Coding, colours_for
from sgformer.tasks.segmentation.options import DataOptions, ScenesOptions

PREPROCESSING = Preprocessing(image_size=(32, 32), crop_fraction=1.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_mask_folders(tmp_path_factory.mktemp("stripes"))


def data(root, **kwargs):
    options = DataOptions(root=str(root), image_size=32, batch_size=4, workers=0, **kwargs)
    return SegmentationData(options, PREPROCESSING)


def test_batches_of_folders(root):
    module = data(root)
    assert module.classes == CLASSES
    assert str(module).startswith("3 classes (sky 32.8%, grass 33.9%, brick 33.3%), 6 + 3 images; 1.9% of train is 255")
    images, masks, _ = next(iter(module.train_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert masks.shape == (4, 32, 32)
    assert set(masks.unique().tolist()) <= {0, 1, 2, IGNORE}
    images, maps, _ = next(iter(module.val_dataloader()))
    assert [(p.height, p.width) for p in images] == [tuple(m.shape) for m in maps]
    assert sorted({p.size for p in images}) == [(45, 61), (64, 48)]


def test_a_draw_decides_the_variation(root):
    varied = data(root).train_dataloader().dataset
    first, again, other = varied[Draw(0, 5)], varied[Draw(0, 5)], varied[Draw(0, 6)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("size", [(32, 32), (40, 96)])
def test_mask_and_image_are_varied_alike(size):
    """Stripes have the colour of their class, so that a mask out of place shows."""
    pixels, mask = stripes(3)
    options = AugmentOptions(photometric=0.0, scale=(0.6, 1.8))
    augment = Augment(options, size=size, shorter_side=None, interpolation="bilinear", fill=(0, 0, 0))
    wrong = []
    for seed in range(20):
        torch.manual_seed(seed)
        image, varied = augment(
            tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(mask))
        )
        assert image.shape == (3, *size)
        assert varied.shape == size
        near = (image.permute(1, 2, 0)[..., None, :].float() - torch.tensor(COLOURS)).norm(dim=-1).argmin(-1)
        judged = varied != IGNORE
        wrong.append((near != varied)[judged].float().mean().item())
    assert max(wrong) < 0.1  # a column at each edge of two stripes, where colours mix


def test_masks_stay_under_their_image():
    """Resized by torchvision as masks they lay half a pixel to the bottom right."""
    apart = []
    for seed in range(60):
        torch.manual_seed(seed)
        mask = torch.zeros(90, 90, dtype=torch.uint8)
        top, left = torch.randint(50, (2,)).tolist()
        mask[top : top + 31, left : left + 29] = 1
        options = AugmentOptions(scale=(0.4, 0.99), max_share=1.0, flip=0, photometric=0)
        augment = Augment(options, size=(96, 96), shorter_side=None, interpolation="bilinear", fill=(0, 0, 0))
        image, varied = augment(tv_tensors.Image(255 * mask.expand(3, -1, -1)), tv_tensors.Mask(mask))
        bright, within = image[0] / 255, (varied == 1).float()
        at = torch.arange(96.0)
        apart.append([(w.sum(d) * at).sum() / w.sum() for w in (bright, within) for d in (0, 1)])
    apart = torch.tensor(apart)
    assert (apart[:, :2] - apart[:, 2:]).mean(0).abs().max() < 0.1


def test_crops_avoid_a_single_class():
    mask = np.zeros((64, 200), np.uint8)
    mask[:, 150:] = 1
    image = tv_tensors.Image(torch.zeros(3, 64, 200, dtype=torch.uint8))
    shares = {}
    for limit in (0.75, 1.0):
        options = AugmentOptions(scale=(1.0, 1.0), max_share=limit, flip=0, photometric=0)
        augment = Augment(options, size=(32, 32), shorter_side=None, interpolation="bilinear", fill=(0, 0, 0))
        masks = [augment(image, tv_tensors.Mask(torch.from_numpy(mask)))[1] for _ in range(40)]
        shares[limit] = np.mean([m.float().mean().item() in (0.0, 1.0) for m in masks])
    assert shares[0.75] < shares[1.0] / 2


def save(root, name, array):
    path = root / "annotations" / name
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "annotations/train/1.png").unlink(), r"train/1\.png has no mask in"),
        (lambda root: (root / "images/val/1.png").unlink(), r"annotations/val/1\.png has no image in"),
        (
            lambda root: save(root, "val/1.png", np.zeros((9, 7), np.uint8)),
            r"annotations/val/1\.png is 9x7 pixels and its image .*images/val/1\.png 48x64",
        ),
        (
            lambda root: save(root, "train/1.png", np.full((48, 64), 7, np.uint8)),
            r"annotations/train/1\.png holds the ids 7, which are no classes; the 3 classes have 0 to 2",
        ),
        (
            lambda root: save(root, "train/1.png", np.full((48, 64, 3), (7, 7, 8), np.uint8)),
            r"annotations/train/1\.png is an image in colour.*--data\.mapping",
        ),
        (lambda root: (root / "annotations/train/1.png").write_bytes(b"no"), r"train/1\.png is no image"),
        (lambda root: (root / "images/train/1.png").write_bytes(b"no"), r"images/train/1\.png is no image"),
    ],
)
def test_faults_are_named_before_training_or_dropped(tmp_path, spoil, message):
    root = make_mask_folders(tmp_path / "data")
    spoil(root)
    with pytest.raises(DataError, match=message) as error:
        data(root)
    assert "\n" not in str(error.value)
    assert "--data.faults drop" in str(error.value)
    module = data(root, faults="drop")
    assert len(module.dropped) == 1
    assert len(module.images("train")) + len(module.images("val")) == 8
    assert "1 dropped" in str(module)


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_two_files_of_one_name(tmp_path, kind):
    root = make_mask_folders(tmp_path / "data")
    folder = root / kind / "train"
    Image.open(folder / "1.png").convert("L").save(folder / "1.bmp")
    with pytest.raises(
        DataError, match=rf"{kind}/train/1\.png has the name of .*{kind}/train/1\.bmp, but for the suffix"
    ):
        data(root)
    module = data(root, faults="drop")
    assert [Path(path).name for path in module.dropped] == ["1.png"]
    assert len(module.images("train")) == 6


def test_what_is_unusual_is_said_before_training(tmp_path):
    root = make_mask_folders(tmp_path / "data")
    for number in (0, 1):
        save(root, f"train/{number}.png", np.full((48, 64) if number else (61, 45), IGNORE, np.uint8))
    for path in (root / "annotations/val").iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 1, IGNORE, mask)).save(path)
    module = data(root)
    assert module.dropped == {}
    empty = root / "annotations" / "train" / "0.png"
    for words in (
        f"ignored altogether: {empty} and 1 more",
        "not in val: grass",
        "34.9% of val is 255, which is ignored, in 3 of 3 masks",
    ):
        assert f"; {words}" in str(module)
    for path in (root / "annotations/val").iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), IGNORE)).save(path)
    with pytest.raises(DataError, match=r"every mask of val is ignored, .*annotations/val/0\.png among them"):
        data(root)


def test_what_is_missing_altogether(tmp_path):
    with pytest.raises(DataError, match=r"--data\.root"):
        SegmentationData(DataOptions(), PREPROCESSING)
    with pytest.raises(DataError, match="there is no folder"):
        data(tmp_path / "nowhere")
    root = make_mask_folders(tmp_path / "data")
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes\.txt; it must have the name of each class"):
        data(root)


def test_ids_beyond_a_mask_of_one_bit_and_sixteen(tmp_path):
    coding = Coding.plain(CLASSES)
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "one.png")
    assert coding.read(tmp_path / "one.png").tolist() == np.eye(4).tolist()
    Image.fromarray(np.full((4, 4), 2, np.uint16)).save(tmp_path / "sixteen.png")
    assert (coding.read(tmp_path / "sixteen.png") == 2).all()
    Image.fromarray(np.full((4, 4), 60000, np.uint16)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match="holds the ids 60000"):
        coding.read(tmp_path / "large.png")


def test_a_palette_keeps_its_ids(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8))
    image.putpalette([7] * 768)
    image.save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert Coding.plain(CLASSES).read(tmp_path / "p.png").tolist() == [[0, 1], [2, 255]]


def test_colours_by_a_mapping(tmp_path):
    (tmp_path / "map.yaml").write_text(
        "classes:\n  road: [128, 64, 128]\n  plants: [[107, 142, 35], [152, 251, 152]]\nignore: [[0, 0, 0]]\n"
    )
    coding = read_mapping(tmp_path / "map.yaml")
    assert coding.classes == ("road", "plants")
    assert coding.palette == ((128, 64, 128), (107, 142, 35))
    pixels = np.array([[(128, 64, 128), (152, 251, 152)], [(107, 142, 35), (0, 0, 0)]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert coding.read(tmp_path / "m.png").tolist() == [[0, 1], [1, IGNORE]]
    pixels[0, 0] = 1, 2, 3
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"holds the colours \[1, 2, 3\], which --data\.mapping does not name"):
        coding.read(tmp_path / "m.png")


def test_ids_by_a_mapping(tmp_path):
    root = make_mask_folders(tmp_path / "data")
    path = tmp_path / "map.json"
    path.write_text('{"classes": {"air": 0, "ground": [1, 2]}}')
    module = data(root, mapping=str(path))
    assert module.classes == ("air", "ground")
    assert set(np.unique(module.images("train")[0][1])) == {0, 1, IGNORE}
    for text, message in [("classes: {a: 1, b: [[1, 2, 3]]}", "mixes"), ("{", "no YAML"), ("classes: 3", "no mapping")]:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_mapping(path)


def test_class_files(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("0 background (nothing)\n1 traffic light\n255 ignore\n")
    assert read_classes(path).classes == ("background", "traffic light")
    path.write_text("0 a\n2 b\n")
    with pytest.raises(DataError, match="0, 1, 2 and so on"):
        read_classes(path)
    path.write_text("a\na\n")
    with pytest.raises(DataError, match="there twice: a"):
        read_classes(path)


def test_ade20k_as_released(tmp_path):
    for name in ("training", "validation"):
        for folder in ("images", "annotations"):
            (tmp_path / folder / name).mkdir(parents=True)
        Image.new("RGB", (6, 5)).save(tmp_path / "images" / name / "ADE_1.jpg")
        Image.fromarray(np.array([[0, 1, 2, 3, 3, 0]] * 5, np.uint8)).save(
            tmp_path / "annotations" / name / "ADE_1.png"
        )
    with pytest.raises(DataError, match="objectInfo150"):
        data(tmp_path, source="ade20k")
    rows = "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t5\t5\twall\n2\t0.1\t5\t5\tscreen, crt screen\n3\t0.1\t5\t5\tsky  \n"
    (tmp_path / "objectInfo150.txt").write_text(rows)
    module = data(tmp_path, source="ade20k")
    assert module.classes == ("wall", "screen", "sky")
    assert module.images("val")[0][1][0].tolist() == [IGNORE, 0, 1, 2, 2, IGNORE]


def test_cityscapes_as_released(tmp_path):
    for split in ("train", "val"):
        for folder in ("leftImg8bit", "gtFine"):
            (tmp_path / folder / split / "ulm").mkdir(parents=True)
        Image.new("RGB", (4, 2)).save(tmp_path / "leftImg8bit" / split / "ulm" / "ulm_0_leftImg8bit.png")
        for ending, values in (("labelIds", [[7, 33, 0, 4]] * 2), ("instanceIds", [[700, 1, 0, 4]] * 2)):
            mask = Image.fromarray(np.array(values, np.uint16 if ending == "instanceIds" else np.uint8))
            mask.save(tmp_path / "gtFine" / split / "ulm" / f"ulm_0_gtFine_{ending}.png")
    module = data(tmp_path, source="cityscapes")
    assert len(module.classes) == 19
    assert module.images("val")[0][1][0].tolist() == [0, 18, IGNORE, IGNORE]


def test_images_that_lie_together(root, tmp_path):
    (tmp_path / "images").mkdir()
    for split in ("train", "val"):
        (tmp_path / "semantic" / split).mkdir(parents=True)
        for path in (root / "images" / split).iterdir():
            name = f"{split}{path.name}"
            (tmp_path / "images" / name).write_bytes(path.read_bytes())
            mask = root / "annotations" / split / path.name
            (tmp_path / "semantic" / split / name).write_bytes(mask.read_bytes())
    module = data(tmp_path, images="images", masks="semantic/{split}", classes=str(root / "classes.txt"))
    assert (len(module.samples["train"]), len(module.samples["val"])) == (6, 3)


def test_digit_scenes_and_their_classes():
    scenes = ScenesOptions(num_train=4, num_val=2, size=48)
    module = SegmentationData(DataOptions(source="digit_scenes", scenes=scenes), PREPROCESSING)
    assert module.classes == ("background", *"0123456789")
    image, mask = module.images("val")[1]
    assert image.size == (48, 48)
    assert 0 < (mask > 0).mean() < 1


def test_a_model_with_other_classes(root):
    options = DataOptions(root=str(root))
    module = SegmentationData(options, PREPROCESSING, classes=("brick", "road", "grass", "sky"))
    own = SegmentationData(options, PREPROCESSING)
    ours, theirs = module.images("val")[0][1], own.images("val")[0][1]
    for index, name in enumerate(CLASSES):
        assert ((theirs == index) == (ours == module.classes.index(name))).all()
    with pytest.raises(DataError, match="does not know brick, grass; it knows road, sky"):
        SegmentationData(options, PREPROCESSING, classes=("sky", "road"))


def test_colours_differ():
    assert len(set(colours_for(150))) > 140


@pytest.mark.parametrize("name", ["camvid11", "coco_tiny80", "ade20k_sample3"])
def test_real_data(name):
    folder = os.environ.get("SGFORMER_DATA")
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip(f"set SGFORMER_DATA to the folder that holds {name}")
    layout = {}
    if name == "coco_tiny80":
        layout = {"images": "images", "masks": "semantic/{split}", "classes": "semantic_classes.txt"}
    options = DataOptions(root=str(Path(folder) / name), **layout)
    module = SegmentationData(options, PREPROCESSING, splits=("val",))
    image, mask = module.images("val")[0]
    assert mask.shape == (image.height, image.width)
    assert len(module.classes) == {"camvid11": 11, "coco_tiny80": 81, "ade20k_sample3": 150}[name]


def test_masks_of_one_class_alone_are_told(root):
    assert "one class alone" not in str(data(root))
    for name, value in (("0", 0), ("1", 0), ("2", 2)):
        path = root / "annotations" / "train" / f"{name}.png"
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), value)).save(path)
    assert "; masks of train with one class alone: sky 2, brick 1" in str(data(root))
