import pickle

import pytest
import timm
import torch

import sgformer  # noqa: F401
from sgformer import tasks
from sgformer.backbone import official
from sgformer.engine import recipe
from sgformer_cli import run


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file as the authors write it, with averaged weights that differ from the last ones."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("released") / "sgformer_s.pth"
    models = {}
    for key in ("state_dict", "state_dict_ema"):
        model = timm.create_model("sgformer_s", num_classes=5)
        models[key] = model.eval()
    content = {key: official.to_official(model.state_dict()) for key, model in models.items()}
    torch.save({"epoch": 3, "arch": "sgformer_s", **content}, path)
    return path, models


@pytest.mark.parametrize(("flag", "key"), [([], "state_dict_ema"), (["--no-ema"], "state_dict")])
def test_convert_then_load(released, tmp_path, flag, key):
    path, models = released
    out = tmp_path / "out.safetensors"
    assert run(["convert", str(path), str(out), *flag]) == 0
    model = tasks.load(out)
    assert model.name == "sgformer_s"
    assert len(model.classes) == 5
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), models[key](x))


def test_what_is_no_released_file_is_refused(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(b"hello")
    (tmp_path / "z.pkl").write_bytes(pickle.dumps({"a": 1}, protocol=4))  # torch warns of this protocol
    for name in ("x.pth", "y.pth", "z.pkl"):
        assert run(["convert", str(tmp_path / name), str(tmp_path / "out.safetensors")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_weights_of_dense_tasks_are_written_in_half_precision_too(task, tmp_path):
    module, _ = tasks.get(task).build(recipe.parse(recipe.find(f"{task}/smoke"), tasks.get(task).Recipe))
    module.model.save(tmp_path / "whole.safetensors")
    out = tmp_path / "half.safetensors"
    assert run(["convert", str(tmp_path / "whole.safetensors"), str(out), "--half"]) == 0
    assert out.stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    whole, half = tasks.load(tmp_path / "whole.safetensors").state_dict(), tasks.load(out).state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(half[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
