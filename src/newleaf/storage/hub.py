"""Names of the Hugging Face Hub: fetched by huggingface_hub when a user gives one, and only then."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.storage.weight_files import WEIGHT_FILES, index_name, shard_names

MODEL_FILES = ("config.json", "generation_config.json", *WEIGHT_FILES)
TEMPLATE_FILES = ("chat_template.jinja", "additional_chat_templates/tool_use.jinja")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    *TEMPLATE_FILES,
)
MODEL_CARD = "README.md"
# What stands in for tokenizer.json where there is none.
OLD_TOKENIZER_FILES = ("vocab.json", "merges.txt")
HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>(?!.*\.\.)[\w][\w./-]*))?")


def local_folder(name: str | Path, files: tuple[str, ...]) -> Path:
    """`name` itself when it is on this disk; else, for `owner/name` or `owner/name@revision`, the folder to
    which `files` were fetched.

    Files are fetched by their exact names, so that nothing of another format or of a folder inside comes
    along. Of the forms of weights the first that the Hub has is fetched, whole or as the shards that its
    index names; vocab.json and merges.txt only where there is no tokenizer.json. What is on this disk already
    is not fetched again. Raises InputError when `name` is neither, or cannot be fetched.
    """
    if not str(name).strip():
        raise InputError(
            "the model's name is empty; give a folder, a run, a .gguf file or owner/name of the Hub"
        )
    if Path(name).exists():
        return Path(name)
    match = HUB_NAME.fullmatch(str(name))
    if match is None:
        raise InputError(f"{name}: no such file or folder, and not an owner/name of the Hub")
    weights = [file for file in WEIGHT_FILES if file in files]
    small = {file for file in files if file not in weights} | {index_name(file) for file in weights}
    if "tokenizer.json" in files:
        small -= set(OLD_TOKENIZER_FILES)
    repository = match["name"]
    folder = _fetch(repository, match["revision"], small)
    commit = folder.name  # so that all comes from one state of the repository
    if "tokenizer.json" in files and not (folder / "tokenizer.json").exists():
        _fetch(repository, commit, set(OLD_TOKENIZER_FILES))
    for whole in weights:
        wanted = [whole]  # before an index, as stock transformers asks
        _fetch(repository, commit, {whole}, show_progress=sys.stderr.isatty())
        if not (folder / whole).exists() and (index := folder / index_name(whole)).exists():
            wanted = shard_names(index)
            _fetch(repository, commit, set(wanted), show_progress=sys.stderr.isatty())
        if all((folder / file).exists() for file in wanted):
            break
    return folder


def _fetch(repository: str, revision: str | None, files: set[str], show_progress: bool = False) -> Path:
    """The snapshot's folder, with those of `files` that the repository has.

    huggingface_hub goes on with a file where a connection was cut, and shows `show_progress`.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class ProgressBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": not show_progress}))  # type: ignore[no-untyped-call]

    where = f"{constants.ENDPOINT}/{repository}"
    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=sorted(files), tqdm_class=ProgressBar
            )
        )
    except GatedRepoError:
        reason = (
            f"its owner grants access on request; ask for it at {where}, then log in with hf auth "
            f"login or set HF_TOKEN"
        )
    except RepositoryNotFoundError:
        reason = (
            "the Hub has no such model, or it is private; check the name, or log in with hf auth login "
            "or set HF_TOKEN"
        )
    except RevisionNotFoundError:
        reason = f"the Hub has the model but no revision {revision}"
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        forbidden = constants.HF_HUB_OFFLINE
        cause = (
            "--offline or HF_HUB_OFFLINE forbids" if forbidden else f"{constants.ENDPOINT} cannot be reached"
        )
        reason = f"not on this disk, and {cause}"
        reason += " to fetch it" if forbidden else "; try again, or give a local folder"
    except HFValidationError as error:
        reason = f"not a name the Hub can have ({str(error).splitlines()[0]})"
    except HfHubHTTPError as error:
        reason = f"the Hub says {str(error).splitlines()[0]}"
    except Exception as error:  # the HTTP library below it has changed twice, and each has errors of its own
        if isinstance(error, OSError) and error.errno is not None:
            raise  # this machine's: a full disk, a cache that may not be written
        reason = (
            f"the connection broke ({' '.join(str(error).split())[:200]}); run the command again, what "
            f"came whole is kept"
        )
    raise InputError(f"{repository}: {reason}{_similar_local_name(repository)}")


def _similar_local_name(name: str) -> str:
    """`; did you mean …?` where a folder beside it on this disk has nearly this name: runs/bok for
    runs/book."""
    beside = Path(name).parent
    names = [path.name for path in beside.iterdir() if path.is_dir()] if beside.is_dir() else []
    near = difflib.get_close_matches(Path(name).name, names, n=1)
    return f"; did you mean {beside / near[0]}?" if near else ""
