"""How fast large networks are written at 4 bits, beside reading their weights: `python -m
benchmarks.decode_large [SIZE…] [--tokens 64]`.

Random codes of the size's shape, put straight into packed layers, so that a network needs no more memory than
its 4 bits take. For each token all matrices are read once, the head included; of the table of tokens one row.
Beside it stands how often PyTorch sums up the same bytes as 64-bit integers, with the same threads, in the
same run: what a plain loop gets out of the memory, which loops that prefetch can surpass. transformers writes
the same shape in bf16 where that fits into the memory that is left.
"""

from __future__ import annotations

import argparse
import gc
import time

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.vocabulary import tokenizer_of
from newleaf.families import family_for, size
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT, GPTConfig
from newleaf.quant.packed import FORMATS, LANES, Packed
from newleaf.quant.packed_layers import PackedEmbedding, PackedWeight, packable
from newleaf.storage.build_network import empty_network, load_weights

SIZES = ["gpt-neo-2.7b", "gptj-6b", "gpt-neox-20b"]
PROMPT = 32
FORMAT = FORMATS["int4"]


def random_packed(shape: torch.Size) -> Packed:
    """Codes of any value, with scales that make weights of about 0.02."""
    tiles, columns = -(-shape[0] // LANES), -(-shape[1] // FORMAT.group) * FORMAT.group
    codes = torch.randint(0, 1 << 62, (tiles * columns * LANES // 2 // 8,)).view(torch.uint8)
    scales = torch.full((tiles, columns // FORMAT.group, LANES), 0.004, dtype=torch.float16)
    return Packed(codes.view(tiles, columns // 8, LANES, 4), scales, tuple(shape), FORMAT)


def random_network(config: GPTConfig) -> GPT:
    network = empty_network(config)
    packs = packable(network)

    def weights():  # type: ignore[no-untyped-def]
        for name, weight in network.state_dict().items():
            yield name, random_packed(weight.shape) if name in packs else torch.randn(weight.shape) * 0.02

    return load_weights(network, weights(), None)


def read_each_token(network: GPT) -> list[Tensor]:
    """Codes and scales of every matrix that a token meets."""
    layers = [
        module
        for module in network.modules()
        if isinstance(module, PackedWeight) and not isinstance(module, PackedEmbedding)
    ]
    return [tensor for layer in layers for tensor in (layer.codes, layer.scales)]


def reading_speed(tensors: list[Tensor], repeats: int = 3) -> float:
    """Bytes a second, at best."""
    whole = [tensor.reshape(-1).view(torch.int64) for tensor in tensors]

    def once() -> float:
        begin = time.perf_counter()
        for tensor in whole:
            tensor.sum()
        return time.perf_counter() - begin

    return sum(tensor.nbytes for tensor in whole) / min(once() for _ in range(repeats))


def newleaf_speed(network: GPT, tokens: int, rounds: int) -> list[float]:
    engine = Engine(network, tokenizer_of(network.config.vocab_size), slots=1, limit=1 << 30)
    config = SamplingConfig(max_tokens=tokens + 1, min_tokens=tokens + 1, temperature=0, speculation="off")
    rng, found = np.random.default_rng(0), []
    for _ in range(rounds):
        begin = 0.0
        for _, _ in engine.answer(rng.integers(0, 256, PROMPT).tolist(), config, (), {}):
            begin = begin or time.perf_counter()
        found.append(tokens / (time.perf_counter() - begin))
    return found[1:]  # the first warms up


@torch.inference_mode()
def transformers_speed(config: GPTConfig, tokens: int) -> float:
    from transformers import AutoConfig, AutoModelForCausalLM

    family = family_for(config)
    assert family is not None
    values = family.write_config(config)
    shape = AutoConfig.for_model(**{name: value for name, value in values.items() if name != "newleaf"})
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).eval()
    ids, past, begin = torch.randint(0, 256, (1, PROMPT)), None, 0.0
    for _ in range(tokens + 1):
        out = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        ids, past = out.logits[:, -1:].argmax(-1), out.past_key_values
        begin = begin or time.perf_counter()
    return tokens / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", default=SIZES)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-transformers", action="store_true")
    args = parser.parse_args()
    import transformers

    title = (
        f"4 bits, {args.tokens} tokens after {PROMPT}, medians of {args.rounds} rounds; "
        f"{torch.get_num_threads()} threads; "
    )
    table = Table(
        "size", "read for a token", "PyTorch's sum", "newleaf int4", "share", "transformers bf16",
        title=f"{title}torch {torch.__version__}, transformers {transformers.__version__}",
    )  # fmt: skip
    for name in args.sizes:
        config = size(name)
        network = random_network(config)
        tensors = read_each_token(network)
        each = sum(tensor.nbytes for tensor in tensors)
        speed = reading_speed(tensors)
        own = float(np.median(newleaf_speed(network, args.tokens, args.rounds + 1)))
        parameters = sum(weight.numel() for weight in empty_network(config).parameters())
        del network, tensors
        gc.collect()
        peer = "–"
        if not args.skip_transformers and 2.2 * parameters < psutil.virtual_memory().available:
            peer = f"{transformers_speed(config, args.tokens // 4):.2f}"
        figures = (
            f"{each / 1e9:.2f} GB",
            f"{speed / each:.1f} /s, {speed / 1e9:.1f} GB/s",
            f"{own:.1f} tokens/s, {own * each / 1e9:.1f} GB/s",
        )
        table.add_row(name, *figures, f"{own * each / speed:.0%}", peer)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
