"""Text for other programs, and numbers for people."""


def exportable(text: str) -> str:
    """Return `text` with escapes for lone surrogates, which no encoder takes. File names may have them."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def plain(number: float) -> str:
    """Return `number` without an exponent, and with at most six decimal places."""
    return f"{number:.6f}".rstrip("0").rstrip(".")
