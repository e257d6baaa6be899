"""MobileCLIP2: reinforce an image-text dataset once, and train small image-text models from it.

Use a model::

    import mobileclip2

    model = mobileclip2.load("MobileCLIP2-S0:dfndr2b")          # or a folder, hf-hub:..., student/mine
    model.rank("a red bicycle", ["a.jpg", "b.jpg"])             # the best picture first
    model.classify(["a.jpg"], ["bicycle", "car"])               # classes with probabilities
    model.embed_images(["a.jpg"]), model.embed_texts(["a car"]) # normalized embeddings

Train one::

    pipeline = mobileclip2.Pipeline.open("mobileclip2.yaml")    # 'mobileclip2 init' writes this file
    pipeline.plan()                                             # what would be computed, and why
    pipeline.run("student/mine")                                # a student and what it needs
    pipeline.read("evaluation/mine")                            # its metrics by evaluation set

``docs/python.md`` lists the names that stay stable. All other names are private and can change.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobileclip2.api.load import load
    from mobileclip2.api.model import ImageTextModel, Match, Prediction
    from mobileclip2.api.pipeline import Pipeline, Planned

__version__ = "0.1.0"

__all__ = ["ImageTextModel", "Match", "Pipeline", "Planned", "Prediction", "__version__", "load"]

_MODULES = {
    "load": "mobileclip2.api.load",
    "ImageTextModel": "mobileclip2.api.model",
    "Match": "mobileclip2.api.model",
    "Pipeline": "mobileclip2.api.pipeline",
    "Planned": "mobileclip2.api.pipeline",
    "Prediction": "mobileclip2.api.model",
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
