"""Request intake: a prompt and its options are checked and become a request with its sequences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from collections.abc import Sequence as Several

from newleaf.errors import InputError
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.decoding.sequence_group import make_sequences
from newleaf.generate.engine.scheduler import Scheduler
from newleaf.generate.options import SamplingConfig
from newleaf.generate.text.request import Request
from newleaf.generate.text.sequence import Sequence
from newleaf.generate.text.text_state import Piece, prompt_ids, start_texts
from newleaf.text.tokenizer import Tokenizer


class RequestIntake:
    """Makes requests for one engine. `adapters` numbers its adapters by name."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        grammars: GrammarCompiler,
        scheduler: Scheduler,
        adapters: Mapping[str, int],
    ) -> None:
        self.tokenizer, self.grammars, self.scheduler = tokenizer, grammars, scheduler
        self.adapters, self.max_length = adapters, scheduler.executor.max_length

    def open(
        self,
        wake: Callable[[], None],
        prompt: str | Several[int],
        config: SamplingConfig,
        first: int,
        ends: Collection[int],
        shown: Mapping[int, str] | None,
        adapter: str | None,
    ) -> tuple[Request, list[Sequence]]:
        """A request and its sequences, which nobody runs yet; cancelling it calls `wake`.

        The other parameters are those of `Engine.submit`.

        Raises InputError for a prompt, options or an adapter that this engine cannot serve.
        """
        if adapter is not None and adapter not in self.adapters:
            known = ", ".join(self.adapters) or "no adapters"
            raise InputError(f"adapter: {adapter!r} is not open here; this engine has {known}")
        ids = self._prompt_ids(prompt, config)
        count = config.best_of or config.n
        samples = start_texts(
            self.tokenizer, [ids], config, self.grammars, count, first, ends, shown, self.max_length
        )
        request = Request(config, samples, wake, self.adapters[adapter] if adapter is not None else 0)
        sequences = make_sequences(request, ids, self.tokenizer, self.max_length)
        if not self.scheduler.fits(sequences[0]):
            raise InputError(
                f"the prompt and max_tokens={config.max_tokens} need more memory for keys and values than "
                f"there is; ask for less"
            )
        if config.echo and isinstance(prompt, str):
            for number in range(config.n):
                request.echo(Piece(number, prompt if config.truncate is None else self.tokenizer.decode(ids)))
        return request, sequences

    def _prompt_ids(self, prompt: str | Several[int], config: SamplingConfig) -> list[int]:
        limit, size = self.max_length, self.tokenizer.vocab_size
        ids = prompt_ids(self.tokenizer, prompt, config, limit) if isinstance(prompt, str) else list(prompt)
        if not 0 < len(ids) < limit or not (min(ids) >= 0 and max(ids) < size):
            raise InputError(f"prompt: {len(ids)} ids do not fit this model: 1 to {limit - 1}, below {size}")
        return ids
