"""All guards, by the names under which cases rest on them."""

from collections.abc import Mapping

from benchmarks.prove.guards import bundles, inputs, orders
from benchmarks.prove.guards.guard import Guard

GROUPS: Mapping[str, Mapping[str, Guard]] = {
    "archives and folders": bundles.ARCHIVE,
    "signatures": bundles.SIGNATURES,
    "manifests, times and sequences": bundles.MANIFEST,
    "graphs and their probe": bundles.GRAPH,
    "engines": bundles.ENGINES,
    "the state folder": bundles.DISKS,
    "images": inputs.IMAGES,
    "names and topics": inputs.NAMES,
    "configuration": inputs.CONFIGURATION,
    "secrets": inputs.SECRETS,
    "other formats": inputs.OTHERS,
    "commands": orders.COMMANDS,
    "addresses and transfers": orders.ADDRESSES,
    "Sparkplug": orders.SPARKPLUG,
}
GUARDS: Mapping[str, Guard] = {
    name: guard for group in GROUPS.values() for name, guard in group.items()
}
