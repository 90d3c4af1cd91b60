"""What the documents promise is there: commands parse, links and make targets exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from deepfusion_edge.errors import UsageError

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
PARSERS = {
    "deepfusion": "deepfusion_toolkit.cli",
    "deepfusion-export": "deepfusion_export.cli",
    "deepfusion-agent": "deepfusion_edge.cli",
    "python -m benchmarks": "benchmarks.cli",
}
OTHER_TOOLS = {"git", "pip", "cd", "mosquitto", "mosquitto_sub"}


def commands(text: str) -> list[str]:
    """Lines of fenced sh blocks: comments dropped, continued lines joined."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        joined = block.replace("\\\n", " ")
        found += [" ".join(line.split()) for line in joined.splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def check(command: str) -> None:
    """Parse a command with the program's own parser; complain about what it would refuse."""
    for prefix, module in PARSERS.items():
        if command.startswith(f"{prefix} "):
            words = shlex.split(command.removeprefix(prefix), comments=True)
            try:
                importlib.import_module(module).build_parser().parse_args(words)
            except (SystemExit, UsageError) as refused:
                raise AssertionError(f"does not parse: {command}") from refused
            return
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(words[1:]) <= set(targets), command
    else:
        assert words[0] in OTHER_TOOLS, f"unknown program: {command}"


def missing_links(document: Path, text: str) -> list[str]:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [link for link in links if "://" not in link]
    return [link for link in local if not (document.parent / link).exists()]


@pytest.mark.parametrize("command", commands(README.read_text()))
def test_every_command_of_the_readme_parses(command):
    check(command)


def test_the_readme_shows_the_journey():
    text = "\n".join(commands(README.read_text()))
    for verb in ("make demo", "make test", "data render", "craft", "evaluate", "harden"):
        assert verb in text
    for verb in ("keygen", "bundle", "install", "verify", "run", "latency"):
        assert verb in text


@pytest.mark.parametrize(
    "command",
    [
        "make demos",
        "deepfusion craft --no-such-option",
        "deepfusion-export sign",
        "deepfusion-agent instal x",
        "python -m benchmarks speed",
        "wget x",
    ],
)
def test_a_wrong_command_is_seen(command):
    with pytest.raises(AssertionError):
        check(command)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_exist(document):
    assert missing_links(document, document.read_text()) == []


def test_a_dead_link_is_seen():
    assert missing_links(README, "[a](docs/none.md) [b](LICENSE)") == ["docs/none.md"]
