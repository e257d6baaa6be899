"""Run a command in a child process, so that every failure ends with one line and an exit status.

The child computes. The parent does not import torch. It shows the progress, forwards signals, and reports how the child died.
A crash of native code, a kill, or a library that holds the GIL for a minute does not affect the parent.

    child  --(channel: one JSON list a line)-->  Display      --> terminal or log
           --(stderr)----------------------->  above the bars
           <--(one byte)---------------------  the bars are cleared
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mobileclip2.progress import Step, show_activities
from mobileclip2.signals import death, signal_name

if TYPE_CHECKING:
    from pipelines.display import Display

GRACE_SECONDS = 10.0
"""time after a signal at which a child that has not ended is killed, for example one in a long native call"""

TICK_SECONDS = 0.1
KEPT = "finished shards and checkpoints are kept, run the same command again to continue"

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Channel:
    """The child's end of the pipes. Its methods are called on the parent's :class:`~pipelines.display.Display`."""

    def __init__(self, messages: int, answers: int) -> None:
        self._messages, self._answers = messages, answers

    def _call(self, name: str, *arguments: Any) -> None:
        with suppress(OSError):  # the parent is gone
            os.write(self._messages, f"{json.dumps([name, *arguments])}\n".encode())

    plan = partialmethod(_call, "plan")
    begin = partialmethod(_call, "begin")
    end = partialmethod(_call, "end")
    fail = partialmethod(_call, "fail")
    say = partialmethod(_call, "say")
    doing = partialmethod(_call, "doing")

    def step(self, label: str, step: Step) -> None:
        """Send the fields of a step."""
        self._call("step", label, step.done, step.total, step.unit, step.numbers)

    def hide(self) -> None:
        """Wait until the parent has cleared the terminal."""
        self._call("hide")
        os.read(self._answers, 1)


RunDisplay: TypeAlias = "Display | Channel"
"""shows a command, here or in the parent process"""


class Results(io.TextIOWrapper):
    """The child's stdout. It clears the parent's bars before each write."""

    channel: Channel

    def write(self, text: str) -> int:
        """Write after the parent has cleared the bars."""
        self.channel.hide()
        return super().write(text)


def supervise(name: str, target: Callable[[Channel], int]) -> int:
    """Run ``target`` in a child process and return its exit status. Both processes return. ``target`` receives the display.

    An interrupted command and a killed child return 128 + the number of the signal.

    Args:
        name: The label of the command until an activity begins.
    """
    fds = Pipes()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the child become children of this process
    signals = Signals()  # before the fork: a signal between the fork and here would be lost
    child = os.fork()
    if child == 0:
        return _in_child(fds, parent, target)
    for fd in (fds.child_messages, fds.child_errors, fds.child_answers):
        os.close(fd)
    return Supervisor(name, child, fds, signals).run()


class Pipes:
    """The pipes between parent and child: messages, stderr and answers."""

    def __init__(self) -> None:
        self.messages, self.child_messages = os.pipe()
        self.errors, self.child_errors = os.pipe()
        self.child_answers, self.answers = os.pipe()


def _in_child(fds: Pipes, parent: int, target: Callable[[Channel], int]) -> int:
    # in its own process group, the child gets Ctrl-C only from the parent
    os.setpgid(0, 0)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 128 + signal.SIGKILL
    for fd in (fds.messages, fds.errors, fds.answers):
        os.close(fd)
    terminal = sys.stderr.isatty()
    os.dup2(fds.child_errors, 2)
    os.close(fds.child_errors)
    channel = Channel(fds.child_messages, fds.child_answers)
    if terminal:
        sys.stdout.flush()
        results = Results(os.fdopen(1, "wb", closefd=False), encoding=sys.stdout.encoding, line_buffering=True)
        results.channel = channel
        sys.stdout = results
    with show_activities(channel.doing):
        return target(channel)


class Signals:
    """Signals that this process has received."""

    ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

    def __init__(self) -> None:
        self.received: list[int] = []
        self.child = 0
        for number in self.ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda number, _: self.received.append(number))
        signal.signal(signal.SIGTSTP, self._suspend)

    def _suspend(self, *_: Any) -> None:
        """Suspend the child as well on Ctrl-Z: the terminal does not stop another process group."""
        if self.child:
            os.killpg(self.child, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self.child:  # execution continues here after `fg` or `bg`
            os.killpg(self.child, signal.SIGCONT)


class Supervisor:
    """The parent's loop: shows the child's progress until it ends."""

    def __init__(self, name: str, child: int, fds: Pipes, signals: Signals) -> None:
        from rich.console import Console

        from pipelines.display import Display
        from pipelines.processes import process_id

        self.child, self.fds, self.signals = child, fds, signals
        signals.child = child
        self.process = process_id(child)
        self.terminal = sys.stderr.isatty()
        self.display: Display = Display(Console(stderr=True), name)
        self._messages = self._errors = b""
        self._forwarded = 0
        self._kill_at = float("inf")

    def run(self) -> int:
        """Wait for the child, and return the exit status of the command."""
        selector = selectors.DefaultSelector()
        for fd in (self.fds.messages, self.fds.errors):
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        ended = 0
        while not ended:
            for key, _ in selector.select(TICK_SECONDS):
                if not self._read(key.fd):
                    selector.unregister(key.fd)
            self._forward_signals()
            if not self.signals.received:
                self.display.tick()
            ended, status = os.waitpid(self.child, os.WNOHANG)
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        stopped = self.signals.received[0] if self.signals.received else None
        if stopped or died:
            end_descendants()
        while self._read(self.fds.messages) or self._read(self.fds.errors):
            pass
        self._write_errors(self._errors)
        label = self.display.label or self.display.activity
        self.display.hide()
        code = os.waitstatus_to_exitcode(status)
        if stopped is None and code == 128 + signal.SIGINT:
            stopped = signal.SIGINT  # the child received it directly
        if stopped:
            return self._stopped(stopped, label)
        return self._died(died, label) if died else code

    def _read(self, fd: int) -> bool:
        """Read what has arrived. Return False at the end of the file or without data."""
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return False
        if fd == self.fds.messages:
            *lines, self._messages = (self._messages + data).split(b"\n")
            for line in lines:
                self._call_display(*json.loads(line))
        elif not self.terminal:
            self._write_errors(data)
        else:
            *lines, self._errors = (self._errors + data).split(b"\n")
            self._write_errors(b"".join(line + b"\n" for line in lines))
        return bool(data)

    def _call_display(self, name: str, *arguments: Any) -> None:
        if name == "step":
            label, *numbers = arguments
            arguments = (label, Step(*numbers))
        getattr(self.display, name)(*arguments)
        if name == "hide":
            os.write(self.fds.answers, b".")
        if name == "begin" and self.signals.received and self._kill_at < float("inf"):
            os.kill(self.child, signal.SIGINT)  # a library suppressed the first one

    def _write_errors(self, data: bytes) -> None:
        if not data or self.signals.received:
            return  # tracebacks of the interruption
        if self.terminal and self.display.bars:
            self.display.say(data.decode(errors="replace").rstrip("\n"))
        else:
            os.write(2, data)

    def _forward_signals(self) -> None:
        new = len(self.signals.received) - self._forwarded
        if new and not self._forwarded:
            self._kill_at = time.monotonic() + GRACE_SECONDS
            self.display.hide()
            os.kill(self.child, signal.SIGINT)
        if (new and self._forwarded) or time.monotonic() > self._kill_at:
            self._kill_at = float("inf")
            os.killpg(self.child, signal.SIGKILL)
        self._forwarded += new

    def _stopped(self, number: int, label: str) -> int:
        how = "Ctrl-C" if number == signal.SIGINT else signal_name(number)
        print(f"mobileclip2: stopped by {how}{f' in {label}' if label else ''}; {KEPT}", file=sys.stderr)
        self._end_run(f"Stopped by {how}; {KEPT}.", canceled=True)
        return 128 + number

    def _died(self, number: int, label: str) -> int:
        from pipelines.processes import crash_report

        cause = (self.process and crash_report(self.process, number)) or death(number)
        print(f"mobileclip2: {label or 'the command'}: ended by {cause}", file=sys.stderr)
        self._end_run(cause, canceled=False)
        return 128 + number

    def _end_run(self, message: str, *, canceled: bool) -> None:
        """Report the end of the child's run to Dagster, which the child could not do."""
        if not (self.display.label and self.process):
            return
        from pipelines.instance import instance
        from pipelines.processes import end_runs_of

        with instance() as dagster:
            end_runs_of(dagster, self.process, message, canceled=canceled)


def end_descendants() -> None:
    """Kill all child processes, including the orphans of a dead child."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with suppress(OSError):  # a kernel without this file
        while numbers := children.read_text().split():
            for number in numbers:
                os.kill(int(number), signal.SIGKILL)
                os.waitpid(int(number), 0)


def _prctl(option: int, value: int) -> None:
    """Call prctl, which only Linux has. Elsewhere, orphans outlive a killed command."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
