"""Exported files that take any size: against the model on several, and at the ends of their range."""

import operator
from contextlib import contextmanager

import pytest
import torch

from backbone import fill
from sgformer.backbone.ranking import num_maps, record_significance
from sgformer.exporters import check, formats, parts, tracing
from sgformer.exporters.formats import onnx_file, torch_program
from sgformer.fast import exported
from sgformer.ops import dispatch, pool_keys, rank_tokens
from sgformer.ops.group_tokens import count_factor, cut_bands, group_factor
from sgformer.ops.pool_keys import count_side, pool_cells
from sgformer.ops.resize_positions import resize_matrix
from sgformer.tasks.classification.model import Classifier
from sgformer.tasks.images import Preprocessing

COMPARED = [(160, 208), (224, 224), (333, 250), (416, 352)]
SIZES = [(128, 128), (160, 208), (224, 224), (333, 250), (130, 401)]


@pytest.fixture(params=[False, True], ids=["products", "convolutions"])
def as_exported(request, monkeypatch):
    """What a model gives in the operations of an exported program, computed here, and its significance maps."""

    @contextmanager
    def exporting():
        with monkeypatch.context() as patch, exported.convolutions(request.param):
            patch.setattr(dispatch, "_exporting", lambda: True)
            yield

    def run(model, x):
        with exporting(), record_significance(model) as maps:
            return model(x), maps

    return run


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"img_size": (96, 160)}])
@torch.no_grad()
def test_any_size_computes_what_the_model_computes(size, options, as_exported):
    model, x = fill.model("sgformer_test", num_classes=5, **options), fill.image("export", 2, *size)
    logits, maps = as_exported(model, x)
    torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-11)
    for ours, theirs in zip(maps, model.forward_significance(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("variant", "size"),
    [
        *(("sgformer_t", size) for size in COMPARED),
        ("sgformer_s", COMPARED[0]),
        ("sgformer_m", COMPARED[0]),
        *(pytest.param(f"sgformer_{v}", s, marks=pytest.mark.exhaustive) for v in "sm" for s in COMPARED[1:]),
        *(pytest.param("sgformer_b", s, marks=pytest.mark.exhaustive) for s in COMPARED),
    ],
)
@torch.no_grad()
def test_every_variant_computes_the_same(variant, size, as_exported):
    """In float64, what is followed by the exporters; files of every variant: benchmarks/export_parity.py."""
    model, x = fill.model(variant, num_classes=5), fill.image("export", 1, *size)
    logits, maps = as_exported(model, x)
    torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-10)
    assert len(maps) == num_maps(model) > 0


@pytest.mark.parametrize("budget", [3, 20, 196])
def test_what_a_budget_asks_for_is_counted_as_it_is_searched(budget):
    """The file counts with tensors, since height and width are not known when it is made."""
    for tokens in [1, 5, 60, 784, 1234, 3136, 65_536]:
        for sizes in [(196, 56, 28), (49, 14, 7), (2, 1)]:
            bands = cut_bands(tokens, sizes)
            assert int(count_factor(bands, budget)) == group_factor(bands, budget)
    for height, width in [(1, 1), (3, 7), (28, 42), (32, 32), (5, 64)]:
        keys = torch.randn(2, height, width, 3, dtype=torch.float64)
        expected, side = pool_keys(keys, budget)
        counted = count_side(height, width, budget)
        assert int(counted) == side
        torch.testing.assert_close(pool_cells(keys, counted), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 130), (112, 112)])  # in the last one windows fill a map
@pytest.mark.parametrize("budget", [None, 20])
@torch.no_grad()
def test_one_size_computes_what_the_model_computes(size, budget, as_exported):
    model = fill.model("sgformer_test", num_classes=5, token_budget=budget)
    x = fill.image("export", 2, *size)
    torch.testing.assert_close(as_exported(model, x)[0], model(x), rtol=0, atol=1e-11)


def test_equal_significance_is_ranked_in_row_major_order():
    """By whole numbers that no two tokens share, so that no runtime can break ties in its own way."""
    generator = torch.Generator().manual_seed(0)
    for few, size in ((1, (30, 40)), (3, (30, 40)), (400, (30, 40)), (1, (70, 80)), (400, (70, 80))):
        significance = torch.randint(few, (2, *size), generator=generator).float()
        assert torch.equal(rank_tokens(significance, backend="exportable"), rank_tokens(significance))


@torch.no_grad()
def test_nothing_in_an_exported_program_is_left_to_a_runtime():
    """No sort, since few runtimes have a stable one; no rank above 5; no division of sizes other than of integers."""
    model = fill.model("sgformer_test", num_classes=5, depths=(2, 0, 0, 1)).float()
    for convs in (False, True):
        program = tracing.trace(model, 3, fixed=None, smallest=(128, 128), largest=(512, 512), convs=convs)
        convolved = sum("conv2d" in str(node.target) for node in program.graph.nodes)
        assert (convolved > 30) == convs
        for node in program.graph.nodes:
            assert "sort" not in str(node.target)
            assert node.target is not operator.truediv
            value = node.meta.get("val")
            assert not isinstance(value, torch.Tensor) or value.ndim <= 5, node


@torch.no_grad()
def test_an_exported_program_keeps_its_ranking_in_bfloat16():
    """OpenVINO computes so by its defaults: keys are whole numbers, and heads are averaged after their products."""
    model = fill.model("sgformer_test", num_classes=5, depths=(2, 0, 0, 1)).float()
    for fixed in (None, (128, 128)):
        nodes = tracing.trace(model, 3, fixed=fixed, smallest=(128, 128), largest=(512, 512)).graph.nodes
        ranked = [node.args[0].meta["val"].dtype for node in nodes if "topk" in str(node.target)]
        assert ranked
        assert ranked == [torch.float32, torch.int32] * (len(ranked) // 2)
        weights = [node for node in nodes if "softmax" in str(node.target)]
        assert weights
        used = {str(user.target) for node in weights for user in node.users}
        assert not {name for name in used if "view" in name or "reshape" in name or "flatten" in name or "mean" in name}


@torch.no_grad()
def test_norms_of_a_program_of_one_size_are_told_their_length():
    """IREE computes NaN of one that is left open after a convolution."""
    model = fill.model("sgformer_test", num_classes=5, depths=(2, 0, 0, 1)).float()
    nodes = tracing.trace(model, 3, fixed=(128, 128), smallest=(128, 128), largest=(128, 128), convs=True).graph.nodes
    normed = [node.args[0] for node in nodes if "instance_norm" in str(node.target)]
    assert len(normed) >= 3
    assert not any(-1 in node.args[1] for node in normed)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
@torch.no_grad()
def test_the_model_exports_itself_with_open_sizes(strict):
    """By nothing but PyTorch, for whoever takes the model as a part of their own."""
    model = fill.model("sgformer_test", num_classes=5, depths=(2, 0, 0, 1))
    open_ = {0: torch.export.Dim("batch", min=1, max=64)}
    open_ |= {i: torch.export.Dim(name, min=128, max=1024) for i, name in ((2, "height"), (3, "width"))}
    x = torch.zeros(2, 3, 224, 256, dtype=torch.float64)
    program = torch.export.export(model, (x,), dynamic_shapes=(open_,), strict=strict)
    for batch, *size in [(1, 128, 128), (3, 160, 209)]:
        x = fill.image("export", batch, *size)
        torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("old", "new"), [(56, 56), (56, 40), (7, 20), (5, 3), (1, 4)])
def test_resize_matrix_is_pytorchs_bicubic_resize(old, new):
    x = torch.randn(1, 1, old, 3, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(x, (new, 3), mode="bicubic", align_corners=False)
    torch.testing.assert_close((resize_matrix(old, new, like=x) @ x[0, 0]), expected[0, 0], rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "budget"),
    [(".onnx", 20), *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in [(".pt2", 20), (".onnx", None)])],
)
def test_one_file_takes_every_size_of_its_range(tmp_path, suffix, budget):
    pytest.importorskip("onnxruntime", reason="what runs the files")
    pytest.importorskip("onnxscript", reason="what torch exports to ONNX with")
    preprocessing = Preprocessing(image_size=(224, 224))
    options = {"depths": (2, 0, 0, 1), "token_budget": budget}
    model = Classifier("sgformer_test", classes=list("abc"), preprocessing=preprocessing, kwargs=options)
    fill.fill_(model.eval().backbone)
    part = parts.part_of(model)
    smallest, largest = (128, 128), (512, 512)
    program = tracing.trace(part.module, 3, fixed=None, smallest=smallest, largest=largest)
    path = tmp_path / f"any{suffix}"
    write = onnx_file.write if suffix == ".onnx" else torch_program.write
    sizes = {"smallest": smallest, "largest": largest}
    write(path, program, {"outputs": part.names, "precision": "float32", "sizes": sizes})
    assert check.verify(path, part, fixed=None, largest=largest) < 1e-4
    run = formats.open_exported(path)
    for batch, *size in [(1, 128, 128), (3, 512, 512), (2, 128, 512), (1, 131, 397)]:
        x = fill.image("range", batch, *size).float()
        for difference, scale in check.differences(part, x, run(x)).values():
            assert difference < 1e-4 * max(1, scale)
    for size in [(127, 200), (200, 513)]:
        with pytest.raises(Exception, match=r"128|512"):
            run(torch.zeros(1, 3, *size))
