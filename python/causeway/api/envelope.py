"""The v4 envelope: `success`, `errors`, `messages`, `result`, `result_info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi.responses import JSONResponse

from causeway.model.problem import Problem

DOCS = "/api/docs"


def answer(
    result: object,
    *,
    status: int = 200,
    info: Mapping[str, int] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    content: dict[str, object] = {"success": True, "errors": [], "messages": [], "result": result}
    if info is not None:
        content["result_info"] = dict(info)
    return JSONResponse(content, status_code=status, headers=dict(headers or {}))


def refusal(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    error: dict[str, object] = {
        "code": int(problem.code),
        "message": problem.message,
        "side": problem.side,
        "documentation_url": DOCS,
    }
    if problem.pointer:
        error["source"] = {"pointer": problem.pointer}
    content = {"success": False, "errors": [error], "messages": [], "result": None}
    return JSONResponse(content, status_code=problem.status, headers=dict(headers or {}))


def page_info(*, page: int, per_page: int, total: int, shown: Sequence[object]) -> dict[str, int]:
    return {
        "page": page,
        "per_page": per_page,
        "count": len(shown),
        "total_count": total,
        "total_pages": -(-total // per_page),
    }
