"""Export a trained student to files that run without this project."""
