"""MobileCLIP2: reinforce an image-text dataset once, and train small image-text models from it.

Use a model::

    import mobileclip2

    model = mobileclip2.load("MobileCLIP2-S0:dfndr2b")          # or a folder, hf-hub:..., student/mine
    model.rank("a red bicycle", ["a.jpg", "b.jpg"])             # the best picture first
    model.classify(["a.jpg"], ["bicycle", "car"])               # classes with probabilities
    model.embed_images(["a.jpg"]), model.embed_texts(["a car"]) # normalized embeddings

``docs/python.md`` lists the names that stay stable. All other names are private and can change.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobileclip2.inference.load import load
    from mobileclip2.inference.model import ImageTextModel, Match, Prediction

__version__ = "0.1.0"

__all__ = ["ImageTextModel", "Match", "Prediction", "__version__", "load"]

_MODULES = {
    "load": "mobileclip2.inference.load",
    "ImageTextModel": "mobileclip2.inference.model",
    "Match": "mobileclip2.inference.model",
    "Prediction": "mobileclip2.inference.model",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import mobileclip2`` does not import torch."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module 'mobileclip2' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
