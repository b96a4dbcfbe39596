"""Pretraining as an objective: a new network, windows of a token stream, next-token loss, bits per byte of
the held-out text."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from newleaf.data.batches import TrainBatches
from newleaf.families import family_for
from newleaf.model import GPT
from newleaf.model.count import training_flops
from newleaf.recipe import plain
from newleaf.storage.model_folder import load_folder, save_folder
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.loop.loop import NEXT_TOKEN, next_token_losses
from newleaf.train.objective.objective import SelectionMetric
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.objective.train_config import TrainConfig
from newleaf.train.pretraining.prepare_pretraining import PreparedRun
from newleaf.train.pretraining.text_evaluator import TextEvaluator
from newleaf.train.runs.run_diagnosis import unigram_bits
from newleaf.version import VERSION

# tokens of the held-out text, about a megabyte, are given to xz, which takes half a second for them
COMPARED = 300_000
BITS_PER_BYTE = SelectionMetric("val_bits_per_byte", "bits per byte")


class TextObjective:
    """What all training on a stream of text has in common; `build` draws a new network."""

    terms = NEXT_TOKEN
    measure = BITS_PER_BYTE
    product: Literal["model", "adapter"] = "model"
    validates_before_training = False

    def __init__(self, prepared: PreparedRun) -> None:
        self.prepared = prepared
        self.config: Any = prepared.config
        self.row_tokens = float(prepared.window)

    @property
    def train(self) -> TrainConfig:
        found: TrainConfig = self.config.train
        return found

    @property
    def optimizer(self) -> OptimizerConfig:
        found: OptimizerConfig = self.config.optimizer
        return found

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return self.prepared.fingerprints

    @property
    def flops_per_token(self) -> float:
        return training_flops(self.prepared.network, self.prepared.window)

    def build(self) -> nn.Module:
        network = GPT(self.prepared.network)
        network.recompute = self.train.checkpoint_activations
        return network

    def batches(self, share: tuple[int, int]) -> TrainBatches:
        prepared, train = self.prepared, self.train
        return TrainBatches(
            prepared.train, prepared.window, train.batch_size, train.seed, self.config.data, share
        )

    losses = staticmethod(next_token_losses)

    def evaluator(self, network: nn.Module, check_stop: Callable[[], None], ranks: Ranks) -> TextEvaluator:
        return TextEvaluator(self.prepared, cast(GPT, network), check_stop, ranks)

    def save(self, path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        peak = self.optimizer
        made = {
            "kind": peak.kind,
            "learning_rate": peak.learning_rate,
            "matrix_learning_rate": peak.matrix_learning_rate,
        }
        save_folder(
            path,
            self.prepared.network,
            weights,
            self.prepared.tokenizer,
            {"version": VERSION, "pretrained": made},
        )

    def read_back(self, path: Path) -> Mapping[str, Tensor]:
        return load_folder(path).network.state_dict()

    def recipe(self) -> dict[str, Any]:
        values: dict[str, Any] = plain(self.config)
        values["source"] = [absolute(name) for name in self.config.source]
        values["data"]["validation"] = [
            absolute(name) for name in self.config.data.validation_sources or ()
        ] or None
        if values["tokenizer"]["path"] is not None and Path(values["tokenizer"]["path"]).exists():
            values["tokenizer"]["path"] = absolute(values["tokenizer"]["path"])
        return values

    def record(self) -> dict[str, Any]:
        return text_record(self.prepared)

    def facts(self, network: nn.Module) -> dict[str, Any]:
        family = family_for(self.prepared.network)
        return {
            "parameters": cast(GPT, network).parameter_count(),
            "family": family.name if family else "newleaf",
        }


def text_record(prepared: PreparedRun) -> dict[str, Any]:
    """How much text there was, and what its held-out part is to a compressor and to plain counting."""
    held_out = b"".join(
        prepared.tokenizer.bytes_of_tokens[token] for token in prepared.validation.tokens[:COMPARED].tolist()
    )
    packed = lzma.compress(held_out, format=lzma.FORMAT_XZ)
    return {
        "text_bytes": prepared.train.n_bytes,
        "validation_bytes": prepared.validation.n_bytes,
        "validation_tokens": len(prepared.validation.tokens),
        "train_tokens": len(prepared.train.tokens),
        "xz_bits_per_byte": round(8 * len(packed) / max(len(held_out), 1), 4),
        "unigram_bits_per_byte": round(unigram_bits(held_out), 4),
    }


def absolute(source: str) -> str:
    """A run is resumed from any folder."""
    return source if source.startswith("hf:") else str(Path(source).absolute())
