"""Two recipes that people begin with, as small scripts write them, for `benchmarks.time_to_loss`.

nanoGPT's for a CPU: characters, 4 layers × 128, context 64, 12 windows a step, 2,000 steps, AdamW 1e-3
falling to 1e-4. The tutorial's: GPT-2's tokens, 2 post-norm layers × 128, windows of 64 at stride 1 within
each line, 64 a step, AdamW 1e-3, dropout 0.1. Both in fp32.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.train_speed import Plain


def nanogpt(text: str, steps: int = 2000) -> tuple[float, float]:
    """Nats per character of the last tenth of `text` after so many steps, and the seconds that training
    took."""
    letters = {letter: number for number, letter in enumerate(sorted(set(text)))}
    ids = torch.tensor([letters[letter] for letter in text])
    train, held_out = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    torch.manual_seed(1337)
    network = Plain({"vocabulary": len(letters), "width": 128, "context": 64, "layers": 4, "heads": 4})
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True
    )
    begin = time.perf_counter()
    for step in range(steps):
        falling = 1e-4 + 0.5 * (1 + math.cos(math.pi * max(0, step - 100) / max(1, steps - 100))) * 9e-4
        optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1) / 101 if step < 100 else falling
        starts = torch.randint(len(train) - 65, (12,)).tolist()
        windows = torch.stack([train[start : start + 65] for start in starts])
        network.loss(windows[:, :-1], windows[:, 1:]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        whole = held_out[: (len(held_out) - 1) // 64 * 64 + 1]
        inputs, targets = whole[:-1].view(-1, 64), whole[1:].view(-1, 64)
        chunks = zip(inputs.split(256), targets.split(256), strict=True)
        losses = [network.loss(*chunk).item() * len(chunk[0]) for chunk in chunks]
    return sum(losses) / len(inputs), seconds


def tutorial(
    train: list[str], held_out: list[str], tokenizer: Path, seconds: float, steps: int | None = None
) -> tuple[float, int, float]:
    """Bits per byte of `held_out` lines after training for `seconds`, or `steps`; the steps that were, and
    the seconds they took.

    `tokenizer` is a folder with GPT-2's vocab.json and merges.txt.
    """
    from newleaf.text.tokenizer import Tokenizer

    gpt2 = Tokenizer.load(tokenizer)
    end = gpt2.vocab_size - 1  # <|endoftext|>, round each line
    lines = [torch.tensor([end, *gpt2.encode(line), end]) for line in train]
    starts = torch.cat(
        [
            torch.stack((torch.full((len(line) - 1,), at), torch.arange(len(line) - 1)), 1)
            for at, line in enumerate(lines)
        ]
    )
    torch.manual_seed(0)
    network = Tutorial(gpt2.vocab_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    begin, done = time.perf_counter(), 0
    while done < steps if steps is not None else time.perf_counter() - begin < seconds:
        drawn = [
            lines[at][first : first + 65] for at, first in starts[torch.randint(len(starts), (64,))].tolist()
        ]
        windows = nn.utils.rnn.pad_sequence(drawn, batch_first=True, padding_value=-100)
        loss = network.loss(windows).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        done += 1
    taken = time.perf_counter() - begin
    network.eval()
    nats = 0.0
    with torch.no_grad():
        for line in held_out:
            ids = torch.tensor([end, *gpt2.encode(line), end])
            nats += sum(
                network.loss(ids[None, at : at + 65]).sum().item() for at in range(0, len(ids) - 1, 64)
            )
    return nats / math.log(2) / sum(len(line.encode("utf-8")) for line in held_out), done, taken


class Tutorial(nn.Module):
    """A GPT-1 of PyTorch's own encoder layers."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, 128), nn.Embedding(64, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, 0.1, "gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, nn.LayerNorm(128), enable_nested_tensor=False)
        self.head = nn.Linear(128, vocabulary)
        self.dropout = nn.Dropout(0.1)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def loss(self, windows: Tensor) -> Tensor:
        """Loss of each token that is not padding, from windows of up to 65 tokens padded with -100."""
        ids, targets = windows[:, :-1].clamp(min=0), windows[:, 1:]
        length = ids.shape[1]
        x = self.dropout(self.tokens(ids) + self.positions(torch.arange(length)))
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        logits = self.head(self.blocks(x, mask=mask, is_causal=True))
        kept = targets != -100
        return F.cross_entropy(logits[kept], targets[kept], reduction="none")
