"""The v4 envelope: `success`, `errors`, `messages`, `result`, `result_info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from fastapi.responses import Response

from causeway.model.problem import Problem

DOCUMENTATION = "/api/docs"
_encode = msgspec.json.Encoder().encode


class Json(Response):
    """Encoded once, by msgspec."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return _encode(content)


def answer(result: object, *, info: Mapping[str, int] | None = None, messages: Sequence[object] = ()) -> Json:
    content: dict[str, object] = {"success": True, "errors": [], "messages": messages, "result": result}
    if info is not None:
        content["result_info"] = info
    return Json(content)


def refusal(problem: Problem, *, status: int | None = None) -> Json:
    error: dict[str, object] = {
        "code": int(problem.code),
        "message": problem.message,
        "side": problem.side,
        "documentation_url": DOCUMENTATION,
    }
    if problem.pointer:
        error["source"] = {"pointer": problem.pointer}
    headers = {}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = {"success": False, "errors": [error], "messages": [], "result": None}
    return Json(content, status_code=status or problem.status, headers=headers)


def page_info(*, page: int, per_page: int, total: int, count: int) -> dict[str, int]:
    return {
        "page": page,
        "per_page": per_page,
        "count": count,
        "total_count": total,
        "total_pages": -(-total // per_page),
    }
