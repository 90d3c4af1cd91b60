"""Guards of bundles: archive, signature, manifest, graph, probe, time, and the state folder."""

from benchmarks.prove.guards.guard import NEVER, Guard, rule

_ONNX, _STORE = "bundle.onnx_check", "bundle.store"

ARCHIVE = {
    "size of a file": Guard("bundle.container", "if status.st_size > MAX_CONTAINER_BYTES:", NEVER),
    "plain file": Guard("bundle.container", "if not stat.S_ISREG(status.st_mode):", NEVER),
    "magic of a member": Guard(
        "bundle.container", 'if len(header) < _LOCAL.size or header[:4] != b"PK\\x03\\x04":', NEVER
    ),
    "name of a member": Guard(
        "bundle.container", 'if header[_LOCAL.size :] != name.encode("ascii"):', NEVER
    ),
    "size of a member": Guard("bundle.container", "if size > limit:", NEVER),
    "end of a member": Guard("bundle.container", "if not chunk:", NEVER),
    "header of a member": Guard("bundle.container", "if entry.local() != header:", NEVER),
    "directory of a zip": Guard("bundle.container", "if self._read(len(tail) + 1) != tail:", NEVER),
    "link as a member": Guard("bundle.container", "os.O_NOFOLLOW | ", ""),
    "pipe as a member": Guard("bundle.container", " | os.O_NONBLOCK", ""),
    "plain file as a member": Guard(
        "bundle.container", "not stat.S_ISREG(status.st_mode) or status", "status"
    ),
    "size in a folder": Guard("bundle.container", " or status.st_size > limit", ""),
    "names in a folder": Guard("bundle.container", "if relative not in known:", NEVER),
    "links in a folder": Guard("bundle.container", "path.lstat()", "path.stat()"),
    "hash of a file": Guard(
        "bundle.files", "if size != part.size or digest.hexdigest() != part.sha256:", NEVER
    ),
}

SIGNATURES = {
    "size of an envelope": Guard("bundle.envelope", "if len(data) > kind.max_bytes:", NEVER),
    "form of an envelope": Guard("bundle.envelope", "except MALFORMED as", "except KeyError as"),
    "spelling of an envelope": Guard("bundle.envelope", "if respelled != data:", NEVER),
    "type of an envelope": Guard(
        "bundle.envelope", "if envelope.payload_type != kind.type:", NEVER
    ),
    "signed manifest": Guard(
        "bundle.envelope", "if _unbase64(envelope.payload, BUNDLE) != manifest_bytes:", NEVER
    ),
    "key of a signature": Guard("bundle.envelope", "if key is None:", NEVER),
    "signature": Guard(
        "bundle.envelope", "key.verify(_unbase64(signature.sig, kind), message)", "pass"
    ),
    "order of signatures": Guard("bundle.envelope", "if names != sorted(set(names)):", NEVER),
    "number of signatures": Guard("bundle.envelope", "min_length=1, max_length=M", "max_length=M"),
    "threshold": Guard("bundle.envelope", "if len(names) < threshold:", NEVER),
    "least threshold": Guard("bundle.envelope", "if not 1 <= threshold <= len(trusted):", NEVER),
    "spelling of base64": Guard("bundle.envelope", "if _base64(data) != text:", NEVER),
    "digits of base64": Guard(
        "bundle.envelope", "except (binascii.Error, ValueError) as", "except KeyError as"
    ),
    "private keys in public places": Guard("bundle.envelope", 'if b"PRIVATE KEY" in data:', NEVER),
    "size of a key": Guard(
        "bundle.envelope",
        "if len(data) > MAX_KEY_BYTES:",
        NEVER,
        before='if b"PRIVATE KEY" in data:',
    ),
    "form of a public key": Guard(
        "bundle.envelope",
        "except (ValueError, UnsupportedAlgorithm) as",
        "except KeyError as",
        before="not a public key in PEM form",
    ),
    "form of a private key": Guard(
        "bundle.envelope",
        "except (ValueError, UnsupportedAlgorithm) as",
        "except KeyError as",
        before="not a private key in PEM form",
    ),
    "pinned keys": Guard("bundle.trust", "if unknown:", NEVER),
    "form of the policy": Guard("bundle.trust", "except MALFORMED as", "except KeyError as"),
    "keys of the policy": Guard("bundle.trust", "tuple(sorted(keys)) != rule.keys or ", ""),
}

MANIFEST = {
    "size of a manifest": Guard("bundle.manifest", "if len(data) > MAX_MANIFEST_BYTES:", NEVER),
    "size of a read manifest": Guard(
        "bundle.verify", "if len(manifest_bytes) > MAX_MANIFEST_BYTES:", NEVER
    ),
    "form of a manifest": Guard("bundle.manifest", "except MALFORMED as", "except KeyError as"),
    "depth of JSON": Guard(
        "bundle.manifest", "UnicodeDecodeError, RecursionError, ", "UnicodeDecodeError, "
    ),
    "schema of a manifest": Guard("bundle.manifest", "schema: Literal[1]", "schema: int"),
    "fields of a manifest": Guard(
        "bundle.manifest",
        "class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True)",
        "class Manifest(msgspec.Struct, frozen=True)",
    ),
    "spelling of a manifest": Guard("bundle.manifest", "if respelled != data:", NEVER),
    "paths of a manifest": Guard(
        "bundle.manifest",
        r'pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)*(\.[a-z0-9]+)\Z", max_length=100',
        "max_length=100",
    ),
    "id of a manifest": Guard(
        "bundle.manifest", r'Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")', "Meta(min_length=1)"
    ),
    "order of files": rule("bundle.manifest", "paths == sorted(set(paths))"),
    "files of a bundle": rule("bundle.manifest", "{MODEL, GOLDEN} <= set(paths)"),
    "the manifest in itself": rule("bundle.manifest", "not {MANIFEST, SIGNATURE} & set(paths)"),
    "size of all files": rule("bundle.manifest", "total <= MAX_BUNDLE_BYTES"),
    "names of sites": rule("bundle.manifest", "len(set(names)) == len(names)"),
    "names of classes": rule(
        "bundle.manifest", "len(set(manifest.classes)) == len(manifest.classes)"
    ),
    "empty names of classes": rule("bundle.manifest", "all(manifest.classes)"),
    "times of a manifest": rule(
        "bundle.manifest", "parse_utc(manifest.created) < parse_utc(manifest.expires)"
    ),
    "dates": Guard("bundle.manifest", "except ValueError:", "except KeyError:"),
    "expiry of a bundle": Guard(
        "bundle.verify", "if parse_utc(now) >= parse_utc(manifest.expires):", NEVER
    ),
    "expiry of what serves": Guard("bundle.installed", "if now is not None:", NEVER),
    "beginning of a bundle": Guard(
        "bundle.verify", "if parse_utc(manifest.created) > latest:", NEVER
    ),
    "line of a bundle": Guard("bundle.verify", "if manifest.id != bundle_id:", NEVER),
    "same sequence": Guard("bundle.verify", "if manifest.sequence == sequence:", NEVER),
    "older sequence": Guard("bundle.verify", "if manifest.sequence < sequence:", NEVER),
}

GRAPH = {
    "check of a graph": Guard(
        _STORE, "check_onnx(read_installed(staging, policy).model_bytes())", "pass"
    ),
    "size of a graph": Guard(_ONNX, "if len(model_bytes) > MAX_MODEL_BYTES:", NEVER),
    "external data by its entries": Guard(
        _ONNX,
        'raise ModelError("model keeps weights outside of its file", _REPLACE)',
        "pass",
        before='case "TensorProto", 14',
    ),
    "external data by its location": Guard(
        _ONNX, 'case "TensorProto", 14 if value != 0:', 'case "TensorProto", 14 if False:'
    ),
    "tensors of attributes": Guard(
        _ONNX, '4: "bytes", 5: "TensorProto", 6: "Gr', '4: "bytes", 5: "bytes", 6: "Gr'
    ),
    "graphs within graphs": Guard(
        _ONNX, '5: "TensorProto", 6: "GraphProto"', '5: "TensorProto", 6: "bytes"'
    ),
    "sparse tensors": Guard(_ONNX, '15: "SparseTensorProto", 16', '15: "bytes", 16'),
    "functions": Guard(_ONNX, '25: "FunctionProto"', '25: "bytes"'),
    "operators": Guard(_ONNX, "if domain not in STANDARD_DOMAINS:", NEVER),
    "names of a graph": Guard(
        _ONNX, "if names != sorted(name.encode() for name in wanted):", NEVER
    ),
    "training information": Guard(
        _ONNX, 'raise ModelError("model holds training information", _REPLACE)', "pass"
    ),
    "number of graphs": Guard(_ONNX, "if self._graphs != 1:", NEVER),
    "depth of a graph": Guard(_ONNX, "if message.depth == MAX_DEPTH:", NEVER),
    "fields of a graph": Guard(
        _ONNX, "if kind is None:", "if kind is None:\n        return 'bytes'\n    if False:"
    ),
    "wire types": Guard(
        _ONNX, 'raise ModelError(f"model is corrupt: wire type {wire}", _REPLACE)', "size = 0"
    ),
    "wire of a field": Guard(_ONNX, "if wire not in _WIRES.get(kind, {BYTES}):", NEVER),
    "end of a field": Guard(_ONNX, "if size > len(data) - at:", NEVER),
    "end of a number": Guard(
        _ONNX,
        'raise ModelError("model is truncated or corrupt within a number", _REPLACE)',
        "return value, at + 10",
    ),
    "probe before it serves": Guard(_STORE, "if probe:", NEVER, before='hook("probed")'),
    "time of the probe": Guard("bundle.trial", "timeout=limits.timeout_s,", "timeout=None,"),
    "form of the probe": Guard("probe", "except MALFORMED as", "except KeyError as"),
    "classes of the probe": Guard("probe", "if len(golden.fused) != len(manifest.classes):", NEVER),
    "classes of the graph": Guard("probe", "if len(outputs.fused) != len(golden.fused):", NEVER),
    "members of the graph": Guard(
        "probe", "if len(outputs.members) != golden.members * manifest.erosion.bases:", NEVER
    ),
    "tolerance of the probe": Guard("probe", "if not difference <= tolerance:", NEVER),
    "finite outputs of the probe": Guard(
        "runtime.base",
        "if not all(np.isfinite(value).all() for value in (fused, members, variance)):",
        NEVER,
    ),
    "loading into the runtime": Guard(
        "runtime.ort",
        "except Exception as",
        "except KeyError as",
        before="ONNX Runtime does not take the model",
    ),
}

ENGINES = {
    "owner of an engine": Guard(
        "runtime.engine_cache",
        "if owner.st_uid != os.geteuid() or owner.st_mode & _WRITABLE_BY_OTHERS:",
        NEVER,
    ),
    "form of an engine": Guard("runtime.engine_cache", "except MALFORMED:", "except KeyError:"),
    "fields of an engine": Guard(
        "runtime.engine_cache", "frozen=True, forbid_unknown_fields=True", "frozen=True"
    ),
    "hash of an engine": Guard(
        "runtime.engine_cache", "if hashlib.sha256(content).hexdigest() != head.sha256:", NEVER
    ),
    "stamp of an engine": Guard("runtime.engine_cache", 'return ", ".join(changes)', 'return ""'),
    "engines that cannot be kept": Guard(
        "runtime.engine_cache", "except StorageError as", "except KeyError as"
    ),
}

DISKS = {
    "errors of writing": Guard(
        "bundle.files", "except OSError as", "except KeyError as", before="cannot write {path}"
    ),
    "replacing whole files": Guard(
        "bundle.files",
        "write_synced(temporary, [content])\n            temporary.replace(path)",
        "path.write_bytes(content)",
    ),
    "damage to a bundle": Guard(
        "bundle.installed", "except (InputError, TrustError) as", "except KeyError as"
    ),
    "installed bundle": Guard(_STORE, "if not current.is_symlink():", NEVER),
    "target of a link": Guard(
        "bundle.layout",
        'if folder != BUNDLES or len(name) != 16 or set(name) - set("0123456789abcdef"):',
        NEVER,
    ),
    "lock of the state": Guard(
        "bundle.layout", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"
    ),
    "form of the highest sequence": Guard(
        "bundle.layout",
        "except MALFORMED as",
        "except KeyError as",
        before="{state / HIGHEST} is damaged",
    ),
    "form of a probation": Guard(
        "bundle.layout", "except MALFORMED as", "except KeyError as", before="{path} is damaged"
    ),
    "names in a probation": Guard(
        "bundle.probation", r'Meta(pattern=r"^[0-9a-f]{16}\Z")', "Meta(min_length=1)"
    ),
    "sweeping": Guard("bundle.layout", "if folder not in kept:", NEVER),
    "form of a history": Guard(
        "bundle.history", "except (OSError, *MALFORMED):", "except OSError:"
    ),
    "history that cannot be kept": Guard(
        "bundle.history", "except StorageError as", "except KeyError as"
    ),
    "link of a transfer": Guard("commands.incoming", " | os.O_NOFOLLOW", ""),
    "corrupt outbox": Guard("outbox.box", "if is_corrupt(error):", NEVER),
    "lock of the outbox": Guard(
        "outbox.database", "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"
    ),
}
