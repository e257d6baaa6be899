"""A trained student as files that run without this project."""
