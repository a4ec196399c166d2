"""How many requests, and how many bytes of their bodies and replies, are in work in one worker, and whose they are.

    place = Place(admission)
    place.enter(namespace)      # before the body is read
    place.hold(length)          # its length, or its parts as they come
    place.expect(length)        # of the reply, before what it holds is computed
    place.keep(len(reply))
    place.leave()               # when the reply is sent

Where there are several tenants, one may hold at most as much as it leaves free: alone half of everything, beside one
other that does the same a third. So however many want all, there is always something left for the next one (Choudhury
and Hahne, "Dynamic queue length thresholds", 1998, with a factor of one).
"""

from dataclasses import dataclass

from gateway.errors import Overloaded

RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class _Held:
    requests: int = 0
    size: int = 0  # bytes


class Admission:
    """The counts of one worker. `is_shared`: whether there is more than one tenant; may change."""

    def __init__(self, max_requests: int, max_bytes: int, is_shared: bool) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.is_shared = is_shared
        self._held: dict[str, _Held] = {}  # by namespace: as many as the settings have
        self.requests = 0
        self.size = 0

    def enter(self, tenant: str) -> _Held:
        """Count one request. Raises Overloaded."""
        held = self._held.get(tenant)
        if held is None:
            held = self._held[tenant] = _Held()
        free = self._max_requests - self.requests
        if free <= 0 or (self.is_shared and held.requests >= free):
            raise Overloaded("the gateway has too many requests in work", retry_after_s=RETRY_AFTER_S)
        held.requests += 1
        self.requests += 1
        return held

    def check(self, held: _Held, size: int) -> None:
        """Whether this tenant may hold so many bytes more. Raises Overloaded."""
        free = self._max_bytes - self.size
        if size > free or (self.is_shared and held.size + size > free):
            raise Overloaded("the gateway has too many large requests in work", retry_after_s=RETRY_AFTER_S)


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
        self._held = self._admission.enter(tenant)

    def hold(self, size: int) -> None:
        """Hold so many bytes more. Raises Overloaded."""
        assert self._held is not None
        self._admission.check(self._held, size)
        self._add(size)

    def expect(self, size: int) -> None:
        """Hold a reply's bytes before there is one. Raises Overloaded."""
        self.hold(size)
        self._expected += size

    def keep(self, size: int) -> None:
        """Hold a reply's bytes in place of those expected, be they free or not: they are there until they are sent."""
        if self._held is not None:
            self._add(size - self._expected)
            self._expected = size

    def leave(self) -> None:
        """Give everything back."""
        if self._held is not None:
            self._add(-self._size)
            self._held.requests -= 1
            self._admission.requests -= 1
            self._held = None

    def _add(self, size: int) -> None:
        assert self._held is not None
        self._size += size
        self._held.size += size
        self._admission.size += size
