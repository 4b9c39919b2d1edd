"""Text for other programs."""


def exportable(text: str) -> str:
    """Return `text` with escapes for lone surrogates, which no encoder takes. File names may have them."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
