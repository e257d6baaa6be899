"""The one way in which any part of reading says that a sample cannot be used."""


class BadSample(Exception):
    """One sample cannot be used; ``reason`` is a slug to count by, ``detail`` a sentence for the reader."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
