"""What a lab refuses, with a stable code."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do it; the message says why, and what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
