"""Image-text models: architectures, weights, and the one object that carries a model with its conventions."""
