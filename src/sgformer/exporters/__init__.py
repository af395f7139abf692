"""Trained models as files that run without this package: what of a model is exported, the files, and their check."""
