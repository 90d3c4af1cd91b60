"""The ``sparkplug`` profile on a real mosquitto, every word recorded and held to the specification.

The checks carry the specification's names (``tck-id-...``); each is shown to fail on a recording
that breaks it.
"""

import contextlib
import json
import time

import pytest
from msgspec.structs import replace

from deepfusion_edge.config import Sparkplug
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report.payload import AgentState, BundleRef, SourceState
from deepfusion_edge.sparkplug.node import REBIRTH
from deepfusion_edge.sparkplug.payload import DataType, Metric, Payload, decode, encode, value_of
from tests.edge import sparkplug_checker as checker
from tests.edge.mqtt_parts import publisher_for, put_alert, put_decision, running, wait
from tests.edge.mqtt_tap import Connect, Disconnect, Publish, Subscribe, Tap
from tests.edge.sparkplug_recording import VERBS, Recording, said_from

SINCE = "2027-01-15T08:00:00.000Z"
NODE = Sparkplug(group_id="plant", edge_node_id="cell-7", primary_host="scada")


@pytest.fixture
def tap_for():
    with contextlib.ExitStack() as stack:

        def make(broker):
            tap = Tap(broker)
            stack.callback(tap.close)
            return tap

        yield make


class Agent:
    """What the publisher is told of the agent."""

    def __init__(self):
        self.state = AgentState(
            agent="line-1",
            state="online",
            reason="running",
            bundle=BundleRef("line", "ab" * 32, 3),
            provider="CPUExecutionProvider",
            counters={"received": 1, "kept": 0, "disk_full": 0},
            sources={"cam": SourceState(state="connected"), "top": SourceState(state="connected")},
        )

    def set(self, source, state):
        self.state = replace(
            self.state, sources={**self.state.sources, source: SourceState(state=state)}
        )


class Host:
    """The primary host: STATE and commands."""

    def __init__(self, listener):
        self._listener = listener
        self.time_ms = 1000

    def state(self, *, online, older_by_ms=0):
        self.time_ms += 1
        body = json.dumps({"online": online, "timestamp": self.time_ms - older_by_ms}).encode()
        self._listener.publish("spBv1.0/STATE/scada", body, qos=1, retain=True)

    def ask(self, name, *, value=True, retain=False):
        metric = Metric(name, None, 1, DataType.BOOLEAN, value_of(DataType.BOOLEAN, value))
        body = encode(Payload(1, (metric,)))
        self._listener.publish("spBv1.0/plant/NCMD/cell-7", body, qos=0, retain=retain)


def said(tap, *verbs):
    made = [said_from(step) for step in list(tap.said) if isinstance(step, Publish)]
    return [one for one in made if one.verb in verbs]


def frames(tap):
    """(frame's number, historical) of every DDATA that holds a decision."""
    births = {}
    for one in said(tap, "DBIRTH"):
        births.update({m.alias: m.name for m in one.payload.metrics})
    found = []
    for one in said(tap, "DDATA"):
        by_name = {births[m.alias]: m for m in one.payload.metrics}
        if "decision/sequence" in by_name:
            metric = by_name["decision/sequence"]
            found.append((metric.value.content, metric.historical))
    return found


def told(tap, name):
    """Values of a metric in every DDATA that has it."""
    births = {m.alias: m.name for one in said(tap, "DBIRTH") for m in one.payload.metrics}
    metrics = [m for one in said(tap, "DDATA") for m in one.payload.metrics]
    return [m.value and m.value.content for m in metrics if births[m.alias] == name]


def play(broker, tap, listener, outbox, protocol):
    """Live through everything that a node can meet."""
    host, agent = Host(listener), Agent()
    publisher = publisher_for(
        tap,
        outbox,
        describe=lambda: agent.state,
        profile="sparkplug",
        sparkplug=NODE,
        protocol=protocol,
        state_interval_s=0.5,
    )
    put_decision(outbox, 0)
    put_decision(outbox, 1)
    with running(publisher):
        wait(lambda: any(isinstance(step, Subscribe) for step in tap.said))
        host.state(online=False)
        wait(lambda: any(getattr(step, "topic", "").endswith("STATE/scada") for step in tap.said))
        assert said(tap, *VERBS) == []
        assert publisher.reason == "the primary host scada is not online"
        assert not publisher.connected
        host.state(online=True)
        wait(lambda: frames(tap) == [(0, True), (1, True)])
        assert publisher.connected
        put_decision(outbox, 2)
        put_alert(outbox, "of the node")
        put_alert(outbox, "of a device", source="top")
        put_alert(outbox, "of many frames", source="top", suppressed=41, since=SINCE)
        wait(lambda: frames(tap)[2:] == [(2, False)] and len(said(tap, "NDATA")) >= 1)
        agent.state = replace(agent.state, reason="restarting soon")
        wait(lambda: any("restarting soon" in str(one.payload) for one in said(tap, "NDATA")))

        host.ask(REBIRTH, value=False)
        host.ask("Node Control/Reboot")
        listener.publish("spBv1.0/plant/NCMD/cell-7", b"\xff", qos=0)
        host.ask(REBIRTH)
        wait(lambda: len(said(tap, "NBIRTH")) == 2 and len(said(tap, "DBIRTH")) == 4)

        agent.set("top", "lost")
        wait(lambda: [one.device for one in said(tap, "DDEATH")] == ["top"])
        agent.set("top", "connected")
        wait(lambda: len(said(tap, "DBIRTH")) == 5)

        host.state(online=False, older_by_ms=500)  # from before it came
        host.state(online=True)
        for frame in range(3, 303):  # seq goes round
            put_decision(outbox, frame)
        wait(lambda: len(frames(tap)) == 303 and not outbox.kept)
        assert len(said(tap, "NDEATH")) == 0

        host.state(online=False)
        wait(lambda: sum(isinstance(step, Connect) for step in tap.said) == 2)
        put_decision(outbox, 303)
        put_decision(outbox, 304)
        host.state(online=True)
        wait(lambda: frames(tap)[303:] == [(303, True), (304, True)] and not outbox.kept)

        broker.stop()
        put_decision(outbox, 305)
        broker.start()
        listener.wait(listener.connected)
        host.state(online=True)
        wait(lambda: frames(tap)[305:] == [(305, True)] and not outbox.kept)
    wait(lambda: isinstance(tap.said[-1], Disconnect))
    assert [number for number, _ in frames(tap)] == list(range(306))


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_session_passes_every_assertion_and_each_can_fail(
    broker, listen, outbox, tap_for, protocol
):
    tap, listener = tap_for(broker), listen(broker, topic="spBv1.0/#", binary=True)
    play(broker, tap, listener, outbox, protocol)
    steps = list(tap.said)
    assert told(tap, "alert/suppressed") == [None, 41]
    assert told(tap, "alert/since") == [None, SINCE]
    recording = Recording(steps, "plant", "cell-7", "scada")
    assert len(recording.sessions) == 3
    broken = {
        name: list(violations)
        for name, check in checker.CHECKS.items()
        if (violations := list(check(recording)))
    }
    assert broken == {}

    for check in dict.fromkeys(checker.CHECKS.values()):
        mutated = Recording(MUTATIONS[check](steps), "plant", "cell-7", "scada")
        assert list(check(mutated)), f"{check.__name__} cannot fail"


def changed(verb, change, *, which=0):
    """Change the payload of one message of the node."""

    def mutate(steps):
        at = [n for n, step in enumerate(steps) if is_said(step, verb)][which]
        payload = change(decode(steps[at].body))
        return [*steps[:at], steps[at]._replace(body=encode(payload)), *steps[at + 1 :]]

    return mutate


def moved(verb, **fields):
    """Change what is around the payload of one message of the node."""

    def mutate(steps):
        at = next(n for n, step in enumerate(steps) if is_said(step, verb))
        return [*steps[:at], steps[at]._replace(**fields), *steps[at + 1 :]]

    return mutate


def without(kind, *, which=0):
    def mutate(steps):
        at = [n for n, step in enumerate(steps) if kind(step)][which]
        return steps[:at] + steps[at + 1 :]

    return mutate


def with_will(change):
    def mutate(steps):
        return [
            step._replace(will=change(step.will)) if isinstance(step, Connect) else step
            for step in steps
        ]

    return mutate


def is_said(step, verb):
    return isinstance(step, Publish) and step.topic.split("/")[2:3] == [verb]


def each(change):
    return lambda payload: payload._replace(metrics=tuple(map(change, payload.metrics)))


def first(change):
    return lambda payload: payload._replace(
        metrics=(change(payload.metrics[0]), *payload.metrics[1:])
    )


def later(steps, verb, after):
    """Move the first message of the node with ``verb`` behind the first with ``after``."""
    at = next(n for n, step in enumerate(steps) if is_said(step, verb))
    to = next(n for n, step in enumerate(steps) if is_said(step, after))
    return [*steps[:at], *steps[at + 1 : to + 1], steps[at], *steps[to + 1 :]]


def is_state(step, *, online):
    return (
        type(step).__name__ == "Delivered"
        and "STATE" in step.topic
        and json.loads(step.body)["online"] is online
    )


def rebirth_answered_late(steps):
    """Put a DDATA between the rebirth command and its NBIRTH."""
    births = [n for n, step in enumerate(steps) if is_said(step, "NBIRTH")]
    data = next(step for step in steps if is_said(step, "DDATA"))
    return [*steps[: births[1]], data, *steps[births[1] :]]


def host_offline_ignored(steps):
    """Say another DDATA after the STATE that is offline."""
    end = [n for n, step in enumerate(steps) if isinstance(step, Connect)][1]
    at = [n for n, step in enumerate(steps[:end]) if is_state(step, online=False)][-1]
    data = next(step for step in steps if is_said(step, "DDATA"))
    return [*steps[: at + 1], data, *steps[at + 1 :]]


C = checker
MUTATIONS = {
    C.topics: moved("DDATA", topic="spBv1.0/plant/DDATA/cell-7"),
    C.identifiers: moved("DDATA", topic="spBv1.0/plant/DDATA/cell-7/ca+m"),
    C.quality: moved("DDATA", qos=1),
    C.not_retained: moved("NBIRTH", retain=True),
    C.quality_and_not_retained: moved("DBIRTH", qos=1),
    C.sequence: changed("DDATA", lambda p: p._replace(seq=(p.seq + 1) % 256), which=280),
    C.no_sequence_in_deaths: changed("NDEATH", lambda p: p._replace(seq=0)),
    C.timestamps: changed("DDATA", lambda p: p._replace(timestamp_ms=None)),
    C.metric_timestamps: changed("DBIRTH", first(lambda m: m._replace(timestamp_ms=None))),
    C.same_session_number: changed("NBIRTH", each(lambda m: m._replace(value=None)), which=1),
    C.session_number_grows: lambda steps: [
        step._replace(will=next(s for s in steps if isinstance(s, Connect)).will)
        if isinstance(step, Connect)
        else step
        for step in steps
    ],
    C.deaths_hold_the_session_number_alone: changed(
        "NDEATH", lambda p: p._replace(metrics=p.metrics * 2)
    ),
    C.rebirth_metric: changed("NBIRTH", each(lambda m: m._replace(alias=99))),
    C.wills: with_will(lambda will: will._replace(qos=0)),
    C.clean_sessions: lambda steps: [
        step._replace(clean=False) if isinstance(step, Connect) else step for step in steps
    ],
    C.births_first: lambda steps: later(steps, "DBIRTH", "DDATA"),
    C.commands_heard_before_birth: without(lambda step: isinstance(step, Subscribe)),
    C.births_tell_name_and_alias: changed("DBIRTH", first(lambda m: m._replace(alias=None))),
    C.aliases_are_unique: changed("DBIRTH", first(lambda m: m._replace(alias=1))),
    C.data_tells_the_alias_alone: changed("DDATA", first(lambda m: m._replace(name="x"))),
    C.births_tell_types: changed("DBIRTH", first(lambda m: m._replace(datatype=None))),
    C.data_tells_no_types: changed("DDATA", first(lambda m: m._replace(datatype=12))),
    C.data_was_declared: changed("DDATA", first(lambda m: m._replace(alias=999))),
    C.births_repeat_the_values: changed("DBIRTH", first(lambda m: m._replace(value=None)), which=2),
    C.present_data_is_in_order: changed(
        "DDATA", each(lambda m: m._replace(timestamp_ms=9)), which=9
    ),
    C.devices_die_once: moved("DDEATH", topic="spBv1.0/plant/DDEATH/cell-7/nobody"),
    C.rebirths: rebirth_answered_late,
    C.birth_waits_for_the_host: without(lambda step: is_state(step, online=True)),
    C.offline_host_ends_the_session: host_offline_ignored,
    C.death_before_disconnect: without(lambda step: is_said(step, "NDEATH")),
    C.payloads_are_protobuf: moved("DBIRTH", body=b"\x12\x05a"),
}


def test_a_retained_command_is_refused(broker, listen, outbox, tap_for, caplog):
    tap, listener, agent = tap_for(broker), listen(broker, topic="x"), Agent()
    Host(listener).ask(REBIRTH, retain=True)
    node = Sparkplug(group_id="plant", edge_node_id="cell-7")
    publisher = publisher_for(
        tap, outbox, describe=lambda: agent.state, profile="sparkplug", sparkplug=node
    )
    with running(publisher):
        wait(lambda: "retained command" in caplog.text)
        put_decision(outbox, 0)
        wait(lambda: not outbox.kept)
    assert len(said(tap, "NBIRTH")) == 1


def test_a_frozen_broker_loses_nothing_although_the_quality_is_0(broker, listen, outbox, tap_for):
    """What the operating system took is not what the broker has: only an answer confirms."""
    tap, agent, listener = tap_for(broker), Agent(), listen(broker, topic="spBv1.0/#", binary=True)
    publisher = publisher_for(
        tap,
        outbox,
        describe=lambda: agent.state,
        profile="sparkplug",
        sparkplug=Sparkplug(group_id="plant", edge_node_id="cell-7"),
        keepalive_s=2,
    )
    with running(publisher, drain_timeout_s=30):
        wait(lambda: said(tap, "NBIRTH"))
        broker.freeze()
        put_decision(outbox, 0)
        wait(lambda: frames(tap))
        time.sleep(0.3)
        assert outbox.kept == 1
        broker.thaw()
        wait(lambda: not outbox.kept)
        listener.wait(lambda: [b for t, b, _ in listener.messages if "DDATA" in t])


def test_the_session_number_goes_on_after_a_restart_and_round(tmp_path):
    for expected in ([0, 1], [2, 0, 1]):
        with Outbox(tmp_path, max_events=9, max_bytes=2**20, ttl_s=None) as box:
            assert [box.turn("a", 3) for _ in expected] == expected
            assert box.counters(now_s=0).received == 0
    with Outbox(tmp_path, max_events=9, max_bytes=2**20, ttl_s=None) as box:
        assert box.turn("b", 3) == 0


def test_a_second_run_has_the_next_session_number(broker, tap_for, tmp_path):
    tap, agent = tap_for(broker), Agent()
    node = Sparkplug(group_id="plant", edge_node_id="cell-7")
    for births in (1, 2):
        with Outbox(tmp_path, max_events=9, max_bytes=2**20, ttl_s=None) as box:
            publisher = publisher_for(
                tap, box, describe=lambda: agent.state, profile="sparkplug", sparkplug=node
            )
            with running(publisher):
                wait(lambda n=births: len(said(tap, "NBIRTH")) == n)
    wait(lambda: isinstance(tap.said[-1], Disconnect))
    numbers = [one.payload.metrics[0].value.content for one in said(tap, "NBIRTH", "NDEATH")]
    assert numbers == [0, 0, 1, 1]
