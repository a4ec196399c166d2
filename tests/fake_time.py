"""A clock for tests, and the sleep that moves it without waiting."""

import asyncio


class Time:
    """Starts at 100 s; `waits` lists what was slept."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
