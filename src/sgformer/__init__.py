"""SG-Former: a vision backbone with global, self-guided attention that stays affordable on large images.

Importing the package registers the models with timm:

Example:
    >>> import timm, sgformer
    >>> model = timm.create_model("sgformer_test", num_classes=10)
"""

from .backbone import SGFormer

__version__ = "0.1.0.dev0"

__all__ = ["SGFormer", "__version__"]
