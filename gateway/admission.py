"""How many requests, and how many bytes of their bodies and replies, are in work in one worker, and whose they are.

    place = Place(admission)
    place.enter(namespace)      # before the body is read
    place.hold(length)          # its length, or its parts as they come
    place.expect_reply(length)  # about its length, before it is computed
    place.keep_reply(len(reply))
    place.leave()               # when the reply is sent

Where there are several tenants, one may hold at most as much as it leaves free: alone half of everything, beside one
other that does the same a third. So however many want all, there is always something left for the next one (Choudhury
and Hahne, "Dynamic queue length thresholds", 1998, with a factor of one). Bodies and replies of at most UNCOUNTED_BYTES
need not be held: the number of requests bounds them.
"""

from dataclasses import dataclass
from typing import Final

from gateway.errors import Overloaded

RETRY_AFTER_S: Final = 1.0
UNCOUNTED_BYTES: Final = 65_536


@dataclass(slots=True)
class _Held:
    requests: int = 0
    size: int = 0  # bytes


class Admission:
    """The counts of one worker. `is_shared`: whether there is more than one tenant."""

    def __init__(self, max_requests: int, max_bytes: int, is_shared: bool) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.is_shared = is_shared
        self.requests = 0
        self.size = 0
        self.by_tenant: dict[str, _Held] = {}  # as many as the settings have


class Place:
    """What one request holds, from its admission until its reply is sent."""

    __slots__ = ("_admission", "_expected", "_held", "_size")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held: _Held | None = None
        self._size = 0
        self._expected = 0

    def enter(self, tenant: str) -> None:
        """Become one of the tenant's requests in work. Raises Overloaded."""
        admission = self._admission
        held = admission.by_tenant.get(tenant)
        if held is None:
            held = admission.by_tenant[tenant] = _Held()
        free = admission.max_requests - admission.requests
        if free <= 0 or (admission.is_shared and held.requests >= free):
            raise Overloaded("the gateway has too many requests in work", retry_after_s=RETRY_AFTER_S)
        held.requests += 1
        admission.requests += 1
        self._held = held

    def hold(self, size: int) -> None:
        """Hold so many bytes more. Raises Overloaded."""
        assert self._held is not None
        free = self._admission.max_bytes - self._admission.size
        if size > free or (self._admission.is_shared and self._held.size + size > free):
            raise Overloaded("the gateway has too many large requests in work", retry_after_s=RETRY_AFTER_S)
        self.keep(size)

    def keep(self, size: int) -> None:
        """Hold so many bytes more, be they free or not: they are there, and are freed when they are sent."""
        held = self._held
        if held is not None:
            self._size += size
            held.size += size
            self._admission.size += size

    def expect_reply(self, size: int) -> None:
        """Hold the bytes of a reply that is still to be computed. Raises Overloaded."""
        if size > UNCOUNTED_BYTES:
            self.hold(size)
            self._expected = size

    def keep_reply(self, size: int) -> None:
        """Hold the bytes of a reply in place of those that were expected."""
        self.keep(size - self._expected)
        self._expected = size

    def leave(self) -> None:
        """Give everything back."""
        held = self._held
        if held is not None:
            admission, self._held = self._admission, None
            held.size -= self._size
            admission.size -= self._size
            held.requests -= 1
            admission.requests -= 1
