"""The reader's protocol: what is said is heard, and noise is garbage, never an exception."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from deepfusion_edge.source.wire import MAX_TEXT_BYTES, Garbage, Kind, Message, pack, unpack

NUMBERS = st.integers(0, 2**32 - 1)
MESSAGES = st.builds(
    Message,
    kind=st.sampled_from(Kind),
    slot=st.integers(0, 255),
    width=NUMBERS,
    height=NUMBERS,
    skipped=NUMBERS,
    captured_s=st.floats(0, 3.9e9),
    text=st.text(max_size=100),
)


@given(st.lists(MESSAGES, max_size=5), st.integers(1, 40))
def test_messages_survive_any_cutting(messages, step):
    data = b"".join(map(pack, messages))
    heard, buffer = [], bytearray()
    for at in range(0, len(data), step):
        buffer += data[at : at + step]
        while (message := unpack(buffer)) is not None:
            heard.append(message)
    assert heard == messages
    assert not buffer


@given(st.binary(max_size=200))
def test_noise_is_garbage_or_waits_for_more(data):
    with contextlib.suppress(Garbage):
        while unpack(bytearray(data)) is not None:
            data = b""


@given(st.text(min_size=MAX_TEXT_BYTES, max_size=2 * MAX_TEXT_BYTES))
def test_long_texts_are_cut(text):
    message = unpack(bytearray(pack(Message(Kind.FAILED, text=text))))
    assert message is not None
    assert len(message.text) <= MAX_TEXT_BYTES
