"""Check that published weights are on this machine or on the hub. Only tags import torch."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from mobileclip2.config.model import Model
from mobileclip2.errors import WeightsError
from mobileclip2.progress import doing

TIMEOUT_SECONDS = 5.0
HUB = "hf-hub:"

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""File names that open_clip looks for in a repository."""

REMEDY = (
    "Connect this machine to the network, or download them elsewhere and copy the folder that HF_HOME names, "
    "or set a file: 'weights: {path: ...}'"
)
NOT_FOUND = "does not show this repository. Correct the name, or set HF_TOKEN to a token that can read it"


@dataclass(frozen=True)
class Published:
    """Weights that open_clip downloads."""

    field: str
    """Field of the profile."""
    name: str
    repository: str
    files: tuple[str, ...]
    """Alternative file names. One of them is enough."""
    url: str = ""
    """Address of the weights if they are not in a repository."""


def is_published(model: Model) -> bool:
    """Return whether open_clip downloads the weights of the model."""
    return bool(model.open_clip and (model.open_clip.startswith(HUB) or (model.weights and model.weights.tag)))


def check_published(model: Model, field: str) -> None:
    """Check that the weights of a model are on this machine or on the hub.

    Args:
        model: a model for which :func:`is_published` is true.
        field: the field of the profile. Error messages name it.

    Raises:
        WeightsError: the weights cannot be downloaded.
    """
    with doing(f"looking for {model.open_clip} on the hub"):
        published = _published(field, model)
        if published.repository:
            _check_repository(published)
        elif published.url:
            _check_url(published)


def _published(field: str, model: Model) -> Published:
    assert model.open_clip
    if model.open_clip.startswith(HUB):
        return Published(f"{field}.open_clip", model.open_clip, model.open_clip.removeprefix(HUB), WEIGHTS)
    assert model.weights and model.weights.tag
    with doing("importing"):
        from open_clip.pretrained import get_pretrained_cfg
    name, config = f"{model.open_clip} '{model.weights.tag}'", get_pretrained_cfg(model.open_clip, model.weights.tag)
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    files = (f"{file.rpartition('.')[0]}.safetensors", file) if file else WEIGHTS
    return Published(f"{field}.weights.tag", name, repository, files, "" if repository else config.get("url", ""))


def _check_url(published: Published) -> None:
    # open_clip stores files that have an address here, outside the hub's cache.
    if Path(os.path.expanduser("~/.cache/clip"), Path(published.url).name).exists():  # noqa: PTH111 - works without a home
        return
    request = urllib.request.Request(published.url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
    except (urllib.error.URLError, OSError) as error:
        raise _unavailable(published, f"{published.url} cannot be reached ({error})") from None


def _check_repository(published: Published) -> None:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub import errors as hub_errors
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

    HTTPError = hub_errors.HTTPError  # type: ignore[attr-defined]  # the exception of the HTTP client that the library uses

    try:
        if any(isinstance(try_to_load_from_cache(published.repository, file), str) for file in published.files):
            return
        if constants.HF_HUB_OFFLINE:
            raise _unavailable(published, "HF_HUB_OFFLINE is set")
        HfApi().model_info(published.repository, timeout=TIMEOUT_SECONDS)
    except GatedRepoError:
        raise _inaccessible(
            published, "requires consent. Accept the conditions on its page, and set HF_TOKEN"
        ) from None
    except HFValidationError:
        raise _inaccessible(published, NOT_FOUND) from None
    except HfHubHTTPError as error:
        if error.response.status_code in {401, 403, 404}:  # a mirror does not distinguish them
            raise _inaccessible(published, NOT_FOUND) from None
        raise _unavailable(published, f"{constants.ENDPOINT} answers HTTP {error.response.status_code}") from None
    except (HTTPError, OSError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _unavailable(published, f"{constants.ENDPOINT} cannot be reached ({reason})") from None


def _unavailable(published: Published, reason: str) -> WeightsError:
    return WeightsError(
        f"{published.field}: the weights {published.name} are not on this machine, and {reason}. The run did not start. "
        f"{REMEDY}"
    )


def _inaccessible(published: Published, reason: str) -> WeightsError:
    return WeightsError(
        f"{published.field}: the weights {published.name} cannot be downloaded: the hub {reason}. The run did not start"
    )
