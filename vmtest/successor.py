# SPDX-License-Identifier: Apache-2.0
#
# An orchestrator for TestDaemonTakeover, which distrusts who opens /etc/shadow:
#
#   successor.py start PLANE KEY WORDS...   starts a command in a namespace that enforces
#   successor.py takeover PLANE KEY ID      takes a namespace over
#
# What it has to say goes to standard error: the id of the namespace when it judges, and why it ends.

import errno, json, os, select, sys

mode, plane, key = sys.argv[1:4]


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def lost(call, error):
    say("lost:", call, errno.errorcode[error.errno])
    sys.exit(1)


control = os.open(plane + "/control", os.O_WRONLY)
proof = f" key={key}" if key else ""
if mode == "takeover":
    id = sys.argv[4]
    try:
        os.write(control, f"takeover id={id}{proof}\n".encode())
    except OSError as error:
        lost("takeover", error)
    shown = ""
else:
    shown = proof
    ready, go = os.pipe()
    if not os.fork():
        os.write(control, f"external{proof}\n".encode())
        os.read(ready, 1)
        os.execvp(sys.argv[4], sys.argv[4:])
    os.close(ready)
    id = None
    while id is None:
        try:
            with open(plane + "/id") as file:
                id = file.read().strip()
        except FileNotFoundError:
            pass
    os.write(control, b"enforce\n")
records = os.open(f"{plane}/external_tma/{id}", os.O_RDONLY)
poll = select.poll()
poll.register(records, select.POLLIN)
say(id)
if mode == "start":
    os.write(go, b"x")
while True:
    try:
        record = json.loads(os.pread(records, 4096, 0))
    except OSError as error:
        if error.errno != errno.ENODATA:
            lost("read", error)
        if poll.poll()[0][1] & select.POLLHUP:
            sys.exit(0)
        continue
    if record["export"]["type"] != "event":
        continue
    event = record["event"]
    shadow = "/etc/shadow" in json.dumps(record.get("file_open", ""))
    verdict = "untrusted" if shadow else "trusted"
    try:
        os.write(control, f"{verdict} pid={event['pid']} tnum={event['tnum']} number={event['number']}{shown}\n".encode())
    except OSError as error:
        lost("release", error)
