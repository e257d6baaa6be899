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

Write a training loop of one's own::

    model = mobileclip2.create("MobileCLIP2-S0")                # random weights; model.module is open_clip's module
    data = mobileclip2.ReinforcedDataset(tars, model)           # a dataset of torch, or pipeline.reinforced(model)
    mobileclip2.losses.distillation(...)                        # also losses.clip and losses.reinforced
    mobileclip2.evaluate(model, "evaluation/mine")              # metrics by set
    model.save("mine")                                          # for mobileclip2.load and for open_clip

``docs/python.md`` lists the names that stay stable. All other names are private and can change.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobileclip2.api import losses
    from mobileclip2.api.dataset import ReinforcedDataset
    from mobileclip2.api.evaluate import evaluate
    from mobileclip2.api.load import create, load
    from mobileclip2.api.model import ImageTextModel, Match, Prediction
    from mobileclip2.api.pipeline import Pipeline, Planned
    from mobileclip2.errors import UserError

__version__ = "0.1.0"

__all__ = [
    "ImageTextModel",
    "Match",
    "Pipeline",
    "Planned",
    "Prediction",
    "ReinforcedDataset",
    "UserError",
    "__version__",
    "create",
    "evaluate",
    "load",
    "losses",
]

_MODULES = {
    "ImageTextModel": "mobileclip2.api.model",
    "Match": "mobileclip2.api.model",
    "Pipeline": "mobileclip2.api.pipeline",
    "Planned": "mobileclip2.api.pipeline",
    "Prediction": "mobileclip2.api.model",
    "ReinforcedDataset": "mobileclip2.api.dataset",
    "UserError": "mobileclip2.errors",
    "create": "mobileclip2.api.load",
    "evaluate": "mobileclip2.api.evaluate",
    "load": "mobileclip2.api.load",
    "losses": "mobileclip2.api.losses",
}
"""module of each public name"""


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import mobileclip2`` does not import torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mobileclip2' has no attribute '{name}'")
    module = importlib.import_module(_MODULES[name])
    return module if name == "losses" else getattr(module, name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
