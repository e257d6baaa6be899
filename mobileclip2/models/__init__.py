"""Image-text models: architectures, weights, tokenizers and preprocessing."""
