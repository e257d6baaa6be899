"""The ``students`` section of a profile."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mobileclip2.config.augmentation import RELEASED_RENDERING, Augmentation, Rendering
from mobileclip2.config.model import Model
from mobileclip2.config.settings import Named, Positive, Settings, Text, undeclared
from mobileclip2.config.training import TrainSettings


class Loss(Settings):
    """MobileCLIP2's training loss: ``(1 - distill) * CLIP + distill * distillation`` on the chosen caption batches."""

    distill: float = Field(1.0, ge=0, le=1)
    captions: Literal["both", "real", "synthetic"] = "both"
    captioners: tuple[str, ...] | None = None
    """captioners whose captions are sampled; by default, all captioners of the dataset"""
    logit_scales: dict[str, Positive | None] = Field(default_factory=dict)
    """logit scale of each named teacher, which overrides the teacher's own; null excludes the teacher"""


class Pick(Settings):
    """Rule that selects a point of a WiSE-FT curve: best on one set, with a bounded loss on other sets."""

    best: str
    """evaluation set whose main metric is maximized"""
    of: tuple[str, ...] = Field(min_length=1)
    """evaluation sets whose loss is bounded"""
    within: float = Field(0.01, ge=0, le=1)
    """maximum loss of the main metric on each of these sets, as a share of the value at the start"""

    @property
    def sets(self) -> tuple[str, ...]:
        """All sets of the rule, without duplicates."""
        return tuple(dict.fromkeys((self.best, *self.of)))


class WiseFT(Settings):
    """Interpolation between the initial and the final weights of a student (WiSE-FT, Wortsman et al. 2022)."""

    to: str
    """name of an earlier student that was trained from pretrained weights or from another student"""
    weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = tuple(tenth / 10 for tenth in range(11))
    """points of the curve: 0 is the start and 1 is the end"""
    pick: Pick

    @model_validator(mode="after")
    def _has_both_ends(self) -> Self:
        if sorted(set(self.weights)) != list(self.weights) or not {0.0, 1.0} <= set(self.weights):
            raise ValueError(f"between.weights: {list(self.weights)} must rise from 0, the start, to 1, the end")
        return self


OF_A_TRAINING = ("augmentation", "corpora", "data", "datasets", "evaluate_on", "loss", "render", "sampling", "train")
"""fields of a student that only its training uses"""


def check_ignored(name: str, data: str, corpora: tuple[str, ...], loss: Loss, augmentation: str | Augmentation) -> None:
    """Refuse a field of a student, or of a row of a study, that its training would ignore.

    Raises:
        ValueError: the field has no effect with the other ones. The message starts with ``name``.
    """
    if data == "raw" and loss != Loss():
        raise ValueError(f"{name}: 'loss' needs 'data: reinforced'; remove 'loss' or change 'data'")
    if corpora and data != "raw":
        raise ValueError(f"{name}: 'corpora' needs 'data: raw'; remove 'corpora' or change 'data'")
    if augmentation != "weak" and data != "raw" and loss.distill > 0:
        raise ValueError(
            f"{name}: a distilled student sees the stored views; remove 'augmentation', "
            "and change 'views.augmentation' to store other views"
        )


class Student(Named):
    """A student. ``data: raw`` is the plain CLIP baseline on the same shards.

    A student without ``train`` is a pretrained model. It is evaluated, and other students can start from it.
    """

    base: Text | None = None
    """name of an earlier student that provides the initial weights"""
    model: Model | None = None
    between: WiseFT | None = None
    data: Literal["reinforced", "raw"] = "reinforced"
    corpora: tuple[str, ...] = ()
    """caption corpora whose pairs are added to the raw pairs"""
    datasets: tuple[str, ...] | None = Field(None, min_length=1)
    """reinforced datasets of the training: ``reinforced_dataset`` and names of ``reinforced``; by default the only one"""
    loss: Loss = Loss()
    sampling: Literal["with_replacement"] | None = None
    """by default, an epoch has each sample once; ``with_replacement`` draws shards as the released training does"""
    augmentation: Literal["weak", "views"] | Augmentation = "weak"
    """augmentation of a student that does not distill; ``views`` is the profile's ``views.augmentation``"""
    render: Rendering = RELEASED_RENDERING
    train: TrainSettings | None = None
    evaluate_on: tuple[str, ...] = ()
    """evaluation sets for evaluations during training"""
    license: str | None = undeclared(None)
    """license of the trained student"""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if sum(origin is not None for origin in (self.base, self.model, self.between)) != 1:
            raise ValueError(f"student '{self.name}': name exactly one of 'base', 'model' and 'between'")
        if self.train is None and not self.between and not (self.model and self.model.pretrained):
            raise ValueError(f"student '{self.name}': 'train' is missing; only a model with weights can go without it")
        if self.between or not self.train:
            fields = type(self).model_fields
            unused = [name for name in OF_A_TRAINING if getattr(self, name) != fields[name].default]
            if unused:
                raise ValueError(f"student '{self.name}' is not trained; remove {', '.join(unused)}")
        if self.data == "raw" and self.datasets:
            raise ValueError(f"student '{self.name}': 'datasets' needs 'data: reinforced'; remove one of them")
        if self.datasets and len(set(self.datasets)) < len(self.datasets):
            raise ValueError(f"student '{self.name}': datasets must be unique")
        check_ignored(f"student '{self.name}'", self.data, self.corpora, self.loss, self.augmentation)
        return self

    @property
    def distills(self) -> bool:
        """Whether the student learns from stored embeddings, which belong to stored views."""
        return self.data == "reinforced" and self.loss.distill > 0

    @property
    def training(self) -> TrainSettings:
        """``train`` of a student that is trained."""
        assert self.train is not None
        return self.train
