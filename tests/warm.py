"""Load once what each run and pod needs. They are forked from the process that imports this module.

CLIP's vocabulary takes half the time of the tiny graph, and boto3's description of S3 a good part of a second for each process.
"""

from __future__ import annotations

from typing import Any

import boto3
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer

WHOLE = dict(SimpleTokenizer().__dict__)


def _cached_tokenizer(self: SimpleTokenizer, context_length: int = DEFAULT_CONTEXT_LENGTH, **other: Any) -> None:
    assert not other, f"not loaded once: {other}"
    self.__dict__.update(WHOLE, cache=dict(WHOLE["cache"]), context_length=context_length)


SimpleTokenizer.__init__ = _cached_tokenizer
boto3.client("s3", region_name="us-east-1", aws_access_key_id="nobody", aws_secret_access_key="nothing")
