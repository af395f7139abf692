import pytest
import timm
import torch

import sgformer  # noqa: F401
from sgformer import tasks
from sgformer.backbone import official
from sgformer.cli import run


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
    for name in ("x.pth", "y.pth"):
        assert run(["convert", str(tmp_path / name), str(tmp_path / "out.safetensors")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out.safetensors").exists()
