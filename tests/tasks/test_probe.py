"""Features of frozen backbones: `embed`, and a classifier from them within seconds."""

import csv

import numpy as np
import pytest
import torch

import sgformer
from class_folders import make_class_folders
from sgformer.commands.embed import embed
from sgformer.commands.train import train
from sgformer.engine import recipe as recipes
from sgformer.engine.weights import read
from sgformer.tasks.classification import Classifier
from sgformer.tasks.classification.task import Recipe, build
from sgformer.tasks.errors import DataError
from sgformer.tasks.images import Preprocessing

SMALL = {"data.image_size": 64, "data.workers": 0, "trainer.report": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_class_folders(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(0)
    model = Classifier(
        "sgformer_test",
        classes=["a", "b"],
        preprocessing=Preprocessing(image_size=(64, 64)),
        kwargs={"img_size": [64, 64]},
    )
    model.save(path)
    return path


def probe(folder, weights, out, **overrides):
    given = {"data.root": str(folder), "model.name": "sgformer_test", "model.weights": str(weights)}
    return train("probe", {**SMALL, **given, **overrides}, out=out)


def test_a_probe_is_an_ordinary_classifier(folder, weights, tmp_path):
    run = probe(folder, weights, tmp_path, **{"trainer.report": True})
    (row,) = csv.DictReader((run / "metrics.csv").open())
    assert float(row["cv_top1"]) == float(row["val_top1"]) == 1
    model = sgformer.load(run)
    predictions = model.predict(sorted((folder / "val").rglob("*.png")))
    assert [p.label for p in predictions] == ["blue"] * 4 + ["green"] * 4 + ["red"] * 4
    assert "What is taken for what" in (run / "report.html").read_text()
    before, after = read(weights)[0], read(run)[0]
    changed = [
        name for name, tensor in before.items() if tensor.shape != after[name].shape or not tensor.equal(after[name])
    ]
    assert sorted(changed) == ["head.fc.bias", "head.fc.weight"]


def test_training_goes_on_from_the_regression(folder, weights, tmp_path, capsys):
    """A learning rate of next to nothing leaves the head that the regression found, in a run like any other."""
    more = {"probe.train": True, "optim.lr": 1e-9, "optim.final_lr": 0.0, "trainer.max_epochs": 1}
    quick = {"data.batch_size": 8, "trainer.significance": False, "trainer.tensorboard": False}
    run = probe(folder, weights, tmp_path, **more, **quick)
    assert "cross-validated accuracy 100.0%" in capsys.readouterr().out
    (row,) = csv.DictReader((run / "metrics.csv").open())
    assert float(row["val_top1"]) == 1
    assert float(row["step"]) == 3
    # Without trained weights there is nothing to regress on.
    run = probe(folder, weights, tmp_path, **more, **quick, **{"model.weights": None})
    (row,) = csv.DictReader((run / "metrics.csv").open())
    assert "val_loss" in row
    with pytest.raises(ValueError, match="penalties"):
        probe(folder, weights, tmp_path, **more, **{"probe.penalties": []})


def test_the_head_of_one_image_a_class_is_trained_all_the_same(weights, tmp_path, capsys):
    few = make_class_folders(tmp_path / "few", num_train=1)
    more = {"probe.train": True, "trainer.max_epochs": 1, "data.batch_size": 2}
    run = probe(few, weights, tmp_path, **more)
    assert (run / "best.safetensors").is_file()
    assert "starts from random values" in capsys.readouterr().out


def test_a_head_that_knows_the_classes_stays(folder, weights, tmp_path):
    given = {"data.root": str(folder), "model.name": "sgformer_test", "probe.train": True, **SMALL}
    found = {}
    for name, start in (("first", weights), ("again", tmp_path / "first.safetensors")):
        parsed = recipes.parse(recipes.find("probe"), Recipe, {**given, "model.weights": str(start)})
        task, data = build(parsed)
        assert task.model.training
        found[name] = task.model.backbone.get_classifier().weight.clone() * 2
        with torch.no_grad():
            task.model.backbone.get_classifier().weight *= 2
        task.model.save(tmp_path / f"{name}.safetensors")
        assert ("regression" in str(data)) == (name == "first")
    assert torch.equal(found["again"], 2 * found["first"])


def test_two_classes_have_the_probabilities_of_the_regression():
    from sklearn.linear_model import LogisticRegression

    from sgformer.tasks.classification.probing import regress

    features = torch.randn(60, 5, dtype=torch.float64)
    labels = (features[:, 0] + torch.randn(60) > 0).long()
    weight, bias, score, penalty = regress(features, labels, classes=("a", "b"), penalties=[0.1], folds=3)
    assert penalty == 0.1
    assert 0.5 < score < 1
    mean, std = features.mean(0), features.std(0, correction=0)
    regression = LogisticRegression(C=0.1).fit(((features - mean) / std).numpy(), labels.numpy())
    expected = regression.predict_proba(((features - mean) / std).numpy())
    found = (features.float() @ weight.T + bias).softmax(-1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_what_a_probe_cannot_do_is_said(folder, weights, tmp_path):
    make_class_folders(tmp_path / "few", num_train=1)
    with pytest.raises(DataError, match="two of each"):
        probe(tmp_path / "few", weights, tmp_path)
    with pytest.raises(ValueError, match=r"probe\.folds"):
        probe(folder, weights, tmp_path, **{"probe.folds": 1})


def test_features_of_one_image_are_those_in_a_batch(folder, weights):
    model = sgformer.load(weights)
    paths = sorted((folder / "val").rglob("*.png"))[:5]
    found = model.embed(paths, batch_size=2)
    assert found.shape == (5, 64)
    assert found.dtype == torch.float32
    torch.testing.assert_close(model.embed(paths[3]), found[3], atol=1e-3, rtol=1e-3)
    assert model.embed([]).shape == (0, 64)


@pytest.mark.parametrize("suffix", ["parquet", "npz", "csv"])
def test_files_hold_paths_and_features(folder, weights, tmp_path, suffix, capsys):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "broken.png").write_bytes(b"no image")
    out = tmp_path / f"features.{suffix}"
    code = embed(weights, [str(folder / "val"), str(tmp_path / "broken.png")], out=out, batch_size=5)
    assert code == 1  # one could not be read
    assert "broken.png" in capsys.readouterr().err
    if suffix == "npz":
        content = np.load(out)
        names, features = content["path"].tolist(), content["features"]
    elif suffix == "csv":
        heads, *rows = csv.reader(out.open())
        assert heads[:2] == ["path", "feature0"]
        names, features = [row[0] for row in rows], np.array([[*map(float, row[1:])] for row in rows])
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(out)
        names, features = table["path"].to_pylist(), np.array(table["features"].to_pylist())
    paths = sorted((folder / "val").rglob("*.png"))
    assert names == [str(path) for path in paths]
    expected = sgformer.load(weights).embed(paths, batch_size=5)
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-6)


def test_embedding_refuses_before_it_computes(folder, tmp_path):
    with pytest.raises(ValueError, match=r"\.parquet, \.npz or \.csv"):
        embed("sgformer_t", [str(folder)], out=tmp_path / "features.json")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of 1"):
        embed("sgformer_t", [str(tmp_path / "broken.png")], out=tmp_path / "features.npz")
    assert not (tmp_path / "features.npz").exists()


@pytest.mark.parametrize("freeze", [False, True])
def test_frozen_batch_norms_keep_their_statistics(folder, tmp_path, freeze):
    start = Classifier("resnet10t", classes=["a", "b"], preprocessing=Preprocessing(image_size=(64, 64)))
    start.save(tmp_path / "start.safetensors")
    own = {"data.root": str(folder), "model.name": "resnet10t", "model.weights": str(tmp_path / "start.safetensors")}
    short = {"trainer.max_epochs": 1, "data.eval_image_size": 64, "optim.freeze_batch_norm": freeze}
    run = train("finetune", {**SMALL, **own, **short}, out=tmp_path)
    trained, before = sgformer.load(run).backbone.state_dict(), start.backbone.state_dict()
    names = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert names
    assert all(torch.equal(trained[name], before[name]) == freeze for name in names)
