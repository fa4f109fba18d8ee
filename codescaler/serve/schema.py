"""The description of the API, made from the bodies that the routes read and the records that they answer."""

from collections.abc import Mapping
from typing import Any

import msgspec

from codescaler import __version__
from codescaler.serve.answers import ErrorAnswer, ModelsAnswer, StatusAnswer
from codescaler.serve.dialects import Post
from codescaler.serve.page import ASSETS

_GETS = {
    "/v1/models": ModelsAnswer,
    "/health": StatusAnswer,
    "/health/live": StatusAnswer,
    "/health/ready": StatusAnswer,
}
_FILES = {
    **{path: media_type for path, (_, media_type) in ASSETS.items()},
    "/metrics": "text/plain",
    "/openapi.json": "application/json",
}


def describe_api(posts: Mapping[str, Post]) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 description of the routes."""
    kinds = list(
        dict.fromkeys([*(kind for post in posts.values() for kind in (post.body, post.answer)), *_GETS.values()])
    )
    made, components = msgspec.json.schema_components([*kinds, ErrorAnswer], ref_template="#/components/schemas/{name}")
    *schemas, error = made
    by_kind = dict(zip(kinds, schemas, strict=True))

    def describe(answer: Mapping[str, Any]) -> dict[str, Any]:
        return {"responses": {"200": answer, "default": _describe_content("application/json", error)}}

    paths: dict[str, Any] = {}
    for path, post in posts.items():
        paths[path] = {
            "post": {
                "summary": (post.make_job.__doc__ or "").partition("\n")[0],
                "requestBody": {"required": True} | _describe_content("application/json", by_kind[post.body]),
                **describe(_describe_content("application/json", by_kind[post.answer])),
            }
        }
    for path, kind in _GETS.items():
        paths[path] = {"get": describe(_describe_content("application/json", by_kind[kind]))}
    for path, media_type in _FILES.items():
        paths[path] = {"get": describe(_describe_content(media_type, {}))}
    return {
        "openapi": "3.1.0",
        "info": {"title": "codescaler serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _describe_content(media_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": media_type, "content": {media_type: {"schema": schema}}}
