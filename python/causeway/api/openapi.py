"""The OpenAPI document: what FastAPI finds, plus the envelope, the security scheme and what every route may answer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "integer", "description": "stable"},
        "message": {"type": "string", "description": "what, the offending value, what to do"},
        "side": {"enum": ["operator", "client", "edge", "origin"], "description": "whose fault it is"},
        "source": {"type": "object", "properties": {"pointer": {"type": "string"}}},
        "documentation_url": {"type": "string"},
    },
}
_SCHEMAS: dict[str, Any] = {
    "Success": {
        "type": "object",
        "properties": {
            "success": {"const": True},
            "errors": {"type": "array", "maxItems": 0},
            "messages": {"type": "array"},
            "result": {},
            "result_info": {
                "type": "object",
                "properties": {
                    name: {"type": "integer"} for name in ("page", "per_page", "count", "total_count", "total_pages")
                },
            },
        },
    },
    "Refusal": {
        "type": "object",
        "properties": {
            "success": {"const": False},
            "errors": {"type": "array", "minItems": 1, "items": _ERROR},
            "messages": {"type": "array"},
            "result": {"type": "null"},
        },
    },
}
_REFUSALS = {
    "400": "refused; nothing was changed",
    "401": "no token, or a wrong one",
    "403": "the token may only read",
    "404": "there is no such thing",
    "413": "the body is too large",
    "429": "too many failed logins; Retry-After says how long to wait",
    "500": "an error of ours, told in the log; traffic goes on",
    "503": "control is not available; traffic goes on",
}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = made.setdefault("components", {})
    components["schemas"] = _SCHEMAS
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in made["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # refusals are 400 and in the envelope
            if path.startswith(("/client/v4", "/api/v1")):
                _describe(path, operation)
    made["paths"]["/readyz"]["get"]["responses"]["503"] = {"description": "not yet, or not any more: `reason` says why"}
    app.openapi_schema = made
    return made


def _describe(path: str, operation: dict[str, Any]) -> None:
    operation["security"] = [{"token": []}]
    responses = operation["responses"]
    if path == "/api/v1/tail":
        responses["200"]["content"] = {"application/x-ndjson": {"schema": {"type": "object"}}}
    else:
        responses["200"] = {"description": "done", "content": _json("Success")}
    responses |= {status: {"description": text, "content": _json("Refusal")} for status, text in _REFUSALS.items()}
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path" and parameter["name"].endswith("_id"):
            parameter["schema"] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
