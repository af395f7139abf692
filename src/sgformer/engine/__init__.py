"""What training needs and no task owns: recipes, optimizer, the run folder, the weights file."""
