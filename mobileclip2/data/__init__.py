"""Tars, images, validation, sidecars, augmentation, preprocessing and the reinforced format."""
