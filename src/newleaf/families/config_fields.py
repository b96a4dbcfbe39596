"""A config.json read field by field; what nothing has read is known at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from newleaf.errors import InputError
from newleaf.families.unread_config_fields import BOOKKEEPING, REFUSED
from newleaf.model.gpt_config import MAX_LAYERS


class Fields:
    """A config.json's values, and the names of those that have been read.

    `aliases` are other names that stock transformers takes for a family's fields; they go before the fields'
    own names, as there.
    """

    def __init__(self, values: dict[str, Any], family: str, aliases: Mapping[str, str] | None = None) -> None:
        aliases = aliases or {}
        renamed = {own: values[alias] for alias, own in aliases.items() if values.get(alias) is not None}
        self.values = values | renamed
        self.family = family
        self.names_read: set[str] = set(aliases)

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value, or `default` where it is absent or null."""
        value = self.get_or_null(name, default)
        return default if value is None else value

    def get_or_null(self, name: str, default: Any) -> Any:
        """The field's value, which may be null, or `default` where it is absent."""
        self.names_read.add(name)
        return self.values.get(name, default)

    def require(self, name: str) -> Any:
        """The field's value. Raises InputError where it is absent or null."""
        if (value := self.get(name)) is None:
            raise InputError(f"config.json lacks {name}, which {self.family} needs")
        return value

    def require_layers(self, name: str) -> int:
        """The number of layers, checked before lists of that length are made."""
        count = self.require(name)
        if type(count) is not int or not 1 <= count <= MAX_LAYERS:
            limits = f"newleaf reads networks of 1 to {MAX_LAYERS:,} layers"
            raise InputError(f"config.json has {name} = {str(count)[:40]}; {limits}")
        return count

    def error(self, name: str, value: Any, supported: str) -> InputError:
        """That a field's value is not one of those that this family has in newleaf."""
        return InputError(
            f"config.json has {name} = {shown(value)}; newleaf's {self.family} knows {supported}"
        )

    def unknown(self) -> list[str]:
        """Fields that nothing has read, that are no bookkeeping and that have a value.

        Raises InputError for one that would change the network.
        """
        unread = self.values.keys() - self.names_read - BOOKKEEPING
        names = [
            name
            for name, value in self.values.items()
            if name in unread and not name.startswith("_") and value not in (None, False, {}, [], "")
        ]
        for name in names:
            if name in REFUSED:
                raise InputError(
                    f"config.json has {name} = {shown(self.values[name])}, {REFUSED[name]}; newleaf's "
                    f"{self.family} does not honour it"
                )
        return names


def shown(value: Any) -> str:
    """A value as it stands in an error message, cut."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
