"""Images decoded and prepared in threads ahead of the model, so that neither waits for the other.

Decoding, resizing and most of RandAugment's operations let go of Python's lock, so threads share the cores without
processes to start and without copies between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import pyarrow as pa
import torch
from PIL import Image

from mobileclip2.data.image import decode
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.engine.shard_stage import encoded_images
from mobileclip2.engine.source_inventory import Shard

T = TypeVar("T")

Prepare = Callable[[int, Image.Image], torch.Tensor]
"""number of a sample in its side file, and its image -> what the model needs of it"""


def prepared(shard: Shard, raw: pa.Table, prepare: Prepare, at_once: int) -> Iterator[torch.Tensor]:
    """``prepare`` of every kept sample of a shard, in the order of its side file, ``at_once`` stacked together.

    The next two batches are prepared while the caller works on one; no more of a shard than that is in memory.
    As many threads as torch computes with, since they take turns with it on a CPU and a GPU leaves them the cores.
    """

    def work(number: int, data: bytes) -> torch.Tensor:
        return prepare(number, decode(data))

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        waiting: deque[Future[torch.Tensor]] = deque()
        try:
            for number, (_, data) in enumerate(encoded_images(shard, raw)):
                waiting.append(threads.submit(work, number, data))
                if len(waiting) == 3 * at_once:
                    yield _stacked(waiting, at_once)
            while waiting:
                yield _stacked(waiting, at_once)
        finally:
            threads.shutdown(cancel_futures=True)


def whole_images(
    shard: Shard, raw: pa.Table, preprocess: Preprocess, at_once: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """Every kept image of a shard as zero-shot evaluation shows it, normalized ``[b, 3, size, size]`` on ``device``."""
    for pixels in prepared(shard, raw, lambda _, image: preprocess.pixels(preprocess.center(image)), at_once):
        yield preprocess.normalized(to_device(pixels, device))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device. A copy to a GPU does not wait for the present work of the GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` items. The last one may be shorter."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


def _stacked(waiting: deque[Future[torch.Tensor]], count: int) -> torch.Tensor:
    return torch.stack([waiting.popleft().result() for _ in range(min(count, len(waiting)))])
