"""Exported files that take any size: against the model on several, and at the ends of their range."""

import pytest
import torch

from backbone import fill
from sgformer.backbone import hold_significance
from sgformer.backbone.exporting import Exportable, resize_matrix
from sgformer.commands import export

SIZES = [(128, 128), (160, 208), (224, 224), (333, 250), (130, 401)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"img_size": (96, 160)}])
@torch.no_grad()
def test_any_size_computes_what_the_model_computes(size, options):
    model, x = fill.model("sgformer_test", num_classes=5, **options), fill.picture("export", 2, *size)
    for topk in (False, True):
        logits, *maps = Exportable(model, topk=topk)(x)
        torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-11)
        for ours, theirs in zip(maps, model.forward_significance(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 130)])
@pytest.mark.parametrize("budget", [None, 20])
@torch.no_grad()
def test_one_size_computes_what_the_model_computes(size, budget):
    model = fill.model("sgformer_test", num_classes=5, token_budget=budget)
    x = fill.picture("export", 2, *size)
    for topk in (False, True):
        torch.testing.assert_close(Exportable(model, topk=topk)(x)[0], model(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("old", "new"), [(56, 56), (56, 40), (7, 20), (5, 3), (1, 4)])
def test_resize_matrix_is_pytorchs_bicubic_resize(old, new):
    x = torch.randn(1, 1, old, 3, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(x, (new, 3), mode="bicubic", align_corners=False)
    torch.testing.assert_close(
        (resize_matrix(old, new, like=x) @ x[0, 0]), expected[0, 0], rtol=0, atol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_one_file_takes_every_size_of_its_range(tmp_path, suffix):
    pytest.importorskip("onnxruntime", reason="what runs the files")
    pytest.importorskip("onnxscript", reason="what torch exports to ONNX with")
    options = {"depths": (2, 0, 2, 1), "num_classes": 3}
    model = fill.model("sgformer_test", dtype=torch.float32, **options)
    smallest, largest = (128, 128), (512, 512)
    program = export._trace(Exportable(model, topk=suffix == ".onnx"), 3, None, smallest, largest)
    path = tmp_path / f"any{suffix}"
    write = export._write_onnx if suffix == ".onnx" else export._write_program
    write(path, program, {"sizes": 0}, ["logits", "significance1", "significance2"])
    assert export.verify(path, model, fixed=None, largest=largest) < 1e-4
    run = export.open_exported(path)
    for batch, *size in [(1, 128, 128), (3, 512, 512), (2, 128, 512), (1, 131, 397)]:
        x = fill.picture("range", batch, *size).float()
        logits, *maps = run(x)
        with torch.no_grad(), hold_significance(model, maps):
            torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-4)
    if suffix == ".pt2":
        for size in [(127, 200), (200, 513)]:
            with pytest.raises((RuntimeError, AssertionError, ValueError)):
                run(torch.zeros(1, 3, *size))
