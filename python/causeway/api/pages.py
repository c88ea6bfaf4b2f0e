"""The two pages for people: the root, and the API reference made from the OpenAPI document.

Self-contained: nothing is loaded from elsewhere.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}
h2{font-size:1.1rem;margin-top:2.5rem;border-bottom:1px solid var(--line)}
code,pre{font:14px/1.45 ui-monospace,monospace}
pre{overflow:auto;padding:.8rem;border:1px solid var(--line);border-radius:6px}
summary{cursor:pointer}
.verb{display:inline-block;min-width:4.2rem;font-weight:600}
details{margin:.4rem 0;padding:.3rem .6rem;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse}
td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}
"""


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def root_page(version: str) -> str:
    return _page(
        "causeway",
        f"<h1>causeway {escape(version)}</h1><p>A layer-4 edge on your own machines.</p>"
        '<ul><li><a href="/api/docs">API reference</a></li><li><a href="/readyz">Is it ready?</a></li></ul>'
        "<p>The dashboard is not built yet. Until then: <code>causeway apps list</code>, "
        "<code>causeway tail</code>.</p>",
    )


def reference_page(document: dict[str, Any]) -> str:
    """Every operation with its parameters, body fields and examples."""
    sections: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            tag = (operation.get("tags") or ["Health"])[0]
            sections.setdefault(tag, []).append(_operation(path, verb, operation))
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(parts)}" for tag, parts in sections.items())
    intro = (
        f"<h1>{escape(document['info']['title'])} API</h1><p>{escape(document['info']['description'])}</p>"
        '<p>Machine-readable: <a href="/api/openapi.json">openapi.json</a></p>'
    )
    return _page("causeway API", intro + body)


def _operation(path: str, verb: str, operation: dict[str, Any]) -> str:
    parts = [_parameters(operation.get("parameters", []))]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        parts.append(_fields(content.get("schema", {})))
        for example in content.get("examples", {}).values():
            caption = escape(example.get("summary", "Example"))
            parts.append(f"<p>{caption}</p><pre>{escape(json.dumps(example['value'], indent=2))}</pre>")
    head = f'<span class="verb">{verb.upper()}</span><code>{escape(path)}</code> {escape(operation.get("summary", ""))}'
    return f"<details><summary>{head}</summary>{''.join(parts)}</details>"


def _parameters(parameters: list[dict[str, Any]]) -> str:
    rows = [(p["name"], p.get("description", p["in"]), p.get("schema", {})) for p in parameters]
    return _table([(name, _kind(schema), text) for name, text, schema in rows])


def _fields(schema: dict[str, Any], prefix: str = "") -> str:
    return _table(list(_rows(schema, prefix)))


def _rows(schema: dict[str, Any], prefix: str) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, part in schema.get("properties", {}).items():
        rows.append((prefix + name, _kind(part), part.get("description", "")))
        rows += _rows(part, f"{prefix}{name}.")
    return rows


def _kind(schema: dict[str, Any]) -> str:
    kind = " | ".join(repr(value) for value in schema["enum"]) if "enum" in schema else str(schema.get("type", ""))
    return f"{kind}, default {schema['default']!r}" if "default" in schema else kind


def _table(rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><td><code>{escape(n)}</code></td><td>{escape(k)}</td><td>{escape(t)}</td></tr>" for n, k, t in rows
    )
    return f"<table>{cells}</table>"
