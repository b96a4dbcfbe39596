"""Finds stop strings, which may span tokens: text is held back while it could still become one."""

from __future__ import annotations


class StopFinder:
    """Takes text and returns what is certain: nothing of a stop string, and nothing after one.

    Each character is compared once for each stop string, whatever their length (Knuth, Morris, Pratt 1977).
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.held = ""
        self.found = False
        self._matched = [0] * len(stops)  # matched characters of each, at the end of the text
        # the failure function of each: matched characters that remain after a mismatch
        self._failures: list[list[int]] = [[] for _ in stops]

    def push(self, text: str) -> str:
        if self.found:
            return ""
        before = len(self.held)
        self.held += text
        ends = [
            (place - len(stop), number)
            for number, stop in enumerate(self.stops)
            if (place := self._match(number, text, before))
        ]
        if ends:
            self.found = True
            return self.held[: min(ends)[0]]
        keep = max(self._matched, default=0)
        out, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return out

    def finish(self, text: str = "") -> str:
        """The last text, with what was held back, since no stop string can be completed any more."""
        out = self.push(text)
        rest, self.held = ("" if self.found else self.held), ""
        return out + rest

    def _match(self, number: int, text: str, before: int) -> int:
        """The index after this stop string in the held text, whose last part is `text`; 0: not found."""
        stop, matched = self.stops[number], self._matched[number]
        for place, character in enumerate(text, before + 1):
            while matched and stop[matched] != character:
                matched = self._failure(number, matched)
            matched += stop[matched] == character
            if matched == len(stop):
                return place
        self._matched[number] = matched
        return 0

    def _failure(self, number: int, length: int) -> int:
        """Length of the longest proper prefix that ends the stop string's first `length` characters."""
        stop, failures = self.stops[number], self._failures[number]
        while len(failures) < length:
            if not failures:
                failures.append(0)
                continue
            known = failures[-1]
            character = stop[len(failures)]
            while known and stop[known] != character:
                known = failures[known - 1]
            failures.append(known + (stop[known] == character))
        return failures[length - 1]
