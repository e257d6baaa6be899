"""Decode and preprocess images in threads while the model computes.

Decoding, resizing and most operations of RandAugment release the GIL, so threads use all cores without copies between processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import torch
from PIL import Image

from mobileclip2.data.image import decode
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import encoded_images

Prepare = Callable[[int, Image.Image], torch.Tensor]
"""(row of a sample in its sidecar, image) -> tensor for the model"""


def prepared(shard: Shard, raw: pa.Table, prepare: Prepare, batch_size: int) -> Iterator[torch.Tensor]:
    """Apply ``prepare`` to every valid sample of a shard, in the order of its sidecar, and yield stacked batches.

    Two batches are prepared ahead of the caller, which bounds the memory. The number of threads is that of torch: on a CPU, both
    take turns; with a GPU, torch leaves the cores idle.
    """

    def decode_and_prepare(number: int, data: bytes) -> torch.Tensor:
        return prepare(number, decode(data))

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        waiting: deque[Future[torch.Tensor]] = deque()
        try:
            for number, (_, data) in enumerate(encoded_images(shard, raw)):
                waiting.append(threads.submit(decode_and_prepare, number, data))
                if len(waiting) == 3 * batch_size:
                    yield _stacked(waiting, batch_size)
            while waiting:
                yield _stacked(waiting, batch_size)
        finally:
            threads.shutdown(cancel_futures=True)


def preprocessed_images(
    shard: Shard, raw: pa.Table, preprocess: Preprocess, batch_size: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """Yield all valid images of a shard with the evaluation preprocessing: normalized ``[b, 3, size, size]`` on ``device``."""
    for pixels in prepared(shard, raw, lambda _, image: preprocess.pixels(preprocess.center(image)), batch_size):
        yield preprocess.normalized(to_device(pixels, device))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to the device. Copies to a GPU are asynchronous."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _stacked(waiting: deque[Future[torch.Tensor]], count: int) -> torch.Tensor:
    return torch.stack([waiting.popleft().result() for _ in range(min(count, len(waiting)))])
