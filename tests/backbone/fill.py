"""Weights and images drawn from names, the same everywhere, so that no case has to store them.

Larger than initial weights and without structure: with them every part of the model has a say in the output.
"""

import math
import zlib

import numpy as np
import timm
import torch

import sgformer  # noqa: F401  registers the models


def noise(name, shape):
    """Uniform float64 numbers in [-1, 1), by splitmix64 from a hash of the name."""
    z = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(zlib.crc32(b"sgformer/" + name.encode()) << 20)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) / 2**52 - 1).reshape(shape)


def weight(name, shape):
    """The weight of this name, released or ours; f and merge are means with a strong tilt."""
    u = noise(name, shape)
    module = ".".join(name.split(".")[:-1])
    if name.endswith("pos_embed"):
        return u / 2
    if name.endswith(".bias"):
        return u / 5
    if ".merge." in name or module.split(".")[-1] in ("f1", "f2", "f3"):
        return (1 + 0.9 * u) / shape[1]
    return 1 + u / 2 if len(shape) == 1 else u * math.sqrt(3 / math.prod(shape[1:]))


def image(name, batch, height, width, channels=3):
    """A batch of smooth waves with a bright blob each, at different places."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.double() / max(height, width), x.double() / max(height, width)
    u = noise(name, (batch, channels, 4))[..., None, None]
    waves = torch.sin(9 * u[:, :, 0] * x + 9 * u[:, :, 1] * y + 3 * u[:, :, 2])
    v = noise(f"{name}/blob", (batch, 2))[..., None, None, None]
    blob = torch.exp(-((x - 0.4 - 0.3 * v[:, 0]) ** 2 + (y - 0.4 - 0.3 * v[:, 1]) ** 2) / 0.01)
    return waves + 2 * blob + 0.3 * noise(f"{name}/noise", (batch, channels, height, width))


@torch.no_grad()
def fill_(model):
    """Gives a model, of any class, these weights in place of its own."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weight(name, parameter.shape))
    return model


def model(name, *, dtype=torch.float64, **options):
    """A registered model with these weights, ready to predict."""
    return fill_(timm.create_model(name, **options).to(dtype)).eval()


def strides_of(size):
    """Height and width of the four feature maps."""
    return [tuple(math.ceil(n / 2**k) for n in size) for k in (2, 3, 4, 5)]


MODELS = timm.list_models("sgformer*")
