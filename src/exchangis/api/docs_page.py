"""The page at /docs: every call, made from the OpenAPI document; nothing is loaded for it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}
body{color:#1c2430}
h2{margin-top:2.5rem;border-bottom:1px solid #d5dbe3}summary{cursor:pointer;padding:.25rem 0}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#f3f5f8;padding:.7rem;overflow:auto}
b{display:inline-block;min-width:4.2rem}span{color:#5b6776}
"""


def docs_page(openapi: dict[str, Any]) -> str:
    """The whole page as HTML."""
    info = openapi["info"]
    title = html.escape(f"{info['title']} {info['version']}")
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>",
            f"<p>{html.escape(info.get('description', ''))}</p>",
            '<p>For programs: <a href="/openapi.json">/openapi.json</a></p>',
            *_calls(openapi),
            "</body></html>",
        ]
    )


def _calls(openapi: dict[str, Any]) -> Iterator[str]:
    section = None
    found = [
        (call["tags"][0], path, verb, call)
        for path, verbs in openapi["paths"].items()
        for verb, call in verbs.items()
    ]
    for tag, path, verb, call in sorted(found, key=lambda one: one[0]):
        if tag != section:
            section = tag
            yield f"<h2>{html.escape(tag)}</h2>"
        yield (
            f"<details><summary><b>{verb.upper()}</b> <code>{html.escape(path)}</code> "
            f"<span>{html.escape(call.get('summary', ''))}</span></summary>"
            f"<p>{html.escape(call.get('description', ''))}</p>"
        )
        for parameter in call.get("parameters", ()):
            needed = ", required" if parameter.get("required") else ""
            yield (
                f"<div><code>{html.escape(parameter['name'])}</code> "
                f"<span>({parameter['in']}{needed})</span></div>"
            )
        body = call.get("requestBody", {}).get("content", {}).get("application/json", {})
        yield from _example("Body", body)
        for code, answer in call["responses"].items():
            yield from _example(
                f"{code} {answer['description']}",
                answer.get("content", {}).get("application/json", {}),
            )
        yield "</details>"


def _example(title: str, content: dict[str, Any]) -> Iterator[str]:
    example = content.get("example")
    if example is None:
        examples = content.get("schema", {}).get("examples") or content.get("examples")
        example = examples[0] if isinstance(examples, list) and examples else None
    if example is not None:
        text = json.dumps(example, ensure_ascii=False, indent=2)
        yield f"<p>{html.escape(title)}</p><pre>{html.escape(text)}</pre>"
