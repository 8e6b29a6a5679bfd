"""What is wrong with a request, in one line that reaches who made it."""

from __future__ import annotations

from fastapi import HTTPException


class RequestError(HTTPException):
    """A request cannot be answered: its text becomes the answer, with an HTTP status of its own.

    Args:
        status: 422: the request is wrong; 409: something must be done on the server first.
        text: what is wrong, and what to do.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status_code=status, detail=text)

    def __str__(self) -> str:
        return str(self.detail)
