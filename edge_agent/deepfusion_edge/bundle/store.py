"""Bundles on the device: staged, verified, probed, then swapped in by one rename.

Layout of the state directory (one per product line)::

    bundles/<first 16 hex digits of the manifest's SHA-256>/   the members as plain files
    current, previous    symbolic links to one of these
    probation.json       which bundle is on probation, and which one to return to
    trust/               the pinned public keys and how many must sign
    highest.json         id and highest sequence ever installed
    history.json         what was installed, when, and how it ended
    lock                 held while something changes

A power cut at any point leaves ``current`` as it was or as it will be, never half; what an
interrupted installation left behind is removed by the next one. On probation ``current`` is the
new bundle and ``previous`` is untouched: it changes only when the new bundle is kept. An
installation by hand that is cut between its two links leaves the old bundle, and nothing to return
to until it is repeated.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deepfusion_edge.bundle.container import open_bundle
from deepfusion_edge.bundle.files import replace_link, sync_directory, write_synced, writing
from deepfusion_edge.bundle.installed import Installed, read_installed
from deepfusion_edge.bundle.layout import (
    BUNDLES,
    CURRENT,
    PREVIOUS,
    STAGING,
    Highest,
    Hook,
    locked,
    name_of,
    no_hook,
    note_bundle,
    read_bundle,
    read_highest,
    read_probation,
    record_highest,
    save_probation,
    sweep,
    target_of,
)
from deepfusion_edge.bundle.manifest import MANIFEST, SIGNATURE, Manifest
from deepfusion_edge.bundle.onnx_check import check_onnx
from deepfusion_edge.bundle.probation import Baseline, Record
from deepfusion_edge.bundle.proving import fall_back
from deepfusion_edge.bundle.trial import DEFAULT_LIMITS, Limits, try_model
from deepfusion_edge.bundle.trust import Policy, choose_policy, pin_policy, read_keys
from deepfusion_edge.bundle.verify import trust
from deepfusion_edge.errors import InputError, UsageError

STEPS = (
    "staged",
    "probed",
    "pinned",
    "published",
    "proven",
    "probation",
    "previous",
    "current",
    "recorded",
    "swept",
)
"""The steps of an installation, as ``hook`` hears of them."""
_TO_WAIT = "wait for the end of the probation, or roll back"


def install(
    bundle: Path,
    state: Path,
    keys: Sequence[Path],
    *,
    threshold: int | None = None,
    now: str,
    probe: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    prove: Callable[[Installed], None] | None = None,
    probation: Baseline | None = None,
    hook: Hook = no_hook,
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
        prove: called with the bundle in its final place, before any link points there; what it
            raises ends the installation, and the old bundle stays.
        probation: how the bundle before did: the new one is then on probation until ``keep`` or
            ``fall_back``. None: it is kept at once, and so is one that was on probation replaced.
        hook: called after each of ``STEPS``.

    Raises:
        InputError: the bundle or a key file is missing or cannot be read.
        TrustError: a key, a signature, a hash, or a rule of ``verify``.
        ModelError: the model breaks a rule of ``onnx_check``, or fails its probe.
        StorageError: the state directory cannot be written, or another installation runs.
        UsageError: a second bundle for a probation.
    """
    given = read_keys(keys)
    with locked(state):
        sweep(state)
        trial = read_probation(state)
        if trial is not None and probation is not None:
            raise UsageError(f"bundle {trial.candidate} is still on probation", _TO_WAIT)
        policy = choose_policy(state, given, threshold)
        with _staging(state) as staging:
            manifest = _stage(bundle, staging, policy, now, read_highest(state))
            hook("staged")
            if probe:
                try_model(staging, limits)
            hook("probed")
            pin_policy(state, policy)
            hook("pinned")
            name = _publish(staging, state)
            hook("published")
        installed = read_installed(state / BUNDLES / name, policy)
        if prove is not None:
            try:
                prove(installed)
            except BaseException:
                sweep(state)
                raise
        hook("proven")
        before = name_of(state / CURRENT) if trial is None else trial.fallback
        if probation is not None and before is not None:
            trial = Record(candidate=name, fallback=before, begun=now, baseline=probation)
            save_probation(state, trial)
        else:
            trial = None
        hook("probation")
        if trial is None and before is not None:
            replace_link(state / PREVIOUS, f"{BUNDLES}/{before}")
        hook("previous")
        replace_link(state / CURRENT, f"{BUNDLES}/{name}")
        hook("current")
        record_highest(state, Highest(manifest.id, manifest.sequence))
        note_bundle(state, installed, now, "installed" if trial is None else "on probation")
        hook("recorded")
        sweep(state)
        hook("swept")
        return installed


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
    highest = None if state is None else read_highest(state)
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
    current = state / CURRENT
    if not current.is_symlink():
        raise InputError(f"no bundle installed in {state}", "run 'deepfusion-agent install' first")
    policy = choose_policy(state, read_keys(keys), threshold)
    return read_installed(state / target_of(current), policy, now=now)


def read_previous(state: Path) -> Installed:
    """Return the bundle that ``roll_back`` would return to.

    Raises:
        InputError: there is no previous bundle.
        TrustError: it was changed on the disk.
    """
    trial = read_probation(state) if state.is_dir() else None
    current = name_of(state / CURRENT)
    target = name_of(state / PREVIOUS) if trial is None else trial.fallback
    if current is None or target in {None, current}:
        raise InputError(f"no previous bundle in {state}", "install the bundle you want instead")
    return read_bundle(state, str(target))


def roll_back(state: Path, *, now: str | None = None, why: str = "by hand") -> Installed:
    """Make the previous bundle the current one, and the current one the previous.

    The highest sequence stays, so that a bundle which was rolled back is not installed again. A
    probation ends with it, and what was on probation is removed.

    Args:
        state: the state directory.
        now: UTC, for the history; None writes none.
        why: for the history.

    Raises:
        InputError: there is no previous bundle.
        TrustError: the previous bundle was changed on the disk.
        StorageError: the state directory cannot be written, or an installation runs.
    """
    read_previous(state)
    trial = read_probation(state)
    if trial is not None:
        fallen = fall_back(state, now=now or trial.begun, why=why)
        if fallen is not None:
            return fallen
    with locked(state):
        installed = read_previous(state)
        current = name_of(state / CURRENT)
        highest = read_highest(state)
        if highest is not None:
            record_highest(state, highest)
        replace_link(state / CURRENT, f"{BUNDLES}/{installed.directory.name}")
        replace_link(state / PREVIOUS, f"{BUNDLES}/{current}")
        if now is not None:
            note_bundle(state, installed, now, "installed", f"rolled back {why}")
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
    bundles = state / BUNDLES
    with writing(bundles):
        bundles.mkdir(mode=0o700, exist_ok=True)
        staging.rename(bundles / name)
    sync_directory(bundles)
    sync_directory(state)
    return name


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """Give a private folder that is removed in the end, unless it was renamed."""
    with writing(parent):
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
