"""Arguments of `SGFormer` that cannot be are refused in a sentence."""

import pytest

from sgformer.backbone import SGFormer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": (16, 4, 2, None)}, r"stride is 16; choose one of 8, 4, 2"),
        ({"depths": (3, 2, 2, 1)}, r"depth is 3"),
    ],
)
def test_stages_that_cannot_be_are_refused(arguments, message):
    small = {"depths": (2, 2, 2, 1), "channels": (16,) * 4, "num_heads": (2,) * 4}
    with pytest.raises(ValueError, match=message):
        SGFormer(**(small | arguments))
