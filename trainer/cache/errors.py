"""What goes wrong with the cache; each message names value, rule and next step."""

from __future__ import annotations

import errno

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class CacheError(Exception):
    """The cache cannot be used as it is set up, or does not answer in time."""


class CacheFullError(CacheError):
    """What should be kept does not fit beside what is in use."""


class DamagedError(CacheError):
    """The bytes that came are not those whose digest was asked for."""


def means_full(error: BaseException | None) -> bool:
    """Say whether a full disk, a quota or a file size limit is behind *error*."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False
