import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import sgformer  # noqa: F401
from class_folders import make_class_folders
from sgformer import tasks
from sgformer.commands.train import train
from sgformer.engine import recipe
from sgformer.engine.sampling import seed_all
from sgformer.engine.weights import WeightsError
from sgformer.tasks.backbones import ModelOptions
from sgformer.tasks.classification import Classifier
from sgformer.tasks.classification.augment import AugmentOptions, image_transform
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.evaluation import evaluate
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.classification.task import ClassificationTask, Recipe, build
from sgformer.tasks.errors import DataError
from sgformer.tasks.folders import find_images
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.loading import Batch, Unreadable, collate_readable

PREPROCESSING = Preprocessing(image_size=(32, 32))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_class_folders(tmp_path_factory.mktemp("colours"))


def classifier(name="sgformer_test", classes=("blue", "green", "red"), **kwargs):
    torch.manual_seed(0)
    return Classifier(name, classes=classes, preprocessing=PREPROCESSING, **kwargs).eval()


def data(root, **kwargs):
    options = DataOptions(root=str(root), image_size=32, batch_size=4, workers=0, **kwargs)
    return ClassificationData(options, PREPROCESSING)


# ---- data


def test_sizes_of_training_and_evaluation_may_differ(folders):
    options = DataOptions(root=str(folders), image_size=(32, 64), eval_image_size=48, batch_size=4, workers=0)
    recipe = Recipe(model=ModelOptions(name="sgformer_test"), data=options)
    task, module = build(recipe)
    assert next(iter(module.train_dataloader()))[0].shape == (4, 3, 32, 64)
    assert next(iter(module.val_dataloader()))[0].shape == (4, 3, 48, 48)
    assert task.model.preprocessing.image_size == (48, 48)
    assert task.model.backbone.stem.grid_size == (8, 16)
    recipe.model.name = "swin_tiny_patch4_window7_224"
    with pytest.raises(ValueError, match="images of one size only"):
        build(recipe)


@pytest.mark.parametrize(("mix_epochs", "mixes"), [(None, True), (1, True), (0, False)])
def test_mixing_ends(folders, mix_epochs, mixes):
    augment = AugmentOptions(mixup=1.0, mix_epochs=mix_epochs)
    data = DataOptions(root=str(folders), image_size=32, batch_size=4, workers=0, augment=augment)
    task, _ = build(Recipe(model=ModelOptions(name="sgformer_test"), data=data))
    mixed = []
    task.augment.mixup = lambda images, targets: mixed.append(len(images)) or (images, targets)
    task.loss(Batch(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 2, 0])))  # in epoch 0
    assert bool(mixed) == mixes


def test_batches_of_class_folders(folders):
    module = data(folders)
    assert module.classes == ("blue", "green", "red")
    images = next(iter(module.train_dataloader())).images
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype == torch.uint8
    seen = torch.cat([batch.targets for batch in module.val_dataloader()])
    assert seen.tolist() == sorted(seen.tolist())
    assert len(seen) == 12
    first, again = (torch.cat([batch.images for batch in module.val_dataloader()]) for _ in range(2))
    assert torch.equal(first, again)


def test_a_data_set_smaller_than_a_batch_still_trains(folders):
    options = DataOptions(root=str(folders), batch_size=512, workers=0, augment=AugmentOptions(mixup=0.2))
    loader = ClassificationData(options, PREPROCESSING).train_dataloader()
    assert [len(batch.images) for batch in loader] == [24]


def remove(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: remove(root), "there is no folder"),
        (lambda root: remove(root / "val"), "has no folder 'val'; expected"),
        (
            lambda root: (
                remove(root / "val"),
                [p.rename(root / p.name) for p in (root / "train").iterdir()],
                (root / "train").rmdir(),
            ),
            "seems to hold the classes themselves: move some",
        ),
        (
            lambda root: [remove(root / split / name) for split in ("train", "val") for name in ("red", "blue")],
            "only the class green; a classifier needs at least two",
        ),
        (lambda root: (remove(root / "train"), (root / "train").mkdir()), "no class folders"),
        (lambda root: [path.unlink() for path in root.glob("train/*/*")], "there are no images"),
        (lambda root: [path.unlink() for path in root.glob("train/red/*")], "no images in .*train for red"),
        (lambda root: remove(root / "val" / "red"), "only in train: red"),
        (lambda root: (root / "val" / "red").rename(root / "val" / "pink"), "only in train: red; only in val: pink"),
    ],
)
def test_spoilt_folders(tmp_path, spoil, message):
    root = make_class_folders(tmp_path / "data", num_train=2, num_val=1)
    spoil(root)
    with pytest.raises(DataError, match=message) as error:
        data(root)
    assert "\n" not in str(error.value)


def test_a_split_in_place_of_the_folder_of_both(folders):
    with pytest.raises(DataError, match=rf"name the folder above it: --data\.root {folders}$"):
        data(folders / "train")


def test_which_folder():
    with pytest.raises(DataError, match=r"--data\.root"):
        ClassificationData(DataOptions(), PREPROCESSING)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_left_out_and_named(tmp_path, workers):
    root = make_class_folders(tmp_path, num_train=2, num_val=1)
    (root / "val" / "red" / "0.png").write_bytes(b"")
    module = ClassificationData(DataOptions(root=str(root), workers=workers, max_unreadable=0.5), PREPROCESSING)
    (batch,) = module.val_dataloader()
    assert batch.targets.tolist() == [0, 1]
    ((path, reason),) = batch.unreadable
    assert path.endswith("red/0.png")
    assert "is empty" in reason
    report = evaluate(classifier(), DataOptions(root=str(root), image_size=32, workers=0))
    assert (report.num_images, report.num_unreadable) == (2, 1)
    for path in root.glob("val/*/*.png"):
        path.write_bytes(b"")
    (batch,) = module.val_dataloader()
    assert len(batch.images) == 0
    assert len(batch.unreadable) == 3
    with pytest.raises(DataError, match=r"none of 3 images can be read.*is empty"):
        evaluate(classifier(), DataOptions(root=str(root), image_size=32, workers=0))


def test_batches_without_a_readable_image_end_no_run(tmp_path):
    root = make_class_folders(tmp_path / "data", num_train=2, num_val=1)
    for bad in ("train/red/0.png", "val/red/0.png"):
        (root / bad).write_bytes(b"")
    folder = train(
        "smoke",
        {
            "data.source": "folders",
            "data.root": str(root),
            "data.image_size": 32,
            "data.batch_size": 1,
            "data.max_unreadable": 0.3,
            "data.workers": 0,
            "data.augment.mixup": 0.0,
            "data.augment.cutmix": 0.0,
            "model.name": "sgformer_test",
            "trainer.max_epochs": 1,
            "trainer.report": False,
            "trainer.tensorboard": False,
        },
        out=tmp_path,
    )
    assert (folder / "unreadable.csv").read_text().count("is empty") == 2
    (row,) = csv.DictReader((folder / "metrics.csv").open())
    assert int(row["step"]) == 6
    assert all(math.isfinite(float(value)) for value in row.values())


def test_the_loss_of_no_image_is_zero_and_reaches_all_weights():
    recipe = Recipe()
    task = ClassificationTask(classifier(), recipe)
    loss = task.loss(collate_readable([Unreadable("a.jpg", "is empty")]))
    loss.backward()
    assert loss.item() == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in task.parameters())


@pytest.mark.parametrize("views", [1, 2, 5, 10])
def test_views_of_an_image_are_averaged(folders, views):
    model, seen = classifier(), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    options = DataOptions(root=str(folders), image_size=32, workers=0, views=views, crop_fraction=0.8)
    report = evaluate(model, options)
    assert [len(logits) for logits in seen] == [12] * views  # a view at a time, all images at once
    named = torch.stack(seen).softmax(-1).mean(0).argmax(-1)
    true = torch.arange(3).repeat_interleave(4)
    assert report.top1 == pytest.approx((named == true).double().mean().item())


def test_a_model_and_a_folder_with_other_classes(folders):
    model = classifier(classes=("cat", "dog"))
    with pytest.raises(DataError, match="does not know blue, green, red; it knows cat, dog"):
        evaluate(model, DataOptions(root=str(folders), image_size=32, workers=0))


@pytest.mark.parametrize("name", ["in1k", "finetune"])
def test_no_draw_of_a_recipe_s_augmentation_fails(name, folders):
    augment = recipe.parse(recipe.find(name), Recipe).data.augment
    transform, _ = image_transform(augment, PREPROCESSING, (32, 32))
    image = Image.new("RGB", (40, 40), (200, 100, 50))
    for seed in range(1500):  # strengths are drawn too, and the strongest are rare
        seed_all(seed)
        assert transform(image).shape == (3, 32, 32)


def test_mixing_needs_pairs():
    with pytest.raises(ValueError, match="make it even"):
        DataOptions(batch_size=5, augment=AugmentOptions(cutmix=1.0))


# ---- model


@pytest.mark.parametrize("name", ["sgformer_test", "resnet10t", "test_vit"])
def test_weights_file_gives_the_same_model_back(tmp_path, name):
    kwargs = {"img_size": 32} if name == "test_vit" else {}
    model = classifier(name, kwargs=kwargs)
    model.save(tmp_path / "w.safetensors", metrics={"val_top1": 0.5})
    again = tasks.load(tmp_path / "w.safetensors")
    assert not again.training
    assert (again.name, again.classes, again.preprocessing) == (model.name, model.classes, model.preprocessing)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), again(x))


def test_predict_takes_anything_and_says_the_same(tmp_path):
    model = classifier().train()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "x.png")
    path = tmp_path / "x.png"
    ways = [path, str(path), path.read_bytes(), image, pixels]
    predictions = [model.predict(way) for way in ways]
    assert all(prediction == predictions[0] for prediction in predictions)
    assert model.training  # left as it was
    prediction = predictions[0]
    assert prediction.label == prediction.top[0][0]
    assert [score for _, score in prediction.top] == sorted((score for _, score in prediction.top), reverse=True)
    assert sum(score for _, score in prediction.top) == pytest.approx(1, abs=1e-5)
    assert json.loads(json.dumps(prediction.to_dict()))["label"] == prediction.label
    many = model.predict(ways, batch_size=2, top_k=1)
    assert [p.label for p in many] == [prediction.label] * len(ways)
    assert all(len(p.top) == 1 for p in many)
    assert model.predict([]) == []


def test_significance_is_within_reach():
    maps = classifier().backbone.forward_significance(torch.randn(1, 3, 32, 32))
    assert all(significance.ndim == 3 for significance in maps)


@pytest.mark.parametrize("name", ["sgformer_x", "resnet_18", "", "hf-hub:someone/something", "local-dir:/tmp"])
def test_only_registered_models(name):
    with pytest.raises(ValueError, match="unknown model"):
        classifier(name)


@pytest.mark.parametrize("kwargs", [{"foo": 1}, {"checkpoint_path": "x.pth"}, {"pretrained": True}])
def test_arguments_that_a_model_does_not_take_or_must_not_get(kwargs):
    with pytest.raises(ValueError, match=r"model\.kwargs"):
        classifier(kwargs=kwargs)


def test_starting_from_weights_of_other_classes_and_another_size(tmp_path):
    classifier().save(tmp_path / "w.safetensors")
    same, other = classifier(), classifier(classes=("cat", "dog"), kwargs={"img_size": 32})
    other.preprocessing = PREPROCESSING
    for model in (same, other):
        torch.nn.init.zeros_(model.backbone.stem.conv1.weight)
        head = model.backbone.head.fc.weight.clone()
        model.start_from(tmp_path / "w.safetensors") if model is other else None
    assert torch.equal(other.backbone.head.fc.weight, head)
    assert other.backbone.stem.conv1.weight.abs().sum() > 0
    with pytest.raises(WeightsError, match="holds a sgformer_test, not a resnet10t"):
        classifier("resnet10t").start_from(tmp_path / "w.safetensors")


@pytest.mark.parametrize("num", [1, 3, 5])
@pytest.mark.parametrize("name", ["sgformer_test", "resnet10t"])
def test_starting_from_weights_of_other_input_channels(tmp_path, name, num):
    rgb, other = classifier(name), classifier(name, kwargs={"in_chans": num})
    rgb.save(tmp_path / "w.safetensors")
    other.start_from(tmp_path / "w.safetensors")
    grey = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    # The same channel three times is summed with one, and spread over five.
    x = {1: grey, 3: grey.expand(-1, 3, -1, -1), 5: grey.expand(-1, 5, -1, -1)}[num]
    expected = rgb.double()(grey.expand(-1, 3, -1, -1))
    if num == 5:  # timm weighs the repeated channels by 3/5; with R, G and B unlike, their sum is another
        assert other.double()(x).isfinite().all()
    else:
        torch.testing.assert_close(other.double()(x), expected)


def test_recipes_are_for_colour_images():
    with pytest.raises(ValueError, match="images are read as RGB"):
        ModelOptions(kwargs={"in_chans": 1})


# ---- task


def test_the_image_size_reaches_models_that_are_built_for_one(folders):
    def make(name):
        return build(
            Recipe(model=ModelOptions(name=name), data=DataOptions(root=str(folders), image_size=64, workers=0))
        )[0].model

    assert make("test_vit").kwargs == {"img_size": [64, 64]}
    assert make("sgformer_test").backbone.stem.grid_size == (16, 16)
    assert make("resnet10t").kwargs == {}


def test_report_counts_what_is_right(folders):
    model = classifier()
    report = evaluate(model, DataOptions(root=str(folders), image_size=32, workers=0, batch_size=5))
    files = [(path, path.parent.name) for path in find_images(folders / "val")]
    right = [model.predict(path).label == name for path, name in files]
    assert report.num_images == len(files) == 12
    assert report.top1 == pytest.approx(np.mean(right))
    assert report.top5 == 1
    assert [row.name for row in report.classes] == ["blue", "green", "red"]
    assert sum(row.num_images * row.top1 for row in report.classes) == pytest.approx(sum(right))
    json.dumps(report.to_dict())
    heads, rows = report.to_table()
    assert all(len(row) == len(heads) for row in rows)
    assert [row[0] for row in rows] == ["blue", "green", "red"]
    assert report.to_lines()[0] == f"all 12 images: top-1 {report.top1:.1%}"
