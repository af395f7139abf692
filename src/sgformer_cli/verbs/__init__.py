"""What each verb takes: ``add_arguments``, and examples for its help."""
