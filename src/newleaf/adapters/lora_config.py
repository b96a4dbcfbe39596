"""What a new adapter is to be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AdapterConfig:
    """A low-rank adapter (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    `targets` are patterns of layer names, newleaf's ("attention.q", "feedforward.*") or Hugging Face's
    ("c_attn", "q_proj"); "all" is every Linear inside the blocks but a router, and leaves out experts, which
    "experts" names. `dora` learns each row's length apart from its direction (Liu et al. 2024,
    https://arxiv.org/abs/2402.09353); `rslora` divides by √rank and not by rank (Kalajdzievski 2023,
    https://arxiv.org/abs/2312.03732). Raises ValueError naming the field.
    """

    rank: int = 16
    alpha: float = 32.0  # the update is multiplied by alpha / rank
    dropout: float = 0.0  # of what the adapter reads
    targets: tuple[str, ...] = ("all",)
    dora: bool = False
    rslora: bool = False

    def __post_init__(self) -> None:
        given = (self.targets,) if isinstance(self.targets, str) else self.targets
        object.__setattr__(
            self, "targets", tuple(part.strip() for target in given for part in str(target).split(","))
        )
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"lora.rank: must be a whole number of at least 1, not {self.rank!r}")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha: must be above 0, not {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout: must be at least 0 and below 1, not {self.dropout!r}")
        if not self.targets or not all(self.targets):
            raise ValueError(
                'lora.targets: must name at least one layer; "all" is every Linear inside the blocks'
            )

    @property
    def scale(self) -> float:
        """What B · A is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)
