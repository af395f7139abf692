"""Export of trained models: the part that is exported, the file formats, and the check of a file."""
