/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Room in the magazine. What is common is for whoever comes first. The rest, the
 * reserve, is divided: each hook that cannot wait has a share of its own.
 *
 * A record may be put if one of two things is true when it is claimed:
 *
 *   common   all that is unread, with this record, leaves the reserve free
 *   share    all of its hook that is unread, with this record, is no more than a share
 *
 * So the ring never overflows: what came after the last record for which `common` was
 * true is of each hook no more than a share. And a hook of which less is unread than a
 * share finds room, whatever the others do.
 *
 * Hooks that wait have no share, but an account like the others.
 *
 * Every record is counted when it is claimed, before it is in the ring, and until the
 * daemon has read it; no moment is in between in which two could take the same room.
 */
#ifndef TSEM_ROOM_H
#define TSEM_ROOM_H

#include "maps.h"

/* The kernel puts this much before each record, and rounds up to it. */
#define RING_HEADER 8

/* Takes a record out of the account of its share. */
static __always_inline void share_return(struct tsem_namespace *ns, __u32 share, __u32 bytes)
{
	if (share < TSEM_SHARES)
		__sync_fetch_and_sub(&ns->shares[share].claimed, bytes);
}

/* Gives back what was claimed for a record that did not come into the ring. */
static __always_inline void room_return(struct tsem_namespace *ns, __u32 share, __u32 bytes)
{
	__sync_fetch_and_sub(&ns->claimed, bytes);
	share_return(ns, share, bytes);
}

/*
 * Says whether a record that has claimed bytes may be put into the ring, and gives them back
 * if not. `all` is what the ring then holds of everything that was claimed until then, `own` of
 * the record's share: less than nothing if what others have claimed later is read already.
 */
SHARED int room_granted(struct tsem_namespace *ns, __u32 share, __u32 bytes, __s64 all, __s64 own)
{
	if (!ns)
		return false;
	/* Less, for the kernel never fills a ring to the last byte. */
	if (all < ns->magazine - ns->reserve)
		return true;
	if (share != TSEM_SHARE_NONE && own <= ns->share)
		return true;
	room_return(ns, share, bytes);
	return false;
}

/*
 * Claims bytes of the ring for a record; says whether it may be put there. It claims before it
 * looks how far the ring is read: a task that loses its CPU between the two would else take for
 * unread what others have put meanwhile, and the daemon has read.
 */
static __always_inline bool room_claim(struct tsem_namespace *ns, void *ring, __u32 share, __u32 bytes)
{
	struct tsem_share *s;
	__u64 all, own;

	if (share >= TSEM_SHARES)
		return false;
	s = &ns->shares[share];
	all = __sync_fetch_and_add(&ns->claimed, bytes) + bytes;
	own = __sync_fetch_and_add(&s->claimed, bytes) + bytes;
	return room_granted(ns, share, bytes, all - bpf_ringbuf_query(ring, BPF_RB_CONS_POS),
			    own - *(volatile __u64 *)&s->read);
}

#endif
