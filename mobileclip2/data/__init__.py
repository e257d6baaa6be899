"""Data: tars, images, validation, sidecars, augmentation, preprocessing and the reinforced format."""
