#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Learns which programs a workload executes, and then lets it execute no others. As root, beside tsem-bpf daemon:

    examples/orchestrator.py learn FILE -- CMD [ARG ...]
    examples/orchestrator.py enforce FILE -- CMD [ARG ...]

CMD runs the same way both times. FILE has a line for each program: digest and name. The exit status is that of CMD.
"""
import ctypes
import errno
import hashlib
import json
import os
import select
import sys
import time

PLANE = "/run/tsem"
PR_CAPBSET_DROP, CAP_MAC_ADMIN = 24, 33
FMODE_EXEC = 0x20  # in the flags of an open: what is opened is to be executed
NO_CONTENT = {hashlib.sha256().hexdigest(), "f" * 64}  # not measured; not certain
libc = ctypes.CDLL(None)


def start(command):
    """Starts the workload, which makes its own namespace. It executes command when a byte is written to the pipe."""
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(told)
        return child, tell
    os.close(tell)
    try:
        # From its exec on it can open no file of the control plane any more, though it is root.
        libc.prctl(PR_CAPBSET_DROP, CAP_MAC_ADMIN)
        os.write(os.open(f"{PLANE}/control", os.O_WRONLY | os.O_CLOEXEC), b"external nsref=current\n")
        if os.read(told, 1):  # nothing: the orchestrator has ended
            os.execvp(command[0], command)
    except OSError as error:
        print("orchestrator:", error, file=sys.stderr, flush=True)
    os._exit(126)


def find(child):
    """Returns the id of the namespace that a child makes."""
    while True:
        try:
            with open(f"{PLANE}/id") as file:
                return file.read().strip()
        except FileNotFoundError:
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                sys.exit(125)
            time.sleep(0.0002)


def records(namespace):
    """Yields the records of a namespace until it has ended."""
    file = os.open(f"{PLANE}/external_tma/{namespace}", os.O_RDONLY)
    poll = select.poll()
    poll.register(file, select.POLLIN)
    while True:
        try:
            record = os.pread(file, 4096, 0)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            if poll.poll()[0][1] & select.POLLHUP:
                return
            continue
        yield json.loads(record)


def main(mode, path, _, *command):
    child, tell = start(command)
    namespace = find(child)
    control = os.open(f"{PLANE}/control", os.O_WRONLY)
    with open(path, "w" if mode == "learn" else "r", encoding="utf-8") as file:
        known = set() if mode == "learn" else set(file)
        if mode == "enforce":
            os.write(control, b"enforce\n")
        os.write(tell, b"\1")
        for record in records(namespace):
            if record["export"]["type"] != "event":
                continue  # nobody waits
            event, verdict = record["event"], "trusted"
            if event["type"] == "file_open" and int(record["file_open"]["file"]["flags"]) & FMODE_EXEC:
                program = record["file_open"]["file"]
                name = json.dumps(program["path"]["pathname"], ensure_ascii=False)
                line = f"{program['digest']} {name}\n"
                if mode == "enforce" and line not in known:
                    print("orchestrator:", event["process"], "must not execute", name, file=sys.stderr, flush=True)
                    verdict = "untrusted"
                elif line not in known and program["digest"] not in NO_CONTENT:
                    known.add(line)
                    file.write(line)
            os.write(control, f"{verdict} pid={event['pid']} tnum={event['tnum']}\n".encode())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if len(sys.argv) < 5 or sys.argv[1] not in ("learn", "enforce") or sys.argv[3] != "--":
    sys.exit(__doc__)
status = main(*sys.argv[1:])
sys.exit(status if status >= 0 else 128 - status)
