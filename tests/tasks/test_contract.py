"""Contract of all tasks: each learns, resumes, predicts, survives an unreadable image, saves and loads alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pycocotools", reason="detection needs pycocotools")
pytest.importorskip("segmentation_models_pytorch", reason="segmentation needs segmentation-models-pytorch")

import sgformer
from class_folders import make_class_folders
from coco_files import make_coco
from mask_folders import make_mask_folders
from sgformer import tasks
from sgformer.commands.embed import embed
from sgformer.commands.train import train
from sgformer.engine import fit, recipe, weights
from sgformer.engine.callbacks import CountUnreadable
from sgformer.engine.optim import OptimOptions, create_optimizer
from sgformer.tasks.data import Data
from sgformer.tasks.evaluation import BaseReport
from sgformer.tasks.model import Kept
from sgformer.tasks.options import Recipe
from sgformer.tasks.prediction import Prediction
from sgformer.tasks.task import Task

# Everything that is drawn at random is turned on.
TINY = {
    "model.drop_path_rate": 0.2,
    "data.batch_size": 2,
    "data.max_unreadable": 0.5,
    "data.augment.flip": 0.5,
    "trainer.accelerator": "cpu",
    "trainer.tensorboard": False,
    "trainer.checkpoint_minutes": 0,
}
OF_EACH = {
    "classification": {
        "data.source": "folders",
        "data.image_size": 32,
        "data.augment.mixup": 0.2,
        "data.augment.erase": 0.5,
        "data.augment.color_jitter": 0.3,
    },
    "detection": {
        "data.source": "coco",
        "data.shorter_side": 48,
        "data.max_side": 64,
        "data.augment.shorter_sides": "[40, 48]",
        "data.augment.photometric": 0.5,
        "heads.channels": 16,
        "heads.box_channels": 32,
    },
    "pretrain": {"data.source": "images", "data.num_val": 3},
    "segmentation": {
        "data.source": "folders",
        "data.image_size": 32,
        "data.augment.scale": "[0.5, 2.0]",
        "data.augment.photometric": 0.5,
    },
}
MAKE = {
    "classification": lambda root: make_class_folders(root, num_train=2, num_val=1),
    "detection": make_coco,
    "pretrain": lambda root: make_class_folders(root, num_train=2, num_val=1),
    "segmentation": make_mask_folders,
}
# Needed to train, and not to predict.
OF_TRAINING = [
    *("lightning", "pytorch_lightning", "torchmetrics", "pydantic", "tensorboard", "matplotlib", "rich"),
    *("pycocotools", "pandas", "webdataset", "jinja2", "skimage", "sklearn"),
]


@pytest.fixture(scope="module", params=sorted(tasks.TASKS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def settings(name, tmp_path_factory):
    root = MAKE[name](tmp_path_factory.mktemp("data") / name)
    return {**TINY, **OF_EACH[name], "data.root": str(root)}


def build(name, settings):
    folder = tasks.get(name)
    return folder.build(recipe.parse(recipe.find(f"{name}/smoke"), folder.Recipe, settings))


@pytest.fixture(scope="module")
def run(name, settings, tmp_path_factory):
    return train(f"{name}/smoke", settings, out=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((50, 70), (64, 40), (50, 70))]


@pytest.mark.parametrize(("kind", "arguments"), [(Data, (None,)), (Task, (None, OptimOptions())), (Prediction, ())])
def test_a_task_that_lacks_a_part_is_told_at_once(kind, arguments):
    with pytest.raises(TypeError, match="abstract"):
        type("Lacking", (kind,), {})(*arguments)


def test_every_task_is_made_of_the_same_parts(name):
    folder = tasks.get(name)
    assert issubclass(folder.Recipe, Recipe)
    assert folder.Recipe().task == name
    assert issubclass(folder.Kept, Kept)
    shared = Path(tasks.__file__).parent
    files = {path.stem for path in (shared / name).glob("*.py")}
    same = {"data", "evaluation", "model", "task"}
    if name != "pretrain":  # whose model is a classifier
        same |= {"augment", "export", "options", "prediction"}
    assert same <= files
    assert same - {"augment"} <= {path.stem for path in shared.glob("*.py")}  # what each begins from


def test_it_learns_one_batch(name, settings):
    torch.manual_seed(0)
    task, data = build(name, settings | {"data.augment.flip": 0, "model.drop_path_rate": 0})
    assert isinstance(task, Task)
    assert isinstance(data, Data)
    task.augment = lambda images, targets, epoch: (images, targets)  # the same batch in each step
    batch = next(iter(data.train_dataloader()))
    optimizer = create_optimizer(task.learned, OptimOptions(lr=3e-3, weight_decay=0.0))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = task.train().loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.learned.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:2])


def outcome(folder):
    """Weights, their average and the optimizer's state, by name."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    states = checkpoint["optimizer_states"][0]["state"]
    return {
        **{f"now.{name}": tensor for name, tensor in checkpoint["current_model_state"].items()},
        **{f"{i}.{name}": value for i, state in states.items() for name, value in state.items()},
        **weights.read(folder / "last.safetensors")[0],
    }


def test_a_run_that_was_cut_off_ends_as_if_nothing_had_happened(name, settings, run, tmp_path, monkeypatch):
    step, whole = Task.training_step, outcome(run)
    last = torch.load(run / "last.ckpt", weights_only=True)["global_step"]

    def stops(task, batch, batch_idx):
        if task.global_step == last // 2 + 1:  # within the second epoch
            raise RuntimeError("the power went")
        return step(task, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", stops)
        with pytest.raises(RuntimeError, match="the power went"):
            train(f"{name}/smoke", settings, out=tmp_path)
    folder = tmp_path / "smoke"
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == last // 2 + 1
    train(resume=folder)
    resumed = outcome(folder)
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert not any(name.startswith("now.teacher") for name in whole)


def test_a_prediction_does_not_depend_on_what_shares_its_batch(run, images):
    model = sgformer.load(run).double()
    alone = [model.predict(image).to_dict() for image in images]
    together = [prediction.to_dict() for prediction in model.predict(images)]
    assert json.dumps(alone) == json.dumps(together)


def test_a_prediction_is_said_listed_and_drawn(run, images):
    model = sgformer.load(run)
    for image in images[:2]:
        prediction = model.predict(image)
        assert isinstance(prediction, Prediction)
        assert prediction.summary()
        assert all(label in model.classes and 0 <= value <= 1 for label, value in prediction.lines())
        assert prediction.cells()
        assert prediction.draw(image).mode == "RGB"
        json.dumps(prediction.to_dict(), allow_nan=False)
    assert model.training is False
    assert model.prepare(images[0], size=40).shape[:2] == (1, 3)


def test_features_come_to_a_file_or_a_sentence_says_why_not(run, images, tmp_path):
    images[0].save(tmp_path / "image.png")
    out = tmp_path / "features.npz"
    if sgformer.load(run).task == "classification":
        embed(str(run), [str(tmp_path / "image.png")], out=out)
        assert np.load(out)["features"].shape[0] == 1
    else:
        with pytest.raises(ValueError, match="features are those of a classifier"):
            embed(str(run), [str(tmp_path / "image.png")], out=out)
        assert not out.exists()


def test_a_model_takes_over_what_fits_of_its_own_weights(run):
    model = sgformer.load(run)
    tensors = {name: tensor.clone() for name, tensor in model.saved.state_dict().items()}
    for tensor in model.saved.state_dict().values():
        if tensor.is_floating_point():
            tensor.zero_()
    model.start_from(run)
    again = model.saved.state_dict()
    assert [name for name in tensors if not torch.equal(again[name], tensors[name])] == []


def test_a_model_is_the_same_after_it_was_saved(run, images, tmp_path):
    model = sgformer.load(run)
    model.save(tmp_path / "again.safetensors", recipe=model.metadata["recipe"])
    again = sgformer.load(tmp_path / "again.safetensors")
    assert type(again) is type(model)
    assert again.classes == model.classes
    assert again.preprocessing == model.preprocessing
    assert again.metadata["recipe"] == model.metadata["recipe"]
    own, other = model.state_dict(), again.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert again.predict(images[0]).to_dict() == model.predict(images[0]).to_dict()


def test_a_run_ends_with_a_page_and_maps(name, run):
    page = (run / "report.html").read_text("utf-8")
    assert ("How the best weights do" in page) == (name != "pretrain")
    assert "How significance evolved" in page
    assert (run / "significance" / "evolution.png").is_file()


def test_images_that_cannot_be_read_are_left_out_and_named(name, tmp_path):
    """Damaged after the data were looked through, one for training and one for validation."""
    root = MAKE[name](tmp_path / "data")
    settings = {**TINY, **OF_EACH[name], "data.root": str(root), "trainer.max_epochs": 1}
    task, data = build(name, settings)
    damaged = sorted(root.rglob("*.png"))[:: 2 if name == "pretrain" else 1]
    damaged = [path for path in damaged if "annotations" not in path.parts]
    chosen = [next(path for path in damaged if split in str(path)) for split in ("train", "val")]
    for path in chosen:
        path.write_bytes(path.read_bytes()[:60])
    parsed = recipe.parse(recipe.find(f"{name}/smoke"), tasks.get(name).Recipe, settings)
    (tmp_path / "run").mkdir()
    counts = CountUnreadable(tmp_path / "run", num_images=data.num_images, max_share=0.5)
    fit.fit(task, data, parsed.trainer, tmp_path / "run", recipe={}, watchers=[counts])
    assert (tmp_path / "run" / "last.safetensors").is_file()
    assert counts.found.keys() <= set(map(str, chosen))
    assert counts.found
    if name != "pretrain":
        assert str(chosen[1]) in counts.found


def test_an_evaluation_reads_the_validation_images_once(name, settings, run, monkeypatch):
    folder = tasks.get(name)
    parsed = recipe.parse(recipe.find(run), folder.Recipe)
    passes = []
    iterate = torch.utils.data.DataLoader.__iter__
    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", lambda loader: passes.append(1) or iterate(loader))
    report = folder.evaluate(sgformer.load(run), parsed.data, num_worst=3)
    if name == "pretrain":
        assert report is None
        return
    assert len(passes) == 1
    assert isinstance(report, BaseReport)
    heads, rows = report.to_table()
    assert {len(row) for row in rows} == {len(heads)}
    json.dumps(report.to_dict(), allow_nan=False)
    for mistake in report.worst:
        assert mistake.seen.shape[0] == 3
        assert mistake.caption


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory):
    """Weights of each task, untrained."""
    out = tmp_path_factory.mktemp("weights")
    small = {"data.scenes.num_train": 4, "data.scenes.num_val": 2, "data.batch_size": 2}
    for name in sorted(tasks.TASKS):
        task, _ = build(name, small)
        task.model.save(out / f"{name}.safetensors")
    return out


def test_no_library_of_training_is_needed_to_predict(all_runs):
    code = f"""
import sys

sys.modules.update(dict.fromkeys({OF_TRAINING!r}))
import sgformer
from PIL import Image

for name in {sorted(tasks.TASKS)!r}:
    model = sgformer.load({str(all_runs)!r} + f"/{{name}}.safetensors")
    print(name, model.task, bool(model.predict(Image.new("RGB", (80, 70))).summary()))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in printed] == sorted(tasks.TASKS)
    assert all(line[1] == {"pretrain": "classification"}.get(line[0], line[0]) for line in printed)
    assert all(line[2] == "True" for line in printed)


@pytest.mark.exhaustive
def test_each_task_exports_itself(name, run, tmp_path):
    pytest.importorskip("onnxruntime", reason="an exported file is checked in ONNX Runtime")
    out = sgformer.export(run, tmp_path / "model.onnx", size=64)
    assert out.stat().st_size > 1000


TAMPERED = [
    *({"model": {"name": "sgformer_test"}}, {"model": None}, {"classes": ["one"]}, {"task": "cooking"}),
    *({"preprocessing": {}}, {"preprocessing": {"image_size": [8, 8]}}, {"heads": {"foo": 1}}, {"heads": None}),
]


def test_tampered_metadata_is_refused(run, tmp_path):
    tensors, metadata = weights.read(run)
    for change in (change for change in TAMPERED if change.keys() <= metadata.keys()):
        weights.save(tmp_path / "w.safetensors", tensors, {**metadata, **change})
        with pytest.raises(ValueError, match=r".") as error:
            tasks.load(tmp_path / "w.safetensors")
        assert "\n" not in str(error.value)
