"""Two hosts on one machine: network namespaces joined by a veth pair, with loss, delay and cuts.

Each host has network interfaces and a /dev/shm of its own, so that DDS must take the wire. Loss is
random for each frame, dropped by the kernel before fragments are put together again: a drop after
that would hide what happens to large samples. It takes only iproute2: a classic BPF program of four
instructions, attached by ``tc``. Kernels without netem cannot delay, so a wire with a delay is a
relay of this module between two tap devices.

    with Hosts() as hosts:
        hosts.set_loss(0.05)
        robot = hosts.start('robot', ['async-mbrl', ...])
        hosts.cut(); ...; hosts.join()
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from async_mbrl.bringup.transport import ONE_MACHINE, PROFILES
from faults.processes import begin

HOSTS = ('robot', 'learner')
ADDRESSES = {'robot': '10.99.0.1', 'learner': '10.99.0.2'}
DEVICE = 'wire'
TOOLS = ('ip', 'tc', 'unshare', 'nsenter')
UP_TIMEOUT_S = 5.0

_BPF_RANDOM = 0xfffff038        # SKF_AD_OFF + SKF_AD_RANDOM: 32 random bits
_TC_DROP, _TC_PASS = 2, 0
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454ca, 0x0002, 0x1000
_CLONE_NEWNET = 0x40000000
_UP = re.compile(r'LOWER_UP.* state (UP|UNKNOWN)')
_FRAMES = re.compile(r'clsact[^(]* (\d+) pkt \(dropped (\d+)')
_KEEP = 'mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && exec cat'


def missing() -> str:
    """Say why two hosts cannot be made here; empty where they can."""
    if os.geteuid() != 0:
        return 'network namespaces need root'
    tools = [tool for tool in TOOLS if shutil.which(tool) is None]
    if tools:
        return f'{", ".join(tools)} not found: install iproute2 and util-linux'
    try:
        Hosts().close()
    except (OSError, RuntimeError) as error:
        return f'network namespaces cannot be made: {error}'
    return ''


class Hosts:
    """Two hosts named ``robot`` and ``learner``, gone at the latest when this process is.

    Environment for ROS there: :attr:`environment`. Addresses: :data:`ADDRESSES`.
    """

    environment = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}
    """On top of the inherited one; processes of other namespaces are never heard."""

    def __init__(self, delay_s: float = 0.0) -> None:
        """Make the hosts and the wire between them.

        Args:
            delay_s: of each frame, each way; 0 for a wire as fast as the kernel.

        Raises:
            OSError: a tool is missing.
            RuntimeError: the kernel or the rights of this process do not allow it.
        """
        self._started: list[subprocess.Popen[Any]] = []
        self._relay: subprocess.Popen[bytes] | None = None
        # They end, and the namespaces with them, when their input does: also if this process dies.
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for host in HOSTS:
                self._keepers[host] = _keeper(host)
            if delay_s > 0.0:
                self._relay = _relay([keeper.pid for keeper in self._keepers.values()], delay_s)
            else:
                first, second = (str(keeper.pid) for keeper in self._keepers.values())
                _do('ip', 'link', 'add', DEVICE, 'netns', first, 'type', 'veth',
                    'peer', 'name', DEVICE, 'netns', second)
            for host in HOSTS:
                self._in(host, 'ip', 'addr', 'add', f'{ADDRESSES[host]}/24', 'dev', DEVICE)
                self._in(host, 'tc', 'qdisc', 'add', 'dev', DEVICE, 'clsact')
            self.join()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """Give the command that runs ``command`` on a host."""
        return ['nsenter', '--net', '--mount', '--wdns=.', '--target',
                str(self._keepers[host].pid), *command]

    def start(self, host: str, command: Sequence[str], *, env: dict[str, str] | None = None,
              **how: Any) -> subprocess.Popen[Any]:
        """Start a process on a host; the arguments are those of :class:`subprocess.Popen`.

        It has the process id of the command, and is killed by :meth:`close` if it still runs, and
        when the thread that called this ends.
        """
        environment = {**(os.environ if env is None else env), **self.environment}
        environment.pop('ROS_LOCALHOST_ONLY', None)
        if Path(environment.get(PROFILES, '')).name == ONE_MACHINE:
            del environment[PROFILES]
        self._started.append(subprocess.Popen(self.command(host, command), env=environment,
                                              preexec_fn=begin, **how))
        return self._started[-1]

    def set_loss(self, share: float) -> None:
        """Lose this share of the frames, at random, in both directions."""
        bound = round(share * 2 ** 32)
        program = (f'4,32 0 0 {_BPF_RANDOM},53 1 0 {bound},'
                   f'6 0 0 {_TC_DROP},6 0 0 {_TC_PASS}')
        for host in HOSTS:
            self._in(host, 'tc', 'filter', 'replace', 'dev', DEVICE, 'ingress', 'pref', '1',
                     'handle', '1', 'bpf', 'direct-action', 'bytecode', program)

    def cut(self) -> None:
        """Part the hosts from each other, until :meth:`join`."""
        self._in('robot', 'ip', 'link', 'set', DEVICE, 'down')

    def join(self) -> None:
        """Connect the hosts; DDS overlooks a device that is not up yet, so wait for that.

        Raises:
            RuntimeError: a device does not come up.
        """
        for host in HOSTS:
            self._in(host, 'ip', 'link', 'set', DEVICE, 'up')
        end = time.monotonic() + UP_TIMEOUT_S
        while not all(_UP.search(self._in(host, 'ip', 'link', 'show', 'dev', DEVICE))
                      for host in HOSTS):
            if time.monotonic() > end:
                raise RuntimeError(f'the wire is not up after {UP_TIMEOUT_S:g} s')
            time.sleep(0.02)

    def frames(self, host: str) -> tuple[int, int]:
        """Give how many frames came to a host and how many of them were lost on purpose."""
        found = _FRAMES.search(self._in(host, 'tc', '-s', 'qdisc', 'show', 'dev', DEVICE))
        assert found is not None
        return int(found[1]), int(found[2])

    def close(self) -> None:
        """Kill what still runs there, and take the hosts away."""
        helpers = [*self._keepers.values(), *([self._relay] if self._relay else [])]
        for process in [*self._started, *helpers]:
            if process.poll() is None:
                process.kill()
            process.wait()
        for process in helpers:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _in(self, host: str, *command: str) -> str:
        return _do(*self.command(host, command))


def _do(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(command)}: {done.stderr.strip() or done.returncode}')
    return done.stdout


def _ready(process: subprocess.Popen[bytes], what: str) -> subprocess.Popen[bytes]:
    assert process.stdout is not None
    if process.stdout.readline().strip() != b'ready':
        process.kill()
        process.wait()
        raise RuntimeError(f'{what} could not be made')
    return process


def _keeper(host: str) -> subprocess.Popen[bytes]:
    return _ready(subprocess.Popen(
        ['unshare', '--net', '--mount', '--propagation', 'private', 'sh', '-c', _KEEP],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE), f'host {host}')


def _relay(keepers: Sequence[int], delay_s: float) -> subprocess.Popen[bytes]:
    return _ready(subprocess.Popen(
        [sys.executable, '-m', 'faults.namespaces', str(delay_s), *map(str, keepers)],
        cwd=Path(__file__).resolve().parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE),
        'the wire with a delay')


def _open_tap(keeper: int) -> int:
    """Make a tap device in the network namespace of a process, and give its other end."""
    namespace = os.open(f'/proc/{keeper}/ns/net', os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), 'setns')
    os.close(namespace)
    tap = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack('16sH22x', DEVICE.encode(), _IFF_TAP | _IFF_NO_PI))
    return tap


def carry(delay_s: float, taps: Sequence[int], stop: int) -> None:
    """Carry frames between two taps, each after the delay, until ``stop`` is at its end."""
    other = {taps[0]: taps[1], taps[1]: taps[0]}
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([*taps, stop], (), (), timeout)
        if stop in readable:
            return
        for tap in readable:
            with contextlib.suppress(OSError):      # a link that is down takes nothing
                while frame := os.read(tap, 65536):
                    count += 1
                    heapq.heappush(waiting, (time.monotonic() + delay_s, count, other[tap], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, tap, frame = heapq.heappop(waiting)
            with contextlib.suppress(OSError):
                os.write(tap, frame)


def main() -> None:
    """Be the relay: ``python -m faults.namespaces DELAY_S KEEPER KEEPER``."""
    taps = [_open_tap(int(keeper)) for keeper in sys.argv[2:4]]
    print('ready', flush=True)
    carry(float(sys.argv[1]), taps, sys.stdin.fileno())


if __name__ == '__main__':
    main()
