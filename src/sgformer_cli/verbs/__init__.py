"""Arguments of each verb: ``add_arguments``, and examples for its help."""
