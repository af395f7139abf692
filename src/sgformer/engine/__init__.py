"""Training machinery shared by all tasks: recipes, optimizer, the run folder, the weights file."""
