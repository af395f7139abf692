"""Pretraining by distillation, without labels: a student learns from a teacher, both any timm models."""

from ..classification.model import Classifier as Classifier

Kept = Classifier
