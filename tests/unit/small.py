"""A small policy for a program that does not exist, to try one rule at a time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sidespawn.core import decide as core
from sidespawn.core.policy import Policy
from sidespawn.core.wire import StartRequest
from sidespawn.errors import Denied, PolicyError
from sidespawn.loading.parse import parse_policy

PROGRAM = """\
program = "tool"
version = "1.0"

[nothing]
quiet = "q"
loud = ""
x = ""

[word]
go = ""
stop = ""

[value]
name = "n"
file = ""
data = ""
script = "s"

[optional]
log = "l"

[danger]
script = "runs a program"
"""

POLICY = """\
version = 1
description = "a tool"
program = "tool"

[agent]
state = "/state"
state_on_host = "/host/state"
wrapper = "/usr/sbin/tool"

[names]
net = "<uuid>"
home = "/state/{net}"

[request]
netns = "ns-{net}"
instance = "{net}"
signals = ["HUP", "TERM"]

[environment]
TAG = "tool-{net}"

[options]
quiet = true
name = { value = "<tag>", most = 2 }
data = { value = "{home}/data", required = true }
log = { value = "<tag>", bare = true }
file = { value = "/dev/null", configuration = "extra" }

[configuration.extra]
path = "/state/<name>"
format = "lines"

[configuration.extra.directives]
cache-size = "<integer 0..100>"
log-queries = true
owner = ["{net}", "nobody"]

[arguments]
always = ["--loud"]
unless_given = ["--log=default"]

[side_container]
engine = "podman"
image = "localhost/tool:1"
command = "/usr/sbin/tool"
uid = 1000
gid = 1000
capabilities = ["NET_RAW", "NET_ADMIN"]
mounts = ["{home}"]
scratch = ["/run/tool"]
pid_file = "{home}/pid"
memory = "64M"
tasks = 8

[side_container.ready]
alive = 100
"""

NET = "0065347c-3513-59a1-aef3-65d693fe6e19"
OTHER = "444f7f02-b4f4-54cf-8bd1-8080e7d4f893"
ID = "0" * 32


def changed(*changes: tuple[str, str], text: str = POLICY) -> str:
    """Return the policy's text with each `old` replaced by its `new`. Each `old` must occur exactly once."""
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the text"
        text = text.replace(old, new)
    return text


def no_preset(name: str) -> str:
    raise PolicyError(f"there is no preset named {name}")


def load(*changes: tuple[str, str], program: str = PROGRAM) -> Policy:
    return parse(changed(*changes), program=program)


def parse(text: str, program: str = PROGRAM, **preset_texts: str) -> Policy:
    read_preset = preset_texts.__getitem__ if preset_texts else no_preset
    return parse_policy("small", "small.toml", text, read_preset, lambda name: program)


def line_of(text: str, fragment: str) -> int:
    """Return the number of the only line of `text` that holds the fragment."""
    numbers = [number for number, line in enumerate(text.split("\n"), 1) if fragment in line]
    assert len(numbers) == 1, f"{fragment!r} stands in the lines {numbers}"
    return numbers[0]


def start_request(argv: tuple[str, ...], netns: str | None, environment: Mapping[str, str]) -> StartRequest:
    """Return a request as the parser makes it. Its id and deadline do not influence a verdict."""
    return StartRequest(
        id=ID,
        deadline=0,
        untrusted_argv=argv,
        untrusted_netns=netns,
        untrusted_environment=tuple(environment.items()),
    )


def request(*arguments: str, netns: str | None = f"ns-{NET}", **environment: str) -> StartRequest:
    """Return a request for the tool, with the option that the policy requires unless `arguments` name it."""
    required = () if any("--data" in each for each in arguments) else (f"--data=/state/{NET}/data",)
    return start_request(("tool", *required, *arguments), netns, dict(sorted(environment.items())))


def decide(policy: Policy, untrusted_request: StartRequest, files: Mapping[str, bytes] | None = None) -> core.Allowed:
    """Return the verdict. Of the agent's state only `files`, by path relative to it, can be read."""
    return core.decide(policy, untrusted_request, (files or {}).get)


def denial(policy: Policy, untrusted_request: StartRequest, files: Mapping[str, bytes] | None = None) -> Denied:
    """Return the reason for the refusal."""
    with pytest.raises(Denied) as caught:
        decide(policy, untrusted_request, files)
    return caught.value
