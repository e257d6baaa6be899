"""Teachers: the models whose embeddings are stored, and the writing of those embeddings."""
