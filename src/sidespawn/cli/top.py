"""`sidespawn top`: services, requests, limits and side containers, live.

It reads the service's files in /run, and /proc. It asks no engine, so a hanging engine does not stop it.
"""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import click
from rich.table import Table
from rich.text import Text

from sidespawn.cli.output import (
    NONE_ENABLED,
    complete_service,
    console,
    json_option,
    print_json,
    require_enabled,
    to_places,
)
from sidespawn.core.wire import Status
from sidespawn.host.ledger import Ledger
from sidespawn.service_report.figures import Figures, answers_of, gather, state_of
from sidespawn.system.places import RUN, Places
from sidespawn.system.processes import status_of

FORMAT = 1  # of the JSON
ALTERNATE, HOME, CLEAR_LINE, CLEAR_BELOW, NORMAL = (
    "\x1b[?1049h\x1b[?25l",
    "\x1b[H",
    "\x1b[K",
    "\x1b[J",
    "\x1b[?25h\x1b[?1049l",
)
WELL = {"serving", "running"}


@dataclass(frozen=True, kw_only=True)
class Service:
    service: str
    state: str  # serving, inactive or policy-invalid
    mode: str | None  # None if the policy is invalid, as are the limits
    side_containers: int
    most_side_containers: int | None
    rate: float | None  # requests answered a second since the last frame; None in the first
    answered: dict[str, int]  # by verdict, since the service was enabled or the host started
    queued: int  # bytes in the spool
    unanswered: int  # claims
    oldest: float  # seconds that the oldest of them has waited
    burst_left: int | None
    backing_off: int  # instances


@dataclass(frozen=True, kw_only=True)
class SideContainer:
    service: str
    name: str
    state: str
    pid: int
    age: float  # seconds
    memory: int | None  # bytes, resident, of its first process
    netns: str


@dataclass(frozen=True, kw_only=True)
class Frame:
    time: float
    services: list[Service]
    side_containers: list[SideContainer]


@click.command()
@click.argument("places", metavar="[SERVICE]", required=False, callback=to_places, shell_complete=complete_service)
@click.option("--once", is_flag=True, help="Print one frame and exit.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two frames.",
)
@json_option
def top(places: Places | None, once: bool, interval: float, as_json: bool) -> None:
    """Show services, requests, limits and side containers, live.

    On a terminal the screen is redrawn; q or Ctrl-C ends it. In a pipe, frames are printed one after the other. With
    --json each frame is one line of JSON; with --once the only frame is an indented object. Side containers with the
    most memory come first.
    """
    if places is not None:
        require_enabled(places)
    if RUN.is_dir():
        next(RUN.iterdir(), None)  # without permission this fails, instead of reporting nothing
    frames = look(None if places is None else places.service)
    if once or as_json:
        for frame in frames:
            if as_json:
                found = {"version": FORMAT, **asdict(frame)}
                print_json(found) if once else click.echo(json.dumps(found))
            else:
                click.echo("\n".join(drawn(frame)))
            if once:
                return
            time.sleep(interval)
    if not sys.stdout.isatty():
        for frame in frames:
            click.echo("\n".join(drawn(frame)) + "\n")
            time.sleep(interval)
    with screen():
        for frame in frames:
            height = os.get_terminal_size().lines
            lines = fitting(drawn(frame), height)
            sys.stdout.write(HOME + "\n".join(f"{line}{CLEAR_LINE}" for line in lines) + CLEAR_BELOW)
            sys.stdout.flush()
            if wants_to_quit(interval):
                return


def look(only: str | None) -> Iterator[Frame]:
    """Yield a frame whenever one is requested."""
    before: Frame | None = None
    while True:
        before = frame(gather(), only, time.time(), before)
        yield before


def frame(found: Iterable[Figures], only: str | None, now: float, before: Frame | None) -> Frame:
    chosen = [each for each in found if only in (None, each.service)]
    earlier = {each.service: each for each in before.services} if before else {}
    passed = now - before.time if before else 0.0
    rows = [row for each in chosen for row in side_containers(Places(each.service), now)]
    return Frame(
        time=now,
        services=[service_of(each, earlier.get(each.service), passed) for each in chosen],
        side_containers=sorted(rows, key=lambda each: (-(each.memory or 0), each.name)),
    )


def service_of(each: Figures, earlier: Service | None, passed: float) -> Service:
    answered = dict.fromkeys(map(str, Status), 0)
    for (verdict, _), count in answers_of(each).items():
        answered[verdict] += int(count)
    more = sum(answered.values()) - sum(earlier.answered.values()) if earlier else 0
    limits = each.limits
    return Service(
        service=each.service,
        state="policy-invalid" if each.policy is None else "serving" if each.is_active else "inactive",
        mode=each.policy.mode if each.policy else None,
        side_containers=sum(count for state, count in each.side_containers.items() if state != "exited"),
        most_side_containers=limits.allowed["instances"] if limits else None,
        rate=round(max(0, more) / passed, 1) if earlier and passed > 0 else None,
        answered=answered,
        queued=limits.waiting if limits else 0,
        unanswered=each.unanswered,
        oldest=round(each.oldest, 1),
        burst_left=limits.allowed["burst"] - limits.used["burst"] if limits else None,
        backing_off=limits.backing_off if limits else 0,
    )


def side_containers(places: Places, now: float) -> Iterator[SideContainer]:
    for record in Ledger(places.ledger).records() if places.ledger.is_dir() else ():
        state = state_of(record)
        yield SideContainer(
            service=places.service,
            name=record.name,
            state=state,
            pid=record.pid,
            age=round(max(0.0, now - record.since), 1),
            memory=None if state == "exited" else memory(record.pid),
            netns=record.netns,
        )


def memory(pid: int) -> int | None:
    with suppress(OSError, IndexError):  # a process that has just ended has no memory
        return int(status_of(pid, b"VmRSS:")[0]) * 1024
    return None


# ---------------------------------------------------------------- on the screen


def drawn(frame: Frame) -> list[str]:
    """Return the lines of a frame, in colour on a terminal."""
    if not frame.services:
        return [NONE_ENABLED]
    out = console()
    with out.capture() as captured:
        out.print(of_services(frame.services))
        out.print()
        out.print(of_side_containers(frame.side_containers) if frame.side_containers else "no side containers")
    return [line.rstrip() for line in captured.get().rstrip("\n").splitlines()]


def of_services(services: Iterable[Service]) -> Table:
    table = empty_table(
        "service", "state", "side containers", "req/s", "ok", "refused", "failed", "expired", "queued", "limits"
    )
    for each in services:
        state = each.state if each.mode != "monitor" else f"{each.state}, monitor"
        counts = each.answered
        most = "" if each.most_side_containers is None else f" of {each.most_side_containers}"
        table.add_row(
            each.service,
            coloured(state, is_well=each.state in WELL),
            f"{each.side_containers}{most}",
            "" if each.rate is None else f"{each.rate:g}",
            str(counts[Status.RUNNING] + counts[Status.DONE]),
            coloured(str(counts[Status.REJECTED]), is_well=not counts[Status.REJECTED]),
            coloured(str(counts[Status.FAILED]), is_well=not counts[Status.FAILED]),
            coloured(str(counts[Status.EXPIRED]), is_well=not counts[Status.EXPIRED]),
            queue(each),
            "; ".join(reached(each)) or ("" if each.most_side_containers is None else "within"),
        )
    return table


def queue(each: Service) -> str:
    waits = f"{each.unanswered} claims for {each.oldest:.0f} s" if each.unanswered else ""
    return ", ".join(filter(None, (size(each.queued) if each.queued else "", waits))) or "none"


def reached(each: Service) -> list[str]:
    found = []
    if each.most_side_containers is not None and each.side_containers >= each.most_side_containers:
        found.append("instance limit reached")
    if each.burst_left is not None and each.burst_left < 1:
        found.append("rate limit reached")
    if each.backing_off:
        found.append(f"{each.backing_off} backing off")
    return found


def of_side_containers(rows: Iterable[SideContainer]) -> Table:
    table = empty_table("side container", "state", "pid", "age", "memory", "network namespace")
    for each in rows:
        used = "" if each.memory is None else size(each.memory)
        state = coloured(each.state, is_well=each.state in WELL)
        table.add_row(each.name, state, str(each.pid), duration(each.age), used, each.netns or "the host's")
    return table


def empty_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    return table


def coloured(word: str, *, is_well: bool) -> Text:
    return Text(word, style="" if is_well else "yellow")


def size(count: int) -> str:
    return (
        f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB" if count >= 2**10 else f"{count} B"
    )


def duration(seconds: float) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days:.0f}d{hours % 24:02.0f}h"
    if hours:
        return f"{hours:.0f}h{minutes % 60:02.0f}m"
    return f"{minutes:.0f}m{seconds % 60:02.0f}s"


def fitting(lines: list[str], height: int) -> list[str]:
    """Return as many lines as fit on the screen; the last one says how many are missing."""
    if len(lines) <= height:
        return lines
    return [*lines[: height - 1], f"… {len(lines) - height + 1} more lines; make the window higher, or name a SERVICE"]


@contextmanager
def screen() -> Iterator[None]:
    """Use the terminal's alternate screen, and read keys without Enter; restore both at the end."""
    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    kept = None if keys is None else termios.tcgetattr(keys)
    sys.stdout.write(ALTERNATE)
    try:
        if keys is not None:
            tty.setcbreak(keys)
        yield
    except KeyboardInterrupt:
        pass  # Ctrl-C is the usual way to end it
    finally:
        if keys is not None and kept is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, kept)
        sys.stdout.write(NORMAL)
        sys.stdout.flush()


def wants_to_quit(interval: float) -> bool:
    """Wait for the next frame, or for a key. Returns whether it was q."""
    if not sys.stdin.isatty():
        time.sleep(interval)
        return False
    until = time.monotonic() + interval
    while (left := until - time.monotonic()) > 0:
        readable, _, _ = select.select([sys.stdin], [], [], left)
        if readable and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b""):
            return True
    return False
