"""Shapes and examples of IP Access Rules for the OpenAPI page."""

from __future__ import annotations

from typing import Any

from causeway.api.examples import json_body, query

_RULE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "configuration": {
            "type": "object",
            "required": ["target", "value"],
            "additionalProperties": False,
            "properties": {
                "target": {
                    "enum": ["ip", "ip6", "ip_range", "asn", "country", "list"],
                    "description": "asn and country need a database (causeway geo update), list a list of that name",
                },
                "value": {
                    "type": "string",
                    "examples": ["198.51.100.7", "2001:db8::7", "198.51.100.0/22", "AS64496", "DE", "known-scanners"],
                },
            },
        },
        "mode": {"enum": ["block", "whitelist"], "description": "challenges are for web pages"},
        "notes": {"type": "string", "maxLength": 1000},
        "x_causeway": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "drop_established": {
                    "type": "boolean",
                    "default": False,
                    "description": "end live connections that the rule blocks, too",
                },
                "application": {"type": "string", "description": "id of the one that it is about; else all"},
                "ports": {"type": "string", "description": "edge ports such as 22 or 1000-2000; else all"},
                "dry_run": {"type": "boolean", "default": False, "description": "only counted"},
                "expires_on": {"type": "string", "format": "date-time", "description": "deleted then"},
            },
        },
    },
}


RULE_BODY = json_body(
    {**_RULE, "required": ["configuration", "mode"]},
    {
        "one address": {"value": {"configuration": {"target": "ip", "value": "198.51.100.7"}, "mode": "block"}},
        "a range, live connections too": {
            "value": {
                "configuration": {"target": "ip_range", "value": "2001:db8::/40"},
                "mode": "block",
                "notes": "scanner",
                "x_causeway": {"drop_established": True},
            }
        },
    },
)
RULE_PATCH_BODY = json_body(_RULE, {"allow it": {"value": {"mode": "whitelist", "notes": "a partner"}}})
RULE_QUERY: dict[str, Any] = {
    "parameters": [
        query(
            "configuration.target", {"enum": ["ip", "ip6", "ip_range", "asn", "country", "list"]}, "rules of this kind"
        ),
        query("configuration.value", {"type": "string"}, "rules about exactly this"),
        query(
            "mode", {"enum": ["block", "challenge", "whitelist", "js_challenge", "managed_challenge"]}, "of this mode"
        ),
        query("notes", {"type": "string"}, "rules with this text in their notes, in any case"),
        query("match", {"enum": ["any", "all"], "default": "all"}, "whether one of the tests is enough"),
        query(
            "order", {"enum": ["configuration.target", "configuration.value", "mode"]}, "sort by; else the oldest first"
        ),
        query("direction", {"enum": ["asc", "desc"], "default": "asc"}, "sort direction"),
        query("page", {"type": "integer", "minimum": 1, "default": 1}, "past the end the list is empty"),
        query("per_page", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20}, "items on a page"),
    ]
}
OWNED_RULE_BODY = json_body(
    {
        **_RULE,
        "required": ["scope", "configuration", "mode"],
        "properties": {
            **_RULE["properties"],
            "scope": {
                "type": "object",
                "required": ["type", "id"],
                "properties": {"type": {"enum": ["zone", "organization"]}, "id": {"type": "string"}},
            },
        },
    },
    {
        "on trial": {
            "value": {
                "scope": {"type": "zone", "id": "0123456789abcdef0123456789abcdef"},
                "configuration": {"target": "ip_range", "value": "198.51.100.0/22"},
                "mode": "block",
                "x_causeway": {"dry_run": True, "ports": "22"},
            }
        }
    },
)
FILE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary"},
                "examples": {"text": {"value": "198.51.100.0/24\n2001:db8::/32\n"}},
            }
        },
    }
}
LIST_QUERY: dict[str, Any] = {
    "parameters": [
        query("description", {"type": "string"}, "what it is, for people"),
        query("overlaps", {"enum": ["refuse", "join"], "default": "refuse"}, "a prefix within another one of the list"),
        query("private", {"enum": ["refuse", "allow"], "default": "refuse"}, "addresses that are not public"),
    ]
}
EXPLAIN_QUERY: dict[str, Any] = {
    "parameters": [
        query("address", {"type": "string"}, "of a client"),
        query("port", {"type": "integer", "minimum": 1, "maximum": 65535}, "of the edge; else the first of each"),
    ]
}
