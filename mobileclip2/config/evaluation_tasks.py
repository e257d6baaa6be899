"""The 40 tasks of the DataComp suite and its published averages, which cover 38 of them (Gadre et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["classification", "retrieval", "association", "faces"]


@dataclass(frozen=True)
class EvaluationTask:
    """One evaluation set of the suite. ``main`` is None if the set has no main metric."""

    key: str
    name: str
    size: int
    """number of test images, or of questions in an association set"""
    source: str
    """dataset name on the Hugging Face hub"""
    main: str | None = "acc1"
    kind: Kind = "classification"
    fields: tuple[str, ...] = ()
    """column names of each sample's ``npy``"""
    vtab: bool = False

    @property
    def counts(self) -> bool:
        """True if the set is one of the 38 of the published average."""
        return self.main is not None


def _wds(key: str, name: str, size: int, main: str | None = "acc1", **options: Any) -> EvaluationTask:
    folder = key.removeprefix("fairness/").replace("/", "-")
    return EvaluationTask(key, name, size, f"djghosh/wds_{folder}_test", main, **options)


def _nlphuji(key: str, name: str, size: int, main: str, kind: Kind) -> EvaluationTask:
    return EvaluationTask(key, name, size, f"nlphuji/{key.partition('/')[2]}", main, kind)


_RECALL, _PAIRS = "mean_per_class_recall", "mean_recall@1"
_FACES = ("age", "gender", "race", "race_binary")
_INCOME = ("income_ds", "income_meta", "region")
_CAMERA = ("location", "sequence", "year", "month", "day", "hour", "minute", "second", "y")

TASKS: Mapping[str, EvaluationTask] = {
    task.key: task
    for task in (
        _wds("vtab/caltech101", "Caltech-101", 6085, _RECALL, vtab=True),
        _wds("cifar10", "CIFAR-10", 10_000),
        _wds("vtab/cifar100", "CIFAR-100", 10_000, vtab=True),
        _wds("vtab/clevr_count_all", "CLEVR Counts", 15_000, vtab=True),
        _wds("vtab/clevr_closest_object_distance", "CLEVR Distance", 15_000, vtab=True),
        _wds("country211", "Country211", 21_100),
        _wds("vtab/dtd", "Describable Textures", 1880, vtab=True),
        _wds("vtab/eurosat", "EuroSAT", 5400, vtab=True),
        _wds("fgvc_aircraft", "FGVC Aircraft", 3333, _RECALL),
        _wds("food101", "Food-101", 25_250),
        _wds("gtsrb", "GTSRB", 12_630),
        _wds("imagenet1k", "ImageNet 1k", 50_000),
        _wds("imagenet_sketch", "ImageNet Sketch", 50_889),
        _wds("imagenetv2", "ImageNet v2", 10_000),
        _wds("imagenet-a", "ImageNet-A", 7500),
        _wds("imagenet-o", "ImageNet-O", 2000),
        _wds("imagenet-r", "ImageNet-R", 30_000),
        _wds("vtab/kitti_closest_vehicle_distance", "KITTI Vehicle Distance", 711, vtab=True),
        _wds("mnist", "MNIST", 10_000),
        _wds("objectnet", "ObjectNet", 18_574),
        _wds("vtab/flowers", "Oxford Flowers-102", 6149, _RECALL, vtab=True),
        _wds("vtab/pets", "Oxford-IIIT Pet", 3669, _RECALL, vtab=True),
        _wds("voc2007", "Pascal VOC 2007", 14_976),
        _wds("vtab/pcam", "PatchCamelyon", 32_768, vtab=True),
        _wds("renderedsst2", "Rendered SST2", 1821),
        _wds("vtab/resisc45", "RESISC45", 6300, vtab=True),
        _wds("cars", "Stanford Cars", 8041),
        _wds("stl10", "STL-10", 8000),
        _wds("sun397", "SUN397", 108_754, vtab=True),
        _wds("vtab/svhn", "SVHN", 26_032, vtab=True),
        _nlphuji("retrieval/flickr_1k_test_image_text_retrieval", "Flickr", 1000, _PAIRS, "retrieval"),
        _nlphuji("retrieval/mscoco_2014_5k_test_image_text_retrieval", "MSCOCO", 5000, _PAIRS, "retrieval"),
        _nlphuji("misc/winogavil", "WinoGAViL", 3563, "jaccard_score_10-12", "association"),
        _wds("wilds/iwildcam", "iWildCam", 42_791, "F1-macro_all", fields=_CAMERA),
        _wds("wilds/camelyon17", "Camelyon17", 85_054, fields=("hospital", "slide", "y")),
        _wds("wilds/fmow", "FMoW", 22_108, "acc_worst_region", fields=("region", "year", "y")),
        _wds("fairness/dollar_street", "Dollar Street", 3503, "acc_top5_wg", fields=_INCOME),
        _wds("fairness/geode", "GeoDE", 12_488, "acc_wg", fields=("region", "country")),
        _wds("fairness/fairface", "FairFace", 10_954, None, kind="faces", fields=_FACES),
        _wds("fairness/utkface", "UTKFace", 23_703, None, kind="faces", fields=_FACES),
    )
}

AVERAGES: Mapping[str, tuple[str, ...]] = {
    "average": tuple(task.key for task in TASKS.values() if task.counts),
    "imagenet_shift": ("imagenetv2", "imagenet_sketch", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet"),
    "vtab": tuple(task.key for task in TASKS.values() if task.vtab),
    "retrieval": tuple(task.key for task in TASKS.values() if task.kind in {"retrieval", "association"}),
}
"""sets of each published average; ImageNet is a single set"""


def averages(mains: Mapping[str, float | None]) -> dict[str, float]:
    """Compute each published average whose sets all have a main metric. Other sets are ignored."""
    complete = {}
    for name, keys in AVERAGES.items():
        values = [value for key in keys if (value := mains.get(key)) is not None]
        if len(values) == len(keys):
            complete[name] = sum(values) / len(values)
    return complete
