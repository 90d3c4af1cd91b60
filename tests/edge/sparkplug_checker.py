"""Assertions of the Sparkplug 3.0 specification over what one edge node said, by their tck-ids.

``CHECKS[tck_id](recording)`` yields one text a violation.
"""

import re
import time

from deepfusion_edge.sparkplug.wire import WireError
from tests.edge.mqtt_tap import Delivered, Disconnect, Subscribe
from tests.edge.sparkplug_recording import VERBS, Said, host_state, metric, will

SEQUENCED = ("NBIRTH", "NDATA", "DBIRTH", "DDATA", "DDEATH")
REBIRTH = "Node Control/Rebirth"
BOOLEAN, INT64 = 11, 4
HOUR_MS = 3_600_000

CHECKS = {}


def check(*names):
    """Register a function as the check of these assertions."""

    def register(function):
        for name in names:
            assert name not in CHECKS, name
            CHECKS[name] = function
        return function

    return register


def per_verb(pattern, verbs):
    return [pattern.format(verb.lower()) for verb in verbs]


@check(
    "topic-structure",
    "topic-structure-namespace-a",
    "topic-structure-namespace-device-id-associated-message-types",
    "message-flow-edge-node-birth-publish-nbirth-topic",
    "message-flow-device-birth-publish-dbirth-topic",
    "message-flow-device-birth-publish-dbirth-match-edge-node-topic",
    *per_verb("topics-{}-topic", VERBS),
)
def topics(recording):
    for said in [s for session in recording.sessions for s in session.said]:
        needs = said.verb.startswith("D")
        if (
            said.verb not in VERBS
            or bool(said.device) != needs
            or said.topic != recording.topic(said.verb, said.device)
        ):
            yield f"topic {said.topic}"


@check(
    "topic-structure-namespace-valid-group-id",
    "topic-structure-namespace-valid-edge-node-id",
    "topic-structure-namespace-valid-device-id",
    "intro-group-id-chars",
    "intro-edge-node-id-chars",
    "intro-device-id-chars",
)
def identifiers(recording):
    for said in [s for session in recording.sessions for s in session.said]:
        if re.search(r"[+#]", said.topic):
            yield f"topic {said.topic}"


@check(
    "message-flow-edge-node-birth-publish-nbirth-qos",
    "message-flow-device-birth-publish-dbirth-qos",
    *per_verb("payloads-{}-qos", ("NBIRTH", "DBIRTH", "NDATA", "DDATA")),
)
def quality(recording):
    for said in recording.all(*SEQUENCED):
        if said.qos != 0:
            yield f"{said.topic} has QoS {said.qos}"


@check(
    "message-flow-edge-node-birth-publish-nbirth-retained",
    "message-flow-device-birth-publish-dbirth-retained",
    *per_verb("payloads-{}-retain", ("NBIRTH", "DBIRTH", "NDATA", "DDATA")),
)
def not_retained(recording):
    for said in recording.all(*VERBS):
        if said.retain:
            yield f"{said.topic} is retained"


@check(*per_verb("topics-{}-mqtt", SEQUENCED))
def quality_and_not_retained(recording):
    yield from quality(recording)
    yield from not_retained(recording)


@check(
    "payloads-sequence-num-always-included",
    "payloads-sequence-num-incrementing",
    "payloads-sequence-num-zero-nbirth",
    "message-flow-edge-node-birth-publish-nbirth-payload-seq",
    "message-flow-device-birth-publish-dbirth-payload-seq",
    "topics-nbirth-seq-num",
    "topics-dbirth-seq",
    "topics-ndata-seq-num",
    "topics-ddata-seq-num",
    "topics-ddeath-seq-num",
    "payloads-ddeath-seq-number",
    *per_verb("payloads-{}-seq", SEQUENCED),
    *per_verb("payloads-{}-seq-inc", ("DBIRTH", "NDATA", "DDATA", "DDEATH")),
)
def sequence(recording):
    for session in recording.sessions:
        expected = 0
        for said in session.of(*SEQUENCED):
            if said.verb == "NBIRTH":
                expected = 0
            if said.payload.seq != expected:
                yield f"{said.topic} has seq {said.payload.seq}, not {expected}"
            expected = (expected + 1) % 256


@check("topics-ndeath-seq", "payloads-ndeath-seq")
def no_sequence_in_deaths(recording):
    for said in [*recording.all("NDEATH"), *filter(None, map(will, recording.sessions))]:
        if said.payload.seq is not None:
            yield f"{said.topic} has seq {said.payload.seq}"


@check(
    "payloads-timestamp-in-UTC",
    *per_verb("topics-{}-timestamp", ("NBIRTH", "DBIRTH", "NDATA", "DDATA")),
    *per_verb("payloads-{}-timestamp", SEQUENCED),
)
def timestamps(recording):
    for said in recording.all(*SEQUENCED):
        stamp = said.payload.timestamp_ms
        if stamp is None or abs(stamp - 1000 * time.time()) > HOUR_MS:
            yield f"{said.topic} has timestamp {stamp}"


@check("payloads-name-birth-data-requirement", "payloads-metric-timestamp-in-UTC")
def metric_timestamps(recording):
    for said in recording.all("NBIRTH", "DBIRTH", "NDATA", "DDATA"):
        for one in said.payload.metrics:
            if one.timestamp_ms is None or one.timestamp_ms > 1000 * time.time() + HOUR_MS:
                yield f"{said.topic}: metric {one.name or one.alias} has {one.timestamp_ms}"


@check(
    "topics-nbirth-bdseq-included",
    "topics-nbirth-bdseq-matching",
    "payloads-nbirth-bdseq",
    "payloads-nbirth-bdseq-repeat",
    "payloads-ndeath-bdseq",
    "message-flow-edge-node-birth-publish-nbirth-payload-bdSeq",
    "operational-behavior-data-commands-rebirth-action-3",
)
def same_session_number(recording):
    for session in recording.sessions:
        promised = metric(will(session), "bdSeq")
        for said in session.of("NBIRTH", "NDEATH"):
            found = metric(said, "bdSeq")
            if found is None or found.datatype != INT64 or found.value != promised.value:
                yield f"{said.topic} has bdSeq {found}, the will {promised}"


@check(
    "topics-nbirth-bdseq-increment",
    "message-flow-edge-node-birth-publish-will-message-payload-bdSeq",
)
def session_number_grows(recording):
    numbers = [metric(will(session), "bdSeq").value.content for session in recording.sessions]
    for before, after in zip([numbers[0] - 1, *numbers], numbers, strict=False):
        if after != (before + 1) % 256:
            yield f"bdSeq {after} after {before}"


@check("topics-ndeath-payload")
def deaths_hold_the_session_number_alone(recording):
    for said in [*recording.all("NDEATH"), *filter(None, map(will, recording.sessions))]:
        if [m.name for m in said.payload.metrics] != ["bdSeq"]:
            yield f"{said.topic} has {said.payload.metrics}"


@check(
    "topics-nbirth-rebirth-metric",
    "payloads-nbirth-rebirth-req",
    "operational-behavior-data-commands-rebirth-name",
    "operational-behavior-data-commands-rebirth-name-aliases",
    "operational-behavior-data-commands-rebirth-datatype",
    "operational-behavior-data-commands-rebirth-value",
)
def rebirth_metric(recording):
    for said in recording.all("NBIRTH"):
        found = metric(said, REBIRTH)
        if (
            found is None
            or found.datatype != BOOLEAN
            or found.alias is not None
            or found.value is None
            or found.value.content is not False
        ):
            yield f"{said.topic} has {found}"


@check(
    "message-flow-edge-node-birth-publish-connect",
    "message-flow-edge-node-birth-publish-will-message",
    "message-flow-edge-node-birth-publish-will-message-topic",
    "message-flow-edge-node-birth-publish-will-message-payload",
    "message-flow-edge-node-birth-publish-will-message-qos",
    "message-flow-edge-node-birth-publish-will-message-will-retained",
    "payloads-ndeath-will-message",
    "payloads-ndeath-will-message-qos",
    "payloads-ndeath-will-message-retain",
)
def wills(recording):
    for session in recording.sessions:
        found = will(session)
        if (
            found is None
            or found.topic != recording.topic("NDEATH")
            or isinstance(found.payload, WireError)
            or found.qos != 1
            or found.retain
        ):
            yield f"will {found}"


@check("principles-persistence-clean-session-311", "principles-persistence-clean-session-50")
def clean_sessions(recording):
    for session in recording.sessions:
        if not session.connect.clean or session.connect.expiry_s:
            yield f"{session.connect}"


@check(
    "principles-birth-certificates-order",
    "message-flow-device-birth-publish-nbirth-wait",
    *per_verb("payloads-{}-order", ("DBIRTH", "NDATA", "DDATA")),
)
def births_first(recording):
    for session in recording.sessions:
        born, devices = False, set()
        for said in session.said:
            if said.verb == "NBIRTH":
                born, devices = True, set()
            elif said.verb == "DBIRTH":
                devices.add(said.device)
            elif said.verb == "DDEATH":
                devices.discard(said.device)
            if said.verb not in {"NBIRTH", "NDEATH"} and not born:
                yield f"{said.topic} before the NBIRTH"
            if said.verb == "DDATA" and said.device not in devices:
                yield f"{said.topic} before its DBIRTH"


@check("message-flow-edge-node-ncmd-subscribe")
def commands_heard_before_birth(recording):
    for session in recording.sessions:
        heard = False
        for step in session.steps:
            if isinstance(step, Subscribe):
                heard |= (recording.topic("NCMD"), 1) in step.filters
            if isinstance(step, Said) and step.verb == "NBIRTH" and not heard:
                yield "NBIRTH before the subscription to NCMD with QoS 1"


@check(
    "payloads-name-requirement",
    "payloads-alias-birth-requirement",
    "topics-nbirth-metrics",
    "topics-dbirth-metrics",
)
def births_tell_name_and_alias(recording):
    for said in recording.all("NBIRTH", "DBIRTH"):
        for one in said.payload.metrics:
            if one.name is None or (one.alias is None and one.name != REBIRTH):
                yield f"{said.topic}: {one}"


@check("payloads-alias-uniqueness")
def aliases_are_unique(recording):
    for session in recording.sessions:
        owners = {}
        for said in session.of("NBIRTH", "DBIRTH"):
            for one in said.payload.metrics:
                owner = owners.setdefault(one.alias, (said.device, one.name))
                if one.alias is not None and owner != (said.device, one.name):
                    yield f"alias {one.alias} is of {owner} and of {said.device}, {one.name}"


@check("payloads-alias-data-cmd-requirement")
def data_tells_the_alias_alone(recording):
    for said in recording.all("NDATA", "DDATA"):
        for one in said.payload.metrics:
            if one.name is not None or one.alias is None:
                yield f"{said.topic}: {one}"


@check(
    "payloads-metric-datatype-req",
    "payloads-metric-datatype-value",
    "payloads-metric-datatype-value-type",
)
def births_tell_types(recording):
    for said in recording.all("NBIRTH", "DBIRTH"):
        for one in said.payload.metrics:
            if one.datatype is None or not 1 <= one.datatype <= 34:
                yield f"{said.topic}: {one}"


@check("payloads-metric-datatype-not-req")
def data_tells_no_types(recording):
    for said in recording.all("NDATA", "DDATA"):
        for one in said.payload.metrics:
            if one.datatype is not None:
                yield f"{said.topic}: {one}"


@check(
    "topics-nbirth-metric-reqs",
    "topics-dbirth-metric-reqs",
    "operational-behavior-data-publish-nbirth",
    "operational-behavior-data-publish-dbirth",
)
def data_was_declared(recording):
    for session in recording.sessions:
        declared = {}
        for said in session.said:
            if said.verb in {"NBIRTH", "DBIRTH"}:
                declared[said.device] = {one.alias for one in said.payload.metrics}
            elif said.verb in {"NDATA", "DDATA"}:
                for one in said.payload.metrics:
                    if one.alias not in declared.get(said.device, ()):
                        yield f"{said.topic}: alias {one.alias} is not in the birth"


@check(
    "operational-behavior-data-publish-nbirth-values",
    "operational-behavior-data-publish-dbirth-values",
)
def births_repeat_the_values(recording):
    """What was last told in the recording is what the next birth tells."""
    for session in recording.sessions:
        last = {}
        for said in session.said:
            if said.verb in {"NDATA", "DDATA"}:
                last.update({one.alias: one.value for one in said.payload.metrics})
            elif said.verb in {"NBIRTH", "DBIRTH"}:
                for one in said.payload.metrics:
                    if one.alias in last and one.value != last[one.alias] and said.device:
                        yield f"{said.topic}: {one.name} is {one.value}, was {last[one.alias]}"


@check(
    "operational-behavior-data-publish-nbirth-order",
    "operational-behavior-data-publish-dbirth-order",
)
def present_data_is_in_order(recording):
    for session in recording.sessions:
        last = {}
        for said in session.of("NDATA", "DDATA"):
            for one in said.payload.metrics:
                if not one.historical:
                    if one.timestamp_ms < last.get(one.alias, 0):
                        yield f"{said.topic}: alias {one.alias} goes back in time"
                    last[one.alias] = one.timestamp_ms


@check("operational-behavior-device-ddeath", "topics-ddeath-payload")
def devices_die_once(recording):
    for session in recording.sessions:
        alive = set()
        for said in session.said:
            if said.verb == "NBIRTH":
                alive = set()
            elif said.verb == "DBIRTH":
                alive.add(said.device)
            elif said.verb == "DDEATH":
                if said.device not in alive or said.payload.metrics:
                    yield f"{said.topic}: {said.payload}"
                alive.discard(said.device)


@check(
    "operational-behavior-data-commands-rebirth-action-1",
    "operational-behavior-data-commands-rebirth-action-2",
)
def rebirths(recording):
    """The next message after the command that the broker brought is the NBIRTH, then DBIRTHs."""
    for session in recording.sessions:
        alive, asked, due = set(), False, None
        for step in session.steps:
            if isinstance(step, Delivered) and step.topic == recording.topic("NCMD"):
                asked = not step.retain
            if not isinstance(step, Said):
                continue
            if asked:
                if step.verb != "NBIRTH":
                    yield f"{step.topic} after the command, not an NBIRTH"
                asked, due = False, set(alive)
                continue
            if step.verb == "DBIRTH":
                alive.add(step.device)
                if due is not None:
                    due.discard(step.device)
            elif step.verb == "DDEATH":
                alive.discard(step.device)
            elif due:
                yield f"{step.topic} before the DBIRTHs of {due}"
                due = None


@check(
    "message-flow-edge-node-birth-publish-phid-wait",
    "message-flow-edge-node-birth-publish-phid-wait-id",
    "message-flow-edge-node-birth-publish-phid-wait-online",
    "message-flow-edge-node-birth-publish-phid-wait-timestamp",
    "operational-behavior-edge-node-birth-sequence-wait",
)
def birth_waits_for_the_host(recording):
    if recording.host is None:
        return
    newest = 0
    for session in recording.sessions:
        online = False
        for step in session.steps:
            state = host_state(recording, step)
            if state is not None and state["timestamp"] >= newest:
                newest, online = state["timestamp"], state["online"]
            if isinstance(step, Said) and step.verb != "NDEATH" and not online:
                yield f"{step.topic} while the host was not online"


@check(
    "message-flow-edge-node-birth-publish-phid-offline",
    "operational-behavior-edge-node-termination-host-offline",
    "operational-behavior-edge-node-termination-host-offline-reconnect",
    "operational-behavior-edge-node-termination-host-offline-timestamp",
)
def offline_host_ends_the_session(recording):
    if recording.host is None:
        return
    newest = 0
    for at, session in enumerate(recording.sessions):
        born, over = False, False
        for step in session.steps:
            state = host_state(recording, step)
            if state is not None and state["timestamp"] >= newest:
                newest = state["timestamp"]
                over |= born and not state["online"]
            if isinstance(step, Said):
                if over and step.verb != "NDEATH":
                    yield f"{step.topic} after the host went offline"
                born |= step.verb == "NBIRTH"
        ended = any(isinstance(step, Disconnect) for step in session.steps)
        if over and not (ended and session.of("NDEATH") and at + 1 < len(recording.sessions)):
            yield "the session did not end, or no other began"
        if ended and not over and at + 1 < len(recording.sessions):
            yield "the session ended without a reason"


@check(
    "operational-behavior-edge-node-intentional-disconnect-ndeath",
    "operational-behavior-edge-node-intentional-disconnect-packet",
    "payloads-ndeath-will-message-publisher",
    "payloads-ndeath-will-message-publisher-disconnect-mqtt311",
    "payloads-ndeath-will-message-publisher-disconnect-mqtt50",
)
def death_before_disconnect(recording):
    for session in recording.sessions:
        steps = [step for step in session.steps if isinstance(step, (Said, Disconnect))]
        for before, step in zip([None, *steps], steps, strict=False):
            if isinstance(step, Disconnect) and getattr(before, "verb", None) != "NDEATH":
                yield f"DISCONNECT after {before}"


@check(
    "message-flow-edge-node-birth-publish-nbirth-payload",
    "message-flow-device-birth-publish-dbirth-payload",
)
def payloads_are_protobuf(recording):
    for session in recording.sessions:
        for said in session.said:
            if isinstance(said.payload, WireError):
                yield f"{said.topic}: {said.payload}"
