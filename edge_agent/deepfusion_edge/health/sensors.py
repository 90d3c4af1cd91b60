"""Read the device's own sensors from sysfs and procfs; what is not there is left out.

Nothing here needs root, a library or a command. Sources: the kernel's sysfs ABI for thermal,
cpufreq and devfreq; for nvpmodel the two files that its own tool writes and reads.
"""

import re
from pathlib import Path

from msgspec.structs import replace

from deepfusion_edge.console import one_line
from deepfusion_edge.report.device import Clock, Device, Zone, hints

_MAX_BYTES = 65_536
_MAX_ENTRIES = 64
_COLDEST, _HOTTEST = -55_000, 200_000
"""Millidegrees that can be true; a zone without power shows -256 degrees on Jetson, or an error."""

_SLOWING = re.compile(r"(thermal-)?(cpufreq|devfreq)-|Processor$")
"""Cooling devices that cool by lowering clocks; a fan is another kind."""

_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")


def read_device(root: Path = Path("/")) -> Device:
    """Read everything once, in a few milliseconds.

    Args:
        root: where ``sys``, ``proc``, ``etc`` and ``var`` are.
    """
    memory = _pairs(root / "proc/meminfo")
    found = Device(
        zones=tuple(_zones(root / "sys/class/thermal")),
        clocks=(*_cpus(root), *_devices(root / "sys/class/devfreq")),
        power_mode=_power_mode(root),
        cooling=tuple(_cooling(root / "sys/class/thermal")),
        over_current=_over_current(root / "sys/class/hwmon"),
        rss_bytes=_pairs(root / "proc/self/status").get("VmRSS"),
        available_bytes=memory.get("MemAvailable"),
        total_bytes=memory.get("MemTotal"),
    )
    return replace(found, throttled=hints(found))


def _zones(folder: Path) -> list[Zone]:
    found: list[Zone] = []
    for zone in _folders(folder, "thermal_zone"):
        millis = _number(zone / "temp")
        if millis is None or not _COLDEST <= millis <= _HOTTEST:
            continue
        name = _text(zone / "type") or zone.name
        if name in {other.name for other in found}:  # a board may have several of one type
            name = f"{name}-{zone.name.removeprefix('thermal_zone')}"
        found.append(Zone(name, millis / 1000, _passive_trip(zone)))
    return found


def _passive_trip(zone: Path) -> float | None:
    trips = []
    for kind in _folders(zone, "trip_point_", suffix="_type"):
        if _text(kind) == "passive":
            millis = _number(kind.with_name(kind.name.replace("_type", "_temp")))
            trips += [millis / 1000] if millis is not None and millis > 0 else []
    return min(trips, default=None)


def _cooling(folder: Path) -> list[str]:
    found = []
    for device in _folders(folder, "cooling_device"):
        kind = _text(device / "type") or ""
        if _SLOWING.match(kind) and (_number(device / "cur_state") or 0) > 0:
            found.append(kind)
    return sorted(set(found))


def _cpus(root: Path) -> list[Clock]:
    policies = _folders(root / "sys/devices/system/cpu/cpufreq", "policy")
    busy = _load(root) if policies else None
    found = []
    for policy in policies:
        khz, most = _number(policy / "scaling_cur_freq"), _number(policy / "scaling_max_freq")
        if khz is not None:
            name = "cpu" + policy.name.removeprefix("policy")
            found.append(Clock(name, khz / 1e3, most / 1e3 if most else None, busy))
    return found


def _load(root: Path) -> float | None:
    """Return the share of all cores that was wanted in the last minute, at most 1."""
    words = (_text(root / "proc/loadavg") or "").split()
    cores = len(re.findall(r"^cpu\d", _text(root / "proc/stat") or "", re.MULTILINE))
    try:
        return min(1.0, round(float(words[0]) / cores, 3))
    except (IndexError, ValueError, ZeroDivisionError):
        return None


def _devices(folder: Path) -> list[Clock]:
    found = []
    for device in _folders(folder, ""):
        hertz, most = _number(device / "cur_freq"), _number(device / "max_freq")
        if hertz is not None:
            load = _number(device / "device/load")  # per mille, where the driver has it
            busy = None if load is None else min(1.0, max(0.0, load / 1000))
            found.append(Clock(device.name, hertz / 1e6, most / 1e6 if most else None, busy))
    return found


def _power_mode(root: Path) -> str | None:
    """Look up the number that nvpmodel remembers in the list that it chose from."""
    status = re.match(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    names = {int(n): name for n, name in _MODE.findall(_text(root / "etc/nvpmodel.conf") or "")}
    return one_line(names.get(number, str(number)))


def _over_current(folder: Path) -> int | None:
    counts = [
        _number(count)
        for monitor in _folders(folder, "hwmon")
        for count in _folders(monitor, "oc", suffix="_event_cnt")
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _folders(parent: Path, prefix: str, suffix: str = "") -> list[Path]:
    """List entries in the order of their names' numbers; none if there is no such folder."""
    try:
        found = [p for p in parent.iterdir() if p.name.startswith(prefix) and p.match(f"*{suffix}")]
    except OSError:
        return []
    return sorted(found, key=lambda path: _numbers(path.name))[:_MAX_ENTRIES]


def _numbers(name: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", name)]


def _text(path: Path) -> str | None:
    """Read a small file; None if it is missing or the driver refuses, as some do for a while."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and re.fullmatch(r"-?\d{1,18}", text) else None


def _pairs(path: Path) -> dict[str, int]:
    """Read lines such as ``VmRSS:   1234 kB`` as bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", _text(path) or "", re.MULTILINE)
    return {name: 1024 * int(number) for name, number in found}
