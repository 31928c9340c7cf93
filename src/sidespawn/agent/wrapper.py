#!/usr/bin/python3 -IS
"""Replaces a helper program in the agent: asks the host to start it, and returns when it runs.

One file, standard library only, Python 3.6 or later, so that it works in any agent's image.  When its units
start, host/directories.py copies it once per program and kill script, with the settings below filled in; the agent
mounts the copies read-only. Other Python programs may import it and use `start`, `signal` and `ask`.

It runs inside the agent and has no privileges to lose there, since the host checks everything that it writes.  It
writes one line to SPOOL/processes and a date to SPOOL/processes-timestamp, both under flock(2) on the former.  It rings
REPLIES/doorbell, a FIFO that tells systemd to start the service, and waits for REPLIES/<id>.json.  Several wrappers and
the host share the spool, so two rules protect every request: the lock is on the file's inode, which must still be the
one at the path; and a line counts as handed over only if this still holds after the write.  Otherwise the line is
written again with the same id, which the host answers once.

Exit codes: 0 it runs (kill script: the signal was delivered; for TERM and KILL, the process is gone), 1 no such
process, 64 wrong use, 69 the host's directories or the real program are missing, 70 the start failed, 75 no answer in
time, 77 rejected by the host's policy; 0 instead of 70, 75 and 77 if its `refusals_fail` is false, for a start and HUP.
"""

import posix  # os has this from it, and takes a millisecond to import
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would cost each wrapper milliseconds
    from typing import Any, Dict, Iterator, List, Optional  # noqa: F401 - used in comments

SETTINGS = {}  # type: Dict[str, Any]  # filled in by host/directories.py

DOORBELL = "doorbell"
ANY = "<text>"


def is_answered_here(local, arguments):
    # type: (Any, Any) -> bool
    """Return whether the agent answers this call itself: `local` holds argument lists, where ANY matches any
    argument."""
    return any(
        len(each) == len(arguments) and all(each[i] in (arguments[i], ANY) for i in range(len(each))) for each in local
    )


def ring(doorbell):
    # type: (str) -> None
    """Tell systemd that the service is needed. It only notices that something is in the FIFO."""
    try:
        fd = posix.open(doorbell, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_NOFOLLOW | posix.O_CLOEXEC)
        try:
            posix.write(fd, b"\n")
        finally:
            posix.close(fd)
    except OSError:
        pass  # full, because it was rung so often; or no one listens, and wrappers that wait for replies ring again


if __name__ == "__main__" and not is_answered_here(SETTINGS["local"], sys.argv[1:]):
    ring(SETTINGS["replies"] + "/" + DOORBELL)  # for speed only: the host wakes up while Python reads what follows

# In an agent the lines from here on are a text, beside the code for it; see host/directories.py.

import binascii
import errno
import fcntl
import os
import select
import stat
import time

CLAIM_BYTES = 1024 * 1024  # the host takes this much at a time; a longer file waits for the host
LINE_BYTES = 64 * 1024  # of a request, where the service's policy does not allow more
CLOCK_BOOTTIME = 7  # Linux; time.CLOCK_BOOTTIME came with Python 3.7
NAMESPACES = "/run/netns"
RING_AGAIN = 0.1  # once a pause is longer, which is after 4 s
SHORTEST_PAUSE, LONGEST_PAUSE, OF_THE_TIME_WAITED = 0.002, 1.0, 1 / 40.0
PLAIN = frozenset(map(chr, range(32, 127))) - frozenset('"\\')
PROBE = "0"  # asks whether a process is there
PROBE_TIMEOUT = 10  # seconds; the most that a spool without a service may cost
SIGNAL_NAMES = {
    "1": "HUP",
    "2": "INT",
    "3": "QUIT",
    "9": "KILL",
    "10": "USR1",
    "12": "USR2",
    "15": "TERM",
    "28": "WINCH",
}

OK, GONE, USAGE, UNAVAILABLE, FAILED, NO_ANSWER, REJECTED = 0, 1, 64, 69, 70, 75, 77
EXIT_CODES = {"running": OK, "done": OK, "rejected": REJECTED, "failed": FAILED, "expired": NO_ANSWER}


class Unavailable(Exception):
    """The host's directories are missing, so requests are not possible."""


def start(settings, argv, netns, environment, brief=False):
    # type: (Dict[str, Any], List[str], Optional[str], Dict[str, str], bool) -> Dict[str, Any]
    """Request a program. `argv` holds strings, `netns` a name or None. Returns the reply; see `ask` for more."""
    return ask(settings, {"op": "start", "argv": argv, "netns": netns, "env": environment}, brief)


def signal(settings, name, pid, brief=False):
    # type: (Dict[str, Any], str, int, bool) -> Dict[str, Any]
    """Request a signal, such as HUP, to the side container whose program is `pid`. Returns the reply; see `ask`."""
    return ask(settings, {"op": "signal", "signal": name, "pid": pid}, brief)


def ask(settings, body, brief=False):
    # type: (Dict[str, Any], Dict[str, Any], bool) -> Dict[str, Any]
    """Hand one request over and wait for the answer, an object as docs/wire.md describes it.

    Without an answer in time, the status is "expired": the host then no longer starts anything for it.  If the caller
    accepts a `brief` reply, a success may contain only the status, which arrives 6 ms sooner. Raises Unavailable if
    there is no spool, ValueError if the request is too long for the format.
    """
    request_id = binascii.hexlify(os.urandom(16)).decode("ascii")
    deadline = boottime_ms() + settings["timeout"] * 1000
    request = dict(body, v=1, id=request_id, deadline=deadline)
    line = encode(request).encode("ascii") + b"\n"
    most = settings.get("line", LINE_BYTES)
    if len(line) - 1 > most:
        raise ValueError("the arguments are longer than a request can be (%d bytes)" % most)
    path = os.path.join(settings["replies"], request_id + ".json")
    doorbell = os.path.join(settings["replies"], DOORBELL)
    content = None
    if hand_over(settings["spool"], doorbell, line, request_id, deadline):
        content = wait_for(path, doorbell, deadline)
    if content is None:
        message = "no answer within %d s; on the host see: systemctl status sidespawn@%s.socket" % (
            settings["timeout"],
            settings["service"],
        )
        return {"v": 1, "id": request_id, "status": "expired", "reason": "expired", "message": message}
    for status in ("running", "done") if brief else ():
        # As the host writes it; whatever else this may be is read below.
        if content.startswith(('{"v":1,"id":"%s","status":"%s",' % (request_id, status)).encode("ascii")):
            return {"v": 1, "id": request_id, "status": status, "reason": "ok", "message": ""}
    return read_reply(content, path)


def read_reply(content, path):
    # type: (bytes, str) -> Dict[str, Any]
    """Return the reply in this file, with the fields that all callers use; a failure if it is not a reply."""
    import json  # with re and enum it takes as long as the interpreter and everything else; most wrappers never need it

    try:
        reply = json.loads(content.decode("utf-8"))
        if reply["status"] in EXIT_CODES and isinstance(reply["reason"], str) and isinstance(reply["message"], str):
            plain = {key: "".join(c if c.isprintable() else "?" for c in reply[key]) for key in ("reason", "message")}
            return dict(reply, **plain)
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    return {"status": "failed", "reason": "internal", "message": "the reply in %s cannot be read" % path}


def encode(value):
    # type: (Any) -> str
    """Encode as json.dumps does, for the types in a request; see read_reply for why."""
    if isinstance(value, dict):
        return "{%s}" % ",".join("%s:%s" % (encode(key), encode(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return "[%s]" % ",".join(map(encode, value))
    if isinstance(value, str):
        return '"%s"' % (value if PLAIN.issuperset(value) else "".join(map(escape, value)))
    return "null" if value is None else "%d" % value


def escape(character):
    # type: (str) -> str
    if character in PLAIN:
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join("\\u%02x%02x" % (units[at], units[at + 1]) for at in range(0, len(units), 2))


def hand_over(spool, doorbell, line, request_id, deadline):
    # type: (str, str, bytes, str, int) -> bool
    """Append the line to the spool's file, and again whenever the host has taken the file since."""
    rung = False
    for pause in pauses(deadline):
        if try_to_hand_over(spool, doorbell, line, request_id):
            return True
        if not rung or pause > RING_AGAIN:
            ring(doorbell)  # something is in the way, which the host removes; mostly it is another wrapper
            rung = True
        time.sleep(pause)
    return False


def try_to_hand_over(spool, doorbell, line, request_id):
    # type: (str, str, bytes, str) -> bool
    path = os.path.join(spool, "processes")
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.EACCES and os.access(spool, os.W_OK | os.X_OK):
            return False  # a device, or another user's file: the host will remove it
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise Unavailable("cannot open %s: %s" % (path, error.strerror)) from None
        return False  # no space, or something else is there: the host will remove it
    try:
        status = os.fstat(fd)
        if not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and try_lock(fd) and is_at(path, fd)):
            return False
        ring(doorbell)  # before the line, so that each line has a ring; the host then waits for the lock
        if not append(fd, line):
            return False
        note_time(spool, request_id)
        return is_at(path, fd)
    finally:
        os.close(fd)  # and with it the lock


def append(fd, line):
    # type: (int, bytes) -> bool
    """Append one whole line to the file, or leave it unchanged."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        line = b"\n" + line  # an earlier writer was killed in the middle
    if size + len(line) > CLAIM_BYTES:
        return False
    try:
        if os.write(fd, line) == len(line):
            return True
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise Unavailable("cannot write to the spool: %s" % error.strerror) from None
    os.ftruncate(fd, size)
    return False


def note_time(spool, request_id):
    # type: (str, str) -> None
    """Write the date for people, and because the original pattern has two files. The host never reads it."""
    text = "%s %s\n" % (time.strftime("%Y-%m-%dT%H:%M:%S%z"), request_id)
    path = os.path.join(spool, "processes-timestamp")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, text.encode("ascii"))
        finally:
            os.close(fd)
    except OSError:
        pass


def wait_for(path, doorbell, deadline):
    # type: (str, str, int) -> Optional[bytes]
    """Return the reply's bytes, or None. The host renames it into place, so that an existing file is complete.

    Once the host has taken the request, there is a FIFO, the bell, which is never written to.  When the reply is there,
    the host opens and closes the bell, which wakes its pollers, and removes it.  Without a bell, or if it was rung too
    early, the wrapper looks for the reply from time to time.  While the request has not been taken, it rings the host's
    doorbell again.
    """
    bell, poll, rung = None, select.poll(), False
    try:
        for pause in pauses(deadline):
            if bell is None:
                bell = open_bell(os.path.splitext(path)[0] + ".fifo")
                if bell is not None:
                    poll.register(bell, 0)  # always reported: the other end was closed
            try:
                with open(path, "rb") as file:
                    return file.read()
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise Unavailable("cannot read %s: %s" % (path, error.strerror)) from None
            if bell is None or rung:
                time.sleep(pause)
                if bell is None and pause > RING_AGAIN:
                    ring(doorbell)  # no one listened; now systemd might
            else:
                rung = bool(poll.poll(min(1000 * LONGEST_PAUSE, max(0, deadline - boottime_ms()))))
    finally:
        if bell is not None:
            os.close(bell)
    return None


def open_bell(path):
    # type: (str) -> Optional[int]
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None


def pauses(deadline):
    # type: (int) -> Iterator[float]
    """Yield the pause before each next try: a fortieth of the time waited so far, 2 ms to 1 s.

    A check takes 0.03 to 0.04 ms, so waiting without a bell costs 2 % of a processor at first, and later so little that
    a thousand can wait.  Not inotify: each reply would wake all waiters, and root has 128 instances of it for the whole
    host.
    """
    began = now = boottime_ms()
    while now < deadline:
        pause = max(SHORTEST_PAUSE, (now - began) / 1000.0 * OF_THE_TIME_WAITED)
        yield min(pause, LONGEST_PAUSE, (deadline - now) / 1000.0)
        now = boottime_ms()


def boottime_ms():
    # type: () -> int
    return int(time.clock_gettime(CLOCK_BOOTTIME) * 1000)


def try_lock(fd):
    # type: (int) -> bool
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_at(path, fd):
    # type: (str, int) -> bool
    try:
        there = os.lstat(path)
    except OSError:
        return False
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def identify_netns():
    # type: () -> Optional[str]
    """Return the name of this process's network namespace, or None.

    The kernel's list of mounts says which namespace has which name.  Looking at the names, as `ip netns identify` does,
    would hang forever at a file system that never answers, and each agent that shares the directory can mount one
    there.
    """
    here = os.readlink("/proc/self/ns/net")  # net:[INODE], which proc(5) also shows for the root of such a mount
    prefix = NAMESPACES + "/"
    found = {}  # type: Dict[str, str]
    with open("/proc/self/mountinfo", errors="replace") as mounts:
        for line in mounts:
            fields = line.split(" ", 5)
            if fields[4].startswith(prefix):
                found[fields[4][len(prefix) :]] = fields[3]  # the last of several is visible
    return min((name for name, namespace in found.items() if namespace == here), default=None)


def real_program(settings):
    # type: (Dict[str, Any]) -> Optional[str]
    """Return the program that this wrapper replaces, or None if the agent's image has no other path to it."""
    own = os.stat(os.path.abspath(__file__))
    directories = os.environ.get("PATH", "").split(":") + ["/usr/sbin"]
    paths = list(settings["real"])  # type: List[str]
    paths += [os.path.join(each, settings["program"]) for each in directories if each.startswith("/")]
    for path in paths:
        try:
            there = os.stat(path)
        except OSError:
            continue
        is_other = (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino)
        if is_other and stat.S_ISREG(there.st_mode) and os.access(path, os.X_OK):
            return path
    return None


def say(text):
    # type: (str) -> None
    sys.stderr.write(text + "\n")


def named_pid_file(stop, arguments):
    # type: (List[List[str]], List[str]) -> Optional[str]
    """Return the pid file of the process that a call stops; None for other calls. `stop` holds lists as `local` does.

    In these, the text after ANY is the file's path in the directory that the argument names.
    """
    for each in stop:
        named = [index for index, wanted in enumerate(each) if wanted.startswith(ANY)]
        plain = [ANY if index in named else wanted for index, wanted in enumerate(each)]
        if is_answered_here([plain], arguments):
            return "".join(arguments[index] + each[index][len(ANY) :] for index in named[:1])
    return None


def run_locally(settings, arguments):
    # type: (Dict[str, Any], List[str]) -> int
    path = real_program(settings)
    if path is None:
        say(
            "sidespawn: no original %s found in the agent; looked at %s"
            % (settings["program"], ", ".join(settings["real"]))
        )
        say("sidespawn: mount the image at /run/sidespawn/image, or keep the program beside its wrapper as .real")
        return UNAVAILABLE
    return os.execv(path, [settings["program"]] + arguments)


def program_main(settings, arguments):
    # type: (Dict[str, Any], List[str]) -> int
    if is_answered_here(settings["local"], arguments):
        return run_locally(settings, arguments)
    pid_file = named_pid_file(settings["stop"], arguments)
    if pid_file is not None:
        try:
            with open(pid_file) as file:
                return kill_main(settings, ["TERM", file.read(32).strip()])
        except OSError as error:
            say("sidespawn: cannot read %s: %s: No such process" % (pid_file, error.strerror))
            return GONE
    environment = {name: os.environ[name] for name in settings["environment"] if name in os.environ}
    argv = [settings["program"]] + arguments
    return report(start(settings, argv, identify_netns(), environment, brief=True), settings["refusals_fail"])


def kill_main(settings, arguments):
    # type: (Dict[str, Any], List[str]) -> int
    words = [each.lstrip("-") for each in arguments]
    if len(words) != 2 or not words[1].isdigit() or not words[0]:
        say("usage: %s SIGNAL PID" % os.path.basename(sys.argv[0]))
        return USAGE
    name = words[0].upper()
    name = SIGNAL_NAMES.get(name, name[3:] if name.startswith("SIG") else name)
    if not 2 <= int(words[1]) <= 2**22:
        say("kill: (%s) - No such process" % words[1])
        return GONE
    reply = signal(settings, name, int(words[1]), brief=True)
    if reply["reason"] == "no-such-process" and settings.get("shared"):
        other = service_of(settings, int(words[1]))
        if other is not None:
            reply = signal(other, name, int(words[1]))
    if reply["reason"] == "no-such-process":
        say("kill: (%s) - No such process" % words[1])  # Neutron looks for just this text
        return GONE
    # If a HUP does not arrive, the program continues as before. Never say without need that a program has ended.
    return report(reply, settings["refusals_fail"] or name != "HUP")


def service_of(settings, pid):
    # type: (Dict[str, Any], int) -> Optional[Dict[str, Any]]
    """Return the settings of the other service of this agent that the pid belongs to; None if it belongs to none."""
    home = os.path.dirname(os.path.dirname(settings["spool"]))
    for service in sorted(set(os.listdir(home)) - {settings["service"]}):
        other = dict(settings, service=service, timeout=min(PROBE_TIMEOUT, settings["timeout"]))
        other.update({name: os.path.join(home, service, name) for name in ("spool", "replies")})
        try:
            if signal(other, PROBE, pid)["status"] == "done":
                return dict(other, timeout=settings["timeout"])
        except Unavailable:
            continue  # not a service of this agent
    return None


def report(reply, refusals_fail=True):
    # type: (Dict[str, Any], bool) -> int
    code = EXIT_CODES.get(reply["status"], FAILED)
    if code != OK:
        say("sidespawn: %s (%s): %s" % (reply["status"], reply["reason"], reply["message"]))
    return code if refusals_fail else OK


def main(settings=None):
    # type: (Optional[Dict[str, Any]]) -> int
    settings = settings or SETTINGS
    try:
        return (kill_main if settings["kill"] else program_main)(settings, sys.argv[1:])
    except Unavailable as error:
        say("sidespawn: %s; is the service %s enabled, and its spool mounted here?" % (error, settings["service"]))
        return UNAVAILABLE
    except (ValueError, UnicodeError) as error:
        say("sidespawn: %s" % error)
        return USAGE


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to do, and shutting down the interpreter would take 2 ms
