"""The SG-Former backbone; importing it registers the models with timm."""

from .model import SGFormer
from .ranking import hold_significance
from .sgformer import sgformer_b, sgformer_m, sgformer_s, sgformer_t, sgformer_test

__all__ = [
    "SGFormer",
    "hold_significance",
    "sgformer_b",
    "sgformer_m",
    "sgformer_s",
    "sgformer_t",
    "sgformer_test",
]
