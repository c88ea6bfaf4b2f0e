"""Shapes and examples for the OpenAPI page. What is enforced is in `model.document`; tests compare the two."""

from __future__ import annotations

from typing import Any

_SECONDS = {"type": "number", "minimum": 0, "maximum": 604800}
_AMOUNT = {"type": "integer", "minimum": 1, "maximum": 1_000_000}
_LIMIT: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["of"],
    "properties": {
        "of": {
            "enum": ["application", "source", "asn"],
            "description": "all clients, each source, or all clients of an AS number (causeway geo update --asn)",
        },
        "ipv4_prefix": {"type": "integer", "minimum": 1, "maximum": 32, "default": 32, "description": "of a source"},
        "ipv6_prefix": {"type": "integer", "minimum": 1, "maximum": 128, "default": 64, "description": "of a source"},
        "connections": _AMOUNT | {"description": "TCP: open at once"},
        "connections_per_s": _AMOUNT | {"description": "TCP: new in a second"},
        "sessions": _AMOUNT | {"description": "UDP: open at once"},
        "sessions_per_s": _AMOUNT | {"description": "UDP: new in a second"},
        "datagrams_per_s": _AMOUNT | {"description": "UDP: from clients"},
        "bytes_per_s": _AMOUNT
        | {
            "maximum": 1_000_000_000_000,
            "description": "payload; TCP: both directions, slowed down; UDP: from clients",
        },
        "ban_s": _SECONDS | {"description": "who goes over is refused for this long", "default": 0},
    },
}

_MINECRAFT: dict[str, Any] = {
    "type": "object",
    "description": "the edge speaks for a Minecraft server; tcp only",
    "additionalProperties": False,
    "properties": {
        "status_cache_s": _SECONDS | {"default": 0, "description": "a status is shown for so long; 0: off"},
        "joins_per_s": {"type": "integer", "minimum": 0, "maximum": 100_000, "default": 0},
        "challenge": {"type": "boolean", "default": True},
    },
}
APPLICATION: dict[str, Any] = {
    "type": "object",
    "required": ["protocol", "dns"],
    "additionalProperties": False,
    "properties": {
        "protocol": {
            "type": "string",
            "description": "tcp or udp and an edge port or range",
            "examples": ["tcp/22", "udp/53", "tcp/1000-2000"],
        },
        "dns": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {
                "type": {
                    "enum": ["CNAME", "ADDRESS"],
                    "description": "CNAME with dynamic edge_ips, ADDRESS with static",
                },
                "name": {"type": "string", "examples": ["ssh.example.net"]},
            },
        },
        "origin_direct": {
            "type": "array",
            "items": {"type": "string"},
            "description": "by address, tried in order; ranges map by offset and have the edge range's length",
            "examples": [["tcp://192.0.2.1:22"], ["udp://[2001:db8::1]:53"], ["tcp://192.0.2.1:3000-4000"]],
        },
        "origin_dns": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string"},
                "type": {"enum": ["", "A", "AAAA"], "description": "empty asks for both"},
                "ttl": {
                    "type": "integer",
                    "minimum": 5,
                    "maximum": 86400,
                    "default": 600,
                    "description": "seconds until the name is resolved again",
                },
            },
        },
        "origin_port": {
            "oneOf": [{"type": "integer"}, {"type": "string"}],
            "description": 'with origin_dns: a port, or a range such as "3000-4000"',
        },
        "ip_firewall": {
            "type": "boolean",
            "default": False,
            "description": "refuse clients that IP Access Rules of the zone or its account block",
        },
        "proxy_protocol": {"enum": ["off", "v1", "v2", "simple"], "default": "off"},
        "tls": {"enum": ["off"], "default": "off", "description": "other modes are not built yet"},
        "traffic_type": {
            "enum": ["direct"],
            "default": "direct",
            "description": "other types are not built yet",
        },
        "edge_ips": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "type": {"enum": ["dynamic", "static"], "default": "dynamic"},
                "connectivity": {"enum": ["all", "ipv4", "ipv6"], "default": "all"},
                "ips": {"type": "array", "items": {"type": "string"}},
            },
        },
        "argo_smart_routing": {
            "type": "boolean",
            "default": False,
            "description": "true: control chooses over which edges new flows go; for tcp alone",
        },
        "virtual_network_id": {"type": "string", "description": "not built yet"},
        "origin_worker_id": {"type": "string", "description": "not built"},
        "x_causeway": {
            "type": "object",
            "additionalProperties": False,
            "description": "Extensions of causeway. Times in seconds, 0 switches one off where that is allowed",
            "properties": {
                "name": {"type": "string", "maxLength": 100},
                "proxy_protocol_from": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "prefixes that must send a PROXY header, which is believed",
                },
                "proxy_header_timeout_s": _SECONDS | {"default": 3},
                "udp_header": {"enum": ["first", "every"], "default": "first"},
                "connect_timeout_s": _SECONDS | {"default": 3},
                "idle_timeout_s": _SECONDS | {"default": 3600},
                "half_close_timeout_s": _SECONDS | {"default": 0},
                "no_progress_timeout_s": _SECONDS | {"default": 300},
                "udp_idle_timeout_s": _SECONDS | {"default": 60},
                "carrier": {"enum": ["auto", "kernel", "engine"], "default": "auto"},
                "balance": {
                    "enum": ["order", "hash"],
                    "default": "order",
                    "description": "which of several origins a client gets: the first that answers, or by its address",
                },
                "weights": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 1000},
                    "description": "with hash, one for each of origin_direct; without, all get the same",
                },
                "transparent": {
                    "type": "boolean",
                    "default": False,
                    "description": "the origin sees the client's own address, and routes back through the edge",
                },
                "on_delete": {"enum": ["drain", "close"], "default": "drain"},
                "drain_s": _SECONDS | {"default": 30},
                "limits": {"type": "array", "maxItems": 4, "items": _LIMIT},
                "minecraft": _MINECRAFT,
                "mitigation": {
                    "enum": ["off", "low", "medium", "high"],
                    "default": "medium",
                    "description": "how little it takes for attacks to be held off automatically; off: never",
                },
                "paths": {
                    "type": "array",
                    "maxItems": 8,
                    "items": {"type": "array", "maxItems": 3, "items": {"type": "string"}},
                    "description": "edges that flows go over, the best way first; the last of each connects to the "
                    "origin, an empty list is direct",
                },
                "logins": {
                    "type": "boolean",
                    "description": "clients log in: who tries again and again is banned; default: by the ports",
                },
            },
        },
    },
}

_EXAMPLES = {
    "ssh": {
        "summary": "SSH",
        "value": {
            "protocol": "tcp/22",
            "dns": {"type": "CNAME", "name": "ssh.example.net"},
            "origin_direct": ["tcp://192.0.2.10:22"],
        },
    },
    "game": {
        "summary": "A game server on a range of UDP ports, client address kept",
        "value": {
            "protocol": "udp/27000-27010",
            "dns": {"type": "CNAME", "name": "game.example.net"},
            "origin_direct": ["udp://192.0.2.20:27000-27010"],
            "proxy_protocol": "simple",
            "x_causeway": {
                "udp_idle_timeout_s": 30,
                "mitigation": "high",
                "limits": [{"of": "source", "sessions": 20, "datagrams_per_s": 2000, "ban_s": 60}],
            },
        },
    },
    "named": {
        "summary": "An origin by name",
        "value": {
            "protocol": "tcp/5432",
            "dns": {"type": "CNAME", "name": "db.example.net"},
            "origin_dns": {"name": "db.internal.example.net", "type": "A", "ttl": 60},
            "origin_port": 5432,
        },
    },
}

APPLICATION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": APPLICATION, "examples": _EXAMPLES}},
    }
}


PATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {**APPLICATION, "required": []},
                "examples": {
                    "client address": {"value": {"proxy_protocol": "v2"}},
                    "reset": {"summary": "null resets to the default", "value": {"x_causeway": {"name": None}}},
                },
            }
        },
    }
}


def query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def switch_body(name: str, examples: dict[str, bool]) -> dict[str, Any]:
    """A body that is one boolean, with examples by what they mean."""
    schema = {
        "type": "object",
        "required": [name],
        "additionalProperties": False,
        "properties": {name: {"type": "boolean"}},
    }
    shown = {meaning: {"value": {name: is_on}} for meaning, is_on in examples.items()}
    return json_body(schema, shown)


def json_body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}


DRY_RUN = query(
    "dry_run",
    {"type": "boolean", "default": False},
    "check everything, change nothing, answer what would be (extension)",
)
NOW = query(
    "now",
    {"type": "boolean", "default": False},
    "on edges of other machines at once, without the stages of a rollout (extension)",
)
FORCE = query("force", {"type": "boolean", "default": False}, "even where that leaves an application on no edge")
IDEMPOTENCY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "a repeat with the same key within 24 hours makes nothing twice: it answers what the first made",
}
PAGING = [
    query("page", {"type": "integer", "minimum": 1, "default": 1}, "past the end the list is empty"),
    query("per_page", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20}, "items on a page"),
]
_DIRECTION = query("direction", {"enum": ["asc", "desc"], "default": "asc"}, "sort direction")
LIST_QUERY: dict[str, Any] = {
    "parameters": [
        query(
            "page",
            {"type": "integer", "minimum": 1, "default": 1},
            "result_info is answered only if this is sent; past the end the list is empty",
        ),
        PAGING[1],
        query(
            "order",
            {"enum": ["protocol", "app_id", "created_on", "modified_on", "dns"], "default": "created_on"},
            "sort by",
        ),
        _DIRECTION,
    ]
}
PAGE_QUERY: dict[str, Any] = {
    "parameters": [*PAGING, query("name", {"type": "string"}, "of this name only"), _DIRECTION]
}
_SEVERAL = {"type": "array", "items": {"type": "string"}}
ZONE_QUERY: dict[str, Any] = {
    "parameters": [
        *PAGING,
        query("name", _SEVERAL, "zones of these names only; repeat the key or join with commas"),
        query("account.id", _SEVERAL, "zones of these accounts only"),
        query("account.name", _SEVERAL, "zones of accounts with these names only"),
        query("match", {"enum": ["any", "all"], "default": "all"}, "whether one of the tests is enough"),
        query("status", {"enum": ["initializing", "pending", "active", "moved"]}, "zones here are always active"),
        query(
            "order",
            {"enum": ["name", "status", "account.id", "account.name", "plan.id"], "default": "name"},
            "sort by",
        ),
        _DIRECTION,
    ]
}
APPLICATIONS_QUERY: dict[str, Any] = {"parameters": [query("id", _SEVERAL, "only these applications")]}
SMART_ROUTING_BODY = json_body(
    {"type": "object", "required": ["value"], "properties": {"value": {"enum": ["on", "off"]}}},
    {"on": {"value": {"value": "on"}}},
)
ZONE_BODY = json_body(
    {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "account": {"type": "object", "properties": {"id": {"type": "string"}}},
            "type": {"enum": ["full"]},
        },
    },
    {"zone": {"value": {"name": "example.net"}}},
)

TOKEN_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string", "maxLength": 100},
                        "scope": {"enum": ["read", "write"], "default": "read"},
                    },
                },
                "examples": {"grafana": {"value": {"name": "grafana", "scope": "read"}}},
            }
        },
    }
}
EDGE_BODY = {**switch_body("drained", {"out of service": True}), "parameters": [FORCE]}
TAIL_QUERY: dict[str, Any] = {
    "parameters": [
        query("follow", {"type": "boolean", "default": False}, "go on with new events as they come"),
        query("application", _SEVERAL, "events of these applications only"),
    ]
}
