"""What the device says of itself beside the latency: heat, clocks, power mode, memory. Pure.

A hot device lowers its clocks, and that looks like a slow model: whoever sees one must see both.
Everything is optional; what a device does not tell is None or missing.
"""

import msgspec

NEAR_TRIP_CELSIUS = 3.0
BUSY_SHARE = 0.5
SLOW_SHARE = 0.8


class Zone(msgspec.Struct, frozen=True):
    """One thermal zone.

    Attributes:
        name: as the kernel calls it, for example ``gpu-thermal``.
        celsius: its temperature.
        trip_celsius: from here on the kernel lowers clocks; None if it does not say.
    """

    name: str
    celsius: float
    trip_celsius: float | None = None


class Clock(msgspec.Struct, frozen=True):
    """One clock domain.

    Attributes:
        name: ``cpu0`` for the cores that begin with 0, or as the kernel calls the device.
        mhz: now.
        max_mhz: what power mode and governor allow.
        busy: share of time that it works, 0 to 1; None if the kernel does not say.
    """

    name: str
    mhz: float
    max_mhz: float | None = None
    busy: float | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of everything.

    Attributes:
        power_mode: of nvpmodel, for example ``MAXN`` or ``15W``.
        cooling: devices whose clocks the kernel holds down at this moment because of heat.
        over_current: how often the power supply made the device slower, since it was started.
        rss_bytes: memory of this process.
        available_bytes, total_bytes: memory of the device; what may still be had, and all.
        throttled: why the device is probably slower than it could be, one line each.
    """

    zones: tuple[Zone, ...] = ()
    clocks: tuple[Clock, ...] = ()
    power_mode: str | None = None
    cooling: tuple[str, ...] = ()
    over_current: int | None = None
    rss_bytes: int | None = None
    available_bytes: int | None = None
    total_bytes: int | None = None
    throttled: tuple[str, ...] = ()


def hints(device: Device) -> tuple[str, ...]:
    """Say why the device is probably slower than it could be; nothing if it is not."""
    found = [f"the kernel slows {name} down because of heat" for name in device.cooling]
    for zone in device.zones:
        if zone.trip_celsius is not None and zone.celsius > zone.trip_celsius - NEAR_TRIP_CELSIUS:
            near = f"{zone.celsius:.0f} of {zone.trip_celsius:.0f} degrees Celsius"
            found.append(f"{zone.name} is at {near}, where clocks fall")
    for clock in device.clocks:
        if clock.max_mhz is None or clock.busy is None or clock.busy < BUSY_SHARE:
            continue
        if clock.mhz < SLOW_SHARE * clock.max_mhz:
            found.append(
                f"{clock.name} runs at {clock.mhz:.0f} of {clock.max_mhz:.0f} MHz while busy"
            )
    return tuple(found)
