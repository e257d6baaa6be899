"""MobileCLIP2: reinforce an image-text dataset once, train small image-text models from it.

The library knows data and models; it never imports Dagster. See ``docs/`` for the tasks it serves.
"""

__version__ = "0.1.0"
