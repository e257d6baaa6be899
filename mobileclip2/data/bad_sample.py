"""The exception for samples that cannot be used."""


class BadSample(Exception):
    """A sample cannot be used. ``reason`` is a slug for counting. ``detail`` explains it to the user."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
