"""The one exception that means "the user's input is wrong": its text is a single line that says what, where and what to do."""


class InputError(Exception):
    """Bad input from a person: a missing file, a broken row, an impossible setting.

    The command line prints the text on one line and exits with code 2; the Python API raises it as it is.
    """
