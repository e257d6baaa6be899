"""Teachers: the models whose embeddings are stored."""
