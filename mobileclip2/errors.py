"""Errors meant for the person at the keyboard: what went wrong, where, and what to do about it."""


class UserError(Exception):
    """Something the user can mend. The command line prints the message alone, without a traceback.

    The message names the file, sample or field, and ends with what to do.
    """


class ProfileError(UserError):
    """A profile says something impossible; raised before any work starts, naming the field."""


class ShardError(UserError):
    """An input shard is missing, unreadable, or too many of its samples are bad."""


class WeightsError(UserError):
    """A checkpoint is missing, differs from its pinned hash, or does not fit the architecture."""


class ComputeError(UserError):
    """The work cannot be done where the profile says: a worker was killed, the cluster is away, pods never start."""


class StoreError(UserError):
    """The output store cannot be written or read: disk full, read-only, no permission, no such bucket."""


class DamagedOutput(StoreError):
    """Stored bytes differ from what their manifest says, or are gone."""


class LedgerError(UserError):
    """The DVC ledger cannot be written; what was computed is not touched by that."""


class MissingExtra(UserError, ImportError):
    """A package is not installed that an extra of this project brings; the message names the extra."""


class RemoteError(UserError):
    """A Dagster server that was asked to do something cannot be reached, refuses, or did not do it in time."""
