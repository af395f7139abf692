"""`sgformer export`: files of one size, what travels in them, what is refused. Open sizes: test_export_sizes.py."""

import dataclasses
import importlib.metadata
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbone.fill import fill_
from sgformer.commands import export
from sgformer.exporters import check, formats, int8, parts, tracing
from sgformer.exporters.formats import executorch_program, onnx_file, torch_program
from sgformer.tasks.classification.model import Classifier
from sgformer.tasks.images import Preprocessing
from sgformer_cli import run

onnx = pytest.importorskip("onnx", reason="what reads the exported files")
pytest.importorskip("onnxruntime", reason="what checks and runs the exported files")
pytest.importorskip("onnxscript", reason="what torch exports to ONNX with")

CLASSES = ["cat", "dog", "Hühnerhaus"]
NAMES = {"cat": "a cat", "dog": "a dog", "Hühnerhaus": "Stall"}


def save_weights(path, name="sgformer_test", **kwargs):
    preprocessing = Preprocessing(image_size=(96, 96), crop_fraction=0.9, mean=(0.5, 0.4, 0.3))
    model = Classifier(name, classes=CLASSES, preprocessing=preprocessing, kwargs=kwargs)
    model.names = NAMES
    if name.startswith("sgformer"):
        fill_(model.backbone)  # outputs that depend on the image
    model.save(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors", depths=[2, 0, 2, 1])


@pytest.fixture(scope="module")
def exported(weights):
    return export.export(weights, weights.with_suffix(".onnx"), size=96)


def assert_each_node_has_a_name_of_its_own(graph):
    """Converters make names of tensors from it."""
    names = [node.name for node in graph.node]
    assert "" not in names
    assert len(set(names)) == len(names)


def verify(path, weights, **options):
    part = parts.part_of(Classifier.from_weights(weights))
    return check.verify(path, part, fixed=(96, 96), largest=(96, 96), **options)


def test_a_file_of_one_size_computes_what_the_model_computes(weights, exported):
    assert 0 < verify(exported, weights) < 1e-4
    x = torch.randn(4, 3, 96, 96)
    assert not torch.allclose(*formats.open_exported(exported)(x)[0][:2], atol=1e-3)


def test_nothing_is_reshaped_twice_in_a_row(exported):
    graph = onnx.load(str(exported)).graph
    reshaped = {name for node in graph.node if node.op_type == "Reshape" for name in node.output}
    fixed = {tensor.name for tensor in graph.initializer if (onnx.numpy_helper.to_array(tensor) != 0).all()}
    again = [node for node in graph.node if node.op_type == "Reshape" and node.input[0] in reshaped]
    assert reshaped
    assert not [node.name for node in again if node.input[1] in fixed]


def test_a_file_that_computes_something_else_is_not_kept(weights, exported, tmp_path, monkeypatch):
    other = Classifier.from_weights(weights)
    part = parts.part_of(other)
    with torch.no_grad():
        other.backbone.stages[2].blocks[1].mlp.fc1.weight *= 1.05
    message = r"differs from the model by .* in logits, at 1 images of 96x96"
    with pytest.raises(parts.ExportError, match=message):
        check.verify(exported, part, fixed=(96, 96), largest=(96, 96))
    with torch.no_grad():
        other.backbone.stages[0].blocks[0].attn.kv.weight *= 1.5
    with pytest.raises(parts.ExportError, match="differs"):
        check.verify(exported, part, fixed=(96, 96), largest=(96, 96))

    def wrong(path, *rest):
        path.write_bytes(b"something")

    def refuse(*args, **kwargs):
        raise parts.ExportError("no")

    monkeypatch.setattr(onnx_file, "write", wrong)
    monkeypatch.setattr(tracing, "trace", lambda *args, **kwargs: None)
    monkeypatch.setattr(check, "verify", refuse)
    with pytest.raises(parts.ExportError):
        export.export(weights, tmp_path / "out.onnx", size=96)
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_are_smaller_and_near(weights, exported, tmp_path):
    small = tmp_path / "model.onnx"
    small.write_bytes(exported.read_bytes())
    int8.quantise(small)
    assert small.stat().st_size < exported.stat().st_size
    assert 1e-4 < verify(small, weights, precision="int8") < 0.2
    kinds = {node.op_type for node in onnx.load(str(small)).graph.node}
    assert "Gemm" not in kinds  # rows of a weight are in eight bits, too
    about = formats.about_exported(small)
    assert about == {**formats.about_exported(exported), "precision": "int8"}


@pytest.mark.parametrize("shape", [(1, 4, 5, 7), (2, 16, 30, 40)])
def test_the_norm_that_executorch_computes_by_means_of_means(shape):
    x = 100 + torch.randn(shape, dtype=torch.float64)
    weight, bias = torch.randn(2, shape[1], dtype=torch.float64)
    expected = torch.nn.functional.group_norm(x, 1, weight, bias, 1e-5)
    found = executorch_program.group_norm(x, 1, weight, bias, 1e-5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.exhaustive
def test_half_precision_is_half_as_large_and_near(weights, exported, tmp_path):
    half = export.export(weights, tmp_path / "half.onnx", size=96, half=True)
    assert formats.about_exported(half)["precision"] == "float16"
    assert half.stat().st_size < 0.75 * exported.stat().st_size  # the graph weighs as much as so small a model
    assert 1e-5 < verify(half, weights, precision="float16") < 1e-2


def test_an_onnx_file_refuses_sizes_outside_its_range(tmp_path):
    """ONNX has no way to state a range, so the graph asks."""
    module = torch.nn.Conv2d(3, 2, 3, padding=1)
    smallest, largest = (128, 140), (512, 512)
    program = tracing.trace(module, 3, fixed=None, smallest=smallest, largest=largest)
    about = {"outputs": ["logits"], "precision": "float32", "sizes": {"smallest": smallest, "largest": largest}}
    onnx_file.write(tmp_path / "conv.onnx", program, about)
    assert_each_node_has_a_name_of_its_own(onnx.load(str(tmp_path / "conv.onnx")).graph)
    run = formats.open_exported(tmp_path / "conv.onnx")
    for size in [(128, 140), (512, 512), (200, 300)]:
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(run(x)[0], module(x).detach(), rtol=0, atol=1e-5)
    for size in [(127, 200), (200, 139), (513, 200), (200, 513)]:
        with pytest.raises(Exception, match="images must be 128x140 to 512x512"):
            run(torch.zeros(1, 3, *size))


def test_metadata_travels_in_the_file(weights, exported):
    about = formats.about_exported(exported)
    assert about["classes"] == CLASSES
    assert about["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    assert about["preprocessing"]["image_size"] == [96, 96]
    assert about["sizes"] == {"smallest": [96, 96], "largest": [96, 96]}
    assert about["outputs"] == ["logits", "significance1", "significance2"]
    assert about["checked"]["images"] == [[1, 96, 96], [3, 96, 96]]
    assert about["checked"]["runtime"].startswith("onnxruntime ")
    assert about["opset"] == onnx_file.OPSET
    assert (about["task"], about["precision"]) == ("classification", "float32")
    assert str(weights.parent) not in str(about)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_no_file_names_the_machine_that_made_it(tmp_path, suffix):
    program = tracing.trace(torch.nn.Conv2d(3, 2, 3), 3, fixed=(32, 32), smallest=(32, 32), largest=(32, 32))
    about = {"outputs": ["logits"], "precision": "float32", "sizes": {"smallest": (32, 32), "largest": (32, 32)}}
    write = onnx_file.write if suffix == ".onnx" else torch_program.write
    write(tmp_path / f"conv{suffix}", program, about)
    path = tmp_path / f"conv{suffix}"
    content = path.read_bytes()
    if suffix == ".pt2":
        with zipfile.ZipFile(path) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"conv2d" in content.lower() or b"Conv" in content
    assert b"site-packages" not in content
    assert str(Path(export.__file__).parent).encode() not in content


def test_an_onnx_file_suits_other_runtimes(exported):
    """What lies between is not described, and no GELU is named, which MNN computes by an approximation."""
    graph = onnx.load(str(exported)).graph
    assert_each_node_has_a_name_of_its_own(graph)
    assert not graph.value_info
    assert "Erf" in {node.op_type for node in graph.node}
    assert "Gelu" not in {node.op_type for node in graph.node}


def test_a_gelu_approximated_by_a_tanh_stays_so():
    """As in timm's MaxViT."""

    class Both(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.gelu(images, approximate="tanh") + torch.nn.functional.gelu(images)

    program = torch.export.export(Both(), (torch.zeros(1, 3, 4, 4),))
    about = {"precision": "float32", "outputs": ["logits"], "sizes": {"smallest": [4, 4], "largest": [4, 4]}}
    nodes = onnx_file.model_of(program, about).graph.node
    assert [node.attribute[0].s for node in nodes if node.op_type == "Gelu"] == [b"tanh"]
    assert "Erf" in {node.op_type for node in nodes}


def test_onnx_runtimes_own_quantisers_take_a_file(exported, tmp_path):
    """Weights stand in the file, and no copy of a shared bias gets the name of another tensor."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self):
            self.left = [torch.randn(1, 3, 96, 96, generator=torch.manual_seed(0)).numpy()]

        def get_next(self):
            return {"images": self.left.pop()} if self.left else None

    x = torch.randn(2, 3, 96, 96, generator=torch.manual_seed(1))
    logits = formats.open_exported(exported)(x)[0]
    quantize_dynamic(exported, tmp_path / "dynamic.onnx")
    quantize_static(exported, tmp_path / "static.onnx", Images())
    for name in ("dynamic", "static"):
        found = formats.open_exported(tmp_path / f"{name}.onnx")(x)[0]
        assert 1e-4 < float((found - logits).abs().max() / logits.abs().max()) < 0.5
    graph = onnx.load(str(exported)).graph
    weights = {each.name for each in graph.initializer}
    assert all(node.input[1] in weights for node in graph.node if node.op_type in ("Conv", "Gemm"))


def test_an_openvino_file_computes_what_the_model_computes(weights, tmp_path, capsys):
    pytest.importorskip("openvino", reason="what checks and runs the file")
    out = export.export(weights, tmp_path / "model.xml", size=96)
    assert "in openvino" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert 0 < verify(out, weights) < 1e-4
    about = formats.about_exported(out)
    assert about["classes"] == CLASSES
    assert about["checked"]["runtime"].startswith("openvino ")
    with pytest.raises(RuntimeError, match="shape"):
        formats.open_exported(out)(torch.zeros(1, 3, 96, 97))


@pytest.mark.parametrize(("suffix", "package"), [(".tflite", "litert_torch"), (".pte", "executorch")])
def test_a_file_for_phones_computes_what_the_model_computes(weights, tmp_path, suffix, package):
    pytest.importorskip(package, reason="what writes and runs the file")
    out = export.export(weights, tmp_path / f"model{suffix}")  # at the size that the model was evaluated at
    part = dataclasses.replace(parts.part_of(Classifier.from_weights(weights)), batch=1)
    assert 0 < check.verify(out, part, fixed=(96, 96), largest=(96, 96)) < 1e-4
    about = formats.about_exported(out)
    assert (about["classes"], about["batch"]) == (CLASSES, 1)
    assert about["sizes"]["largest"] == [96, 96]


def test_a_core_ml_package_is_written_and_says_that_it_was_not_run(weights, tmp_path, capsys):
    coremltools = pytest.importorskip("coremltools", reason="what writes the package")
    out = export.export(weights, tmp_path / "model.mlpackage")
    assert ("not run here" in capsys.readouterr().out) == (sys.platform != "darwin")
    about = formats.about_exported(out)
    assert about["classes"] == CLASSES
    assert about["checked"] == {"runtime": None} or sys.platform == "darwin"
    description = coremltools.models.MLModel(str(out), skip_model_load=True).get_spec().description
    (put,) = description.input
    assert (put.name, list(put.type.multiArrayType.shape)) == ("images", [1, 3, 96, 96])
    assert [output.name for output in description.output] == about["outputs"]


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(weights, tmp_path, monkeypatch, capsys):
    kind = dataclasses.replace(formats.FORMATS[".xml"], packages={"openvino": "no_such_package"})
    monkeypatch.setitem(formats.FORMATS, ".xml", kind)
    assert run(["export", str(weights), str(tmp_path / "model.xml")]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "openvino" in line
    assert "sgformer[openvino]" in line
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_writes_files_which_do_not_run_is_too_old(weights, tmp_path, monkeypatch, capsys):
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.7.0" if name == "onnxscript" else installed(name)
    )
    assert run(["export", str(weights), str(tmp_path / "model.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "onnxscript 0.7.2" in line
    assert "sgformer[export]" in line
    assert list(tmp_path.iterdir()) == []


def test_sizes_have_names_in_the_file(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported))
    assert [(put.name, put.shape) for put in session.get_inputs()] == [("images", ["batch", 3, 96, 96])]
    assert [put.shape for put in session.get_outputs()] == [["batch", 3], ["batch", 24, 24], ["batch", 6, 6]]


@pytest.mark.exhaustive
def test_a_budget_is_exported_for_one_size(tmp_path, capsys):
    path = save_weights(tmp_path / "budget.safetensors", depths=[2, 0, 2, 1], token_budget=7)
    out = tmp_path / "budget.pt2"
    assert run(["export", str(path), str(out), "--size", "65x97"]) == 0
    assert "images of 65x97" in capsys.readouterr().out
    part = parts.part_of(Classifier.from_weights(path))
    assert check.verify(out, part, fixed=(65, 97), largest=(65, 97)) < 1e-4
    assert formats.about_exported(out)["sizes"]["smallest"] == [65, 97]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.pth"], "must end in .onnx"),
        (["model.onnx", "--size", "big"], "--size 'big' is neither a number nor HEIGHTxWIDTH"),
        (["model.onnx", "--size", "31x64"], "--size 31x64 is too small"),
        (["model.onnx", "--max-size", "200"], "--max-size 200 must be at least 256"),
        (["model.pt2", "--int8"], "--int8 is for .onnx files alone"),
        (["model.onnx", "--int8", "--half"], "--int8 is for .onnx files alone"),
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
    assert "test_resnet is no SG-Former" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["rgb", "turned", "transparent", "16 bits", "palette"])
def test_the_script_in_the_docs_runs_without_this_package(weights, exported, tmp_path, onnx_script, run_alone, kind):
    """Its answer is that of `predict`, on a file that has to be resized and cropped, of every kind."""
    values = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    image, exif = Image.fromarray(values).resize((333, 200), Image.Resampling.BICUBIC), Image.Exif()
    if kind == "turned":
        exif[274] = 6
    elif kind == "transparent":
        image.putalpha(image.getchannel("G"))
    elif kind == "16 bits":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200)
    elif kind == "palette":
        image = image.quantize(12)
    file = tmp_path / "image.png"
    image.save(file, exif=exif)
    prediction = Classifier.from_weights(weights).predict(file)
    label, score = run_alone(onnx_script, exported, file).rsplit(" ", 1)
    assert label == prediction.label
    assert float(score) == pytest.approx(prediction.score, abs=2e-3)


def test_a_pytorch_too_old_to_export_is_named(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda module, args, *, dynamic_shapes, strict: None)
    with pytest.raises(ValueError, match="newer PyTorch"):
        export.export(weights, tmp_path / "tiny.pt2")
    assert not list(tmp_path.iterdir())
