"""Errors that end a command with one line instead of a traceback.

InputError is wrong input: its text says what is wrong, where, and what to do.
"""


class InputError(Exception):
    """Bad input from a person: a missing file, a broken row, an impossible setting.

    The command line prints the text on one line and exits with code 2; the Python API raises it as it is.
    """


class NotFiniteError(InputError):
    """The network's logits are infinite or not a number, so that no token can be sampled or scored."""

    def __init__(self) -> None:
        super().__init__(
            "the model's activations overflow: it gave a value that is not a number. Weights in fp16, whose "
            'largest number is 65,504, do; open it with --weights bf16 (weights="bf16"), which has the '
            "range of fp32. Weights in another format are damaged"
        )


class DivergedError(InputError):
    """Training diverged: no step, or no validation, had a finite loss. A lower learning rate may help."""


class ToldElsewhereError(InputError):
    """An InputError that another process of the same run reports; this process exits without a message."""


class Stopped(KeyboardInterrupt):
    """The process was asked to stop (Ctrl-C, SIGTERM, a scheduler) before there was anything to save.

    The command line prints the text and exits with code 0. Whoever catches KeyboardInterrupt catches it
    too.
    """
