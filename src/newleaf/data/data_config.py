"""The choices about data: what a document is, how text is cleaned, split and cut into windows."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from newleaf.data.encodings import canonical_encoding
from newleaf.errors import InputError

DocumentUnit = Literal["file", "line", "blank-line"]
OnError = Literal["stop", "skip"]
Normalize = Literal["nfc", "nfkc"]
Dedup = Literal["exact", "near"]
Layout = Literal["packed", "document"]
BYTE_LIMIT_FIELDS = ("train_bytes", "validation_bytes")  # how much of a text becomes tokens


@dataclass(frozen=True)
class DataConfig:
    """How sources become batches.

    `field` names the text in a row; `encoding` is that of the files, which is guessed where they are not
    UTF-8; `document` says what a document is in a .txt file; `limit` and `validation_limit` count documents
    kept. `val_fraction` takes the end of the text, unless `validation` names sources of its own. Of the text
    to learn `train_bytes` become tokens at most, of the held-out text `validation_bytes`, in pieces spread
    evenly over it; None leaves it to the caller, who may know how much there is time for, and "all" takes
    all. `on_error="skip"` leaves out what cannot be read and counts it. Cleaning (`normalize`, `whitespace`,
    `dedup`, `min_length` in characters) is off by default. `layout="packed"` cuts the stream of documents
    into windows; `"document"` never crosses a document's end and starts a window each `stride` tokens (None:
    one context length). `document_mask` numbers the documents in a window, so that attention can stay inside
    each.
    """

    field: str = "text"
    encoding: str | None = None
    document: DocumentUnit = "file"
    limit: int | None = None
    val_fraction: float = 0.05
    validation: str | tuple[str, ...] | None = None
    validation_limit: int | None = None
    train_bytes: Literal["all"] | int | None = None
    validation_bytes: Literal["all"] | int | None = None
    on_error: OnError = "stop"
    normalize: Normalize | None = None
    whitespace: bool = False
    dedup: Dedup | None = None
    min_length: int = 0
    layout: Layout = "packed"
    stride: int | None = None
    document_mask: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("document", DocumentUnit), ("on_error", OnError), ("layout", Layout)):
            _check_choice(name, getattr(self, name), get_args(choices))
        for name, choices in (("normalize", Normalize), ("dedup", Dedup)):
            _check_choice(name, getattr(self, name), (None, *get_args(choices)))
        for name in ("whitespace", "document_mask"):
            _check_choice(name, getattr(self, name), (True, False))
        for name in ("limit", "validation_limit", "train_bytes", "validation_bytes", "stride"):
            if getattr(self, name) not in (None, "all" if name in BYTE_LIMIT_FIELDS else None):
                _check_min(name, getattr(self, name), 1)
        _check_min("min_length", self.min_length, 0)
        if self.encoding is not None:
            try:
                object.__setattr__(self, "encoding", canonical_encoding(self.encoding))
            except InputError as error:
                raise InputError(f"data.{error}") from None
        if not isinstance(self.field, str) or not self.field:
            raise InputError("data.field: it is empty; name the text field")
        self._check_split()
        if self.stride is not None and self.layout == "packed":
            raise InputError(
                "data.stride: only the document layout has a stride; set data.layout to document, or leave "
                "stride out"
            )

    def _check_split(self) -> None:
        if isinstance(self.validation, list):  # as YAML gives it
            object.__setattr__(self, "validation", tuple(self.validation))
        if self.validation is None:
            if (
                isinstance(self.val_fraction, bool)
                or not isinstance(self.val_fraction, int | float)
                or not 0 < self.val_fraction < 1
            ):
                raise InputError(
                    f"data.val_fraction: {self.val_fraction!r} is not between 0 and 1; 0.05 takes the last "
                    f"twentieth"
                )
            if self.validation_limit is not None:
                raise InputError(
                    "data.validation_limit: there is no data.validation to limit; use data.val_fraction"
                )

    @property
    def validation_sources(self) -> tuple[str, ...]:
        """The sources of a validation text of its own; empty when it is split off the training text."""
        if self.validation is None:
            return ()
        return (self.validation,) if isinstance(self.validation, str) else self.validation

    @property
    def max_bytes(self) -> tuple[int | None, int | None]:
        """Of the text to learn and of the held-out text; None for all."""
        train, validation = (
            None if most == "all" else most for most in (self.train_bytes, self.validation_bytes)
        )
        return train, validation

    def without_byte_limits(self) -> "DataConfig":
        """These choices, with all of a text that nobody has limited."""
        return replace(
            self, train_bytes=self.train_bytes or "all", validation_bytes=self.validation_bytes or "all"
        )

    @property
    def has_cleaning(self) -> bool:
        """Whether documents change or drop out, for which each has to be held whole."""
        return bool(self.normalize or self.whitespace or self.dedup or self.min_length)


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        shown = ", ".join("none" if choice is None else str(choice).lower() for choice in choices)
        raise InputError(f"data.{name}: {value!r} is none of {shown}")


def _check_min(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"data.{name}: {value!r} is not a whole number of at least {least}")
