"""Shapes and examples of mitigation and attacks for the OpenAPI page."""

from __future__ import annotations

from typing import Any

from causeway.api.examples import PAGING, query, switch_body

SWITCH_BODY = switch_body("enabled", {"everything automatic ends": False})
ATTACKS_QUERY: dict[str, Any] = {
    "parameters": [
        *PAGING,
        query("application", {"type": "string"}, "on this application only, by id"),
        query("active", {"type": "boolean"}, "those that go on, or those that have ended"),
        query("since", {"type": "string", "format": "date-time"}, "those that went on at or after this time"),
    ]
}
