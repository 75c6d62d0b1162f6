"""Text from files, for a terminal."""


def printable(text: str) -> str:
    """Names of files, and what decoders say of them, may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
