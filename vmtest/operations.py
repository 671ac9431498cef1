#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random operations of orchestrators on the files of the control plane, rightly and wrongly.

    operations.py PLANE SEED OPERATIONS

Four processes do as many together. Each knows what has to come of what it does: every errno, what is read, and that a workload
of its own goes on when it was released with the right words, and never before. Whatever else comes ends the program.
"""
import errno as e
import mmap
import os
import random
import select
import signal
import sys
import time
import traceback

PLANE, SEED, OPERATIONS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
PROCESSES = 4
UNKNOWN = 2**64 - 1  # a task number that nobody has
WRONG = [
    " ", "lock", "Seal", "seal now", "enforce ", "external  cache=1", "external key=0", "external key=0g", "external digest=md5", "external cache=0",
    "export nsref=here", "external model=" + 112 * "x", "trusted", "trusted pid=5", "untrusted tnum=5", "trusted pid=0 tnum=5", "state", "base value=00",
    "takeover", "takeover id=0", "takeover id=1 pid=5", "trusted pid=5 key=123", "trusted pid=4294967296 tnum=1", "\0", "external\0", 9000 * "x",
]
README = open(f"{PLANE}/README", "rb").read()
AGGREGATE = open(f"{PLANE}/aggregate", "rb").read()


def attempt(do, *arguments):
    """Returns what a call returns, and its errno."""
    try:
        return do(*arguments), 0
    except OSError as error:
        return None, error.errno


def name(number):
    return e.errorcode.get(number, number)


class Namespace:
    """A namespace of the orchestrator that this process is, with a workload that does what it is told and answers with an errno."""

    def __init__(self, by, kind, keyed):
        self.by, self.kind, self.key = by, kind, os.urandom(32).hex() if keyed and kind == "external" else ""
        self.sealed = self.enforced = self.untrusted = False
        told, self.tell = os.pipe()
        self.answers, answer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.tell)
            os.close(self.answers)
            self.workload(told, answer)
        os.close(told)
        os.close(answer)
        assert self.answer() == 0
        with open(f"{PLANE}/id", "rb") as file:
            self.id = int(file.read())
        self.tnum = 0
        if kind == "external":
            self.open(self.first)

    def workload(self, told, answer):
        """Nothing that it does waits but the open of hostname."""
        for other in self.by.mine:
            os.close(other.tell)
        control = os.open(f"{PLANE}/control", os.O_WRONLY)
        words = f"{self.kind} nsref=current" + (f" key={self.key}" if self.key else "")
        os.write(answer, bytes([attempt(os.write, control, f"{words}\n".encode())[1]]))
        while order := os.read(told, 200):
            result = 0
            if order == b"open":
                file, result = attempt(os.open, "/etc/hostname", os.O_RDONLY)
                if not result:
                    os.close(file)
            elif order == b"id":
                file, result = attempt(os.open, f"{PLANE}/id", os.O_RDONLY)
                if not result:
                    assert int(os.read(file, 20)) > 0
                    os.close(file)
            elif order == b"aggregate":
                result = attempt(os.open, f"{PLANE}/aggregate", os.O_RDONLY)[1]
            else:
                result = attempt(os.write, control, order)[1]
            os.write(answer, bytes([result]))
        os._exit(0)

    def answer(self):
        return os.read(self.answers, 1)[0]

    def quiet(self):
        """Says whether the workload has not answered."""
        return not select.select([self.answers], [], [], 0)[0]

    def first(self):
        """Reads up to the first event, and learns the number of the task."""
        file = os.open(f"{PLANE}/external_tma/{self.id}", os.O_RDONLY)
        while not self.tnum:
            record, failed = attempt(os.pread, file, 4096, 0)
            if failed == e.ENODATA:
                select.select([file], [], [])
            elif record.startswith(b'{"export": {"type": "event"}'):
                self.tnum = int(record.partition(b'"tnum": "')[2].partition(b'"')[0])
        os.close(file)

    def words(self, verdict="trusted"):
        """The right ones to release it."""
        return f"{verdict} pid={self.pid} " + (f"key={self.key}" if self.key else f"tnum={self.tnum}") + "\n"

    def open(self, meanwhile, verdict="trusted"):
        """Lets the workload open its file, and releases it with the right words. What is done meanwhile releases nobody."""
        os.write(self.tell, b"open")
        if self.kind == "external" and not self.untrusted:
            meanwhile()
            assert self.quiet(), "released by somebody else"
            # It may not wait yet, or its record may not have come by: a release of who does not wait does nothing.
            while self.quiet():
                self.by.write(self.words(verdict), 0)
                select.select([self.answers], [], [], 0.01)
            self.untrusted = verdict == "untrusted"
        want = e.EPERM if self.untrusted and self.enforced else 0
        result = self.answer()
        assert result == want, f"open: {name(result)}, want {name(want)}"

    def end(self):
        os.close(self.tell)
        os.waitpid(self.pid, 0)
        os.close(self.answers)


class Orchestrator:
    def __init__(self, index, shared, inherited):
        self.index, self.shared, self.chance = index, shared, random.Random(SEED * PROCESSES + index)
        self.files = []  # of [descriptor, name, how it is open, content if it does not change, last record, whether that is all of it]
        self.control = inherited
        self.mine = []  # namespaces, oldest first

    def write(self, words, *wants):
        """Writes a command through one descriptor or another."""
        files = [file[0] for file in self.files if file[1] == "control"] + [self.control]
        data = words.encode()
        written, failed = attempt(os.pwrite, self.chance.choice(files), data, self.chance.choice((0, 1, 127, 1 << 40)))
        assert failed in wants and (failed or written == len(data)), f"{words!r}: {name(failed)}, want {[name(want) for want in wants]}"
        return failed

    def say(self, one):
        """Tells the others of a workload that they shall not be able to release. None: there is none any more."""
        text = f"{one.id} {one.pid} {one.tnum} {one.key or '-'}" if one else ""
        self.shared[self.index * 256 : (self.index + 1) * 256] = text.encode().ljust(256)

    def other(self):
        """Returns what another orchestrator says, and where."""
        where = slice(start := 256 * ((self.index + self.chance.randrange(1, PROCESSES)) % PROCESSES), start + 256)
        return self.shared[where].split(), where

    def open(self):
        what = self.chance.choice(("control", "control", "id", "aggregate", "README", "records", "records", "other", "none"))
        path, content, wants, there = what, None, (0,), True
        access = self.chance.choice((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
        more = self.chance.choice((0, 0, 0, os.O_TRUNC, os.O_APPEND, os.O_NONBLOCK, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_DIRECTORY))
        if what == "control":
            access = self.chance.choice((access, os.O_WRONLY))
            wants = (0 if access == os.O_WRONLY else e.EACCES,)
        elif what == "id":
            content = f"{self.mine[-1].id}\n".encode() if self.mine else b""
            wants = (0 if self.mine else e.ENOENT,)
        elif what in ("aggregate", "README"):
            content = README if what == "README" else AGGREGATE
        elif what == "records" and self.mine:
            path = f"external_tma/{self.chance.choice(self.mine).id}"
        elif what == "other" and (other := self.other()[0]):
            path, wants, there = f"external_tma/{int(other[0])}", (0, e.ENOENT), False
        else:
            path, wants, there = "external_tma/4711000", (e.ENOENT,), False
        if more & os.O_CREAT:
            more, wants = (more, (e.EEXIST,) if more & os.O_EXCL else wants) if there else (0, wants)
        elif more == os.O_DIRECTORY:
            wants = (e.ENOTDIR,) if there else tuple(e.ENOTDIR if want == 0 else want for want in wants)
        file, failed = attempt(os.open, f"{PLANE}/{path}", access | more)
        assert failed in wants, f"open {path} with {access:#o} and {more:#o}: {name(failed)}, want {[name(want) for want in wants]}"
        if not failed:
            self.files.append([file, what, access, content, b"", True])

    def read(self, file):
        descriptor, what, access, content, record, whole = file
        offset, size = self.chance.choice((0, 0, 1, 30, 4095, 1 << 40)), self.chance.choice((0, 1, 7, 1536, 4096, 1 << 20))
        if what == "other":
            offset = max(offset, 1)  # its records are for its orchestrator
        data, failed = attempt(os.pread, descriptor, size, offset)
        if what == "control" or access == os.O_WRONLY:
            assert failed == e.EBADF, name(failed)
        elif content is not None:
            assert not failed and data == content[offset : offset + size], (what, offset, size, data, name(failed))
        elif what == "records" and size and offset == 0:
            assert failed in (0, e.ENODATA), name(failed)
            # After an error nothing is behind the beginning.
            file[4], file[5] = (b"", True) if failed else (data, len(data) < size)
            assert failed or data.startswith(b'{"export": {"type": "'[:size]) and (not file[5] or data.endswith(b"\n")), data
        else:
            known = record[offset : offset + size]
            assert not failed and (data == known if whole else data.startswith(known)), (data, record, name(failed))

    def seek(self, file):
        offset, whence = self.chance.choice((0, 0, 5, -1)), self.chance.choice((os.SEEK_SET, os.SEEK_SET, os.SEEK_CUR))
        before = os.lseek(file[0], 0, os.SEEK_CUR)
        after, failed = attempt(os.lseek, file[0], offset, whence)
        want = offset + (before if whence == os.SEEK_CUR else 0)
        assert (failed == e.EINVAL) if want < 0 else (after == want), (before, offset, whence, after, name(failed))

    def poll(self, file):
        poll = select.poll()
        poll.register(file[0], select.POLLIN | select.POLLOUT)
        ready = dict(poll.poll(0)).get(file[0], 0)
        if file[1] in ("records", "other"):
            assert ready in (0, select.POLLIN, select.POLLHUP), ready
        else:
            assert ready == select.POLLIN | select.POLLOUT, ready

    def fork(self):
        """A child has all descriptors of its parent, and is not its orchestrator."""
        one = self.chance.choice(self.mine) if self.mine else None
        child = os.fork()
        if not child:
            status = 1
            try:
                if one and one.tnum:
                    self.write(one.words(), e.EINVAL)
                self.write("enforce\n", e.EINVAL)
                assert attempt(os.open, f"{PLANE}/id", os.O_RDONLY)[1] == e.ENOENT
                for file in self.files:
                    os.close(file[0])
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    def wrong(self, one):
        """Tries to release who waits with wrong words, from here, from within and by a child."""
        key = f"key={os.urandom(32).hex()}"
        for _ in range(self.chance.randrange(4)):
            if self.chance.randrange(4) == 0:
                self.fork()
            elif one.key:
                self.write(f"trusted pid={one.pid} " + self.chance.choice((key, "key=00", f"tnum={one.tnum}", f"tnum={one.tnum} {key}")) + "\n", e.EINVAL)
            else:
                self.write(f"trusted pid={one.pid} " + self.chance.choice((key, f"tnum={one.tnum} {key}")) + "\n", e.EINVAL)
            self.write(f"trusted pid={one.pid} tnum={UNKNOWN}" + (f" key={one.key}" if one.key else "") + "\n", 0)
            self.steal()

    def steal(self):
        """Tries to release the workload of another one with its right words, which succeeds if that is gone."""
        other, where = self.other()
        if other:
            _, pid, tnum, key = (text.decode() for text in other)
            failed = self.write(f"trusted pid={pid} " + (f"tnum={tnum}" if key == "-" else f"key={key}") + "\n", e.EINVAL, 0)
            assert failed or self.shared[where].split() != other, f"released task {pid} of another one"

    def change(self):
        command = self.chance.choice(("enforce", "enforce", "seal"))
        one = self.mine[-1] if self.mine else None
        self.write(command + "\n", e.EINVAL if not one else e.EPERM if one.sealed else 0)
        if one and not one.sealed:
            one.sealed |= command == "seal"
            one.enforced |= command == "enforce"

    def create(self):
        if len(self.mine) < 3:
            self.mine.append(Namespace(self, self.chance.choice(("external", "external", "export")), self.chance.randrange(2)))

    def within(self, one):
        """What a task in a namespace may not do."""
        takeover = f"takeover id={one.id}" + (f" key={one.key}" if one.key else "") + "\n"
        order, want = self.chance.choice((
            ("external\n", e.EPERM), (takeover, e.EPERM), (one.words(), e.EINVAL), ("aggregate", e.EACCES), ("id", e.EACCES if one.sealed else 0)))
        os.write(one.tell, order.encode())
        result = one.answer()
        assert result == want, f"{order!r} in a namespace: {name(result)}, want {name(want)}"

    def end(self, one):
        """Ends a namespace, and reads what is left of it."""
        self.say(None)
        self.mine.remove(one)
        file = os.open(f"{PLANE}/external_tma/{one.id}", os.O_RDONLY)
        one.end()
        poll = select.poll()
        poll.register(file, select.POLLIN)
        while poll.poll()[0][1] != select.POLLHUP:
            os.pread(file, 1, 0)
        os.close(file)
        while os.path.exists(f"{PLANE}/external_tma/{one.id}"):
            time.sleep(0.001)

    def operation(self):
        choice, file = self.chance.randrange(1000), self.chance.choice(self.files) if self.files else None
        one = self.chance.choice(self.mine) if self.mine else None
        if choice < 8:
            self.create()
        elif choice < 14 and one:
            self.end(one)
        elif choice < 20:
            self.fork()
        elif choice < 40:
            self.say(one if one and one.tnum else None)
        elif choice < 100 and one:
            verdict = "untrusted" if self.chance.randrange(16) == 0 else "trusted"
            one.open(lambda: self.wrong(one), verdict)
        elif choice < 120 and one:
            self.within(one)
        elif choice < 150:
            self.change()
        elif choice < 350 or not file:
            self.open()
        elif choice < 500 or len(self.files) > 50:
            os.close(file[0])
            self.files.remove(file)
        elif choice < 800:
            self.read(file)
        elif choice < 850:
            self.seek(file)
        elif choice < 920:
            self.poll(file)
        elif choice < 970:
            self.write(self.chance.choice(WRONG) + self.chance.choice(("\n", "\n", "")), e.EINVAL)
            self.write(f"takeover id={UNKNOWN}\n", e.ENOENT)
        else:
            self.steal()


shared = mmap.mmap(-1, 256 * PROCESSES)
shared[:] = b" " * len(shared)
inherited = os.open(f"{PLANE}/control", os.O_WRONLY)
processes = {}
for number in range(PROCESSES):
    process = os.fork()
    if not process:
        status, orchestrator = 1, Orchestrator(number, shared, inherited)
        try:
            for step in range(OPERATIONS // PROCESSES):
                orchestrator.operation()
            for one in list(orchestrator.mine):
                orchestrator.end(one)
            status = 0
        except Exception:
            print(f"process {number} at operation {step} with seed {SEED}", file=sys.stderr, flush=True)
            traceback.print_exc()
        finally:
            os._exit(status)
    processes[process] = number
try:
    while processes:
        process, status = os.wait()
        assert processes.pop(process) >= 0 and status == 0, status
finally:
    for process in processes:
        os.kill(process, signal.SIGKILL)
