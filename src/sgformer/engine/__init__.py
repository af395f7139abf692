"""Training infrastructure of all tasks: recipes, optimizer, run folder, weights file."""
