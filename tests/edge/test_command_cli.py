"""``sign`` and ``send``: what they write and refuse, and what they say when nobody answers."""

import json

import pytest

from deepfusion_edge import cli
from deepfusion_edge.commands.courier import Courier
from deepfusion_edge.commands.gate import Admitted, Holder, Past, admit
from deepfusion_edge.commands.message import Install, SetMembers, SetPolicy, Snapshot
from deepfusion_edge.commands.signing import install_action, make, read_signed
from deepfusion_edge.config import Mqtt
from deepfusion_edge.errors import InputError, UnreachableError, UsageError
from deepfusion_edge.line import utc_now
from tests.edge.command_parts import AGENT, ALL


@pytest.fixture
def sign(keys, tmp_path, capsys):
    """``sign(words...)`` -> exit code, result or error line, and the file."""
    keys.private_path.chmod(0o600)

    def call(*words, out="a.cmd", key=keys.private_path):
        out = tmp_path / out
        words = [*map(str, words), "--agent", AGENT, "--key", str(key), "--out", str(out)]
        code = cli.main(["sign", *words, "--json"])
        told = capsys.readouterr()
        return code, json.loads(told.out) if code == 0 else told.err, out

    return call


@pytest.mark.parametrize(
    ("words", "action"),
    [
        (["set-members", "7"], SetMembers(7)),
        (["set-members", "configured"], SetMembers(None)),
        (["set-policy", "off"], SetPolicy(policy=False)),
        (["set-policy", "on"], SetPolicy(policy=True)),
        (["set-policy", "configured"], SetPolicy(None)),
        (["snapshot", "--source", "cam"], Snapshot("cam")),
    ],
)
def test_what_is_signed_is_admitted(sign, keys, words, action):
    code, result, out = sign(*words)
    assert code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    signed = read_signed(out)
    assert (signed.command.action, signed.command.id) == (action, result["id"])
    holders = {keys.id: Holder(keys.private.public_key(), frozenset(ALL))}
    answer = admit(
        out.read_bytes(), retained=False, agent=AGENT, holders=holders, past=Past(), now=utc_now()
    )
    assert isinstance(answer, Admitted)
    assert answer.digest == result["digest"] == signed.digest


def test_each_is_above_the_one_before(keys):
    made = [
        make(SetMembers(1), AGENT, keys.private, now_s=now_s, valid_s=60).command
        for now_s in (1.8e9, 1.8e9 + 0.001, 1.9e9)
    ]
    assert sorted({one.sequence for one in made}) == [one.sequence for one in made]
    assert len({one.id for one in made}) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["set-members", "0"], "must be|>= 1|Expected"),
        (["set-members", "65"], "Expected"),
        (["set-members", "many"], "1 to 64, or 'configured'"),
        (["restart", "--valid-s", "604801"], "seven days at most"),
        (["restart", "--valid-s", "0"], "seven days at most"),
        (["restart", "--valid-s", "nan"], "seven days at most"),
        (["restart", "--id", "../x"], "regex"),
        (["restart", "--sequence", "-1"], "Expected"),
        (["format-disk"], "invalid choice"),
    ],
)
def test_what_a_device_would_refuse_is_refused_here(sign, words, text):
    code, told, out = sign(*words)
    assert code == UsageError.exit_code
    assert any(one in told for one in text.split("|")), told
    assert not out.exists()


def test_nothing_is_overwritten_and_a_key_must_be_one(sign, keys, tmp_path):
    assert sign("restart")[0] == 0
    code, told, _ = sign("restart")
    assert code == UsageError.exit_code
    assert "exists" in told
    assert sign("restart", out="b", key=keys.public)[0] == 5
    assert sign("restart", out="b", key=tmp_path / "none")[0] == 3


def test_a_key_that_others_may_read_is_told(keys, capsys, tmp_path):
    keys.private_path.chmod(0o644)
    words = ["--agent", AGENT, "--key", str(keys.private_path), "--out", str(tmp_path / "b")]
    assert cli.main(["sign", "restart", *words]) == 0
    assert "chmod 600" in capsys.readouterr().err


@pytest.mark.parametrize("agent", ["a/+/b", "#", "", "a//b", "$SYS/x"])
def test_an_agent_is_a_topic(keys, agent):
    with pytest.raises(UsageError):
        make(SetMembers(1), agent, keys.private, now_s=1.8e9, valid_s=60)


class TestInstall:
    @pytest.fixture
    def bundle(self, tmp_path):
        path = tmp_path / "line.dfb"
        path.write_bytes(bytes(5000))
        return path

    def test_chunks_cover_the_file(self, sign, bundle):
        _, _, out = sign("install", bundle, "--chunk-bytes", 1024)
        action = read_signed(out).command.action
        assert isinstance(action, Install)
        assert (action.bytes, len(action.chunks.sha256), action.url) == (5000, 5, None)

    @pytest.mark.parametrize(
        ("words", "code", "text"),
        [
            (["--chunk-bytes", 1000], 2, "between 1024 and 1048576"),
            (["--url", "ftp://x/y"], 2, "not https://"),
            (["--url", "https://u:p@x/y"], 2, "user name"),
            (["--url", "http://x/" + "y" * 2000], 2, "length <= 2000"),
        ],
    )
    def test_options_that_are_refused(self, sign, bundle, words, code, text):
        found = sign("install", bundle, *words)
        assert found[0] == code
        assert text in found[1]

    def test_files_that_are_refused(self, sign, tmp_path):
        assert sign("install", tmp_path / "none")[0] == 3
        (tmp_path / "empty").write_bytes(b"")
        assert sign("install", tmp_path / "empty")[0] == 3
        with (tmp_path / "large").open("wb") as file:
            file.truncate(2049 * 1024)
        with pytest.raises(UsageError, match="2049 chunks, at most 2048"):
            install_action(tmp_path / "large", None, 1024)

    def test_only_the_signed_bundle_is_sent(self, sign, bundle, tmp_path):
        signed = read_signed(sign("install", bundle)[2])
        plain = read_signed(sign("restart", out="b")[2])
        other = tmp_path / "other.dfb"
        other.write_bytes(bytes(4999) + b"x")
        for command, given, text in (
            (signed, None, "give it with --bundle"),
            (signed, other, "is not the bundle that was signed"),
            (plain, bundle, "leave --bundle out"),
        ):
            with pytest.raises(InputError, match=text):
                Courier(Mqtt(), command, given, lambda _: None)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"payload":"!"}', b"\xff"])
def test_a_file_that_is_no_command_is_not_sent(tmp_path, content, capsys):
    (tmp_path / "a").write_bytes(content)
    assert cli.main(["send", str(tmp_path / "a")]) == InputError.exit_code
    assert "is no signed command" in capsys.readouterr().err


def test_no_broker_and_no_agent(sign, broker, listen, capsys):
    _, _, out = sign("restart")
    signed = read_signed(out)
    with pytest.raises(UnreachableError, match="does not answer"):
        Courier(Mqtt(port=1, client_id="s"), signed, None, lambda _: None).deliver(
            wait_s=5, connect_s=0.3
        )
    listener = listen(broker)
    words = ["send", str(out), "--port", str(broker.port), "--wait-s", "0.5"]
    assert cli.main(words) == UnreachableError.exit_code
    assert "did not end the command within 0.5 s" in capsys.readouterr().err
    listener.wait(lambda: listener.bodies("/command"))
    (topic, _, retained) = listener.messages[0]
    assert (topic, retained) == (f"{AGENT}/command", False)
    assert listener.bodies("/command")[0].encode() == out.read_bytes()
    assert len(listener.messages) == 1  # no will, no goodbye


@pytest.mark.parametrize("node", ["plant", "plant/a/b", "/cell", "plant/+"])
def test_a_node_has_a_group_and_a_name(sign, node, capsys):
    _, _, out = sign("restart")
    assert cli.main(["send", str(out), "--sparkplug", node]) == UsageError.exit_code
    assert "--sparkplug" in capsys.readouterr().err


def test_words_that_do_not_go_together(sign, capsys):
    _, _, out = sign("restart")
    for words in (["--cert-file", "x"], ["--password-file", "x", "--password-env", "Y"]):
        assert cli.main(["send", str(out), *words]) == UsageError.exit_code
    assert "together" in capsys.readouterr().err
