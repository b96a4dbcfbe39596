"""Names of the Hugging Face Hub: fetched by huggingface_hub when a user gives one, and only then."""

from __future__ import annotations

import os
import re
from pathlib import Path

from newleaf.errors import InputError

MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


def local_folder(name: str | Path, files: tuple[str, ...]) -> Path:
    """`name` itself when it is on this disk; else, for `owner/name`, the folder to which the Hub's `files` were fetched.

    Raises InputError when it is neither, or cannot be fetched.
    """
    path = Path(name)
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) or str(name).startswith("."):
        raise InputError(f"{name}: no such file or folder, and not an owner/name of the Hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(files)))
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE forbids to fetch it" if os.environ.get("HF_HUB_OFFLINE") else "the Hub cannot be reached"
        raise InputError(f"{name}: not on this disk, and {why}; give a local folder") from None
    except HfHubHTTPError as error:
        raise InputError(f"{name}: the Hub says {str(error).splitlines()[0]}") from None
