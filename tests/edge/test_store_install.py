"""Installing: what is swapped in, what is refused, and what a power cut leaves."""

import fcntl
import hashlib
import resource
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest

from deepfusion_edge.bundle.manifest import MANIFEST, MODEL
from deepfusion_edge.bundle.store import STEPS, install, load_current, roll_back, verify
from deepfusion_edge.errors import InputError, ModelError, StorageError, TrustError, UsageError

NOW = "2026-06-01T00:00:00Z"


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def put(make_bundle, keys, tmp_path, state):
    """Make a bundle of that sequence and install it, without the probe."""

    def call(sequence, *, trusted=(), hook=lambda _step: None, now=NOW, **settings):
        path = make_bundle(tmp_path / f"{sequence}.dfb", sequence=sequence, **settings)
        given = list(trusted) or [keys.public]
        return install(path, state, given, now=now, probe=False, hook=hook)

    return call


def running(state) -> int:
    return load_current(state, now=NOW).manifest.sequence


def leftovers(state) -> list[str]:
    known = {"bundles", "current", "previous", "trust", "highest.json", "history.json", "lock"}
    return [path.name for path in state.iterdir() if path.name not in known]


def test_an_installed_bundle_is_the_current_one(make_bundle, keys, tmp_path, state):
    bundle = make_bundle(tmp_path / "plain")
    steps = []
    done = install(bundle, state, [keys.public], now=NOW, hook=steps.append)
    assert tuple(steps) == STEPS
    found = load_current(state, [keys.public], now=NOW)
    assert found == done
    assert found.bundle_hash == hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    assert found.directory.name == found.bundle_hash[:16]
    assert found.model_bytes() == (bundle / MODEL).read_bytes()
    assert found.directory.stat().st_mode & 0o777 == 0o700
    assert state.stat().st_mode & 0o777 == 0o700
    assert str((state / "current").readlink()) == f"bundles/{found.bundle_hash[:16]}"
    assert leftovers(state) == []


def test_nothing_installed_says_what_to_do(tmp_path, keys):
    for state in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match="run 'deepfusion-agent install'"):
            load_current(state, [keys.public], now=NOW)
        with pytest.raises(InputError, match="no previous bundle"):
            roll_back(state)
    assert not (tmp_path / "missing").exists()


def test_replays_and_older_bundles_are_refused(put, state):
    put(5)
    for sequence, text in ((5, "installed already"), (4, "older than 5")):
        with pytest.raises(TrustError, match=text):
            put(sequence)
    put(6)
    assert running(state) == 6


def test_another_line_is_refused(put, state):
    put(1)
    with pytest.raises(TrustError, match="this device follows 'line'"):
        put(2, id="other")
    assert running(state) == 1


def test_expired_bundles_are_neither_installed_nor_loaded(put, state):
    expires = "2026-07-01T00:00:00Z"
    with pytest.raises(TrustError, match="expired"):
        put(1, expires=expires, now=expires)
    put(1, expires=expires)
    with pytest.raises(TrustError, match="expired"):
        load_current(state, now=expires)


def test_an_installed_bundle_starts_with_a_clock_of_1970(put, state):
    put(1)
    assert load_current(state, now="1970-01-01T00:00:00Z").manifest.sequence == 1


def test_roll_back_and_forth(put, state):
    put(1)
    with pytest.raises(InputError, match="no previous bundle"):
        roll_back(state)
    put(2)
    put(3)
    assert len(list((state / "bundles").iterdir())) == 2
    assert roll_back(state).manifest.sequence == running(state) == 2
    with pytest.raises(TrustError, match="installed already"):
        put(3)
    assert roll_back(state).manifest.sequence == running(state) == 3
    assert leftovers(state) == []


def test_a_lost_record_does_not_reopen_the_door(put, state):
    put(1)
    put(2)
    roll_back(state)
    (state / "highest.json").unlink()
    with pytest.raises(TrustError, match="installed already"):
        put(2)
    (state / "highest.json").write_bytes(b"\xff")
    with pytest.raises(TrustError, match=r"highest.json is damaged"):
        put(3)


@pytest.mark.parametrize("name", [MODEL, MANIFEST, "manifest.sig", "golden/probe.json"])
def test_damage_on_the_disk_is_found_and_can_be_repaired(put, state, name):
    put(1)
    done = put(2)
    good = (done.directory / name).read_bytes()
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good + b"x", good[:-1], b""):
        (done.directory / name).write_bytes(bad)
        with pytest.raises(TrustError, match="is damaged"):
            load_current(state, now=NOW)
    (done.directory / name).unlink()
    with pytest.raises(TrustError, match="is damaged"):
        load_current(state, now=NOW)
    assert put(3).manifest.sequence == running(state) == 3


def test_the_model_is_checked_again_when_it_is_read(put, state):
    put(1)
    found = load_current(state, now=NOW)
    (found.directory / MODEL).write_bytes(found.model_bytes() + b"x")
    with pytest.raises(TrustError, match=r"model.onnx is not the signed file"):
        found.model_bytes()


def test_a_damaged_previous_bundle_is_not_rolled_back_to(put, state):
    old = put(1)
    put(2)
    (old.directory / MODEL).write_bytes(b"x")
    with pytest.raises(TrustError, match="is damaged"):
        roll_back(state)
    assert running(state) == 2


@pytest.mark.parametrize("target", ["{0}/elsewhere", "../{1}", "bundles/../../{1}", "other/{1}"])
def test_links_that_lead_elsewhere_are_refused(put, state, tmp_path, target):
    name = put(1).directory.name
    (state / "current").unlink()
    (state / "current").symlink_to(target.format(tmp_path, name))
    with pytest.raises(TrustError, match="current points to"):
        load_current(state, now=NOW)


def test_wrong_keys_are_refused(put, make_keys, keys, state):
    other = make_keys()
    with pytest.raises(TrustError, match=f"signed by key {keys.id}, trusted here: {other.id}"):
        put(1, trusted=[other.public])
    assert not (state / "trust").exists()
    with pytest.raises(TrustError, match=r"line.key: a private key was given"):
        put(1, trusted=[keys.private_path])
    with pytest.raises(InputError, match="cannot read"):
        put(1, trusted=[keys.public.with_name("missing.pub")])


def test_keys_are_pinned_at_the_first_installation(
    put, make_bundle, make_keys, keys, state, tmp_path
):
    put(1)
    other = make_keys()
    foreign = make_bundle(tmp_path / "foreign.dfb", sequence=2, signers=[other.private])
    with pytest.raises(TrustError, match=f"key {other.id} is not pinned here, {keys.id} is"):
        install(foreign, state, [other.public], now=NOW, probe=False)
    with pytest.raises(TrustError, match=f"signed by key {other.id}"):
        install(foreign, state, [], now=NOW, probe=False)
    with pytest.raises(TrustError, match="is not pinned here"):
        load_current(state, [other.public], now=NOW)
    ours = make_bundle(tmp_path / "ours.dfb", sequence=2)
    install(ours, state, [], now=NOW, probe=False)
    assert running(state) == 2


def test_the_first_installation_needs_a_key(make_bundle, state, tmp_path):
    bundle = make_bundle(tmp_path / "line.dfb")
    with pytest.raises(UsageError, match="--trust"):
        install(bundle, state, [], now=NOW)
    with pytest.raises(UsageError, match="--trust"):
        verify(bundle, [], now=NOW)


def test_two_of_three_keys_are_pinned_with_their_number(make_bundle, make_keys, state, tmp_path):
    three = [make_keys() for _ in range(3)]
    publics = [key.public for key in three]
    settings = {"now": NOW, "probe": False}

    def bundle(sequence, *signers):
        path = tmp_path / f"{sequence}-{len(signers)}.dfb"
        return make_bundle(path, sequence=sequence, signers=[three[n].private for n in signers])

    with pytest.raises(UsageError, match="4 signatures are asked of 3"):
        install(bundle(1, 0), state, publics, threshold=4, **settings)
    with pytest.raises(TrustError, match="1 trusted signatures, 2 are needed"):
        install(bundle(1, 0), state, publics, threshold=2, **settings)
    install(bundle(1, 0, 2), state, publics, threshold=2, **settings)
    with pytest.raises(TrustError, match="1 trusted signatures, 2 are needed"):
        install(bundle(2, 1), state, [], **settings)
    with pytest.raises(TrustError, match="1 signatures are asked for, 2 is pinned"):
        install(bundle(2, 1), state, publics, threshold=1, **settings)
    install(bundle(2, 1, 2), state, publics[:1], threshold=2, **settings)
    assert running(state) == 2


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("policy", r"policy.json is damaged"),
        ("key", "not a public key"),
        ("swap", r"do not fit policy.json"),
        ("missing", r"do not fit policy.json"),
    ],
)
def test_damaged_pins_are_refused(put, make_keys, state, damage, text):
    put(1)
    (pin,) = (state / "trust").glob("*.pem")
    if damage == "policy":
        (state / "trust" / "policy.json").write_bytes(b"{}")
    elif damage == "key":
        pin.write_bytes(b"x")
    elif damage == "swap":
        pin.write_bytes(make_keys().public.read_bytes())
    else:
        pin.unlink()
    with pytest.raises(TrustError, match=text):
        load_current(state, now=NOW)


def test_verify_applies_a_state_without_changing_it(put, make_bundle, keys, state, tmp_path):
    put(2)
    before = sorted(state.rglob("*"))
    old = make_bundle(tmp_path / "old.dfb", sequence=1)
    assert verify(old, [keys.public], now=NOW, probe=False).sequence == 1
    with pytest.raises(TrustError, match="older than 2"):
        verify(old, [], now=NOW, state=state, probe=False)
    assert sorted(state.rglob("*")) == before


class Stop(BaseException):
    """As an interrupt from the keyboard."""


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_installation_leaves_a_valid_bundle(put, state, step):
    put(1)

    def stop(name):
        if name == step:
            raise Stop

    with pytest.raises(Stop):
        put(2, hook=stop)
    late = STEPS.index(step) >= STEPS.index("current")
    assert running(state) == (2 if late else 1)
    assert leftovers(state) == []
    if late:
        with pytest.raises(TrustError, match="installed already"):
            put(2)
    else:
        put(2)
    put(3)
    assert running(state) == 3
    assert len(list((state / "bundles").iterdir())) == 2


KILL = """
import os, sys
from pathlib import Path
from deepfusion_edge.bundle.store import install
bundle, state, key, step, now = sys.argv[1:]
install(Path(bundle), Path(state), [Path(key)], now=now, probe=False,
        hook=lambda name: os._exit(9) if name == step else None)
"""


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_each_step_leaves_a_valid_state(
    put, make_bundle, keys, state, tmp_path, step, first
):
    if not first:
        put(1)
    bundle = make_bundle(tmp_path / "kill.dfb", sequence=2)
    command = [sys.executable, "-c", KILL, bundle, state, keys.public, step, NOW]
    assert subprocess.run([str(word) for word in command], check=False).returncode == 9
    if STEPS.index(step) >= STEPS.index("current"):
        assert running(state) == 2
    elif first:
        with pytest.raises(InputError, match="no bundle installed"):
            load_current(state, now=NOW)
    else:
        assert running(state) == 1
    assert put(3).manifest.sequence == running(state) == 3
    assert leftovers(state) == []


@contextmanager
def full_disk(free_bytes):
    """Let every file grow to that size at most; the error is the system's own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_record_that_cannot_be_written_leaves_a_valid_state(put, state):
    put(1)
    with ExitStack() as limits:

        def fill(step):
            if step == "current":
                limits.enter_context(full_disk(0))

        with pytest.raises(StorageError, match=r"cannot write .*highest"):
            put(2, hook=fill)
    assert running(state) == 2
    with pytest.raises(TrustError, match="installed already"):
        put(2)


def test_a_disk_that_fills_while_copying_is_named(make_bundle, keys, state, tmp_path):
    bundle = make_bundle(tmp_path / "line.dfb")
    with (
        full_disk(500),
        pytest.raises(StorageError, match=r"cannot write .*model.onnx: File too large"),
    ):
        install(bundle, state, [keys.public], now=NOW, probe=False)
    assert [path.name for path in state.iterdir()] == ["lock"]


def test_a_state_that_cannot_be_made_is_a_storage_error(make_bundle, keys, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        install(
            make_bundle(tmp_path / "a.dfb"), tmp_path / "file" / "state", [keys.public], now=NOW
        )


def test_only_one_installation_at_a_time(put, state):
    put(1)
    with (state / "lock").open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another installation"):
            put(2)
        with pytest.raises(InputError, match="no previous bundle"):
            roll_back(state)
    put(2)
    with (state / "lock").open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(StorageError, match="another installation"):
            roll_back(state)
        with pytest.raises(StorageError, match="another installation"):
            put(3)


def test_a_bundle_with_external_data_is_refused_before_any_runtime_sees_it(
    make_bundle, toy, keys, state, tmp_path
):
    model = toy(3, 3, (8, 8))
    model.graph.initializer[0].external_data.add(key="location", value="../../../etc/passwd")
    bundle = make_bundle(tmp_path / "line.dfb", model=model.SerializeToString())
    with pytest.raises(ModelError, match="outside of its file"):
        install(bundle, state, [keys.public], now=NOW, probe=False)
    assert [path.name for path in state.iterdir()] == ["lock"]
