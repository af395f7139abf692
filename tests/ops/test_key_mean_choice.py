"""Which backend `key_mean_attention` takes, and what it refuses."""

import pytest
import torch

from sgformer.ops import key_mean_attention
from sgformer.ops.key_mean_attention import explain_backends


def test_auto_says_why():
    meta = torch.empty(1, 1, 64, 8, device="meta"), torch.empty(1, 8, 50_000, 8, device="meta")
    small, large = (explain_backends(x, x, x) for x in meta)
    assert (small["reference"], small["chunked"]) == ("yes", "yes")
    assert large["reference"] == "it would keep 20,000,000,000 attention weights, more than 16,777,216"
    assert large["sdpa"] == "there is no fused attention that it knows on 'meta'"
    assert large["chunked"] == "yes"
    assert key_mean_attention(meta[1], meta[1], meta[1])[1].shape == (1, 50_000)


def test_auto_keeps_weights_only_for_a_gradient():
    q = torch.empty(1, 2, 3136, 8)
    k = torch.empty(1, 2, 784, 8)
    assert "for no gradient" in explain_backends(q, k, k)["reference"]
    assert "a second pass" in explain_backends(q, k, k)["sdpa"]
    assert explain_backends(q.requires_grad_(), k, k)["reference"] == "yes"
    with torch.no_grad():
        assert "for no gradient" in explain_backends(q, k, k)["reference"]


ERRORS = [
    ({"q": torch.ones(2, 5, 4)}, "takes q"),
    ({"v": torch.ones(2, 3, 7, 4)}, "takes q"),
    ({"q": torch.ones(1, 3, 5, 4)}, "differ in images, heads or channels"),
    ({"q": torch.ones(2, 1, 5, 4)}, "differ in images, heads or channels"),
    ({"q": torch.ones(2, 3, 5, 8)}, "differ in images, heads or channels"),
    ({"q": torch.ones(2, 3, 5, 4).bfloat16()}, "give them one"),
    ({"mask": torch.ones(2, 6)}, "boolean"),
    ({"mask": torch.ones(1, 6) > 0}, r"mask \(1, 6\) is neither"),
    ({"mask": torch.ones(2, 5, 6) > 0}, r"mask \(2, 5, 6\) is neither"),
    ({"mask": torch.ones(2, 3, 6, 5) > 0}, r"\(2, 3, 5, 6\)"),
    ({"backend": "cuda"}, "no backend 'cuda'; choose one of auto, .*triton, sdpa, reference, chunked"),
]


@pytest.mark.parametrize(("wrong", "message"), ERRORS)
def test_errors_say_what_was_received(wrong, message):
    right = {"q": torch.ones(2, 3, 5, 4), "k": torch.ones(2, 3, 6, 4), "v": torch.ones(2, 3, 6, 4)}
    options = right | wrong
    with pytest.raises(ValueError, match=message):
        key_mean_attention(options.pop("q"), options.pop("k"), options.pop("v"), **options)
