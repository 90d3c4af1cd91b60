"""Bundles on the device: staged, verified, probed, then swapped in by one rename.

Layout of the state directory (one per product line)::

    bundles/<first 16 hex digits of the manifest's SHA-256>/   the members as plain files
    current, previous    symbolic links to one of these
    trust/               the pinned public keys and how many must sign
    highest.json         id and highest sequence ever installed
    lock                 held while something changes

A power cut at any point leaves ``current`` as it was or as it will be, never half; what an
interrupted installation left behind is removed by the next one.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from deepfusion_edge.bundle.container import open_bundle
from deepfusion_edge.bundle.files import (
    reading,
    replace_file,
    replace_link,
    sync_directory,
    write_synced,
    writing,
)
from deepfusion_edge.bundle.installed import Installed, read_installed
from deepfusion_edge.bundle.manifest import MALFORMED, MANIFEST, SIGNATURE, Manifest, canonical
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.bundle.trial import DEFAULT_LIMITS, Limits, try_model
from deepfusion_edge.bundle.trust import Policy, choose_policy, pin_policy, read_keys
from deepfusion_edge.bundle.verify import trust
from deepfusion_edge.errors import InputError, StorageError, TrustError

STEPS = ("staged", "probed", "pinned", "published", "previous", "current", "recorded", "swept")
"""The steps of an installation, as ``hook`` hears of them."""

_BUNDLES, _CURRENT, _PREVIOUS, _HIGHEST = "bundles", "current", "previous", "highest.json"
_STAGING = "staging-"


class Highest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The line this device follows and the highest sequence it ever installed."""

    id: str
    sequence: int


def install(
    bundle: Path,
    state: Path,
    keys: Sequence[Path],
    *,
    threshold: int | None = None,
    now: str,
    probe: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    hook: Callable[[str], None] = lambda _step: None,
) -> Installed:
    """Verify a bundle, try its model, and make it the current one.

    Args:
        bundle: a ``.dfb`` file or a directory.
        state: the state directory; made when missing.
        keys: public key files to trust. The first installation pins them; later ones need none, and
            refuse any that is not pinned.
        threshold: how many different keys must have signed; None is the pinned number, or 1 at the
            first installation. Another number than the pinned one is refused.
        now: UTC, as ``2026-01-31T12:00:00Z``.
        probe: run the golden probe in a subprocess first; only tests leave it out.
        limits: memory and time of the probe.
        hook: called after each of ``STEPS``.

    Raises:
        InputError: the bundle or a key file is missing or cannot be read.
        TrustError: a key, a signature, a hash, or a rule of ``verify``.
        ModelError: the model breaks a rule of ``onnx_check``, or fails its probe.
        StorageError: the state directory cannot be written, or another installation runs.
    """
    given = read_keys(keys)
    with _locked(state):
        _sweep(state)
        policy = choose_policy(state, given, threshold)
        with _staging(state) as staging:
            manifest = _stage(bundle, staging, policy, now, _highest(state))
            hook("staged")
            if probe:
                try_model(staging, limits)
            hook("probed")
            pin_policy(state, policy)
            hook("pinned")
            name = _publish(staging, state)
            hook("published")
        if (state / _CURRENT).is_symlink():
            replace_link(state / _PREVIOUS, _target(state / _CURRENT))
        hook("previous")
        replace_link(state / _CURRENT, f"{_BUNDLES}/{name}")
        hook("current")
        _record(state, Highest(manifest.id, manifest.sequence))
        hook("recorded")
        _sweep(state)
        hook("swept")
        return read_installed(state / _BUNDLES / name, policy)


def verify(
    bundle: Path,
    keys: Sequence[Path],
    *,
    threshold: int | None = None,
    now: str,
    state: Path | None = None,
    probe: bool = True,
    limits: Limits = DEFAULT_LIMITS,
) -> Manifest:
    """Do everything that ``install`` does but the swap, in a temporary folder.

    Args:
        bundle: as for ``install``.
        keys: as for ``install``.
        threshold: as for ``install``.
        now: as for ``install``.
        state: a state directory whose pinned keys and highest sequence apply too; never written.
        probe: as for ``install``.
        limits: as for ``install``.

    Raises:
        DeepFusionError: as for ``install``.
    """
    policy = choose_policy(state, read_keys(keys), threshold)
    highest = None if state is None else _highest(state)
    with _staging(Path(tempfile.gettempdir())) as staging:
        manifest = _stage(bundle, staging, policy, now, highest)
        if probe:
            try_model(staging, limits)
        return manifest


def load_current(
    state: Path, keys: Sequence[Path] = (), *, threshold: int | None = None, now: str
) -> Installed:
    """Verify the current bundle again (signature, hashes, expiry) and hand it out.

    Args:
        state: the state directory.
        keys: as for ``install``; usually none, the pinned ones apply.
        threshold: as for ``install``.
        now: UTC; an expired bundle is refused.

    Raises:
        InputError: no bundle is installed.
        TrustError: the bundle was changed on the disk, or has expired.
    """
    current = state / _CURRENT
    if not current.is_symlink():
        raise InputError(f"no bundle installed in {state}", "run 'deepfusion-agent install' first")
    policy = choose_policy(state, read_keys(keys), threshold)
    return read_installed(state / _target(current), policy, now=now)


def roll_back(state: Path) -> Installed:
    """Make the previous bundle the current one, and the current one the previous.

    The highest sequence stays, so that a bundle which was rolled back is not installed again.

    Raises:
        InputError: there is no previous bundle.
        TrustError: the previous bundle was changed on the disk.
        StorageError: the state directory cannot be written, or an installation runs.
    """
    current, previous = state / _CURRENT, state / _PREVIOUS
    if not state.is_dir() or not current.is_symlink() or not previous.is_symlink():
        raise InputError(f"no previous bundle in {state}", "install the bundle you want instead")
    with _locked(state):
        old, new = _target(current), _target(previous)
        if old == new:
            raise InputError(
                f"no previous bundle in {state}", "install the bundle you want instead"
            )
        installed = read_installed(state / new, choose_policy(state, {}, None))
        highest = _highest(state)
        if highest is not None:
            _record(state, highest)
        replace_link(current, new)
        replace_link(previous, old)
        return installed


def _stage(
    bundle: Path, staging: Path, policy: Policy, now: str, highest: Highest | None
) -> Manifest:
    """Copy the verified members into the staging folder; nothing is copied before it is trusted."""
    with open_bundle(bundle) as source:
        manifest = trust(
            source.manifest,
            source.envelope,
            keys=policy.keys,
            threshold=policy.threshold,
            now=now,
            installed=None if highest is None else (highest.id, highest.sequence),
        )
        source.copy(manifest.files, staging)
        write_synced(staging / MANIFEST, [source.manifest])
        write_synced(staging / SIGNATURE, [source.envelope])
    folders = {parent for file in manifest.files for parent in (staging / file.path).parents}
    for folder in folders:
        if folder.is_relative_to(staging):
            sync_directory(folder)
    check_onnx(read_installed(staging, policy).model_bytes())
    return manifest


def _publish(staging: Path, state: Path) -> str:
    """Rename the staging folder to its final name; no link points there yet."""
    name = hashlib.sha256((staging / MANIFEST).read_bytes()).hexdigest()[:16]
    bundles = state / _BUNDLES
    with writing(bundles):
        bundles.mkdir(mode=0o700, exist_ok=True)
        staging.rename(bundles / name)
    sync_directory(bundles)
    sync_directory(state)
    return name


def _highest(state: Path) -> Highest | None:
    """Return the highest sequence by record and by links, which an interruption can set apart."""
    found: list[Highest] = []
    if (state / _HIGHEST).exists():
        with reading(state / _HIGHEST):
            content = (state / _HIGHEST).read_bytes()
        try:
            found.append(msgspec.json.decode(content, type=Highest))
        except MALFORMED as error:
            raise TrustError(
                f"{state / _HIGHEST} is damaged: {error}",
                "restore the file, or start again with an empty state directory",
            ) from error
    policy = None
    for link in (state / _CURRENT, state / _PREVIOUS):
        if link.is_symlink():
            policy = policy or choose_policy(state, {}, None)
            with suppress(TrustError):  # a damaged bundle must not stop the one that repairs it
                manifest = read_installed(state / _target(link), policy, check_files=False).manifest
                found.append(Highest(manifest.id, manifest.sequence))
    return max(found, key=lambda one: one.sequence, default=None)


def _record(state: Path, highest: Highest) -> None:
    replace_file(state / _HIGHEST, canonical(highest))


def _target(link: Path) -> str:
    """Read a link and accept only what this file writes: ``bundles/<16 hex digits>``."""
    with reading(link):
        target = str(link.readlink())
    folder, _, name = target.partition("/")
    if folder != _BUNDLES or len(name) != 16 or set(name) - set("0123456789abcdef"):  # noqa: PLR2004
        raise TrustError(f"{link} points to {target!a}", "remove this link")
    return target


def _sweep(state: Path) -> None:
    """Remove bundles that no link names, and what interrupted installations left."""
    links = (state / _CURRENT, state / _PREVIOUS)
    kept = {state / _target(link) for link in links if link.is_symlink()}
    stale = [*state.glob(f"{_STAGING}*"), *(state / _BUNDLES).glob("*")]
    for folder in stale:
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """Give a private folder that is removed in the end, unless it was renamed."""
    with writing(parent):
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    with writing(state):
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"another installation is changing {state}", "wait for it to end, then try again"
            ) from error
        yield
    finally:
        os.close(descriptor)
