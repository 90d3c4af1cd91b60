"""Sequences that are rewound, clocks that are not set or jump, and bundles that were held back."""

from collections.abc import Callable

from benchmarks.prove.hostile.case import Case, trust
from benchmarks.prove.hostile.world import NOW, NOW_S, World
from deepfusion_edge.bundle import store
from deepfusion_edge.outbox import Outbox

_1970, _2037 = "1970-01-01T00:00:10Z", "2037-01-01T00:00:00Z"


def _sequence(number: int) -> Callable[[World], str]:
    return lambda world: world.install(world.pack(world.members(sequence=number)))


def _at(now: str, **fields: str) -> Callable[[World], str]:
    return lambda world: world.install(world.pack(world.members(change=_dated(**fields))), now=now)


def _dated(**fields: str) -> Callable[[dict[str, object]], None]:
    return lambda manifest: manifest.update(fields)


def _rolled_back(world: World) -> str:
    """Install a bundle, roll it back, and install it again."""
    path = world.pack(world.members())
    world.install(path)
    store.roll_back(world.agent)
    return world.install(path)


def _forgotten(world: World) -> str:
    """Lose the record of the highest sequence: the bundle that serves still tells it."""
    (world.agent / "highest.json").unlink()
    return world.install(world.pack(world.members(sequence=1, change=_dated(created=NOW))))


def _rewound(world: World) -> str:
    """Return to an older bundle: the newer one's sequence still counts."""
    world.install(world.pack(world.members(sequence=9)))
    store.roll_back(world.agent)
    return world.install(world.pack(world.members(sequence=5)))


def _other_line(world: World) -> str:
    return world.install(world.pack(world.members(change=lambda m: m.update(id="other"))))


def _frozen(world: World) -> str:
    """Start with a bundle that has expired, whoever held back the next one."""
    store.load_current(world.agent, now=_2037)
    return "it serves"


def _started_in_1970(world: World) -> str:
    store.load_current(world.agent, now=_1970)
    return "it serves"


def _set_back(expires: str) -> Callable[[World], str]:
    """Take a command, then another one with a clock that is not set."""

    def drive(world: World) -> str:
        world.command(world.sign())
        late = world.sign(sequence=2, id="c-2", issued="2026-05-31T00:00:00Z", expires=expires)
        return world.command(late, now_s=10.0)

    return drive


def _jumped(world: World) -> str:
    """Let the clock jump ahead, be refused, and be set again: nothing was remembered."""
    ahead = world.command(world.sign(), now_s=NOW_S + 10**8)
    again = world.command(world.sign())
    return f"{ahead}; then {again}"


def _never_set(world: World) -> str:
    return world.command(world.sign(), now_s=10.0)


def _events(world: World) -> str:
    """Put an event in 1970, then let the clock jump to today: it must not be dropped as old."""
    with Outbox(world.agent, max_events=10, max_bytes=2**20, ttl_s=3600.0) as box:
        box.put("alert", lambda name: name.encode(), now_s=10.0)
        kept = len(box.peek(10))
    return f"{kept} event is kept"


CASES = (
    trust(
        "the same sequence again",
        "same sequence",
        _sequence(1),
        "sequence 1 of 'line' has been installed already",
    ),
    Case(
        "a sequence that was rewound",
        "older sequence",
        _rewound,
        "sequence 5 is older than 9",
        "TrustError",
    ),
    trust(
        "a bundle that was rolled back",
        "same sequence",
        _rolled_back,
        "sequence 2 of 'line' has been installed already",
    ),
    trust(
        "a record of sequences that was removed",
        "same sequence",
        _forgotten,
        "sequence 1 of 'line' has been installed already",
    ),
    trust(
        "a bundle of another line",
        "line of a bundle",
        _other_line,
        "is for 'other', this device follows 'line'",
    ),
    trust(
        "a bundle that has expired",
        "expiry of a bundle",
        _at(_2037),
        "the bundle expired on 2036-01-01",
    ),
    trust(
        "a bundle that expires this second",
        "expiry of a bundle",
        _at("2026-06-01T00:00:00Z", expires="2026-06-01T00:00:00Z"),
        "the bundle expired on",
    ),
    trust(
        "a freeze: what serves has expired",
        "expiry of what serves",
        _frozen,
        "the bundle expired on 2036-01-01",
    ),
    trust(
        "a bundle from the future",
        "beginning of a bundle",
        _at(NOW, created="2026-06-03T00:00:00Z"),
        "was created on 2026-06-03.*but it is",
    ),
    trust(
        "a bundle for a clock in 1970",
        "beginning of a bundle",
        _at(_1970),
        "set the device's clock",
    ),
    trust("a clock that is none", "dates", _at("yesterday"), "'yesterday' is not a UTC time"),
    Case("a start in 1970", "", _started_in_1970, "it serves"),
    Case(
        "a command that had expired, and a clock set back",
        "moment that is vouched for",
        _set_back("2026-06-01T00:00:30Z"),
        "status refused expired",
    ),
    Case(
        "a command that has not expired, and a clock set back",
        "",
        _set_back("2026-06-02T00:00:00Z"),
        "status accepted",
    ),
    Case(
        "a clock that jumps ahead and back",
        "expiry of a command",
        _jumped,
        "refused expired.*then status accepted",
    ),
    Case(
        "a clock that was never set",
        "beginning of a command",
        _never_set,
        "status refused not-yet-valid: .*set the clock",
    ),
    Case("an event of 1970", "", _events, "1 event is kept"),
)
