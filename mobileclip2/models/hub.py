"""Find and download the files of published models. This module does not import torch.

A repository is a Git repository of the Hugging Face hub. A *commit* of it always has the same files, and a branch moves.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobileclip2.config.model import Model, text_files
from mobileclip2.errors import WeightsError
from mobileclip2.progress import doing
from mobileclip2.store.storage import file_sha256

TIMEOUT_SECONDS = 5.0

CONFIG = "open_clip_config.json"
TEXT_CONFIG = "config.json"
"""configuration of a text tower of transformers"""

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""File names that open_clip looks for in a repository."""

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Files with the vocabulary of a tokenizer. One is enough."""
TOKENIZER_FILES = (
    TEXT_CONFIG,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    *reversed(VOCABULARIES),
)
"""Files from which transformers builds a tokenizer. The first one names its class if the second does not.

They are downloaded in this order, so that a vocabulary in the cache means that the other files are there.
"""

REMEDY = (
    "Connect this machine to the network, or download them elsewhere and copy the folder that HF_HOME names, "
    "or set a file: 'weights: {path: ...}'"
)
TOKENIZER_REMEDY = "Connect this machine to the network, or copy the folder that HF_HOME names from one that has them"
NOT_FOUND = "does not show this repository. Correct the name, or set HF_TOKEN to a token that can read it"


class Unavailable(Exception):
    """The hub cannot be reached, and this machine does not have the files."""


class Inaccessible(Exception):
    """The hub answers that a repository, a commit or a file does not exist or may not be read."""


@dataclass(frozen=True)
class Listing:
    """The names of the files of a commit."""

    repository: str
    commit: str
    names: frozenset[str]
    unavailable: str = ""
    """why the hub could not be asked, so that only the files on this machine are listed"""

    def first(self, names: Iterable[str]) -> str:
        """Return the first of the alternative names that the commit has.

        Raises:
            Inaccessible: the commit has none of the files.
            Unavailable: the cache has none of the files.
        """
        if name := next((name for name in names if name in self.names), None):
            return name
        if self.unavailable:
            raise Unavailable(self.unavailable)
        raise Inaccessible(f"lists none of {', '.join(names)} in {self.repository}; choose another repository")

    def file(self, name: str) -> Path:
        """Download a file, or return it from the cache of huggingface_hub.

        Raises:
            Unavailable: the hub cannot be reached, or the download was cut off repeatedly.
            Inaccessible: the hub refuses the file.
        """
        from huggingface_hub import hf_hub_download

        with _translated():
            return Path(hf_hub_download(self.repository, name, revision=self.commit, etag_timeout=TIMEOUT_SECONDS))


def listing(repository: str, commit: str | None = None) -> Listing:
    """List the files of a commit, by default of the newest one. Without a network, list the files in the cache.

    Raises:
        Unavailable: the hub cannot be reached, and the cache does not have the commit.
        Inaccessible: the hub does not show the repository or the commit.
    """
    from huggingface_hub import HfApi

    try:
        with _translated():
            info = HfApi().model_info(repository, revision=commit, timeout=TIMEOUT_SECONDS)
    except Unavailable as error:
        if cached := _cached(repository, commit, str(error)):
            return cached
        raise
    if not info.sha:
        raise Inaccessible("does not state the commit of this repository. It is not a mirror of the hub")
    return Listing(repository, info.sha, frozenset(each.rfilename for each in info.siblings or ()))


def _cached(repository: str, commit: str | None, unavailable: str) -> Listing | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    if commit is None and (main := folder / "refs" / "main").is_file():
        commit = main.read_text().strip()
    elif commit is None:  # a download of a commit does not record that it is the newest one
        commits = list((folder / "snapshots").glob("*"))
        commit = commits[0].name if len(commits) == 1 else None
    snapshot = folder / "snapshots" / (commit or "none")
    if not snapshot.is_dir():
        return None
    # an interrupted copy of a cache leaves links without their target
    names = frozenset(path.name for path in snapshot.iterdir() if path.exists())
    return Listing(repository, snapshot.name, names, unavailable)


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the exceptions of huggingface_hub to :class:`Unavailable` and :class:`Inaccessible`."""
    from huggingface_hub import constants, errors

    HTTPError = errors.HTTPError  # type: ignore[attr-defined]  # the exception of the HTTP client that the library uses
    try:
        yield
    except errors.GatedRepoError:
        raise Inaccessible("requires consent. Accept the conditions on its page, and set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise Inaccessible("does not have this commit. Correct 'revision', or remove it") from None
    except errors.HFValidationError:
        raise Inaccessible(NOT_FOUND) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        cause = error.__cause__
        if constants.HF_HUB_OFFLINE or cause is None:
            raise Unavailable("HF_HUB_OFFLINE is set") from None
        raise Unavailable(_reason(cause)) from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code in {401, 403, 404}:  # a mirror does not distinguish them
            raise Inaccessible(NOT_FOUND) from None
        raise Unavailable(_reason(error)) from None
    except (HTTPError, OSError) as error:
        raise Unavailable(_reason(error)) from None


def _reason(error: BaseException) -> str:
    from huggingface_hub import constants

    response = getattr(error, "response", None)
    if response is not None:
        return f"{constants.ENDPOINT} answers HTTP {response.status_code}"
    lines = f"{type(error).__name__}: {error}".splitlines()
    return f"{constants.ENDPOINT} cannot be reached ({lines[0]})"


def _weights(model: Model) -> tuple[str, tuple[str, ...]]:
    """Return the repository of the weights, or an empty string, and the alternative names of their file."""
    name = model.hub.get("weights", "")
    if model.from_hub:
        return name, WEIGHTS
    # open_clip writes 'owner/name/file', or 'owner/name/' for the default file
    repository, _, file = name.rpartition("/")
    return repository, (f"{file.rpartition('.')[0]}.safetensors", file) if file else WEIGHTS


@dataclass
class Found:
    """The commits of the repositories of a model, and which of its files exist."""

    commits: dict[str, str] = field(default_factory=dict)
    """commit by repository"""
    moved: dict[str, str] = field(default_factory=dict)
    """newest commit of each repository whose recorded commit is an older one"""


def find(model: Model, name: str, recorded: Mapping[str, str]) -> Found:
    """Find the commit of every repository of a model, and check that it has the files. Download no weights.

    Args:
        name: the field of the profile. Error messages name it.
        recorded: known commits by repository. Other repositories get their newest commit.

    Raises:
        WeightsError: a file cannot be downloaded.
    """
    found, texts = Found(), model.hub
    weights, names = _weights(model)
    label = f"{model.open_clip} '{model.tag}'" if model.tag else model.open_clip
    with doing(f"looking for {model.open_clip or 'a tokenizer'} on the hub"):
        if weights:
            known = model.revision or recorded.get(weights)
            described = f"{name}.{'open_clip' if model.from_hub else 'weights.tag'}: the weights {label}"
            with explained(described, REMEDY):
                files = _find(weights, known, names, found, may_move=not model.revision)
                if model.from_hub:
                    config = _model_config(_read_json(files.file(files.first((CONFIG,)))))
                    texts = {role: each for role, each in text_files(config).items() if not Path(each).is_dir()}
        elif url := model.published.get("url"):
            _check_url(url, f"{name}.weights.tag: the weights {label}")
        for role, kind, alternatives in (
            ("tokenizer", "tokenizer", VOCABULARIES),
            ("text_config", "text tower", (TEXT_CONFIG,)),
        ):
            if repository := texts.get(role):
                known = found.commits.get(repository) or recorded.get(repository)
                described = f"{name}: the files of the {kind} {repository}"
                with explained(described, TOKENIZER_REMEDY):
                    _find(repository, known, alternatives, found, may_move=repository not in found.commits)
    return found


def _find(repository: str, known: str | None, files: Iterable[str], found: Found, *, may_move: bool) -> Listing:
    listed = listing(repository, known)
    found.commits[repository] = listed.commit
    listed.first(files)
    if known and may_move and not listed.unavailable:
        newest = listing(repository)
        if newest.commit != known and not newest.unavailable:
            found.moved[repository] = newest.commit
    return listed


@contextmanager
def explained(described: str, remedy: str) -> Iterator[None]:
    """Raise ``WeightsError`` for :class:`Unavailable` and :class:`Inaccessible`. The message starts with ``described``."""
    try:
        yield
    except Unavailable as error:
        raise WeightsError(f"{described} are not on this machine, and {error}. {remedy}") from None
    except Inaccessible as error:
        raise WeightsError(f"{described} cannot be downloaded: the hub {error}") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{described} cannot be read: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raise ``ValueError`` if the file holds something else."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def _model_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the ``model_cfg`` of an ``open_clip_config.json``, or the whole content if it has no such section."""
    model = config.get("model_cfg", config)
    if not isinstance(model, dict) or not isinstance(model.get("text_cfg") or {}, dict):
        raise ValueError(f"'model_cfg' and its 'text_cfg' in {CONFIG} must be JSON objects")
    return model


def _check_url(url: str, described: str) -> None:
    # open_clip stores files that have an address here, outside the hub's cache
    if Path(os.path.expanduser("~/.cache/clip"), Path(url).name).exists():  # noqa: PTH111 - works without a home
        return
    request = urllib.request.Request(url, method="HEAD")
    with explained(described, REMEDY):
        try:
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
        except OSError as error:
            raise Unavailable(f"{url} cannot be reached ({error})") from None


@dataclass
class Files:
    """Local files from which a model is built."""

    weights: Path | None = None
    config: dict[str, Any] | None = None
    """content of the ``open_clip_config.json`` of a hub model"""
    tokenizer: dict[str, bytes] = field(default_factory=dict)
    """content of the files of the tokenizer by name; empty for CLIP's tokenizer"""
    text_config: dict[str, Any] | None = None
    """configuration of a text tower of transformers"""
    origins: dict[str, Path] = field(default_factory=dict)
    """every downloaded file by ``repository@commit/name``"""

    def add(self, listed: Listing, names: Iterable[str]) -> Path:
        """Download the first of the alternative files and record its origin, with the errors of :class:`Listing`."""
        name = listed.first(names)
        path = listed.file(name)
        self.origins[f"{listed.repository}@{listed.commit}/{name}"] = path
        return path


def download(
    model: Model,
    weights: Path | None = None,
    commits: Mapping[str, str] | None = None,
    *,
    architecture_only: bool = False,
) -> Files:
    """Download the files of a model that are not on this machine.

    Args:
        weights: the file of weights that have a path or come from a package.
        commits: commit by repository. Other repositories are read at their newest commit.
        architecture_only: download the configuration and the tokenizer, and no weights.

    Raises:
        WeightsError: a file cannot be downloaded.
    """
    known, files, config = dict(commits or {}), Files(weights), model.architecture
    repository, names = _weights(model)
    label = f"{model.open_clip} '{model.tag}'" if model.tag else f"{model.open_clip}"
    if model.from_hub or (repository and not architecture_only):
        described = f"the configuration of {model.open_clip}" if architecture_only else f"the weights {label}"
        with explained(described, REMEDY):
            listed = listing(repository, model.revision or known.get(repository))
            known[repository] = listed.commit  # the tokenizer can be in the same repository
            if model.from_hub:
                files.config = _read_json(files.add(listed, (CONFIG,)))
                config = _model_config(files.config)
            if not architecture_only:
                files.weights = files.add(listed, names)
    elif model.tag and not architecture_only:
        files.weights = _download_url(model, label)
    pinned = model.weights.sha256 if model.weights and model.tag else None
    if files.weights and pinned and (found := file_sha256(files.weights)) != pinned:
        raise WeightsError(
            f"weights: {label} has sha256 {found}, the profile pins {pinned}; correct 'sha256' in the profile"
        )
    _download_text(config, known, files)
    return files


def _download_url(model: Model, label: str) -> Path:
    from open_clip.pretrained import download_pretrained

    with explained(f"the weights {label}", REMEDY):
        try:
            return Path(download_pretrained(model.published))
        except (OSError, RuntimeError) as error:
            raise Unavailable(f"{model.published['url']} cannot be read ({error})") from None


def _download_text(config: Mapping[str, Any], commits: Mapping[str, str], files: Files) -> None:
    """Read the files of the tokenizer and of the text tower from a local folder or a repository."""
    text = config.get("text_cfg") or {}
    if name := text.get("hf_tokenizer_name"):
        if Path(name).is_dir():
            found = [Path(name) / each for each in TOKENIZER_FILES if (Path(name) / each).is_file()]
        else:
            with explained(f"the files of the tokenizer {name}", TOKENIZER_REMEDY):
                listed = listing(name, commits.get(name))
                listed.first(VOCABULARIES)
                found = [files.add(listed, (each,)) for each in TOKENIZER_FILES if each in listed.names]
        files.tokenizer = {path.name: path.read_bytes() for path in found}
    if name := text.get("hf_model_name"):
        with explained(f"the files of the text tower {name}", TOKENIZER_REMEDY):
            if Path(name).is_dir():
                path = Path(name) / TEXT_CONFIG
            else:
                listed = listing(name, commits.get(name))
                path = files.add(listed, (TEXT_CONFIG,))
            files.text_config = _read_json(path)
        # plain open_clip reads it from the folder of a stored model
        files.tokenizer.setdefault(TEXT_CONFIG, path.read_bytes())
