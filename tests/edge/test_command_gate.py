"""Which messages are commands: each rule has a message that breaks only it."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepfusion_edge.bundle import envelope as dsse
from deepfusion_edge.bundle.manifest import canonical
from deepfusion_edge.commands.gate import Admitted, Holder, Past, Refusal, admit
from deepfusion_edge.commands.message import (
    COMMAND,
    MAX_CHUNKS,
    Chunks,
    Install,
    Restart,
    RollBack,
    SetMembers,
    SetPolicy,
    Snapshot,
    peek,
    read_command,
    sign,
)
from deepfusion_edge.errors import TrustError
from tests.edge.command_parts import AGENT, ALL, EXPIRES, ISSUED, NOW, Signer, command

pytestmark = pytest.mark.processor

SHA = "ab" * 32
INSTALLS = (
    Install(bytes=3000, sha256=SHA, url="https://example.com/line.dfb", chunks=None),
    Install(bytes=3000, sha256=SHA, url=None, chunks=Chunks(bytes=1024, sha256=(SHA,) * 3)),
)
ACTIONS = (SetMembers(4), SetMembers(None), SetPolicy(False), Snapshot(None), *INSTALLS)


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return Signer(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def judge(signer):
    """``judge(message, ...)`` -> what the gate says to it."""

    def call(message, *, retained=False, actions=ALL, past=None, now=NOW, agent=AGENT):
        holders = {signer.id: Holder(signer.key.public_key(), frozenset(actions))}
        return admit(
            message,
            retained=retained,
            agent=agent,
            holders=holders,
            past=past or Past(),
            now=now,
        )

    return call


def code(answer):
    return answer.code if isinstance(answer, Refusal) else None


def resigned(signer, **changes) -> bytes:
    """A well signed message whose payload breaks a rule of its schema."""
    payload = json.loads(canonical(command()))
    payload.update(changes)
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return dsse.seal(text.encode(), [signer.key], COMMAND)


@pytest.mark.parametrize("action", [*ACTIONS, RollBack(), Restart()], ids=repr)
def test_a_signed_command_is_admitted_and_used_up(signer, judge, action):
    message = signer.sign(action)
    answer = judge(message)
    assert answer == Admitted(command(action), signer.id, hashlib.sha256(message).hexdigest(), NOW)


def test_an_independent_reader_accepts_the_signature(signer):
    box = json.loads(signer.sign(SetMembers(3)))
    payload = base64.b64decode(box["payload"])
    kind = b"application/vnd.deepfusion.command+json"
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    (signature,) = box["signatures"]
    signer.key.public_key().verify(base64.b64decode(signature["sig"]), message)
    assert json.loads(payload)["action"] == {"members": 3, "type": "set-members"}


def test_every_change_of_a_single_byte_is_refused(signer, judge):
    message = signer.sign(SetMembers(4))
    for at in range(len(message)):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(message)
            changed[at] ^= flip
            assert code(judge(bytes(changed))) == "untrusted", at
        assert code(judge(message[:at])) == "untrusted"
        assert code(judge(message[:at] + message[at + 1 :])) == "untrusted"
        assert code(judge(message[:at] + b" " + message[at:])) == "untrusted"


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
@example(b"[" * 100_000)
@example(b'{"payload":' * 20_000)
@example(b'{"payload":"' + b"[" * 9000 + b'"')
@example(b"\xff" * 300)
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused_and_nothing_is_raised(data):
    answer = admit(data, retained=False, agent=AGENT, holders={}, past=Past(), now=NOW)
    assert answer == Refusal("untrusted", answer.reason, hashlib.sha256(data).hexdigest())


@given(payload=st.binary(max_size=200))
@example(payload=b"[" * 100_000)
@example(payload=b'{"action":' * 10_000)
@example(payload=b'{"action":{"type":"restart","x":' + b"[" * 50_000)
@settings(max_examples=200, deadline=None)
def test_what_a_trusted_key_signed_may_still_be_garbage(signer, payload):
    holders = {signer.id: Holder(signer.key.public_key(), frozenset(ALL))}
    message = dsse.seal(payload, [signer.key], COMMAND)
    answer = admit(message, retained=False, agent=AGENT, holders=holders, past=Past(), now=NOW)
    assert code(answer) == "malformed"
    assert answer.id is None


def test_a_retained_command_is_refused_before_anything_else(signer, judge):
    assert code(judge(signer.sign(), retained=True)) == "retained"
    assert code(judge(b"garbage", retained=True)) == "retained"


def test_what_is_too_large_is_not_parsed(signer, judge):
    huge = resigned(signer, id="x" * COMMAND.max_bytes)
    answer = judge(huge)
    assert code(answer) == "untrusted"
    assert f"at most {COMMAND.max_bytes}" in answer.reason


def test_the_largest_command_fits(signer, judge):
    size = MAX_CHUNKS * 2**20
    chunks = Chunks(bytes=2**20, sha256=(SHA,) * MAX_CHUNKS)
    answer = judge(signer.sign(Install(bytes=size, sha256=SHA, url=None, chunks=chunks)))
    assert isinstance(answer, Admitted)


def test_a_stranger_is_refused_without_a_look_inside(judge, tmp_path):
    answer = judge(Signer(tmp_path).sign(SetMembers(1), id="secret"))
    assert (code(answer), answer.id, answer.action, answer.key) == ("untrusted", None, None, None)
    assert "secret" not in answer.reason


def test_one_key_signs_neither_none_nor_two(signer, judge, tmp_path):
    other = Signer(tmp_path)
    both = dsse.seal(canonical(command()), [signer.key, other.key], COMMAND)
    assert code(judge(both)) == "untrusted"
    holders = {s.id: Holder(s.key.public_key(), frozenset(ALL)) for s in (signer, other)}
    answer = admit(both, retained=False, agent=AGENT, holders=holders, past=Past(), now=NOW)
    assert (code(answer), answer.reason) == ("untrusted", "2 keys signed it, one must")


def test_a_manifest_is_no_command_and_a_command_no_manifest(signer, judge):
    payload = canonical(command())
    assert code(judge(dsse.seal(payload, [signer.key]))) == "untrusted"
    with pytest.raises(TrustError, match="envelope is of type"):
        dsse.open_envelope(
            signer.sign(), payload, {signer.id: signer.key.public_key()}, threshold=1
        )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"action": {"type": "format-disk"}}, "unknown-action"),
        ({"action": {"type": "SET-MEMBERS", "members": 1}}, "unknown-action"),
        ({"action": {"type": "set-members", "members": 0}}, "malformed"),
        ({"action": {"type": "set-members", "members": 65}}, "malformed"),
        ({"action": {"type": "set-members", "members": True}}, "malformed"),
        ({"action": {"type": "set-members"}}, "malformed"),
        ({"action": {"type": "restart", "command": "rm"}}, "malformed"),
        ({"action": {"type": "install", "bytes": 1, "sha256": SHA}}, "malformed"),
        ({"action": "restart"}, "malformed"),
        ({"schema": 2}, "malformed"),
        ({"schema": "1"}, "malformed"),
        ({"extra": 1}, "malformed"),
        ({"id": "../../etc/passwd"}, "malformed"),
        ({"id": "a/b"}, "malformed"),
        ({"id": "A"}, "malformed"),
        ({"id": "a\n"}, "malformed"),
        ({"id": ""}, "malformed"),
        ({"sequence": 0}, "malformed"),
        ({"sequence": 2**53}, "malformed"),
        ({"sequence": 10**400}, "malformed"),
        ({"sequence": 1.0}, "malformed"),
        ({"issued": "yesterday"}, "malformed"),
        ({"issued": "2026-02-30T00:00:00Z"}, "malformed"),
        ({"expires": "2026-06-01T01:00:00+00:00"}, "malformed"),
        ({"agent": "deepfusion/line-2"}, "wrong-agent"),
        ({"agent": "line-1"}, "wrong-agent"),
        ({"expires": "2026-06-08T00:00:01Z"}, "validity"),
        ({"expires": ISSUED}, "validity"),
        ({"expires": "2026-05-31T00:00:00Z"}, "validity"),
    ],
)
def test_each_rule_of_the_payload(signer, judge, changes, expected):
    answer = judge(resigned(signer, **changes))
    assert code(answer) == expected, answer
    assert answer.key == signer.id


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"url": None}, "one of them"),
        ({"chunks": {"bytes": 1024, "sha256": [SHA] * 3}}, "one of them"),
        (
            {"url": None, "chunks": {"bytes": 1024, "sha256": [SHA] * 2}},
            "are 3 chunks, 2 are named",
        ),
        ({"url": None, "chunks": {"bytes": 1023, "sha256": [SHA] * 3}}, ">= 1024"),
        ({"url": "x" * 2001}, "length <= 2000"),
        ({"sha256": "AB" * 32}, "regex"),
        ({"bytes": 2**31 + 1}, "<="),
    ],
)
def test_installations_that_make_no_sense(signer, judge, changes, text):
    action = {"type": "install", **msgspec.to_builtins(INSTALLS[0]), **changes}
    answer = judge(resigned(signer, action=action))
    assert code(answer) == "malformed"
    assert text in answer.reason


def test_another_spelling_of_the_payload_is_refused(signer, judge):
    loose = json.dumps(json.loads(canonical(command()))).encode()
    with pytest.raises(TrustError, match="canonical"):
        read_command(loose)
    assert code(judge(dsse.seal(loose, [signer.key], COMMAND))) == "malformed"
    twice = canonical(command()).replace(b'"id":"c-1"', b'"id":"c-0","id":"c-1"')
    assert peek(twice)[0] == "c-1"
    assert code(judge(dsse.seal(twice, [signer.key], COMMAND))) == "malformed"


@pytest.mark.parametrize("action", [*ACTIONS, RollBack(), Restart()], ids=repr)
def test_a_key_may_do_what_is_listed_and_nothing_else(signer, judge, action):
    name = str(action.__struct_config__.tag)
    assert isinstance(judge(signer.sign(action), actions=[name]), Admitted)
    answer = judge(signer.sign(action), actions=set(ALL) - {name})
    assert (code(answer), answer.id, answer.action) == ("unauthorised", "c-1", name)


def test_time(signer, judge):
    message = signer.sign()
    assert isinstance(judge(message, now="2026-06-01T00:59:59Z"), Admitted)
    assert code(judge(message, now=EXPIRES)) == "expired"
    assert code(judge(message, now="2027-01-01T00:00:00Z")) == "expired"
    assert isinstance(judge(message, now="2026-05-31T23:55:00Z"), Admitted)
    assert code(judge(message, now="2026-05-31T23:54:59Z")) == "not-yet-valid"


def test_a_clock_that_is_not_set_is_replaced_by_the_last_moment_vouched_for(signer, judge):
    message = signer.sign()
    begin = "1970-01-01T00:00:10Z"
    past = Past(vouched="2026-05-01T00:00:00Z")
    # Nothing is known of the time: only the signer's word, and the sequence, stand.
    assert code(judge(message, now=begin)) == "not-yet-valid"
    answer = judge(message, now=begin, past=past)
    assert isinstance(answer, Admitted)
    assert answer.vouched == past.vouched  # a clock that is not set vouches for nothing
    assert code(judge(message, now=begin, past=Past(vouched=EXPIRES))) == "expired"
    assert judge(message, past=past).vouched == NOW


def test_duplicates_and_sequences(signer, judge):
    message = signer.sign(sequence=5)
    assert code(judge(message, past=Past(ids=frozenset({"c-5"})))) == "duplicate"
    for highest in (5, 6, 2**53 - 1):
        assert code(judge(message, past=Past(highest={signer.id: highest}))) == "sequence"
    assert isinstance(judge(message, past=Past(highest={signer.id: 4})), Admitted)
    assert isinstance(judge(message, past=Past(highest={"0" * 16: 9})), Admitted)


@given(
    offset_s=st.integers(-10_000_000, 10_000_000),
    validity_s=st.integers(-100, 700_000),
    clock_s=st.integers(-10_000_000, 10_000_000),
    vouched_s=st.none() | st.integers(-10_000_000, 10_000_000),
    sequence=st.integers(1, 5),
    highest=st.integers(0, 5),
)
@settings(max_examples=300, deadline=None)
def test_what_is_admitted_is_within_its_time_and_above_the_last(
    signer, offset_s, validity_s, clock_s, vouched_s, sequence, highest
):
    zero = datetime(2026, 6, 1, tzinfo=UTC)

    def text(seconds):
        return f"{zero + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"

    vouched = None if vouched_s is None else text(vouched_s)
    message = signer.sign(
        sequence=sequence, issued=text(offset_s), expires=text(offset_s + validity_s)
    )
    answer = admit(
        message,
        retained=False,
        agent=AGENT,
        holders={signer.id: Holder(signer.key.public_key(), frozenset(ALL))},
        past=Past(highest={signer.id: highest}, vouched=vouched),
        now=text(clock_s),
    )
    floor = clock_s if vouched_s is None else max(clock_s, vouched_s)
    is_set = vouched_s is None or clock_s >= vouched_s
    good = (
        0 < validity_s <= 7 * 86_400
        and floor < offset_s + validity_s
        and (offset_s <= clock_s + 300 or not is_set)
        and sequence > highest
    )
    assert isinstance(answer, Admitted) == good
    if good:
        assert answer.vouched == (text(clock_s) if is_set else vouched)


def test_signing_twice_gives_the_same_bytes(signer):
    assert sign(command(), signer.key) == sign(command(), signer.key)
