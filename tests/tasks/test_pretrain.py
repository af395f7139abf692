"""Pretraining: a student learns from a teacher, on images without labels."""

import csv
import shutil
import tarfile

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import sgformer
from sgformer.commands.evaluate import evaluate
from sgformer.commands.train import train
from sgformer.engine import recipe as recipes
from sgformer.engine.callbacks import LossError
from sgformer.engine.sampling import Draw
from sgformer.engine.weights import read_metadata
from sgformer.tasks.backbones import kwargs_of
from sgformer.tasks.classification import Classifier
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.pretrain.data import DataOptions, PretrainData, Weighted
from sgformer.tasks.pretrain.task import Recipe
from sgformer.tasks.pretrain.teacher import Teacher, TeacherOptions

SHORT = {
    "model.name": "test_resnet",
    "data.source": "images",
    "data.num_val": 4,
    "data.image_size": 32,
    "data.eval_image_size": 32,
    "data.batch_size": 8,
    "trainer.significance": False,
    "trainer.tensorboard": False,
    "trainer.report": False,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with 36 images of one colour and noise, at two depths."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(36):
        pixels = rng.integers(0, 60, (40, 40, 3))
        pixels[..., i % 3] += 180
        path = folder / ("deep/er" if i % 2 else "") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A weights file of this package: three classes, told apart by what is reddest, greenest and bluest."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    torch.manual_seed(0)
    preprocessing = Preprocessing(image_size=(32, 32))
    model = Classifier("test_resnet", classes=["red", "green", "blue"], preprocessing=preprocessing)
    model.save(path)
    return path


def start(teacher, photos, out, **overrides):
    given = {**SHORT, "teacher.name": "test_resnet", "teacher.weights": str(teacher), "data.root": str(photos)}
    return train("pretrain/smoke", {**given, **{k.replace("__", "."): v for k, v in overrides.items()}}, out=out)


def losses(run):
    with (run / "metrics.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def test_a_student_comes_to_say_what_the_teacher_says(teacher, photos, tmp_path):
    run = start(teacher, photos, tmp_path, trainer__max_epochs=12, loss__maps=0.5, loss__distance="smooth_l1")
    found = losses(run)
    assert found[-1] < 0.5 * found[0]
    model = sgformer.load(run)  # an ordinary classifier: nothing of teacher or projector is kept
    assert model.classes == ("red", "green", "blue")
    assert model.predict(photos / "00.png").label in model.classes
    metadata = read_metadata(run / "best.safetensors")
    assert metadata["task"] == "classification"
    assert str(photos) not in str(metadata)
    assert str(teacher) not in str(metadata)


def test_its_weights_are_evaluated_as_a_classifiers(teacher, photos, tmp_path):
    run = start(teacher, photos, tmp_path, trainer__max_epochs=1)
    for name in ("red", "green", "blue"):
        (tmp_path / "val" / name).mkdir(parents=True)
        shutil.copy(photos / "00.png", tmp_path / "val" / name)
    report = evaluate(run, {"data.root": str(tmp_path)})
    assert report.num_images == 3


def test_a_resumed_run_is_an_unbroken_one(teacher, photos, tmp_path):
    broken = start(teacher, photos, tmp_path / "broken", trainer__max_epochs=2, optim__schedule="constant")
    whole = start(teacher, photos, tmp_path / "whole", trainer__max_epochs=3, optim__schedule="constant")
    train(overrides={"trainer.max_epochs": 3}, resume=broken)
    one, other = (torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (whole, broken))
    assert one.keys() == other.keys()
    assert any(name.startswith("projector.") for name in one)
    assert not any(name.startswith("teacher.") for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(whole) == losses(broken)


def test_several_folders_have_weights(photos):
    parts = [([0, 1, 2, 3], 0.5), ([4], 3.0)]
    asked = []

    class Images:
        def __getitem__(self, index):
            asked.append(index.index if isinstance(index, Draw) else index)

    dataset = Weighted(Images(), parts)
    assert len(dataset) == 5
    for seed in range(40):
        for place in range(5):
            dataset[Draw(place, seed)]
    assert set(asked) == {0, 1, 2, 3, 4}
    assert asked.count(4) == 3 * 40
    options = DataOptions(roots={str(photos): 1.0, str(photos / "deep"): 2.0}, num_val=6)
    data = PretrainData(options, Preprocessing(image_size=(32, 32)))
    assert [len(indices) for indices, _ in data.parts] == [32, 16]


def test_images_come_from_any_source_of_classification(photos, tmp_path):
    """Sources of classification without their labels: a list of paths alone, JPEG in NPZ, class folders, shards."""
    paths = sorted(photos.rglob("*.png"))
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{path}\n" for path in paths))
    files = []
    for path in paths:
        Image.open(path).save(tmp_path / "one.jpg")
        files.append((tmp_path / "one.jpg").read_bytes())
    np.savez(
        tmp_path / "train.npz",
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offset=np.cumsum([0, *map(len, files)]),
        label=np.arange(36),
        classes=np.array([f"c{i}" for i in range(36)]),
    )
    shutil.copytree(photos, tmp_path / "folders/train/any")
    given = [
        {"source": "list", "train_list": str(tmp_path / "list.csv")},
        {"source": "npz", "root": str(tmp_path)},
        {"source": "folders", "root": str(tmp_path / "folders")},
    ]
    for one in given:
        options = DataOptions(**one, num_val=6, batch_size=10, image_size=32, workers=0)
        data = PretrainData(options, Preprocessing(image_size=(32, 32)))
        assert (len(data.parts[0][0]), len(data.val), data.num_images) == (30, 6, 36)
        batches = [*data.train_dataloader(), *data.val_dataloader()]
        assert [len(batch.images) for batch in batches] == [10, 10, 10, 6]
    with pytest.raises(ValueError, match="roots"):
        DataOptions(source="npz", roots={str(photos): 1.0})


def test_shards_need_no_labels(teacher, photos, tmp_path):
    pytest.importorskip("webdataset")
    (tmp_path / "broken.png").write_bytes(b"no image")
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as file:
            for i, path in enumerate(sorted(photos.rglob("*.png"))):
                file.add(path, f"{i}.png")
            if split == "train":
                file.add(tmp_path / "broken.png", "broken.png")
    shards = {f"data.{split}_shards": str(tmp_path / f"{split}-*.tar") for split in ("train", "val")}
    more = {"data.source": "shards", "data.num_train": 64, "data.root": None, "data.max_unreadable": 0.1}
    run = start(teacher, photos, tmp_path, trainer__max_epochs=1, **{**shards, **more})
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["step"]) == 8
    assert "broken" in (run / "unreadable.csv").read_text()
    with pytest.raises(DataError, match="val_shards"):
        start(teacher, photos, tmp_path, **{**shards, **more, "data.val_shards": None})


def test_what_is_no_image_is_counted(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "more")
    (tmp_path / "more" / "raw.heic").write_bytes(b"")
    options = DataOptions(root=str(tmp_path / "more"), num_val=6)
    assert "1 .heic" in str(PretrainData(options, Preprocessing(image_size=(32, 32))))


def test_masks_among_the_images_are_counted(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "set" / "images")
    shutil.copytree(photos / "deep", tmp_path / "set" / "Annotations")
    data = PretrainData(DataOptions(root=str(tmp_path / "set"), num_val=2), Preprocessing(image_size=(32, 32)))
    assert f"18 images lie in folders of masks or labels, {tmp_path}/set/Annotations/er" in data.notes


def test_tensors_of_other_names_are_taken_in_order(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("test_resnet")
    renamed = {f"layer{i}": tensor for i, tensor in enumerate(model.state_dict().values())}
    torch.save(renamed, tmp_path / "teacher.pth")
    teacher = Teacher(TeacherOptions(name="test_resnet", weights=str(tmp_path / "teacher.pth"), precision="float32"))
    images = torch.rand(2, 3, 64, 64)
    preprocessing = Preprocessing(image_size=(64, 64), mean=(0, 0, 0), std=(1, 1, 1))
    mean, std = (torch.tensor(v)[:, None, None] for v in (teacher.preprocessing.mean, teacher.preprocessing.std))
    torch.testing.assert_close(teacher(images, preprocessing).logits, model.eval()((images - mean) / std))
    assert len(teacher.classes) == 1000
    assert teacher.names["n01440764"] == "tench"
    del renamed["layer0"]
    save_file(renamed, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match="tensors"):
        Teacher(TeacherOptions(name="test_resnet", weights=str(tmp_path / "less.safetensors")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher__weights": None}, "teacher.weights"),
        ({"teacher__weights": "package:no_such_package/a.pth", "teacher__install": "x==1"}, "pip install x==1"),
        ({"teacher__weights": "package:timm/a.pth"}, "no file a.pth"),
        ({"teacher__weights": "nowhere.safetensors"}, "nowhere"),
        ({"teacher__name": "resnet18"}, "teacher.name test_resnet"),
        ({"teacher__classes": "{folder}/two.txt"}, "2 classes"),
        ({"data__root": "{folder}/empty"}, "no images"),
        ({"data__root": "{folder}/one"}, "one image"),
        ({"data__root": None}, "data.root"),
        ({"data__num_val": 30}, "data.num_val"),
        ({"loss__temperature": 0}, "temperature"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(teacher, photos, tmp_path, change, words):
    (tmp_path / "empty").mkdir()
    shutil.copytree(photos, tmp_path / "one", ignore=shutil.ignore_patterns("deep", "0[1-9]*", "[1-9]*"))
    (tmp_path / "two.txt").write_text("a\nb\n")
    change = {k: v.format(folder=tmp_path) if isinstance(v, str) else v for k, v in change.items()}
    with pytest.raises((ValueError, DataError), match=words):
        start(teacher, photos, tmp_path / "runs", **change)
    assert not (tmp_path / "runs").exists()


def test_the_recipe_takes_any_student():
    """Nothing in it is for one model alone."""
    parsed = recipes.parse(recipes.find("pretrain/sgformer_t"), Recipe, {"model.name": "convnext_femto"})
    kwargs = kwargs_of(parsed.model, image_size=parsed.data.train_size)
    with torch.device("meta"):
        timm.create_model(parsed.model.name, **kwargs)


def test_a_teacher_that_holds_a_nan_is_refused(photos, tmp_path):
    tensors = timm.create_model("test_resnet").state_dict()
    tensors["conv1.0.weight" if "conv1.0.weight" in tensors else "conv1.weight"][0] = torch.nan
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="NaN"):
        start(tmp_path / "bad.safetensors", photos, tmp_path)


def test_a_code_carrying_teacher_is_not_run(photos, tmp_path):
    torch.save(timm.create_model("test_resnet"), tmp_path / "whole.pth")  # a module, not tensors
    with pytest.raises(ValueError, match="nothing in it was run"):
        start(tmp_path / "whole.pth", photos, tmp_path)


def test_a_nan_ends_the_run(teacher, photos, tmp_path):
    with pytest.raises(LossError, match="step"):
        start(teacher, photos, tmp_path, optim__lr=1e30, optim__warmup_epochs=0, trainer__clip_grad=None)
