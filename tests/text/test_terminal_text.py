"""What a model writes cannot drive a terminal."""

from newleaf.text.terminal_text import printable


def test_escape_sequences_lose_their_escape_and_text_stays() -> None:
    assert (
        printable("\x1b]0;title\x07 \x9b31m")
        == "\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}31m"
    )
    assert printable("tab\tline\n明月 é 🌱") == "tab\tline\n明月 é 🌱"
