"""The errors of finf, sorted by what the caller can do.

    FinfError
    ├── InputError       fix the config or the data; never retried
    ├── CheckpointError  fix the model folder; never retried
    ├── StorageError     try again later; retried with backoff
    └── CapacityError    a smaller batch may help

Foreign errors are mapped to these at one boundary each, with the file, the row and the column named.
"""


class FinfError(Exception):
    """Anything that finf refuses or cannot do; its text is one line that says what to do."""


class InputError(FinfError):
    """The config or the data is wrong."""


class CheckpointError(FinfError):
    """The model folder is wrong, incomplete or unsafe."""


class StorageError(FinfError):
    """Storage did not answer, or answered with less than was asked for."""


class CapacityError(FinfError):
    """The machine ran out of memory."""
