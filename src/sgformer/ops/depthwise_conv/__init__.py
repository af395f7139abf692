"""A 3x3 depthwise convolution of a token map, with what follows it in the same go."""

from .api import depthwise_conv, explain_backends, gradients

__all__ = ["depthwise_conv", "explain_backends", "gradients"]
