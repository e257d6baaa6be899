"""Errors that a user can fix: each message says what is wrong, where, and what to do."""

import re

_SCHEME = r"\b([A-Za-z][A-Za-z0-9+.-]+:/{1,2})"  # a path has one slash where a URL has two
_LOGIN = re.compile(_SCHEME + r"(?:[^\s/]*|[^\s/@:]+:\S*)@")  # a password can contain "@" and "/"
_QUERY = re.compile(_SCHEME + r"([^\s?]*\?)(?=\S*=)(?:[^\s'\"]|['\"](?=[\w&=%]))*")  # a quote can belong to the URL


def without_secrets(message: str) -> str:
    """Replace user names, passwords and query strings of URLs in a message."""
    return _QUERY.sub(r"\1\2…", _LOGIN.sub(r"\1…@", message))


class UserError(Exception):
    """An error that the user can fix. The command line prints its message without a traceback.

    The message names the file, sample or field, and ends with what to do. It never repeats the password of a URL.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(without_secrets(each) if isinstance(each, str) else each for each in arguments))


class ProfileError(UserError):
    """A profile is invalid. Raised before any work starts. The message names the field."""


class ShardError(UserError):
    """An input shard is missing or unreadable, or too many of its samples are bad."""


class WeightsError(UserError):
    """A checkpoint is missing, differs from its pinned hash, or does not fit the architecture."""


class ComputeError(UserError):
    """A worker or cluster failed: a worker was killed, the cluster is unreachable, or pods do not start."""


class StoreError(UserError):
    """The store cannot be read or written: the disk is full, access is denied, or the bucket does not exist."""


class DamagedOutput(StoreError):
    """A stored file is missing or differs from its manifest."""


class LeaseLost(StoreError):
    """This process lost a lease: another run may use or delete the files that it writes."""


class LedgerError(UserError):
    """The DVC ledger cannot be written. The stored outputs stay as they are."""


class MissingExtra(UserError, ImportError):
    """A package of an optional extra is not installed. The message names the extra."""


class RemoteError(UserError):
    """A Dagster server is unreachable, refuses a request, or exceeds the time limit."""
