"""Guards of what others ask the agent to do: commands, addresses, transfers, Sparkplug."""

from benchmarks.prove.guards.guard import NEVER, Guard

_GATE, _DESK, _FETCH, _HOST = (
    "commands.gate",
    "commands.desk",
    "commands.fetch",
    "report.sparkplug",
)

COMMANDS = {
    "retained commands": Guard(_GATE, "if retained:", NEVER),
    "one key a command": Guard(_GATE, "if len(names) != 1:", "names = names[:1]\n    if False:"),
    "names of actions": Guard(
        _GATE, "if action is not None and action not in ACTION_NAMES:", NEVER
    ),
    "form of a command": Guard(_GATE, 'return refuse("malformed", error.what)', "raise error"),
    "spelling of a command": Guard("commands.message", "if respelled != payload:", NEVER),
    "id of a command": Guard(
        "commands.message", r'Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")', "Meta(min_length=1)"
    ),
    "agent of a command": Guard(_GATE, "if command.agent != agent:", NEVER),
    "actions of a key": Guard(_GATE, "if action not in allowed:", NEVER),
    "validity of a command": Guard(
        _GATE, "timedelta(0) < expires - issued <= MAX_VALIDITY,", "True,"
    ),
    "expiry of a command": Guard(_GATE, "(moment < expires, ", "(True, "),
    "moment that is vouched for": Guard(_GATE, "max(clock, vouched), past", "clock, past"),
    "beginning of a command": Guard(
        _GATE, "clock < vouched or issued <= clock + CLOCK_TOLERANCE,", "True,"
    ),
    "ids that were taken": Guard(_GATE, "(command.id not in past.ids, ", "(True, "),
    "sequence of a command": Guard(_GATE, "command.sequence > highest,", "True,"),
    "commands that wait": Guard(_DESK, "if len(pending) >= MAX_PENDING:", NEVER),
    "one installation": Guard(
        _DESK,
        "if isinstance(command.action, Install) and isinstance(one.command.action, Install):",
        NEVER,
    ),
    "commands used up": Guard(
        _DESK,
        "self._ledger.consume(answer, keep=busy is None)",
        "busy is None and self._ledger.consume(answer, keep=True)",
    ),
    "commands that cannot be kept": Guard(
        _DESK, "except StorageError as", "except KeyError as", before='("storage", str(error))'
    ),
    "refusals that are told": Guard(_DESK, "if self._tokens < 1:", NEVER),
    "form of the ledger": Guard("commands.ledger", "except MALFORMED as", "except KeyError as"),
    "size of the ledger": Guard("commands.ledger", "if len(data) > MAX_LEDGER_BYTES:", NEVER),
    "number of a chunk": Guard(
        _DESK, "if index.isascii() and index.isdigit() and len(index) <= 4:", "if True:"
    ),
    "command of a chunk": Guard(
        "commands.update", "if expected is None or expected[0] != name:", "if expected is None:"
    ),
    "chunks that are missing": Guard(
        "commands.incoming",
        "if index not in self._missing or self._descriptor < 0:",
        "if self._descriptor < 0:",
    ),
    "hash of a chunk": Guard(
        "commands.incoming",
        "if hashlib.sha256(content).hexdigest() != self._chunks.sha256[index]:",
        NEVER,
    ),
    "largest update": Guard("commands.update", "if action.bytes > rules.max_bytes:", NEVER),
    "room for an update": Guard("commands.incoming", "if free < needed:", NEVER),
}

ADDRESSES = {
    "signs of a URL": Guard(
        _FETCH,
        'if not url.isascii() or not url.isprintable() or " " in url or "\\\\" in url:',
        NEVER,
    ),
    "ports of a URL": Guard(_FETCH, "except ValueError:", "except KeyError:"),
    "schemes of a URL": Guard(
        _FETCH, 'if parts.scheme not in {"https", "http"} or not host:', NEVER
    ),
    "passwords in the URL of a bundle": Guard(
        _FETCH, "if parts.username is not None or parts.password is not None:", NEVER
    ),
    "fragments of a URL": Guard(_FETCH, "if parts.fragment:", NEVER),
    "hosts for http": Guard(
        _FETCH,
        'if parts.scheme == "http" and host not in LOOPBACK and host not in rules.http_hosts:',
        NEVER,
    ),
    "hosts for https": Guard(
        _FETCH,
        'if parts.scheme == "https" and rules.hosts is not None and host not in rules.hosts:',
        NEVER,
    ),
    "redirects to http": Guard(
        _FETCH, 'if parts.scheme == "http" and origin.scheme == "https":', NEVER
    ),
    "redirects to others": Guard(
        _FETCH, "if host != origin.host and host not in (rules.hosts or ()):", NEVER
    ),
    "number of redirects": Guard(_FETCH, "for _ in range(MAX_REDIRECTS + 1):", "while True:"),
    "status of a server": Guard(_FETCH, "if answer.status not in {200, 206}:", NEVER),
    "announced size": Guard(
        _FETCH, "if answer.length is not None and answer.length != expected:", NEVER
    ),
    "compression by a server": Guard(
        _FETCH, 'if (answer.getheader("Content-Encoding") or "identity") != "identity":', NEVER
    ),
    "hash of what was fetched": Guard(
        "commands.incoming", "if _digest(self._part) != (self.size, self._sha256):", NEVER
    ),
    "time of a server": Guard(_FETCH, "if left_s <= delay_s:", NEVER),
}

SPARKPLUG = {
    "retained rebirths": Guard(_HOST, "if incoming.retained:", NEVER),
    "names of Sparkplug's commands": Guard(_HOST, "if metric.name != REBIRTH:", NEVER),
    "errors of Sparkplug": Guard(_HOST, "except WireError as", "except KeyError as"),
    "time of a host's state": Guard(
        _HOST,
        "if self._host is not None and state.timestamp < self._host.timestamp:",
        NEVER,
    ),
    "form of a host's state": Guard(
        _HOST,
        "except (ValueError, msgspec.MsgspecError, RecursionError):",
        "except KeyError:",
    ),
}
