"""A training run on paper: parameters, FLOPs, memory of a device, KV cache and days, each with the formula
that gives it.

Letters as everywhere: L layers, C width, H heads, K key/value heads, D head dimension, F feed-forward width,
V vocabulary, T context; N is the number of active parameters. GB are 10⁹ bytes.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.families import FAMILIES, size_name
from newleaf.format_amounts import counted
from newleaf.model.count import Counts, attention_flops, count_parameters
from newleaf.model.gpt_config import GPTConfig
from newleaf.train.size_from_budget import USEFUL_SHARE

TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556, tables 2 and 3
# GPT-3's own run reached 0.21, PaLM's 0.46 (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, table 3)
MFU = 0.4

# Bytes for one parameter under AdamW in mixed precision (Rajbhandari et al. 2020,
# https://arxiv.org/abs/1910.02054, section 3.1).
WEIGHT_BYTES, GRADIENT_BYTES, OPTIMIZER_BYTES = 2, 2, 12
BF16, FP32 = 2, 4


@dataclass(frozen=True)
class Device:
    """What one accelerator can do: `flops` is the published dense bf16 peak a second, `memory` bytes,
    `source` where that stands."""

    flops: float
    memory: float
    source: str


# Sheets that print only figures "with sparsity" print twice the dense ones; these are the dense ones.
DEVICES = {
    "a100": Device(312e12, 80e9, "NVIDIA A100 80GB data sheet"),
    "a100-40gb": Device(312e12, 40e9, "NVIDIA A100 40GB data sheet"),
    "h100": Device(989.4e12, 80e9, "NVIDIA H100 (SXM) data sheet"),
    "h200": Device(989.4e12, 141e9, "NVIDIA H200 (SXM) data sheet"),
    "b200": Device(2250e12, 180e9, "NVIDIA HGX B200 data sheet, one of eight"),
    "l4": Device(121e12, 24e9, "NVIDIA L4 data sheet"),
    "l40s": Device(362e12, 48e9, "NVIDIA L40S data sheet"),
    "rtx3090": Device(71e12, 24e9, "NVIDIA GA102 architecture whitepaper, fp32 sums"),
    "rtx4090": Device(165.2e12, 24e9, "NVIDIA Ada architecture whitepaper, fp32 sums"),
    "mi250x": Device(383e12, 128e9, "AMD Instinct MI250X data sheet"),
    "mi300x": Device(1307.4e12, 192e9, "AMD Instinct MI300X data sheet"),
}


@dataclass(frozen=True)
class Machine:
    """What a machine has: cores, bytes of memory, and the FLOP/s that matrix products reach, in fp32 or where
    it is faster bf16."""

    cores: int
    memory: float
    flops: float
    precision: str


def this_machine() -> Machine:
    """This machine, its products measured for a quarter of a second."""
    import os

    import psutil
    import torch

    from newleaf.kernels.matmul_speed import bf16_is_faster, matmul_speed

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    device = torch.device("cpu")
    precision = "bf16" if bf16_is_faster(device) else "fp32"
    speed = matmul_speed(torch.bfloat16 if precision == "bf16" else torch.float32, device)
    return Machine(cores, float(psutil.virtual_memory().total), speed, precision)


@dataclass(frozen=True)
class Figure:
    """One number of a plan: what it is, in which unit, and the formula in words."""

    value: float
    unit: str
    formula: str


@dataclass(frozen=True)
class Plan:
    """A plan's question and its figures by name, in the order in which they are printed."""

    size: str
    family: str
    published_as: str  # the size's name in its paper, such as 350M; empty for a network of one's own
    shape: str
    note: str
    gpu: str
    gpus: int
    mfu: float
    figures: dict[str, Figure]

    def __getitem__(self, name: str) -> float:
        return self.figures[name].value

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """What is planned: a network, the heads it was published with, and what there is to say about it."""

    name: str
    family: str
    config: GPTConfig
    n_head: int
    published_as: str = ""
    note: str = ""

    @property
    def shape(self) -> str:
        config = self.config
        return (
            f"{counted(config.n_layer, 'layer')} × {config.n_embd:,}, "
            f"{counted(self.n_head, 'head')}, {config.context_length:,} tokens of context"
        )


def sizes() -> list[Subject]:
    """Every published size, family by family, those that exist on paper only among them, from small to
    large."""
    found = []
    for family in FAMILIES:
        own = [
            Subject(name, family.name, config, config.n_head, _published(name))
            for name, config in family.sizes.items()
        ]
        for name, paper in family.on_paper.items():
            note = (
                f"on paper only: {paper.why}, so it is counted with heads that together are as wide as "
                f"the network"
            )
            own.append(Subject(name, family.name, paper.counts_as, paper.n_head, _published(name), note))
        found += sorted(own, key=lambda subject: count_parameters(subject.config).total)
    return found


def _published(name: str) -> str:
    return name.rpartition("-")[2].upper()


def plan(
    size: str | Path | GPTConfig,
    *,
    gpus: int = 1,
    gpu: str = "h100",
    tokens: float | None = None,
    mfu: float = MFU,
    machine: Machine | None = None,
) -> Plan:
    """Plan the training of a published size ("gpt3-175b"), of the network of a model folder, a run, a GGUF
    file or a Hub name, or of a configuration.

    `tokens` is how many tokens to train on (default: the compute-optimal number), `mfu` the share of the
    device's peak that the run reaches (model FLOPs utilisation; Chowdhery et al. 2022, appendix B). With a
    `machine`, such as `this_machine()`, the figures named `machine_…` say what training and running take on
    its processor. Raises InputError for a size or a device that is not known.
    """
    subject = _subject(size)
    device = _device(gpu)
    if gpus < 1:
        raise InputError(f"gpus: must be at least 1, not {gpus}")
    if not 0.0 < mfu <= 1.0:
        raise InputError(f"mfu: must be above 0 and at most 1, not {mfu}")
    if tokens is not None and not 1 <= tokens < float("inf"):
        raise InputError(f"tokens: must be at least 1, not {tokens}")
    counts = count_parameters(subject.config)
    figures = _parameters(counts) | _compute(subject.config, counts, gpus, gpu, device, tokens, mfu)
    figures |= _memory(subject, counts, gpus) | _serving(subject.config, counts)
    figures |= _on_machine(subject, counts, figures, machine) if machine is not None else {}
    name = subject.published_as
    return Plan(subject.name, subject.family, name, subject.shape, subject.note, gpu, gpus, mfu, figures)


def _subject(size: str | Path | GPTConfig) -> Subject:
    if isinstance(size, GPTConfig):
        return Subject("a configuration", "", size, size.n_head)
    if "/" in str(size) or Path(size).suffix == ".gguf" or Path(size).is_dir():
        from newleaf.storage.model_info import read_network_config

        family, config = read_network_config(size)
        return Subject(str(size), family, config, config.n_head)
    try:
        name = size_name(str(size))
    except InputError as error:
        raise InputError(
            f"{error}; newleaf plan lists the sizes, and a model folder, a GGUF file or a Hub name can be "
            f"planned too"
        ) from None
    return next(subject for subject in sizes() if subject.name == name)


def _device(name: str) -> Device:
    if name not in DEVICES:
        near = difflib.get_close_matches(name, DEVICES, n=1)
        raise InputError(
            f"gpu: {name} is not known; "
            f"{f'did you mean {near[0]}?' if near else 'known are ' + ', '.join(DEVICES)}"
        )
    return DEVICES[name]


def _parameters(counts: Counts) -> dict[str, Figure]:
    return {
        "parameters": Figure(
            counts.total, "", "every weight once; a head tied to the embedding counts with it"
        ),
        "active_parameters": Figure(
            counts.active,
            "",
            "N: weights a token is multiplied by; no table it is looked up in, no idle expert",
        ),
        "embedding_parameters": Figure(
            counts.embedding, "", "tokens V·C (twice if the head is not tied) and learned positions T·C"
        ),
    }


def _compute(
    config: GPTConfig, counts: Counts, gpus: int, gpu: str, device: Device, tokens: float | None, mfu: float
) -> dict[str, Figure]:
    optimal = TOKENS_PER_PARAMETER * (counts.active if config.n_expert else counts.total)
    chosen = optimal if tokens is None else tokens
    weights = 6 * counts.active
    both = weights + attention_flops(config)
    days = both * chosen / (gpus * device.flops * mfu) / 86_400
    rule = f"{TOKENS_PER_PARAMETER} for each parameter (Hoffmann et al. 2022)"
    if config.n_expert:
        rule = (
            f"{TOKENS_PER_PARAMETER} for each active parameter: a guess, as Hoffmann et al. 2022 "
            f"measured dense models only"
        )
    return {
        "flops_per_token": Figure(
            weights, "FLOPs", "6·N: 2 forward and 4 backward for each active weight (Kaplan et al. 2020)"
        ),
        "flops_per_token_with_attention": Figure(
            both, "FLOPs", "6·N + 12·H·D for each key a layer sees, T or its window (Chowdhery et al. 2022)"
        ),
        "compute_optimal_tokens": Figure(optimal, "tokens", rule),
        "tokens": Figure(
            chosen,
            "tokens",
            "as given" if tokens is not None else "the compute-optimal number; --tokens sets another",
        ),
        "training_flops": Figure(weights * chosen, "FLOPs", "6·N × tokens"),
        "training_flops_with_attention": Figure(
            both * chosen, "FLOPs", "FLOPs per token with attention × tokens"
        ),
        "days": Figure(
            days,
            "days",
            f"FLOPs with attention / ({gpus:,} {gpu} × {device.flops / 1e12:,.0f} TFLOP/s, {device.source}, "
            f"× {mfu:g} used)",
        ),
    }


def layer_activation_bytes(config: GPTConfig, n_head: int = 0, *, scores: bool = True) -> int:
    """Bytes that the backward of one layer needs for one token, in bf16, without any recomputation.

    Counted tensor by tensor as Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198, section 4.1), whose
    GPT with dropout has C·(34 + 5·H·T/C). Without dropout there are no masks; without `scores` the T² part is
    recomputed, as flash attention does (Dao et al. 2022). `n_head` is for a network that is counted with
    other heads than it was published with.
    """
    width, queries, keys = config.n_embd, config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    experts = config.n_expert_active if config.n_expert else 1
    norms = 1 if config.shared_norm else 2
    count = BF16 * width * norms  # what the norms read
    # what the projections read; a shared norm's output is one tensor
    count += BF16 * width * (norms - 1 + experts)
    count += BF16 * (queries + 2 * keys) + BF16 * queries  # q, k, v, and what the output projection reads
    count += BF16 * (queries + keys) * config.qk_norm
    count += BF16 * config.n_inner * (4 if config.gated else 2) * experts
    count += 2 * width * (config.residual_dropout > 0)  # masks of a byte
    if scores:
        kept = BF16 + (1 + BF16) * (config.attention_dropout > 0)  # softmax; its dropout's mask and result
        count += kept * (n_head or config.n_head) * config.context_length
    return count


def _memory(subject: Subject, counts: Counts, gpus: int) -> dict[str, Figure]:
    config, length = subject.config, subject.config.context_length
    whole = config.n_layer * length * layer_activation_bytes(config, subject.n_head)
    flash = config.n_layer * length * layer_activation_bytes(config, scores=False)
    inputs = config.n_layer * length * BF16 * config.n_embd + length * layer_activation_bytes(
        config, scores=False
    )
    gathered = (WEIGHT_BYTES + GRADIENT_BYTES) * max(counts.block, counts.embedding) if gpus > 1 else 0
    figures = {}
    for kind, share, said in (("ddp", 1, ""), ("fsdp", gpus, f" / {gpus:,} devices")):
        state = 0.0
        for part, each, what in (
            ("weights", WEIGHT_BYTES, "bf16"),
            ("gradients", GRADIENT_BYTES, "bf16"),
            ("optimizer", OPTIMIZER_BYTES, "AdamW: fp32 weights and two moments"),
        ):
            value = each * counts.total / share
            state += value
            figures[f"{kind}_{part}"] = Figure(
                value, "bytes", f"{each} bytes × parameters{said} ({what}; Rajbhandari et al. 2020)"
            )
        if kind == "fsdp":
            figures["fsdp_gathered"] = Figure(
                gathered, "bytes", "weights and gradients of one layer, or of the embedding, while in use"
            )
            state += gathered
        figures[f"{kind}_total"] = Figure(
            state + inputs, "bytes", "all of the above, and checkpointed activations of one text"
        )
    counted = "34·C + 5·H·T for GPT-2 with dropout (Korthikanti et al. 2022)"
    return figures | {
        "activations": Figure(whole, "bytes", f"L·T × what a layer keeps of a token; {counted}"),
        "activations_flash": Figure(
            flash, "bytes", "the same without the H·T of the scores, which flash attention computes again"
        ),
        "activations_checkpointed": Figure(
            inputs, "bytes", "L·T × 2·C, each layer's input, and one layer whole while it is recomputed"
        ),
    }


def _on_machine(
    subject: Subject, counts: Counts, known: dict[str, Figure], machine: Machine
) -> dict[str, Figure]:
    """On a processor newleaf keeps weights, gradients and two moments in fp32."""
    from newleaf.storage.model_info import memory_to_run

    flops = known["flops_per_token_with_attention"].value * known["tokens"].value
    state = (FP32 + FP32 + 2 * FP32) * counts.total
    total = state + FP32 / BF16 * known["activations_flash"].value
    speed = (
        f"{machine.flops / 1e9:,.0f} GFLOP/s of {machine.precision} products, measured, × "
        f"{USEFUL_SHARE:g} used"
    )
    runs = memory_to_run(subject.config)
    return {
        "machine_days": Figure(
            flops / (machine.flops * USEFUL_SHARE) / 86_400,
            "days",
            f"FLOPs with attention × tokens / ({speed})",
        ),
        "machine_memory_to_train": Figure(
            total, "bytes", "16 bytes × parameters (fp32 weights, gradients, two moments), and one text"
        ),
        "machine_memory_to_run": Figure(runs["bf16"], "bytes", "bf16 weights and the cache of a full text"),
        "machine_memory_to_run_int4": Figure(
            runs["int4"], "bytes", "--weights int4 and the cache of a full text"
        ),
    }


def _serving(config: GPTConfig, counts: Counts) -> dict[str, Figure]:
    token = 2 * BF16 * config.n_layer * config.n_kv_head * config.head_dim
    seen = sum(
        min(window or config.context_length, config.context_length)
        for window in config.windows or (0,) * config.n_layer
    )
    return {
        "weights_to_serve": Figure(BF16 * counts.total, "bytes", "2 bytes (bf16) × parameters"),
        "kv_cache_per_token": Figure(token, "bytes", "2 (keys and values) × 2 bytes × L·K·D"),
        "kv_cache_full": Figure(
            token // config.n_layer * seen,
            "bytes",
            f"one text of {config.context_length:,} tokens; a windowed layer keeps its window only",
        ),
    }
