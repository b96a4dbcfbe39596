"""What ends a command without a traceback: wrong input, whose text is a single line that says what, where and
what to do; and a stop."""


class InputError(Exception):
    """Bad input from a person: a missing file, a broken row, an impossible setting.

    The command line prints the text on one line and exits with code 2; the Python API raises it as it is.
    """


class NotFiniteError(InputError):
    """A network gave infinity or no number at all, so that nothing can be chosen or scored."""

    def __init__(self) -> None:
        super().__init__(
            "the model's activations overflow: it gave a value that is not a number. Weights in fp16, whose "
            "largest number is 65,504, do; "
            'open it with --weights bf16 (weights="bf16"), which has the range of fp32. Weights in another format are damaged'
        )


class DivergedError(InputError):
    """Training went to infinity: no step, or no validation, had a finite loss. A lower learning rate may
    help."""


class ToldElsewhereError(InputError):
    """An InputError that another process of the same run has met, and tells: this one ends without a word."""


class Stopped(KeyboardInterrupt):
    """Someone asked the process to stop (Ctrl-C, SIGTERM, a scheduler) while there was nothing to save yet;
    the text says so.

    The command line prints it and exits with code 0; whoever catches KeyboardInterrupt catches it too.
    """
