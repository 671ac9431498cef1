/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The identity of a task: a 64-bit stand-in for its TASK_ID, which is a hash that
 * a BPF program cannot compute. It is a keyed hash of all that makes the
 * TASK_ID: the identity of the parent, the credentials and the executed file,
 * whose inode number, size and change time stand for its content; and the length
 * of the namespace's digests, which tells the hash function. The key is
 * random, so that nobody can make a program that shares the identity of
 * another one. The exec record tells the daemon which TASK_ID belongs to it.
 */
#ifndef TSEM_IDENTITY_H
#define TSEM_IDENTITY_H

#include "buffer.h"
#include "maps.h"

#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

/* SipHash-2-4 (Aumasson, Bernstein) over 64-bit words. */
struct siphash {
	__u64 v0, v1, v2, v3;
};

static __always_inline void sip_round(struct siphash *h)
{
	h->v0 += h->v1;
	h->v1 = ROTL(h->v1, 13) ^ h->v0;
	h->v0 = ROTL(h->v0, 32);
	h->v2 += h->v3;
	h->v3 = ROTL(h->v3, 16) ^ h->v2;
	h->v0 += h->v3;
	h->v3 = ROTL(h->v3, 21) ^ h->v0;
	h->v2 += h->v1;
	h->v1 = ROTL(h->v1, 17) ^ h->v2;
	h->v2 = ROTL(h->v2, 32);
}

SHARED int sip_word(struct siphash *h, __u64 word)
{
	if (!h)
		return 0;
	h->v3 ^= word;
	sip_round(h);
	sip_round(h);
	h->v0 ^= word;
	return 0;
}

struct identity_walk {
	struct siphash h;
	struct buffer *buf;
	__u32 words;
};

static long identity_step(__u32 i, struct identity_walk *w)
{
	if (i >= w->words || i >= CELLS_ROOM / 8)
		return 1;
	sip_word(&w->h, *(__u64 *)&w->buf->cells[i * 8]);
	return 0;
}

/* Of a described exec. Never 0, which is the identity of those that never did one. */
SHARED __u64 identity_compute(struct buffer *buf, __u32 digest)
{
	struct tsem_creds *c;
	struct identity_walk w = {
		.h = {
			.v0 = identity_key[0] ^ 0x736f6d6570736575ULL,
			.v1 = identity_key[1] ^ 0x646f72616e646f6dULL,
			.v2 = identity_key[0] ^ 0x6c7967656e657261ULL,
			.v3 = identity_key[1] ^ 0x7465646279746573ULL,
		},
		.buf = buf,
	};

	if (!buf)
		return 0;
	c = &buf->head.creds;
	w.words = buf->used / 8;
	sip_word(&w.h, buf->head.p_identity);
	sip_word(&w.h, (__u64)c->uid << 32 | c->euid);
	sip_word(&w.h, (__u64)c->suid << 32 | c->gid);
	sip_word(&w.h, (__u64)c->egid << 32 | c->sgid);
	sip_word(&w.h, (__u64)c->fsuid << 32 | c->fsgid);
	sip_word(&w.h, c->capeff);
	bpf_loop(CELLS_ROOM / 8, identity_step, &w, 0);
	sip_word(&w.h, (__u64)digest << 32 | w.words);
	w.h.v2 ^= 0xff;
	sip_word(&w.h, 0);
	sip_word(&w.h, 0);
	return (w.h.v0 ^ w.h.v1 ^ w.h.v2 ^ w.h.v3) | 1;
}

#endif
