"""The ``studies`` section of a profile: ablations and searches for logit scales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mobileclip2.config.augmentation import Augmentation
from mobileclip2.config.settings import Named
from mobileclip2.config.student import Loss, Student, check_ignored

_Scale = Annotated[float, Field(ge=0.01, le=1000)]


class StudyRow(Named):
    """A row of a study: data, loss and augmentation of its students."""

    data: Literal["reinforced", "raw"] = "reinforced"
    corpora: tuple[str, ...] = ()
    loss: Loss = Loss()
    augmentation: Literal["weak", "views"] | Augmentation = "weak"

    @model_validator(mode="after")
    def _is_used(self) -> Self:
        check_ignored(f"row '{self.name}'", self.data, self.corpora, self.loss, self.augmentation)
        return self


class Study(Named):
    """An ablation or a search for logit scales. Every row is trained with every seed.

    The search trains a student with each teacher alone at each of its scales (Faghri et al. 2025).
    """

    student: str
    """name of the student that provides model and training settings"""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    evaluate_on: tuple[str, ...] = Field(min_length=1)
    rows: tuple[StudyRow, ...] = ()
    scales: dict[str, Annotated[tuple[_Scale, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """logit scales to try for each teacher"""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if bool(self.rows) == bool(self.scales):
            raise ValueError(f"study '{self.name}': give 'rows' or 'scales'")
        for field, values in {"seeds": self.seeds, "rows": [row.name for row in self.rows], **self.scales}.items():
            if len(set(values)) != len(values):
                raise ValueError(f"study '{self.name}': {field} must be unique")
        names = [scale_name(teacher, scale) for teacher, scales in self.scales.items() for scale in scales]
        name, count = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
        if count > 1:
            raise ValueError(f"study '{self.name}': {count} scales have the same name '{name}'; change or remove them")
        return self

    def lines(self, base: Student, teachers: Sequence[str]) -> list[StudyRow]:
        """Return the rows, or one row for each teacher and scale."""
        if self.rows:
            return list(self.rows)
        rows = []
        for teacher, scales in self.scales.items():
            for scale in scales:
                alone = {other: scale if other == teacher else None for other in teachers}
                loss = base.loss.model_copy(update={"logit_scales": alone})
                rows.append(StudyRow(name=scale_name(teacher, scale), data=base.data, loss=loss))
        return rows

    def trials(self, base: Student, teachers: Sequence[str]) -> dict[str, Student]:
        """Return the student of every row and seed by its trial name."""
        trials = {}
        for row in self.lines(base, teachers):
            for seed in self.seeds:
                train = base.training.model_copy(update={"seed": seed})
                changed = {name: getattr(row, name) for name in ("data", "corpora", "loss", "augmentation")}
                changed |= {"datasets": None if row.data == "raw" else base.datasets}
                changed |= {"train": train, "evaluate_on": self.evaluate_on}
                trials[trial_name(row.name, seed)] = base.model_copy(update=changed)
        return trials


def scale_name(teacher: str, scale: float) -> str:
    """Return the row name of a teacher and logit scale."""
    return f"{teacher}_{scale:g}".replace(".", "_")


def trial_name(row: str, seed: int) -> str:
    """Return the trial name of a row and seed."""
    return f"{row}-seed{seed}"
