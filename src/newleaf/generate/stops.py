"""Stop strings that may straddle tokens: text is held back while it could still become one."""

from __future__ import annotations


class StopFinder:
    """Push text in, get out what is certain. After a stop string is found, nothing more comes out; the string itself never does."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        if self.found:
            return ""
        self.held += text
        places = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if places:
            self.found = True
            return self.held[: min(places)]
        keep = self._possible_start()
        out, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return out

    def finish(self, text: str = "") -> str:
        """The last text, and what was held back: nothing can follow that would complete a stop string."""
        out = self.push(text)
        rest, self.held = ("" if self.found else self.held), ""
        return out + rest

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for length in range(min(longest, len(self.held)), 0, -1):
            if any(stop.startswith(self.held[-length:]) for stop in self.stops):
                return length
        return 0
