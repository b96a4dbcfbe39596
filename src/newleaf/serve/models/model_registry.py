"""The model registry: loads models by name on first use, and evicts the least recently used."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from newleaf.api import Model
from newleaf.api.opening import load_for_text
from newleaf.errors import InputError
from newleaf.format_amounts import byte_size
from newleaf.generate.engine.engine import SLOTS
from newleaf.serve.api_errors import ApiError, too_many_requests
from newleaf.serve.http.logs import Logs
from newleaf.serve.models.loaded_model import LoadedModel, WorkerThreads

OpenModel = Callable[["ModelSource"], Model]


@dataclass(frozen=True)
class ModelSource:
    """Where a named model comes from. `path` is anything that `newleaf.load` takes."""

    name: str
    path: str
    weights: str | None = None
    device: str | None = None
    threads: int | None = None
    template: str | None = None  # a Jinja chat template in place of the model's own
    adapters: Mapping[str, str] = field(default_factory=dict)  # name → folder
    draft: str | None = None  # a draft model for speculative decoding
    draft_weights: str | None = None
    # RoPE scaling and the KV cache's type, as `newleaf.load` takes them.
    context: int | None = None
    context_method: Literal["yarn", "ntk"] | None = None
    cache: Literal["bf16", "int8"] | None = None
    tokenizer: str | None = None  # in place of the model's own


@dataclass(frozen=True)
class ModelLimits:
    """Limits of memory and concurrency: bytes of all weights (None: no limit), and of each KV cache."""

    memory: int | None = None
    cache: int | None = None
    slots: int = SLOTS
    queue: int = 1024


class ModelRegistry:
    """Models by name, of which those that fit `room.memory` are loaded; eviction is LRU."""

    def __init__(
        self,
        sources: Sequence[ModelSource],
        room: ModelLimits,
        threads: WorkerThreads,
        logs: Logs,
        open_model: OpenModel | None = None,
    ) -> None:
        names = [name for source in sources for name in (source.name, *source.adapters)]
        if not names:
            raise InputError("a server needs a model")
        if len(set(names)) < len(names):
            raise InputError(
                f"two models have the name {max(names, key=names.count)}; give one another, as in "
                f"NAME={sources[0].path}"
            )
        self.sources: Mapping[str, ModelSource] = {source.name: source for source in sources}
        self.names = {name: source for source in sources for name in (source.name, *source.adapters)}
        self.room, self.threads, self.logs = room, threads, logs
        self.created = int(time.time())
        self._open = open_model or open_source
        self._loaded: dict[str, LoadedModel] = {}  # least recently used first
        self._sizes: dict[str, int] = {}  # of models that have been loaded
        self._loading = asyncio.Lock()

    @property
    def first(self) -> str:
        return next(iter(self.sources))

    def get_loaded(self, name: str) -> LoadedModel | None:
        """The model if it is loaded."""
        source = self.names[name]
        loaded_model = self._loaded.get(source.name)
        return (
            loaded_model
            if loaded_model is None or name == source.name
            else loaded_model.loaded_adapters[name]
        )

    def engine_loads(self) -> Iterator[tuple[str, bool, int, int, int]]:
        """Of each model: name, whether it is loaded, bytes, sequences running and waiting."""
        for name in self.sources:
            loaded_model = self._loaded.get(name)
            yield (
                (name, True, self._sizes[name], *loaded_model.engine.load)
                if loaded_model is not None
                else (name, False, 0, 0, 0)
            )

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[LoadedModel]:
        """The model of this name (None: the first), loaded if needed, and kept while the block runs.

        Raises ApiError when there is none, when it cannot be loaded, or when models in use leave no memory
        for it.
        """
        loaded_model = await self.acquire(name)
        try:
            yield loaded_model
        finally:
            self.release(loaded_model)

    async def acquire(self, name: str | None) -> LoadedModel:
        """As `use`, for callers that call `release` themselves."""
        name = self.first if name is None else name
        if name not in self.names:
            raise ApiError(
                404,
                f"the model {name!r} does not exist; there is {', '.join(self.names)}",
                "model",
                "model_not_found",
            )
        source = self.names[name]
        loaded_model = self._loaded.get(source.name)
        if loaded_model is None:
            async with self._loading:
                loaded_model = self._loaded.get(source.name) or await self._load(source)
                loaded_model.active_requests += 1
        else:
            loaded_model.active_requests += 1
            self._loaded[source.name] = self._loaded.pop(source.name)
        return loaded_model if name == source.name else loaded_model.loaded_adapters[name]

    def release(self, loaded_model: LoadedModel) -> None:
        loaded_model.engine_owner.active_requests -= 1

    async def _load(self, source: ModelSource) -> LoadedModel:
        known = self._sizes.get(source.name)
        size = known if known is not None else await self.threads.run(lambda: size_on_disk(source))
        self._evict_for(source.name, size)
        began = time.perf_counter()
        try:
            loaded_model = await self.threads.run(lambda: self._open_loaded(source))
        except InputError as error:
            raise ApiError(503, f"{source.name}: {error}", "model", "model_not_loaded") from None
        self._sizes[source.name] = loaded_model.nbytes
        self._loaded[source.name] = loaded_model
        self.logs.write(
            "loaded",
            model=source.name,
            bytes=loaded_model.nbytes,
            seconds=round(time.perf_counter() - began, 3),
        )
        return loaded_model

    def _open_loaded(self, source: ModelSource) -> LoadedModel:
        room = self.room
        adapters, template, draft = source.adapters, source.template, open_draft(source)
        return LoadedModel(
            source.name, self._open(source), room.slots, room.cache, room.queue, adapters, template, draft
        )

    def _evict_for(self, name: str, size: int) -> None:
        """Evict models until there is memory for this one."""
        limit = self.room.memory
        if limit is None:
            return
        if size > limit:
            raise ApiError(
                503,
                f"{name} takes {byte_size(size)}, and the limit for all models is {byte_size(limit)}",
                "model",
                "model_too_large",
            )
        while sum(self._sizes[each] for each in self._loaded) + size > limit:
            idle = next(
                (each for each, loaded_model in self._loaded.items() if not loaded_model.active_requests),
                None,
            )
            if idle is None:
                raise too_many_requests(
                    f"{name} is not in memory, and the loaded models are in use",
                    5,
                    "model_not_loaded",
                )
            self._loaded.pop(idle).close()
            gc.collect()
            self.logs.write("evicted", model=idle)

    def close(self) -> None:
        for loaded_model in self._loaded.values():
            loaded_model.close()
        self._loaded.clear()


def open_source(source: ModelSource) -> Model:
    """Raises InputError as `newleaf.load` does."""
    model = load_for_text(
        source.path,
        source.weights,
        source.device,
        source.threads,
        context=source.context,
        context_method=source.context_method,
        cache=source.cache,
        tokenizer=source.tokenizer,
    )
    if source.template is not None:
        model.use_template(source.template)
    return model


def open_draft(source: ModelSource) -> Model | None:
    """Raises InputError as `newleaf.load` does."""
    if source.draft is None:
        return None
    return load_for_text(source.draft, source.draft_weights or source.weights, source.device, source.threads)


def size_on_disk(source: ModelSource) -> int:
    """Bytes of the weights of the model and its draft, approximately."""
    return sum(_size_on_disk(Path(path)) for path in (source.path, source.draft) if path is not None)


def _size_on_disk(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    files: Any = path.rglob("*.safetensors") if path.is_dir() else ()
    return sum(file.stat().st_size for file in files)
