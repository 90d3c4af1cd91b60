"""What a bundle was made of: packages, versions, weights, as CycloneDX 1.6 in JSON.

Format: https://cyclonedx.org/docs/1.6/json/. Written by hand: the dozen fields used need no
library, and the same arguments and versions must give the same bytes.
"""

import hashlib
import platform
import re
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from urllib.parse import quote

from deepfusion_edge.bundle.manifest import canonical
from deepfusion_toolkit.plan import Plan

ROOT = "deepfusion-toolkit"
_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
_LONGEST_LICENCE = 100


def sbom(line: str, sequence: int, created: str, graph: bytes, plan: Plan) -> bytes:
    """List what the bundle is and what made it.

    Args:
        line: the product line, the manifest's id.
        sequence: of the bundle.
        created: UTC, as the manifest spells it.
        graph: ``model.onnx``.
        plan: names the weights.

    Returns:
        Canonical JSON: packages that the toolkit requires, directly or not, as installed here.
    """
    found = dict(sorted(_installed(ROOT)))
    weights = [
        {
            "type": "machine-learning-model",
            "bom-ref": f"weights-{number}",
            "name": base.name,
            "hashes": [_sha256(base.model)],
        }
        for number, base in enumerate(plan.bases)
    ]
    made = [{"type": "platform", "name": "Python", "version": platform.python_version()}]
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "bundle",
                "name": line,
                "version": str(sequence),
                "hashes": [_sha256(hashlib.sha256(graph).hexdigest())],
            },
        },
        "components": [*weights, *made, *map(_component, found.values())],
        "dependencies": [
            {
                "ref": "bundle",
                "dependsOn": [*(one["bom-ref"] for one in weights), _purl(found[ROOT])],
            },
            *(
                {
                    "ref": _purl(one),
                    "dependsOn": [_purl(found[name]) for name in _needs(one, found)],
                }
                for one in found.values()
            ),
        ],
    }
    digest = hashlib.sha256(canonical(body)).hexdigest()
    return canonical({**body, "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest)}"})


def _installed(root: str) -> Iterator[tuple[str, Distribution]]:
    """Follow requirements to every package that is installed; extras count only where asked for."""
    todo, seen = [root], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform, or another Python
        yield name, found
        todo += _required(found)


def _required(found: Distribution) -> list[str]:
    """Names of the packages a distribution requires without its extras."""
    wanted = [line for line in found.requires or () if "extra ==" not in line.partition(";")[2]]
    return sorted({_normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in wanted})


def _needs(found: Distribution, known: dict[str, Distribution]) -> list[str]:
    return [name for name in _required(found) if name in known]


def _component(found: Distribution) -> dict[str, object]:
    made: dict[str, object] = {
        "type": "library",
        "bom-ref": _purl(found),
        "name": _normal(found.metadata["Name"]),
        "version": found.version,
        "purl": _purl(found),
    }
    told = found.metadata.json
    expression, name = told.get("license_expression"), told.get("license")
    if expression:
        made["licenses"] = [{"expression": expression}]
    elif isinstance(name, str) and "\n" not in name and 0 < len(name) <= _LONGEST_LICENCE:
        made["licenses"] = [{"license": {"name": name}}]
    return made


def _purl(found: Distribution) -> str:
    return f"pkg:pypi/{_normal(found.metadata['Name'])}@{quote(found.version)}"


def _normal(name: str) -> str:
    """Spell a package's name as PEP 503 does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
