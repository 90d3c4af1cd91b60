"""The command line: keys and bundles, and one line with the right exit code for every mistake."""

import json
import stat

import pytest
import torch

from deepfusion_edge.bundle import store
from deepfusion_edge.bundle.envelope import key_id, load_private_key, load_public_key
from deepfusion_edge.errors import ParityError, StorageError
from deepfusion_export import sign
from deepfusion_export.cli import main
from deepfusion_toolkit.models import load, save


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "line.dfb"


def arguments(files, target, **changes):
    options = {"model": files.model, "plan": files.plan, "key": files.key, "out": target} | changes
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["bundle", *words]


def error_of(capsys, argv):
    """Run, and return exit code and the one error line."""
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert "Traceback" not in captured.err
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ")
    assert "; " in lines[-1]
    return code, lines[-1]


def test_keygen_makes_a_pair_that_belongs_together(tmp_path, capsys):
    assert main(["keygen", "--out", str(tmp_path / "line.v1"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    private, public = tmp_path / "line.v1.pem", tmp_path / "line.v1.pub"
    assert sorted(tmp_path.iterdir()) == [private, public]
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    key = load_private_key(private.read_bytes()).public_key()
    assert key_id(key) == key_id(load_public_key(public.read_bytes())) == result["key_id"]


@pytest.mark.parametrize("there", ["key.pem", "key.pub"])
def test_keygen_never_replaces_a_key(tmp_path, capsys, there):
    (tmp_path / there).write_text("precious")
    code, line = error_of(capsys, ["keygen", "--out", tmp_path / "key"])
    assert code == 2
    assert there in line
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_a_key_that_appears_meanwhile_is_not_replaced_either(tmp_path, monkeypatch, capsys):
    generate = sign.generate

    def slow():
        (tmp_path / "key.pub").write_text("precious")
        return generate()

    monkeypatch.setattr(sign, "generate", slow)
    code, _ = error_of(capsys, ["keygen", "--out", tmp_path / "key"])
    assert code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["key.pub"]
    assert (tmp_path / "key.pub").read_text() == "precious"


def test_keygen_into_a_missing_folder(tmp_path, capsys):
    code, _ = error_of(capsys, ["keygen", "--out", tmp_path / "none" / "key"])
    assert code == 8
    assert list(tmp_path.iterdir()) == []


def test_bundle_is_what_the_device_verifies(files, out, capsys):
    argv = arguments(files, out, id="belt-7", sequence=12, **{"valid-days": 30})
    assert main([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["id"], result["sequence"], result["members"]) == ("belt-7", 12, 4)
    assert result["bytes"] == out.stat().st_size
    assert result["parity"]["fused"] < 1e-5
    assert [line.split()[0] for line in captured.err.splitlines()] == [
        "loading", "exporting", "comparing", "signing", "checking",
    ]  # fmt: skip
    from datetime import UTC, datetime

    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    manifest = store.verify(out, [files.public], now=now, probe=False)
    assert manifest.sequence == 12
    assert list(out.parent.iterdir()) == [out]

    before = out.read_bytes()
    code, line = error_of(capsys, argv)
    assert (code, out.read_bytes()) == (2, before)
    assert "--force" in line


def test_refusals(files, out, tmp_path, capsys):
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("{")
    cases = [
        ({"key": tmp_path / "none.pem"}, 3, "none.pem"),
        ({"key": files.public}, 5, "public key was given"),
        ({"key": rubbish}, 5, "rubbish"),
        ({"plan": tmp_path / "none.json"}, 3, "none.json"),
        ({"plan": rubbish}, 3, "no erosion plan"),
        ({"model": tmp_path / "none.pt2"}, 4, "does not exist"),
        ({"model": "resnet"}, 2, "none of the known forms"),
        ({"id": "Belt 7"}, 2, "id"),
        ({"sequence": 0}, 2, "--sequence"),
        ({"valid-days": "soon"}, 2, "--valid-days"),
        ({"out": tmp_path}, 2, "is a folder"),
        ({"out": tmp_path / "none" / "line.dfb"}, 8, "cannot write"),
    ]
    for changes, wanted, text in cases:
        code, line = error_of(capsys, arguments(files, out, **changes))
        assert (code, text in line) == (wanted, True), line
        assert list(out.parent.iterdir()) == []


def test_a_plan_of_another_model(files, out, tmp_path, capsys):
    model = load(str(files.model))
    with torch.no_grad():
        next(model.core.parameters()).add_(1)
    save(model.core, model.size, tmp_path / "other.pt2")
    code, line = error_of(capsys, arguments(files, out, model=tmp_path / "other.pt2"))
    assert code == 4
    assert "other weights" in line
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("error", [ParityError, StorageError])
def test_failures_late_in_the_work_leave_nothing(files, out, capsys, monkeypatch, error):
    from deepfusion_export import bundle

    def fails(*_args, **_settings):
        raise error("it failed", "repair it")

    monkeypatch.setattr(bundle, "to_onnx", fails)
    assert error_of(capsys, arguments(files, out))[0] == error.exit_code
    assert list(out.parent.iterdir()) == []


def test_a_key_that_others_may_read_is_warned_of(files, out, tmp_path, capsys):
    key = tmp_path / "open.pem"
    key.write_bytes(files.key.read_bytes())
    key.chmod(0o644)
    code = main(arguments(files, out, key=key, model=tmp_path / "none.pt2"))
    assert code == 4
    assert f"warning: others may read {key}" in capsys.readouterr().err


def test_no_command_is_a_usage_error(capsys):
    assert error_of(capsys, [])[0] == 2
