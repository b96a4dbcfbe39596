"""Stop strings that may straddle tokens: text is held back while it could still become one."""

from __future__ import annotations


class StopFinder:
    """Push text in, get out what is certain. After a stop string is found, nothing more comes out; the string
    itself never does.

    Each character is looked at once for each stop string, however long they are and however much of them the
    text repeats (Knuth, Morris and Pratt 1977).
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.held = ""
        self.found = False
        self._begun = [0] * len(stops)  # characters of each that stand at the end of the text
        # how much of each still stands there where the next character is another
        self._falls: list[list[int]] = [[] for _ in stops]

    def push(self, text: str) -> str:
        if self.found:
            return ""
        before = len(self.held)
        self.held += text
        ends = [
            (place - len(stop), number)
            for number, stop in enumerate(self.stops)
            if (place := self._follow(number, text, before))
        ]
        if ends:
            self.found = True
            return self.held[: min(ends)[0]]
        keep = max(self._begun, default=0)
        out, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return out

    def finish(self, text: str = "") -> str:
        """The last text, and what was held back: nothing can follow that would complete a stop string."""
        out = self.push(text)
        rest, self.held = ("" if self.found else self.held), ""
        return out + rest

    def _follow(self, number: int, text: str, before: int) -> int:
        """Where in the held text this stop string ends, whose last part is `text`; 0 where it does not."""
        stop, begun = self.stops[number], self._begun[number]
        for place, character in enumerate(text, before + 1):
            while begun and stop[begun] != character:
                begun = self._fall(number, begun)
            begun += stop[begun] == character
            if begun == len(stop):
                return place
        self._begun[number] = begun
        return 0

    def _fall(self, number: int, length: int) -> int:
        """The longest shorter beginning of the stop string that its first `length` characters end with; known
        as far as it was needed."""
        stop, falls = self.stops[number], self._falls[number]
        while len(falls) < length:
            if not falls:
                falls.append(0)
                continue
            known = falls[-1]
            character = stop[len(falls)]
            while known and stop[known] != character:
                known = falls[known - 1]
            falls.append(known + (stop[known] == character))
        return falls[length - 1]
