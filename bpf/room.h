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
 * Claims bytes of the ring for a record; says whether it may be put there. `read` is the
 * consumer position.
 */
SHARED int room_claim(struct tsem_namespace *ns, __u32 share, __u32 bytes, __u64 read)
{
	struct tsem_share *s;
	__u64 end, own;

	if (!ns || share >= TSEM_SHARES)
		return false;
	s = &ns->shares[share];
	end = __sync_fetch_and_add(&ns->claimed, bytes) + bytes;
	own = __sync_fetch_and_add(&s->claimed, bytes) + bytes;
	/* Less, for the kernel never fills a ring to the last byte. */
	if (end - read < ns->magazine - ns->reserve)
		return true;
	if (share != TSEM_SHARE_NONE && own - *(volatile __u64 *)&s->read <= ns->share)
		return true;
	room_return(ns, share, bytes);
	return false;
}

#endif
