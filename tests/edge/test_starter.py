"""``deepfusion-agent init``: what it writes runs, shows every key, and systemd takes it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from PIL import Image

from deepfusion_edge import cli, starter
from deepfusion_edge.bundle.store import install
from deepfusion_edge.config import AgentConfig, Http, parse_config
from deepfusion_edge.config_source import CameraSource, FolderSource, MqttSource, VideoSource
from deepfusion_edge.errors import StorageError, UsageError
from deepfusion_edge.starter import CONFIG, SHARED, UNIT, configuration, unit, write_start

NOW = "2026-06-01T00:00:00Z"
PR_SET_MDWE = 65


def parse(text, folder=Path("/srv/line")):
    return parse_config(text.encode(), folder, form="toml")


def uncommented(text):
    """Take the '#' away from every default; keys without one stay out."""
    lines = [line.removeprefix("#") for line in text.split("\n") if not line.startswith("# ")]
    return [line for line in lines if not line.endswith(starter.UNSET)]


def test_what_is_written_runs_as_it_is():
    config = parse(configuration("line-3"))
    assert config.sources == (FolderSource(name="camera1", path="/srv/line/frames", mode="watch"),)
    assert (config.state_dir, config.http) == ("/srv/line/state", Http())
    assert config.mqtt.client_id == "line-3"
    blank = parse('state_dir = "a"\n[[sources]]\nkind = "folder"\nname = "b"\npath = "c"\n')
    for section in ("model", "outbox", "run"):
        assert getattr(config, section) == getattr(blank, section)


def test_every_default_that_is_shown_is_the_default():
    shown = tomllib.loads("\n".join(uncommented(configuration())))
    kinds = {entry.pop("kind"): entry for entry in shown.pop("sources")}
    given = {
        "folder": (FolderSource, {"name", "path", "mode"}),
        "video": (VideoSource, set()),
        "camera": (CameraSource, set()),
        "mqtt": (MqttSource, set()),
    }
    assert set(kinds) == set(given)
    for kind, (struct, chosen) in given.items():
        check_section(struct, kinds[kind], skip=chosen)
    check_section(AgentConfig, shown, skip={"state_dir", "sources"})


def check_section(struct, shown, *, skip=frozenset()):
    for field in msgspec.structs.fields(struct):
        inner = starter._structs(field.type)
        if starter._is_list(field.type) and inner:
            for entry in shown.get(field.name, []):
                check_section(inner[0], entry)
            continue
        if field.name in skip or (
            field.default is msgspec.NODEFAULT and (field.default_factory is msgspec.NODEFAULT)
        ):
            continue
        if len(inner) == 1:
            check_section(inner[0], shown[field.name])
        elif field.default is not None:
            default = field.default
            if default is msgspec.NODEFAULT:
                default = field.default_factory()
            default = list(default) if isinstance(default, tuple) else default
            assert shown[field.name] == default, (struct.__name__, field.name)


class Key(msgspec.Struct, frozen=True):
    """A key.

    Attributes:
        file, other: where
            it ``is``; see :data:`Nothing`.
    """

    file: str
    other: int = 3


class Desk(msgspec.Struct, frozen=True):
    """Who may ask."""

    keys: tuple[Key, ...] = ()
    most: Literal["a", "b"] | None = None


class Whole(msgspec.Struct):
    desk: Desk = Desk()


def test_lists_of_sections_are_shown_but_not_there():
    lines = list(starter._fields(Whole, (), values={}))
    assert lines == [
        "",
        "# Who may ask.",
        "[desk]",
        '# One of: "a", "b".',
        "#most = (not set)",
        "",
        "# A key.",
        "#[[desk.keys]]",
        "# file, other: where it is; see Nothing.",
        "#file = (not set)",
        "#other = 3",
    ]
    assert msgspec.toml.decode("\n".join(lines), type=Whole) == Whole()


def fields_below(struct):
    for field in msgspec.structs.fields(struct):
        inner = starter._structs(field.type)
        yield from [field.name] if not inner else []
        for found in inner:
            yield from fields_below(found)


def test_every_key_is_there():
    keys = re.findall(r"^#?(\w+) = ", configuration(), flags=re.MULTILINE)
    assert sorted(set(keys) - {"kind"}) == sorted(set(fields_below(AgentConfig)))


def test_comments_come_from_the_docstrings():
    text = configuration()
    assert "# how often a watched folder is listed.\n#poll_interval_s = 1.0" in text
    assert '#runtime = "ort"' in text
    assert 'One of: "ort", "trt", "auto".' in text
    assert not re.search(r"``|:\w+:`", text)
    assert max(map(len, text.split("\n"))) <= 100


def test_json_still_works_and_a_broken_toml_is_one_line(tmp_path, capsys):
    sources = [{"kind": "folder", "name": "b", "path": "c"}]
    (tmp_path / "a.json").write_text(json.dumps({"state_dir": "s", "sources": sources}))
    (tmp_path / "a.toml").write_text(configuration())
    (tmp_path / "b.toml").write_text("state_dir = 1\n[[sources]\n")
    (tmp_path / "c.toml").write_text(configuration() + "\n[nonsense]\n")
    assert cli.read_config(tmp_path / "a.json").state_dir == str(tmp_path / "s")
    assert cli.read_config(tmp_path / "a.toml").state_dir == str(tmp_path / "state")
    for name, words in (("b.toml", "configuration: "), ("c.toml", "nonsense")):
        assert cli.main(["run", "--config", str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    (tmp_path / "d.toml").write_bytes(b"a = " + b"[" * 100_000)
    assert cli.main(["run", "--config", str(tmp_path / "d.toml")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_init_writes_everything_and_overwrites_nothing(tmp_path, capsys):
    folder = tmp_path / "plant 1" / "line-3"
    assert cli.main(["init", str(folder), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == [str(folder / name) for name in (CONFIG, UNIT, *SHARED)]
    assert (folder / "state").stat().st_mode & 0o777 == 0o700
    assert (folder / "frames").is_dir()
    assert 'client_id = "line-3"' in (folder / CONFIG).read_text()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert cli.main(["init", str(folder)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", [CONFIG, UNIT, *SHARED])
def test_one_file_that_is_there_and_nothing_is_written(tmp_path, name):
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(UsageError, match="is there already"):
        write_start(tmp_path, user="line")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("user", ["", "a b", "root\nExecStart=x", "%n", "A", "-a"])
def test_a_user_that_is_none(tmp_path, user):
    with pytest.raises(UsageError, match="no user name"):
        write_start(tmp_path, user=user)


def test_a_folder_that_would_forge_a_line(tmp_path):
    with pytest.raises(UsageError, match="control character"):
        write_start(tmp_path / "a\nExecStart=b", user="line")


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_start(tmp_path / "file" / "line", user="line")


def test_the_line_starts_from_what_init_wrote(tmp_path, make_bundle, keys, broker):
    write_start(tmp_path, user="line")
    install(make_bundle(tmp_path / "l.dfb"), tmp_path / "state", [keys.public], now=NOW)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "frames" / "a.png")
    text = (tmp_path / CONFIG).read_text()
    for old, new in (
        ('mode = "watch"', 'mode = "replay"'),
        ("#port = 1883", f"port = {broker.port}"),
        ("#port = 9464", "port = 0"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / CONFIG).write_text(text)
    done = run_refusing_executable_memory("run", "--config", tmp_path / CONFIG, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["accepted"], summary["kept"]) == (1, 1, 0)


def run_refusing_executable_memory(*words):
    """Run the agent as ``MemoryDenyWriteExecute=yes`` has it, where this kernel can (6.3)."""
    program = (
        "import ctypes, os, sys;"
        f"ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0);"
        "os.execv(sys.executable, [sys.executable, '-m', 'deepfusion_edge.cli', *sys.argv[1:]])"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_kernel_really_refuses_executable_memory_there():
    ask = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)"
    program = (
        f"import ctypes, sys; done = ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0)\n"
        f"if done: sys.exit(77)\n{ask}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE: the run above had executable memory")
    assert b"PermissionError" in done.stderr


def test_a_unit_quotes_what_systemd_would_read_otherwise():
    text = unit(Path('/srv/50% "x" line'), user="line")
    assert r'ReadWritePaths="/srv/50%% \"x\" line/state"' in text
    assert "@" not in re.sub(r"@system-service|@privileged|@resources", "", text)


@pytest.fixture
def systemd_analyze():
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on this machine")

    def ask(*words):
        return subprocess.run(
            [program, "--no-pager", *map(str, words)], capture_output=True, text=True, check=False
        )

    return ask


@pytest.mark.parametrize("name", ["line", "a line", "50%"])
def test_systemd_takes_the_unit(tmp_path, systemd_analyze, name):
    write_start(tmp_path / name, user="daemon")
    done = systemd_analyze("verify", tmp_path / name / UNIT)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    text = (tmp_path / name / UNIT).read_text()
    (tmp_path / UNIT).write_text(text.replace("ProtectSystem=strict", "ProtectSystm=strict"))
    assert "ProtectSystm" in systemd_analyze("verify", tmp_path / UNIT).stderr


def test_the_unit_is_hardened(tmp_path, systemd_analyze):
    write_start(tmp_path, user="daemon")
    done = systemd_analyze("security", "--offline=true", "--threshold=25", tmp_path / UNIT)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze is too old for --offline")
    assert done.returncode == 0, done.stdout[-300:]
    text = (tmp_path / UNIT).read_text()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "WatchdogSec=120", "Type=notify"):
        assert f"\n{line}\n" in text
