#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many orchestrators at once, each of which lets a workload of its own open a file some times.

    orchestrators.py PLANE COUNT OPENS

They use what the files allow: reads whole and in pieces, poll and epoll, descriptors of their own and an inherited one,
namespaces whose events wait and others. One never reads, one is killed, and two have readers that die or stop in the
middle of a record; all others have to come to their end first. Says for each its namespace, how many events it has
seen, and how many of these it has released.
"""
import errno
import json
import os
import select
import signal
import sys
import time
import traceback

PLANE, COUNT, OPENS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
KEY = os.urandom(32).hex()


def workload(told, control, kind):
    """Makes a namespace, and opens the file when it is told to. Nothing else that it does waits."""
    os.write(control, f"{kind} nsref=current key={KEY}\n".encode())
    if os.read(told, 1):
        for _ in range(OPENS):
            os.close(os.open("/etc/hostname", os.O_RDONLY))
    os._exit(0)


def start(inherited, kind):
    """Returns a child that is in a namespace of its own, what tells it to go, the namespace, and its records."""
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.close(tell)
        workload(told, inherited or os.open(f"{PLANE}/control", os.O_WRONLY), kind)
    os.close(told)
    while True:
        try:
            file = os.open(f"{PLANE}/id", os.O_RDONLY)
            break
        except FileNotFoundError:
            time.sleep(0.001)
    namespace, byte = b"", b""
    while (byte := os.read(file, 1)) != b"\n":
        namespace += byte
    assert os.read(file, 1) == b""
    os.close(file)
    return child, tell, int(namespace), os.open(f"{PLANE}/external_tma/{int(namespace)}", os.O_RDONLY)


def pieces(file, size):
    """Reads a record in pieces, to its end, and goes back to the beginning."""
    record = b""
    while piece := os.read(file, size):
        record += piece
    os.lseek(file, 0, os.SEEK_SET)
    return record


WAYS = (
    lambda file: os.pread(file, 4096, 0),
    lambda file: pieces(file, 4096),
    lambda file: pieces(file, 200),
    lambda file: os.pread(file, 10, 0) + os.pread(file, 4086, 10),
    lambda file: os.pread(file, 1, 0) + os.pread(file, 100, 1) + os.pread(file, 1 << 20, 101),
)


def records(file, way, edge):
    """Yields the records until no more can come. A poll says that there is one as long as there is."""
    epoll, poll = select.epoll(), select.poll()
    epoll.register(file, select.EPOLLIN | (select.EPOLLET if edge else 0))
    poll.register(file, select.POLLIN | select.POLLOUT)
    while True:
        try:
            record = way(file)
            assert record.endswith(b"\n") and record.count(b"\n") == 1, record
            yield json.loads(record)
            continue
        except OSError as error:
            assert error.errno == errno.ENODATA, error
        ready = epoll.poll()[0][1]
        again = poll.poll()[0][1]
        assert ready == again and ready in (select.POLLIN, select.POLLHUP), (ready, again)
        if ready == select.POLLHUP:
            return


def reader(file, end):
    """Returns a process that has read the beginning of the first event when it ends by a signal, or stops."""
    process = os.fork()
    if not process:
        for record in records(file, WAYS[0], False):
            if record["export"]["type"] == "aggregate":
                break
        poll = select.poll()
        poll.register(file, select.POLLIN)
        begin = b'{"export": {"type": "event"'
        while poll.poll() and os.pread(file, len(begin), 0) != begin:
            os.pread(file, 4096, len(begin))  # the rest of an event with which nobody waits
        os.kill(os.getpid(), end)
        os._exit(1)
    return process


def orchestrate(index, control, said):
    external = index < 4 or index % 4 > 1  # who exports only is told of no aggregate, and nobody waits
    child, tell, namespace, file = start(control if index % 2 else None, "external" if external else "export")
    if index % 3 == 0:
        control = os.open(f"{PLANE}/control", os.O_WRONLY)
    seen = released = 0

    def release(words):
        # Who shares a descriptor with others does not wait for their turn.
        os.pwrite(control, f"trusted pid={child} {words}key={KEY}\n".encode(), 0)
        return 1

    stopped = None
    if index < 2:
        process = reader(file, signal.SIGKILL if index else signal.SIGSTOP)
        os.write(tell, b"1")
        os.waitpid(process, os.WUNTRACED)
        released += release("")  # what it read is lost to all others
        seen += 1
        stopped = process if index == 0 else None
    elif index == 2:
        os.write(tell, b"1")
        signal.pause()
    elif index == 3:
        os.write(tell, b"1")
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        os.write(tell, b"1")
    first = True
    for record in records(file, WAYS[index % len(WAYS)], index % 3 == 0):
        assert (record["export"]["type"] == "aggregate") == (first and external and index > 1), record
        first = False
        if record["export"]["type"] != "event":
            continue
        assert record["event"]["pid"] == str(child), (child, record)
        seen += 1
        if external:
            released += release(f"tnum={record['event']['tnum']} " if index % 5 else "")
    assert os.waitpid(child, 0) == (child, 0)
    while os.path.exists(f"{PLANE}/external_tma/{namespace}"):
        time.sleep(0.01)
    try:
        raise AssertionError(os.open(f"{PLANE}/id", os.O_RDONLY))
    except FileNotFoundError:
        pass
    if stopped:
        os.kill(stopped, signal.SIGKILL)
    os.write(said, f"{namespace} {seen} {released}\n".encode())


shared = os.open(f"{PLANE}/control", os.O_WRONLY)
says, said = os.pipe()
orchestrators = {}
for number in range(COUNT):
    process = os.fork()
    if not process:
        status = 1
        try:
            orchestrate(number, shared, said)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    orchestrators[process] = number
os.close(said)
stalled = next(process for process, number in orchestrators.items() if number == 2)
try:
    while len(orchestrators) > 1:
        process, status = os.wait()
        number = orchestrators.pop(process)
        assert process != stalled and status == (signal.SIGKILL if number == 3 else 0), (number, status)
finally:
    for process in orchestrators:
        os.kill(process, signal.SIGKILL)
for line in os.fdopen(says):
    print(line, end="")
