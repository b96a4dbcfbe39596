"""A run's recipe as it stands in run.yaml: with paths that hold from any folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from newleaf.train.recipe import plain
from newleaf.tune.config import TuneConfig


def absolute_recipe(config: TuneConfig) -> dict[str, Any]:
    """The configuration as nested dictionaries; files that are named are named from the root."""
    values: dict[str, Any] = plain(config)
    values["model"] = absolute(config.model)
    values["source"] = [absolute(name) for name in config.source]
    validation = (values.get("data") or {}).get("validation")
    if validation is not None:
        values["data"]["validation"] = [absolute(name) for name in ([validation] if isinstance(validation, str) else validation)]
    return values


def absolute(name: str) -> str:
    """A path that is on this disk, from the root; any other name as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name
