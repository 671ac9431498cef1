//go:build ignore

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program of the gate process. It does nothing but watch the keeper, and ends the
 * gate's FUSE connection when the keeper is gone or stopped, which sets free whoever
 * waits for it. It is executed from the gate's own mount: that is how the kernel half
 * comes by a file there.
 *
 * One section of code without libc, data or relocations, of which mkgate makes an
 * executable file. All its memory is locked before it says ready, because a page fault
 * afterwards might wait for the very keeper that it watches.
 *
 * It inherits the descriptors below, and its arguments are four decimal numbers:
 * where in the map `namespaces` the namespace's `beat` and `flags` are, in bytes; the
 * bits of `flags` that mean that the namespace is closed; for how many ns `beat` may
 * stay the same (0: it is not watched, and neither while it is 0).
 */
typedef unsigned int u32;
typedef unsigned long u64;

enum descriptor {
	NAMESPACES = 3,	/* the map */
	ABORT = 4,	/* file `abort` of the FUSE connection, in fusectl */
	LIFE = 5,	/* a pipe whose other end only the keeper has */
	READY = 6,	/* gets "r" */
};

/* Exit statuses; gateproc.go says what they mean. */
enum status {
	KEEPER_GONE = 0,
	CLOSED = 1,
	LATE = 2,
	NO_ARGUMENTS = 3,
	NO_MAP = 4,
	NO_LOCK = 5,
	NO_READY = 6,
	NO_ABORT = 7,
};

#if defined(__x86_64__)
enum call { WRITE = 1, CLOSE = 3, MMAP = 9, MLOCKALL = 151, CLOCK_GETTIME = 228, EXIT_GROUP = 231, PPOLL = 271 };
#elif defined(__aarch64__)
enum call { CLOSE = 57, WRITE = 64, PPOLL = 73, EXIT_GROUP = 94, CLOCK_GETTIME = 113, MMAP = 222, MLOCKALL = 230 };
#endif

/* The kernel's, of include/uapi. */
enum { PROT_READ = 1, MAP_SHARED = 1, MCL_CURRENT = 1, MCL_FUTURE = 2, CLOCK_MONOTONIC = 1 };
struct timespec { long sec, nsec; };
struct pollfd { int fd; short events, revents; };

#define SECOND 1000000000L
#define ROUND 50000000L	/* ns between two looks at the keeper */

static long call(enum call number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result = number;

	__asm__ volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
		      x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#endif
}

static _Noreturn void leave(enum status status)
{
	for (;;)
		call(EXIT_GROUP, status, 0, 0, 0, 0, 0);
}

/* Ends the connection. What is written does not matter (fs/fuse/control.c). */
static _Noreturn void end(enum status why)
{
	char any = '1';

	leave(call(WRITE, ABORT, (long)&any, 1, 0, 0, 0) == 1 ? why : NO_ABORT);
}

static u64 number(const char *digits)
{
	u64 value = 0;

	while (*digits)
		value = value * 10 + (*digits++ - '0');
	return value;
}

static u64 now(void)
{
	struct timespec t = { 0, 0 };

	call(CLOCK_GETTIME, CLOCK_MONOTONIC, (long)&t, 0, 0, 0, 0);
	return t.sec * SECOND + t.nsec;
}

/* Maps the beginning of the map as far as it is needed; the kernel takes whole pages. */
static const char *map(u64 beat, u64 flags)
{
	u64 length = beat > flags ? beat + sizeof(u64) : flags + sizeof(u32);
	long at = call(MMAP, 0, length, PROT_READ, MAP_SHARED, NAMESPACES, 0);

	if (at < 0 && at > -4096)
		leave(NO_MAP);
	call(CLOSE, NAMESPACES, 0, 0, 0, 0, 0);
	return (const char *)at;
}

static void say_ready(void)
{
	char ready = 'r';

	if (call(WRITE, READY, (long)&ready, 1, 0, 0, 0) != 1)
		leave(NO_READY);
	call(CLOSE, READY, 0, 0, 0, 0, 0);
}

static _Noreturn void watch(const volatile u64 *beat, const volatile u32 *flags, u32 closed, u64 late)
{
	u64 quiet = 0, seen = *beat, last = now();

	for (;;) {
		struct timespec round = { 0, ROUND };
		struct pollfd life = { LIFE, 0, 0 };
		u64 this, passed;

		call(PPOLL, (long)&life, 1, (long)&round, 0, 0, 0);
		/* A dying keeper may let go of the pipe late: the kernel half closes its namespaces first. */
		if (life.revents)
			end(KEEPER_GONE);
		if (*flags & closed)
			end(CLOSED);
		this = now();
		passed = this - last;
		last = this;
		if (*beat != seen) {
			seen = *beat;
			quiet = 0;
			continue;
		}
		/* While this process itself is stopped, so may have been the keeper: such a time counts no more than two rounds. */
		quiet += passed < 2 * ROUND ? passed : 2 * ROUND;
		if (late && seen && quiet > late)
			end(LATE);
	}
}

static __attribute__((used)) _Noreturn void start(long *stack)
{
	const char **arguments = (const char **)(stack + 1), *namespaces;
	u64 beat, flags;

	if (stack[0] != 5)
		leave(NO_ARGUMENTS);
	beat = number(arguments[1]);
	flags = number(arguments[2]);
	namespaces = map(beat, flags);
	if (call(MLOCKALL, MCL_CURRENT | MCL_FUTURE, 0, 0, 0, 0, 0))
		leave(NO_LOCK);
	say_ready();
	watch((const volatile u64 *)(namespaces + beat), (const volatile u32 *)(namespaces + flags),
	      number(arguments[3]), number(arguments[4]));
}

/* A process begins with argc and argv on its stack. */
__attribute__((naked)) _Noreturn void _start(void)
{
#if defined(__x86_64__)
	__asm__("mov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start");
#elif defined(__aarch64__)
	__asm__("mov x0, sp\n\tb start");
#endif
}
