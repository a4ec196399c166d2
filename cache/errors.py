"""The cache's exceptions. Look-ups and writes raise none of them: a failure there is a counted miss.

CacheError
├── ChangeFailed   Redis did not confirm values changed while running; all of them are stored, or none
└── PurgeFailed    Redis did not confirm the new epoch; nothing is known to be purged
"""


class CacheError(Exception):
    """Base of what the cache raises."""


class ChangeFailed(CacheError):
    """The change is not confirmed; the message says what to do."""


class PurgeFailed(CacheError):
    """The purge is not confirmed; the message says what to do."""
