"""The description of the API, made from the bodies that the routes read."""

from collections.abc import Mapping
from typing import Any

import msgspec

from codescaler import __version__
from codescaler.serve.dialects import Body, MakeJob

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {name: {"type": "string"} for name in ("message", "type", "code")},
        }
    },
}


def describe_api(posts: Mapping[str, tuple[type[Body], MakeJob]]) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 description of the routes."""
    kinds = list(dict.fromkeys(body for body, _ in posts.values()))
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    by_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Any] = {}
    for path, (body, make_job) in posts.items():
        summary = (make_job.__doc__ or "").partition("\n")[0]
        paths[path] = {"post": _describe_post(summary, by_kind[body])}
    for path in ("/v1/models", "/health/live", "/health/ready"):
        paths[path] = {
            "get": {"responses": {"200": _describe_json({"type": "object"}), "default": _describe_json(ERROR)}}
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "codescaler serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _describe_post(summary: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": _describe_json({}), "default": _describe_json(ERROR)},
    }


def _describe_json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": "JSON", "content": {"application/json": {"schema": schema}}}
