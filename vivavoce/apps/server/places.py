"""Places for live sessions: as many as the limits allow, whatever they come by."""

from __future__ import annotations

from vivavoce.apps.server.limits import Refusal


class Places:
    """A context for each session, on the event loop. ``taken``: how many there are."""

    def __init__(self, most: int):
        self._most, self.taken = most, 0

    def __enter__(self) -> Places:
        if self.taken >= self._most:
            raise Refusal(503, "busy", f"{self._most} sessions are open, more are not allowed here: try again later")
        self.taken += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.taken -= 1
