"""`sgformer export`: files of one size, what travels in them, and what is refused. Open sizes: test_export_sizes.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from backbone.fill import fill_
from sgformer.cli import run
from sgformer.commands import export
from sgformer.tasks.classification.model import Classifier
from sgformer.tasks.images import Preprocessing

pytest.importorskip("onnxruntime", reason="what checks and runs the exported files")
pytest.importorskip("onnxscript", reason="what torch exports to ONNX with")

CLASSES = ["cat", "dog", "Hühnerhaus"]


def save_weights(path, name="sgformer_test", **kwargs):
    preprocessing = Preprocessing(image_size=(96, 96), crop_fraction=0.9, mean=(0.5, 0.4, 0.3))
    model = Classifier(name, classes=CLASSES, preprocessing=preprocessing, kwargs=kwargs)
    if name.startswith("sgformer"):
        fill_(model.backbone)  # outputs that depend on the picture
    model.save(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors", depths=[2, 0, 2, 1])


@pytest.fixture(scope="module")
def onnx_file(weights):
    return export.export(weights, weights.with_suffix(".onnx"), size=96)


def test_a_file_of_one_size_computes_what_the_model_computes(weights, onnx_file):
    model = Classifier.from_weights(weights).backbone
    difference = export.verify(onnx_file, model, fixed=(96, 96), largest=(96, 96))
    assert 0 < difference < 1e-4
    x = torch.randn(4, 3, 96, 96)
    assert not torch.allclose(*export.open_exported(onnx_file)(x)[0][:2], atol=1e-3)


def test_a_file_that_computes_something_else_is_not_kept(weights, onnx_file, tmp_path, monkeypatch):
    other = Classifier.from_weights(weights).backbone
    with torch.no_grad():
        other.stages[2].blocks[1].mlp.fc1.weight *= 1.05
    with pytest.raises(
        export.ExportError, match=r"differs from the model by .* in logits, at 1 pictures of 96x96"
    ):
        export.verify(onnx_file, other, fixed=(96, 96), largest=(96, 96))
    with torch.no_grad():
        other.stages[0].blocks[0].attn.kv.weight *= 1.5
    with pytest.raises(export.ExportError, match="differs"):
        export.verify(onnx_file, other, fixed=(96, 96), largest=(96, 96))

    def wrong(path, *rest):
        path.write_bytes(b"something")

    def refuse(*args, **kwargs):
        raise export.ExportError("no")

    monkeypatch.setattr(export, "_write_onnx", wrong)
    monkeypatch.setattr(export, "_trace", lambda *args: None)
    monkeypatch.setattr(export, "verify", refuse)
    with pytest.raises(export.ExportError):
        export.export(weights, tmp_path / "out.onnx", size=96)
    assert list(tmp_path.iterdir()) == []


def test_metadata_travels_in_the_file(weights, onnx_file):
    about = export.about_exported(onnx_file)
    assert about["classes"] == CLASSES
    assert about["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    assert about["preprocessing"]["image_size"] == [96, 96]
    assert about["sizes"] == {"smallest": [96, 96], "largest": [96, 96]}
    assert about["outputs"] == ["logits", "significance1", "significance2"]
    assert about["opset"] == export.OPSET
    assert str(weights.parent) not in str(about)


def test_sizes_have_names_in_the_file(onnx_file):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file))
    assert [(put.name, put.shape) for put in session.get_inputs()] == [("pictures", ["batch", 3, 96, 96])]
    assert [put.shape for put in session.get_outputs()] == [["batch", 3], ["batch", 24, 24], ["batch", 6, 6]]


def test_a_budget_is_exported_for_one_size(tmp_path, capsys):
    path = save_weights(tmp_path / "budget.safetensors", depths=[2, 0, 2, 1], token_budget=7)
    out = tmp_path / "budget.pt2"
    assert run(["export", str(path), str(out)]) == 2
    assert "the model has a token budget (7)" in capsys.readouterr().err
    assert not out.exists()
    assert run(["export", str(path), str(out), "--size", "65x97"]) == 0
    assert "pictures of 65x97" in capsys.readouterr().out
    model = Classifier.from_weights(path).backbone
    assert export.verify(out, model, fixed=(65, 97), largest=(65, 97)) < 1e-4
    assert export.about_exported(out)["sizes"]["smallest"] == [65, 97]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.pth"], "must end in .onnx or .pt2"),
        (["model.onnx", "--size", "big"], "--size big is no size"),
        (["model.onnx", "--size", "31x64"], "--size 31x64 is too small"),
        (["model.onnx", "--max_size", "200"], "--max_size 200 must be at least 256"),
    ],
)
def test_what_is_refused(weights, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(weights), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_other_models_are_refused(tmp_path, capsys):
    path = save_weights(tmp_path / "resnet.safetensors", "test_resnet")
    assert run(["export", str(path), str(tmp_path / "out.onnx")]) == 2
    assert "no SG-Former classifier" in capsys.readouterr().err
    guided = save_weights(tmp_path / "random.safetensors", guidance="random")
    assert run(["export", str(guided), str(tmp_path / "out.onnx"), "--size", "64"]) == 2
    assert "guided by 'random'" in capsys.readouterr().err


def test_the_script_in_the_docs_runs_without_this_package(
    weights, onnx_file, tmp_path, onnx_script, run_alone
):
    """Its answer is that of `predict`, on a picture that has to be resized and cropped."""
    values = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    picture = tmp_path / "picture.png"
    Image.fromarray(values).resize((333, 200), Image.Resampling.BICUBIC).save(picture)
    prediction = Classifier.from_weights(weights).predict(picture)
    printed = run_alone(onnx_script, onnx_file, picture)
    label, score = printed.rsplit(" ", 1)
    assert label == prediction.label
    assert float(score) == pytest.approx(prediction.score, abs=2e-3)
