"""What may be a level of an MQTT topic, and a text of the configuration. Pure."""

from deepfusion_edge.errors import UsageError

MAX_TOPIC_LEVELS = 8
MAX_LEVEL_BYTES = 200


def check_level(field: str, value: str) -> None:
    """Refuse what may not be one level of an MQTT topic.

    Raises:
        UsageError: empty, too long, not UTF-8, or with ``+ # / $`` or a control character.
    """
    rule = "use letters, digits, '-' and '_'"
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"{field} is not valid UTF-8", rule) from error
    if not 1 <= size <= MAX_LEVEL_BYTES:
        raise UsageError(f"{field} has {size} bytes, must have 1 to {MAX_LEVEL_BYTES}", rule)
    if any(c in "+#/$" or not c.isprintable() for c in value):
        raise UsageError(f"{field} {value!r} has one of + # / $ or a control character", rule)


def check_topic(field: str, value: str) -> None:
    """Refuse what may not be a topic without wildcards.

    Raises:
        UsageError: too many levels, or one that is none.
    """
    levels = value.split("/")
    if len(levels) > MAX_TOPIC_LEVELS:
        raise UsageError(
            f"{field} has {len(levels)} levels, at most {MAX_TOPIC_LEVELS}", "shorten it"
        )
    for level in levels:
        check_level(f"{field} (each level)", level)


def check_text(field: str, value: str) -> None:
    """Refuse a NUL character.

    Raises:
        UsageError: there is one.
    """
    if "\0" in value:
        raise UsageError(f"{field} has a NUL character", "take it out")
