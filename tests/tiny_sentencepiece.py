"""A tokenizer in SentencePiece's way, as transformers writes it."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from newleaf.text.tokenizer import Tokenizer

ENDS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece(texts: Iterable[str], size: int, prefix: bool = True) -> Tokenizer:
    """A tokenizer as transformers writes SentencePiece's BPE into tokenizer.json (TinyLlama, Llama 2): pieces
    in the order of learning, characters behind them, every way to cut a piece in two a merge."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    learned = trained.get_vocab()
    pieces = sorted(learned, key=lambda piece: (len(piece) == 1, learned[piece]))
    ids = {token: n for n, token in enumerate([*ENDS, *BYTES, *pieces])}
    merges = [
        (p[:cut], p[cut:]) for p in pieces for cut in range(1, len(p)) if p[:cut] in ids and p[cut:] in ids
    ]
    backend = tokenizers.Tokenizer(
        models.BPE(ids, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    marked = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), marked]) if prefix else marked
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ENDS])
    backend.add_tokens([AddedToken("<user>", special=False, normalized=False)])
    return Tokenizer(backend, 1, 2, None, {"chat_template": "{{ messages }}"})
