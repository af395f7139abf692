import json
import os
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from sgformer.engine import files, weights
from sgformer.engine.weights import WeightsError

METADATA = {"task": "classification", "classes": ["a", "b"]}


def save(path, module=None):
    weights.save(path, (module or nn.Linear(3, 2)).state_dict(), METADATA)
    return path


def test_round_trip_of_tensors_and_metadata(tmp_path):
    tensors = {
        "float": torch.randn(3, 4),
        "transposed": torch.randn(3, 4).T,
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    tensors["shared"] = tensors["float"]
    weights.save(tmp_path / "new" / "w.safetensors", tensors, METADATA)
    read, metadata = weights.read(tmp_path / "new" / "w.safetensors")
    assert (
        metadata == {"format": weights.FORMAT, **METADATA} == weights.read_metadata(tmp_path / "new" / "w.safetensors")
    )
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_what_is_too_large_for_half_precision_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"running_var": torch.tensor([1.0, 70000.0]), "count": torch.tensor(70000)}
    with pytest.raises(WeightsError, match=r"running_var holds numbers up to 70000, beyond the 65504"):
        weights.save(path, tensors, METADATA, half=True)
    assert not path.exists()
    tensors["running_var"] = torch.tensor([1.0, float("inf")])  # as it was
    weights.save(path, tensors, METADATA, half=True)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_cut_off_anywhere_is_one_clear_error(tmp_path, share):
    path = save(tmp_path / "w.safetensors", nn.Linear(30, 20))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"cut off|is empty") as error:
        weights.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"\x00" * 100, b"\xff" * 100, b"not weights at all", b"{}", os.urandom(1000)])
def test_anything_else_is_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError):
        weights.read(tmp_path / "w.safetensors")


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_malicious_pickle_is_never_run(tmp_path, name, writer):
    path, trace = tmp_path / name, tmp_path / "trace"
    if writer == "torch":
        torch.save({"x": Bomb(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(WeightsError, match=r"if it is a released SG-Former checkpoint, .*sgformer convert"):
        weights.read(path)
    assert not trace.exists()


@pytest.mark.parametrize("text", [None, "{", "[]", "[" * 100_000, '{"format": 99}'])
def test_strange_metadata_is_refused(tmp_path, text):
    metadata = {"sgformer": text} if text else {}
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(WeightsError):
        weights.read(tmp_path / "w.safetensors")


def test_fill_names_every_kind_of_misfit_and_changes_nothing(tmp_path):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = {**before, "0.weight": torch.zeros(5, 3), "extra": torch.zeros(1)}
    del tensors["1.bias"]
    with pytest.raises(
        WeightsError, match=r"1 missing \(1.bias\); 1 unexpected \(extra\); 1 of another shape"
    ) as error:
        weights.fill(module, tensors, source="w.safetensors")
    assert "(5, 3) in the file, (2, 3) in the model" in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    files.write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_run_folder_stands_for_its_best_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="first epoch"):
        weights.locate(tmp_path)
    save(tmp_path / "last.safetensors")
    assert weights.locate(tmp_path).name == "last.safetensors"
    save(tmp_path / "best.safetensors")
    assert weights.locate(tmp_path).name == "best.safetensors"
    with pytest.raises(FileNotFoundError):
        weights.locate(tmp_path / "none.safetensors")


def test_metadata_is_plain_json_that_other_tools_read(tmp_path):
    with safetensors.safe_open(save(tmp_path / "w.safetensors"), "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["sgformer"])["task"] == "classification"


def test_what_is_written_takes_the_place_of_no_input_and_no_annotations(tmp_path):
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    annotations, found = tmp_path / "instances_val.json", tmp_path / "found.json"
    annotations.write_text(json.dumps({"images": [], "annotations": [{**box, "score": 0.5}, box], "categories": []}))
    found.write_text(json.dumps({"images": [], "annotations": [{**box, "score": 0.5}], "categories": []}))
    image = tmp_path / "images" / "0.jpg"
    image.parent.mkdir()
    image.write_bytes(b"image")
    inputs = [tmp_path / "missing.jpg", image]
    for outputs in ([annotations], [None, image], [image.parent / ".." / "images" / "0.jpg"], [found, found]):
        with pytest.raises(ValueError, match=outputs[-1].name):
            files.check_writable(*outputs, inputs=inputs)
    files.check_writable(found, tmp_path / "0.jpg", tmp_path / "missing.jpg", None, inputs=inputs)
    assert image.read_bytes() == b"image"
