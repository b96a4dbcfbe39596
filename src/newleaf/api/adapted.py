"""A network with an adapter over it, which shares the base's weights in memory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from newleaf.adapters.adapter import attach, share
from newleaf.errors import InputError
from newleaf.model import GPT
from newleaf.storage.adapter_folder import adapter_folder, adapter_tokenizer, load_adapter
from newleaf.storage.classifier_adapter import head_of, with_head
from newleaf.text.tokenizer import Tokenizer
from newleaf.tune.labels.text_classifier import LabelModel


class AdaptedNetwork(NamedTuple):
    """What an adapter makes of its base."""

    network: GPT
    tokenizer: Tokenizer | None  # the adapter's own, or the base's
    labels: LabelModel | None  # where the adapter is a classifier's
    replaced: tuple[str, ...]  # weights of the base that the adapter holds complete


def adapt(
    base: GPT, family: str, tokenizer: Tokenizer | None, path: str | Path, is_classifier: bool
) -> AdaptedNetwork:
    """The adapter at `path` over `base`, which stays as it is.

    Raises InputError when `path` is no adapter, or one for another base.
    """
    adapter, folder = load_adapter(path, base, family), adapter_folder(path)
    if is_classifier and adapter.score is None:
        raise InputError(f"{folder}: is the adapter of a language model, and its base here gives labels")
    network = share(base)
    replaced = tuple(attach(network, adapter))
    network.eval()
    own_tokenizer = adapter_tokenizer(folder, network.config) or tokenizer
    if adapter.score is None:
        return AdaptedNetwork(network, own_tokenizer, None, replaced)
    labels = LabelModel(with_head(network, adapter), own_tokenizer, head_of(folder, adapter))
    return AdaptedNetwork(network, own_tokenizer, labels, replaced)
