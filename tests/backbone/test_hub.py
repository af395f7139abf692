"""Round trips by way of timm's folders and the Hugging Face Hub, as docs/weights.md shows them."""

import json
import os
import subprocess
import sys

import pytest
import timm
import torch

import local_hub
import sgformer  # noqa: F401
from sgformer.backbone import recorded

pytestmark = pytest.mark.skipif(recorded.update_model_args is None, reason="timm below 1.0.31 records no arguments")

LOAD = """
import sys
import sgformer, timm, torch
from timm.data import create_transform, resolve_model_data_config
model = timm.create_model("hf-hub:me/cells", pretrained=True).eval()
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[1])), sys.argv[2])
print(create_transform(**resolve_model_data_config(model)), model.token_budget, model.pretrained_cfg["label_names"])
"""


@pytest.mark.parametrize("img_size", [None, 160, (128, 160)])
@pytest.mark.parametrize("token_budget", [None, 64])
@torch.no_grad()
def test_a_folder_that_timm_saved_is_the_same_model(tmp_path, img_size, token_budget):
    model, x = timm.create_model("sgformer_test", num_classes=3).eval(), torch.randn(1, 3, 128, 192)
    if img_size is not None:
        model.set_input_size(img_size)
    model.set_token_budget(9)
    model.set_token_budget(token_budget)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert (again.token_budget, again.stem.grid_size) == (token_budget, model.stem.grid_size)
    assert torch.equal(again(x), model(x))
    features = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
    for a, b in zip(features(x), model.forward_intermediates(x, intermediates_only=True), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("img_size", [160, (128, 160), (40, 160)])
@torch.no_grad()
def test_positions_of_a_folder_are_resized_from_the_grid_that_it_names(tmp_path, img_size):
    """A grid of 10x40 has as many positions as one of 20x20, which a number alone would be taken for."""
    model = timm.create_model("sgformer_test", num_classes=3, token_budget=64)
    model.set_input_size(img_size)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    options = {"img_size": (80, 80), "token_budget": 5}
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **options)
    model.set_input_size((80, 80))
    assert torch.equal(other.stem.pos_embed, model.stem.pos_embed)
    assert other.token_budget == 5


@torch.no_grad()
def test_pushed_with_hf_upload_and_loaded_by_name(tmp_path):
    pytest.importorskip("huggingface_hub")
    folder, x = tmp_path / "cells", torch.randn(1, 3, 64, 96)
    model = timm.create_model("sgformer_test", num_classes=2, token_budget=64).eval()
    model.set_input_size((64, 96))
    timm.models.save_for_hf(
        model,
        folder,
        safe_serialization=True,
        model_config={"label_names": ["cell", "none"]},
        data_config={"input_size": (3, 64, 96), "mean": (0.5, 0.4, 0.3), "crop_pct": 1.0},
    )
    (folder / "README.md").write_text("---\nlibrary_name: timm\n---\nCells.\n", encoding="utf-8")
    torch.save(x, tmp_path / "x.pt")
    with local_hub.serve(tmp_path / "home") as (files, environment):
        environment = os.environ | environment
        hf = [sys.executable, "-m", "huggingface_hub.cli.hf"]
        done = subprocess.run([*hf, "upload", "me/cells", folder], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert set(files) == {"README.md", "config.json", "model.safetensors"}
        assert json.loads(files["config.json"])["model_args"]["token_budget"] == 64
        load = [sys.executable, "-c", LOAD, tmp_path / "x.pt", tmp_path / "y.pt"]
        done = subprocess.run(load, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "y.pt"), model(x))
    assert "size=(64, 96)" in done.stdout
    assert "0.5000, 0.4000, 0.3000" in done.stdout
    assert "64 ['cell', 'none']" in done.stdout
