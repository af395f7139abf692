"""The SG-Former backbone; importing it registers the models with timm.

Read `model.py`, `blocks.py`, `attention.py`, then `stem.py` and `mlp.py`; of a `Segment`, `plain` alone. Dimensions are
`B` images, `H`, `W` and `N = H * W` tokens, `M` keys, `c` channels, `a` heads, `d = c / a` channels of a head, `s`
tokens on a side of the square behind a coarse key, `r` members of a group. A *summary token* is a learned weighted sum
of a group of tokens; it gives one key and one value.
"""

from .model import SGFormer
from .ranking import hold_significance
from .sgformer import sgformer_b, sgformer_m, sgformer_s, sgformer_t, sgformer_test

__all__ = ["SGFormer", "hold_significance", "sgformer_b", "sgformer_m", "sgformer_s", "sgformer_t", "sgformer_test"]
