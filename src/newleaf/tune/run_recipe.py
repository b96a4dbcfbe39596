"""A run's recipe as it stands in run.yaml: with paths that hold from any folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from newleaf.recipe import plain
from newleaf.tune.tune_config import TuneConfig


def absolute_recipe(config: TuneConfig) -> dict[str, Any]:
    """The configuration as nested dictionaries; files that are named are named from the root."""
    values: dict[str, Any] = plain(config)
    values["model"] = absolute(config.model)
    values["source"] = [absolute(name) for name in config.source]
    for part in ("validation", "test"):
        named = (values.get("data") or {}).get(part)
        if named is not None:
            values["data"][part] = [absolute(name) for name in ([named] if isinstance(named, str) else named)]
    return values


def absolute(name: str) -> str:
    """A path that is on this disk, from the root; any other name as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name
