"""Delays packets between network namespaces, through a TUN device in each.

python -m eval.links.relay DEVICE MILLISECONDS PID=ADDRESS PID=ADDRESS [...]
    -> creates DEVICE in the network namespace of each process; a packet that enters one leaves that of its address
    after this delay

Ends when its standard input closes. Replaces netem, which many kernels lack.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Mapping

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
"""From linux/if_tun.h."""

CLONE_NEWNET = 0x40000000

IPV4, DESTINATION = 4, slice(16, 20)
"""Version of a packet, and the bytes of its destination (RFC 791)."""


def tun(pid: int, name: str) -> int:
    """Creates a TUN device in the network namespace of a process, and returns the file descriptor for its packets."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns failed")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def relay(descriptors: Mapping[bytes, int], seconds: float, stop: int) -> None:
    """Forwards packets, each `seconds` after its arrival, until `stop` is closed.

    Args:
      descriptors: by IPv4 address. Packets for other addresses are dropped.
    """
    waiting: deque[tuple[float, int, bytes]] = deque()  # all have the same delay, so the order stays
    while True:
        wait = max(waiting[0][0] - time.perf_counter(), 0.0) if waiting else None
        readable, _, _ = select.select([*descriptors.values(), stop], [], [], wait)
        if stop in readable and not os.read(stop, 1):
            return
        now = time.perf_counter()
        for descriptor in descriptors.values():
            with contextlib.suppress(BlockingIOError):
                while descriptor in readable:
                    packet = os.read(descriptor, 1 << 16)
                    if packet[0] >> 4 == IPV4 and packet[DESTINATION] in descriptors:
                        waiting.append((now + seconds, descriptors[packet[DESTINATION]], packet))
        while waiting and waiting[0][0] <= time.perf_counter():
            _, descriptor, packet = waiting.popleft()
            # If the device is down, or its queue is full, the packet is lost, as on a wire.
            with contextlib.suppress(OSError):
                os.write(descriptor, packet)


if __name__ == "__main__":
    device, milliseconds, *ends = sys.argv[1:]
    try:
        opened = {socket.inet_aton(address): tun(int(pid), device) for pid, address in (end.split("=") for end in ends)}
    except OSError as error:
        raise SystemExit(f"a delay needs /dev/net/tun: {error.strerror}") from error
    print("ready", flush=True)
    relay(opened, float(milliseconds) / 1e3, sys.stdin.fileno())
