"""Object detection and instance segmentation, with any timm backbone."""

from .model import Detector as Detector
from .prediction import Detections as Detections

Kept = Detector
