"""Read stored models in a process without network and without a Hugging Face cache.

Each line of standard input is a folder. The answer is a line of JSON and a file ``embeddings.safetensors`` next to the
folder.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TEXTS = ("a photo of a dog", "the red apple of the table, and on")


def embeddings(image_text: Any) -> dict[str, torch.Tensor]:
    """Embed one random image and two texts."""
    size = image_text.preprocess.size
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return {
        "image": image_text.embed_images(images),
        "text": image_text.embed_texts(TEXTS),
        "tokens": image_text.tokenize(TEXTS),
    }


def _no_network(*_: object) -> None:
    raise OSError("the process has no network")


def main() -> None:
    """Write an answer for each folder of standard input."""
    from mobileclip2.models.build import CONFIG, WEIGHTS, load
    from mobileclip2.models.hub import TOKENIZER_FILES

    for owner, name in ((socket.socket, "connect"), (socket, "getaddrinfo")):
        setattr(owner, name, _no_network)
    for line in sys.stdin:
        folder = Path(line.strip())
        try:
            tokenizer = [path for path in folder.iterdir() if path.name in TOKENIZER_FILES]
            image_text = load(folder / CONFIG, folder / WEIGHTS, tokenizer)
            save_file(embeddings(image_text), folder.with_suffix(".safetensors"))
            answer = {"error": "", "preprocess": str(image_text.preprocess)}
        except Exception as error:  # the table lists errors of every type
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
