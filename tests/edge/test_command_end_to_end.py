"""A real agent, broker, web server and command line: commands as a plant engineer gives them."""

import functools
import http.server
import json
import signal
import threading

import pytest
from msgspec.structs import replace

from deepfusion_edge.bundle.history import read_history
from deepfusion_edge.bundle.store import install, load_current
from deepfusion_edge.errors import CommandError
from deepfusion_edge.fusion import Threshold, Thresholds
from tests.edge.command_parts import NOW
from tests.edge.line_parts import Line

pytestmark = pytest.mark.slow


@pytest.fixture
def line(tmp_path, broker, keys, make_bundle):
    keys.private_path.chmod(0o600)
    made = Line(tmp_path, broker, keys)
    for sequence in (1, 2):
        bundle = make_bundle(tmp_path / f"{sequence}.dfb", sequence=sequence)
        install(bundle, made.state, [keys.public], now=NOW, probe=False)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_day_with_commands(line, listen, broker, make_bundle, web, tmp_path, capsys):  # noqa: PLR0915 - a day
    listener = listen(broker)

    def decisions():
        return [json.loads(body) for body in listener.bodies("decision/cam")]

    def last(field, value):
        listener.wait(lambda: decisions()[-1:] and decisions()[-1][field] == value, 60)

    def said():
        return capsys.readouterr()

    last("bundle_sequence", 2)

    # K, at once and for good
    k3 = line.sign("set-members", 3, name="k3")
    said()
    assert line.send(k3) == 0
    assert json.loads(said().out) == {"id": "k3", "state": "done", "members": 3, "policy": True}
    last("members", 3)

    # The same command once more
    assert line.send(k3) == CommandError.exit_code
    assert "refused (duplicate)" in said().err

    # A snapshot stays on the device
    assert line.send(line.sign("snapshot", name="look")) == 0
    result = json.loads(said().out.splitlines()[-1])
    kept = tmp_path / "snapshots" / result["file"]
    assert kept.stat().st_size == result["bytes"]

    # A bundle in chunks over MQTT; K stays
    good = make_bundle(tmp_path / "good.dfb", sequence=3)
    update = line.sign("install", good, "--chunk-bytes", 1024, name="update-3")
    assert line.send(update, "--bundle", good) == 0
    told = said()
    assert json.loads(told.out.splitlines()[-1])["bundle_sequence"] == 3
    assert [word in told.err for word in ("fetching", "installing", "probation")] == [True] * 3
    last("bundle_sequence", 3)
    assert decisions()[-1]["members"] == 3

    # A bundle by URL that computes something else than its maker: the probe refuses it
    folder, url = web
    wrong = make_bundle(tmp_path / "wrong.dfb", sequence=4, golden=other_golden())
    (folder / "wrong.dfb").write_bytes(wrong.read_bytes())
    update = line.sign("install", wrong, "--url", f"{url}/wrong.dfb?token=secret", name="update-4")
    assert line.send(update) == CommandError.exit_code
    told = said().err
    assert "golden probe" in told
    assert "secret" not in told

    # One by URL that is well made, and rejects everything: probation rolls it back
    never = Threshold(suspect=None, reject=None)
    limits = Thresholds(
        feature_variance=Threshold(suspect=None, reject=0.0),
        disagreement=never,
        false_positive_rate=0.01,
        calibration_images=100,
    )
    strict = make_bundle(tmp_path / "strict.dfb", sequence=5, thresholds=limits)
    (folder / "strict.dfb").write_bytes(strict.read_bytes())
    update = line.sign("install", strict, "--url", f"{url}/strict.dfb", name="update-5")
    assert line.send(update) == CommandError.exit_code
    assert "rolled back: rejects 100.0% of" in said().err
    assert any(one["bundle_sequence"] == 5 for one in decisions())
    last("bundle_sequence", 3)

    # By hand from afar
    assert line.send(line.sign("roll-back", name="back")) == 0
    last("bundle_sequence", 2)
    assert load_current(line.state, now=NOW).manifest.sequence == 2

    # A restart by the supervisor; K holds
    count = len(listener.bodies("line-1/state"))
    assert line.send(line.sign("restart", name="again")) == 0
    assert len(listener.bodies("line-1/state")) > count
    last("members", 3)

    results = [(entry.result, entry.sequence) for entry in read_history(line.state)][2:]
    assert results == [("kept", 3), ("refused", None), ("rolled back", 5), ("installed", 2)]
    statuses = [json.loads(body) for body in listener.bodies("command/status")]
    assert len({status["id"] for status in statuses}) == len(statuses)
    assert "secret" not in (tmp_path / "log").read_text()
    assert "token" not in json.dumps(statuses)


def test_an_agent_that_is_off_and_one_that_is_killed(line, listen, broker, make_bundle, tmp_path):
    listener = listen(broker)

    def statuses(name):
        found = [json.loads(body) for body in listener.bodies("command/status")]
        return [one for one in found if one["command"] == name]

    def last(field, value):
        bodies = lambda: listener.bodies("decision/cam")  # noqa: E731 - read anew each time
        listener.wait(lambda: bodies() and json.loads(bodies()[-1])[field] == value, 60)

    last("members", 4)
    line.stop()
    assert line.send(line.sign("set-members", 2, name="late"), "--wait-s", "0.5") == 7
    assert statuses("late") == []
    line.options = []
    line.config["updates"]["probation"] |= {"frames": 10_000_000, "boots": 1}
    line.start()
    last("members", 2)
    states = lambda: [one["state"] for one in statuses("late")]  # noqa: E731 - read anew each time
    listener.wait(lambda: states()[-1:] == ["done"])
    assert states() == ["accepted", "running", "done"]

    bundle = make_bundle(tmp_path / "3.dfb", sequence=3)
    update = line.sign("install", bundle, name="up")
    assert line.send(update, "--bundle", bundle, "--wait-s", "8") == 7  # it goes on
    for _ in range(2):  # one death is allowed
        last("bundle_sequence", 3)
        line.stop(signal.SIGKILL)
        listener.messages.clear()
        line.start()
    last("bundle_sequence", 2)
    listener.wait(lambda: statuses("up")[-1:] and statuses("up")[-1]["state"] == "failed")
    assert "the agent died 2 times on probation, 1 are allowed" in statuses("up")[-1]["reason"]
    alerts = [json.loads(body) for body in listener.bodies("/alert")]
    assert any(one["kind"] == "bundle" and "rolled back" in one["reason"] for one in alerts)


def other_golden():
    from tests.edge.conftest import SITES, toy_golden

    return replace(toy_golden(SITES, 3, (8, 8)), fused=(1.0, 0.0, 0.0))
