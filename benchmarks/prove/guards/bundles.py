"""Guards of bundles: the archive, the signature, the manifest, the graph, the probe, the store."""

from benchmarks.prove.guards.guard import Guard

_NO = "if False:"

ARCHIVE = {
    "size of a file": Guard(
        "bundle.container", "if status.st_size > MAX_CONTAINER_BYTES:", _NO
    ),
    "plain file": Guard("bundle.container", "if not stat.S_ISREG(status.st_mode):", _NO),
    "magic of a member": Guard(
        "bundle.container", 'if len(header) < _LOCAL.size or header[:4] != b"PK\\x03\\x04":', _NO
    ),
    "name of a member": Guard(
        "bundle.container", 'if header[_LOCAL.size :] != name.encode("ascii"):', _NO
    ),
    "size of a member": Guard("bundle.container", "if size > limit:", _NO),
    "end of a member": Guard(
        "bundle.container",
        "if not chunk:\n                raise self._refuse",
        "if False:\n                raise self._refuse",
    ),
    "header of a member": Guard("bundle.container", "if entry.local() != header:", _NO),
    "directory of a zip": Guard("bundle.container", "if self._read(len(tail) + 1) != tail:", _NO),
    "link as a member": Guard("bundle.container", "os.O_NOFOLLOW | ", ""),
    "pipe as a member": Guard("bundle.container", " | os.O_NONBLOCK", ""),
    "plain file as a member": Guard(
        "bundle.container", "not stat.S_ISREG(status.st_mode) or status", "status"
    ),
    "size in a folder": Guard("bundle.container", " or status.st_size > limit", ""),
    "names in a folder": Guard("bundle.container", "if relative not in known:", _NO),
    "links in a folder": Guard("bundle.container", "path.lstat()", "path.stat()"),
    "hash of a file": Guard(
        "bundle.files", "if size != part.size or digest.hexdigest() != part.sha256:", _NO
    ),
}

SIGNATURES = {
    "size of an envelope": Guard("bundle.envelope", "if len(data) > kind.max_bytes:", _NO),
    "spelling of an envelope": Guard("bundle.envelope", "if respelled != data:", _NO),
    "type of an envelope": Guard("bundle.envelope", "if envelope.payload_type != kind.type:", _NO),
    "signed manifest": Guard(
        "bundle.envelope", "if _unbase64(envelope.payload, BUNDLE) != manifest_bytes:", _NO
    ),
    "key of a signature": Guard("bundle.envelope", "if key is None:", _NO),
    "signature": Guard(
        "bundle.envelope", "key.verify(_unbase64(signature.sig, kind), message)", "pass"
    ),
    "order of signatures": Guard("bundle.envelope", "if names != sorted(set(names)):", _NO),
    "number of signatures": Guard("bundle.envelope", "min_length=1, max_length=MAX_SIG", "max_length=MAX_SIG"),
    "threshold": Guard("bundle.envelope", "if len(names) < threshold:", _NO),
    "least threshold": Guard(
        "bundle.envelope", "if not 1 <= threshold <= len(trusted):", _NO
    ),
    "spelling of base64": Guard("bundle.envelope", "if _base64(data) != text:", _NO),
    "digits of base64": Guard("bundle.envelope", "validate=True", "validate=False"),
    "pinned keys": Guard("bundle.trust", "if unknown:", _NO),
}
