"""Image classification, with any timm backbone."""

from .model import Classifier as Classifier
from .prediction import Prediction as Prediction

Kept = Classifier
