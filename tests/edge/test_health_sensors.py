"""The device's sensors in made-up sysfs trees, and on whatever machine runs the tests."""

import resource

import msgspec
import pytest

from deepfusion_edge.health import sensors
from deepfusion_edge.health.sensors import read_device
from deepfusion_edge.report.device import Clock, Device, Zone, hints

ORIN = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48625\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "104500\n",
    "sys/class/thermal/thermal_zone0/trip_point_1_type": "passive\n",
    "sys/class/thermal/thermal_zone0/trip_point_1_temp": "99000\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    "sys/class/thermal/thermal_zone10/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone10/temp": "50125\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
    "sys/class/devfreq/17000000.gpu/device/load": "870\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "2\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "1\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1510400\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1510400\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1510400\n",
    "proc/loadavg": "4.80 3.00 1.00 3/400 1234\n",
    "proc/stat": "cpu  1 2 3\n" + "".join(f"cpu{n} 1 2 3\n" for n in range(6)) + "intr 5\n",
    "proc/self/status": "Name:\tpython\nVmRSS:\t  204800 kB\n",
    "proc/meminfo": "MemTotal:  8000000 kB\nMemAvailable:  4000000 kB\nHugePages_Total:  0\n",
    "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n",
}


@pytest.fixture
def device(tmp_path):
    """Write a tree: the Orin's, with some files changed (None: missing)."""

    def make(changes=None, base=ORIN):
        for name, content in {**base, **(changes or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_device(tmp_path)

    return make


def test_everything_that_an_orin_shows(device):
    assert device() == Device(
        zones=(Zone("cpu-thermal", 48.625, 99.0), Zone("tj-thermal", 50.125)),
        clocks=(
            Clock("cpu0", 1510.4, 1510.4, 0.8),
            Clock("cpu4", 729.6, 1510.4, 0.8),
            Clock("17000000.gpu", 612.0, 624.75, 0.87),
        ),
        power_mode="7W",
        cooling=(),
        over_current=3,
        rss_bytes=204_800 * 1024,
        available_bytes=4_000_000 * 1024,
        total_bytes=8_000_000 * 1024,
        throttled=("cpu4 runs at 730 of 1510 MHz while busy",),
    )


def test_nothing_there_is_no_error(tmp_path):
    assert read_device(tmp_path) == Device()
    assert read_device(tmp_path / "not" / "there") == Device()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\0", b"-", b"9" * 400, b"NaN\n"])
def test_each_file_may_be_missing_or_nonsense(device, content):
    device()
    for name, before in ORIN.items():
        found = device({name: content}, base={})
        assert msgspec.json.decode(msgspec.json.encode(found), type=Device) == found
        device({name: before}, base={})


def test_a_folder_in_place_of_a_file_is_no_error(tmp_path):
    for name in ORIN:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    found = read_device(tmp_path)
    assert (found.zones, found.clocks, found.power_mode) == ((), (), None)


def test_heat_is_told_from_the_kernels_own_signs(device):
    hot = device({"sys/class/thermal/thermal_zone0/temp": "96500"})
    assert hot.throttled[0] == "cpu-thermal is at 96 of 99 degrees Celsius, where clocks fall"
    held = device({"sys/class/thermal/cooling_device1/cur_state": "2"})
    assert held.cooling == ("cpufreq-cpu0",)
    assert held.throttled[0] == "the kernel slows cpufreq-cpu0 down because of heat"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Zone("a", 95.9, 99.0), 0),
        (Zone("a", 96.1, 99.0), 1),
        (Zone("a", 150.0, None), 0),
        (Clock("a", 700.0, 1000.0, 0.9), 1),
        (Clock("a", 801.0, 1000.0, 0.9), 0),
        (Clock("a", 100.0, 1000.0, 0.4), 0),
        (Clock("a", 100.0, 1000.0, None), 0),
        (Clock("a", 100.0, None, 1.0), 0),
    ],
)
def test_the_limits_of_a_hint(found, said):
    zones = (found,) if isinstance(found, Zone) else ()
    clocks = (found,) if isinstance(found, Clock) else ()
    assert len(hints(Device(zones=zones, clocks=clocks))) == said


def test_a_power_mode_without_a_list_is_its_number(device):
    assert device({"etc/nvpmodel.conf": None}).power_mode == "1"
    assert device({"var/lib/nvpmodel/status": "pmode:0007"}).power_mode == "7"


def test_an_endless_list_is_cut(device):
    many = {f"sys/class/thermal/thermal_zone{n}/temp": "1000" for n in range(200)}
    assert len(device(many, base={}).zones) == sensors._MAX_ENTRIES


def test_this_machines_own_memory():
    found = read_device()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 0.2 * peak < found.rss_bytes <= 1.05 * peak
    assert 0 < found.available_bytes < found.total_bytes
