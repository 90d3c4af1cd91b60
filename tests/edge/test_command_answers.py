"""What a courier understands of a Sparkplug node, message by message."""

from deepfusion_edge.commands.answers import NodeAnswers
from deepfusion_edge.commands.status import STATUS
from deepfusion_edge.report.messages import Incoming
from deepfusion_edge.sparkplug.node import REBIRTH, Node
from deepfusion_edge.sparkplug.payload import DataType, decode

METRICS = {"other": DataType.STRING, STATUS: DataType.STRING, "number": DataType.INT64}


def spoken(node, said, heard):
    by_topic = {one.topic: one for one in node.subscriptions(heard.append)}
    by_topic[said.topic].take(Incoming(said.topic, said.body, retained=False, qos=0))


def test_data_are_understood_after_a_birth_and_births_are_not_taken_for_news():
    agent, answers, heard = Node("plant", "cell-7", METRICS, {}), NodeAnswers("plant", "cell-7"), []
    early = agent.data({STATUS: "before"}, 1, 1, historical=False)
    spoken(answers, early, heard)
    spoken(answers, agent.birth(2), heard)  # it holds "before"
    spoken(answers, agent.data({"other": "x", "number": 3}, 3, 3, historical=False), heard)
    assert heard == []
    spoken(answers, agent.data({STATUS: "one"}, 4, 4, historical=True), heard)
    spoken(answers, agent.data({"other": "y", STATUS: None}, 5, 5, historical=False), heard)
    spoken(answers, agent.data({STATUS: "two"}, 6, 6, historical=False), heard)
    assert heard == [b"one", b"two"]


def test_what_is_no_payload_is_passed_over():
    answers, heard = NodeAnswers("plant", "cell-7"), []
    for one in answers.subscriptions(heard.append):
        one.take(Incoming(one.topic, b"\xff", retained=False, qos=0))
    assert heard == []


def test_the_question_is_a_rebirth():
    question = NodeAnswers("plant", "cell-7").question(5)
    (metric,) = decode(question.body).metrics
    assert (question.topic, question.qos, question.retain) == (
        "spBv1.0/plant/NCMD/cell-7",
        0,
        False,
    )
    assert (metric.name, metric.datatype, metric.value.content) == (REBIRTH, DataType.BOOLEAN, True)
