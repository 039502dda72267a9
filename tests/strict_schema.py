"""Kubernetes' own schemas, made strict: what an API server drops in silence, a misspelt key say, is an error here."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

KUBERAY = Path(__file__).parent / "data" / "kuberay.json.gz"  # kuberay.md beside it says whose it is
KUBERNETES = "1.33"
METADATA = {"name", "namespace", "labels", "annotations"}


def object_errors(document: dict[str, Any]) -> list[str]:
    """What is wrong with a Kubernetes object, KubeRay's included."""
    if document["apiVersion"] == "ray.io/v1":
        errors = [_line(error) for error in _validator(document["kind"]).iter_errors(document)]
        return errors + [f"metadata.{key}: unknown" for key in document["metadata"].keys() - METADATA]
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error).splitlines()[0]]
    return []


def _line(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message[:200]}"


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schemas: dict[str, Any] = json.loads(gzip.decompress(KUBERAY.read_bytes()))
    return jsonschema.Draft202012Validator(strict(schemas[kind]))


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, refusing every key that it does not name; free-form objects stay free."""
    found = dict(schema)
    if "properties" in found:
        found["properties"] = {name: strict(inner) for name, inner in found["properties"].items()}
        found.setdefault("additionalProperties", False)
    if isinstance(found.get("items"), dict):
        found["items"] = strict(found["items"])
    if isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = strict(found["additionalProperties"])
    return found
