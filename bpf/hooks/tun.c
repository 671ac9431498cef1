/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TUN and TAP devices.
 *
 * tun_dev_create, tun_dev_open: a device is made, or one that there is is opened.
 * tun_dev_attach_queue: a queue that was detached is attached again.
 * tun_dev_attach: a queue gets its device: SOCK of the queue.
 */
#include "../cells.h"

/* It has no arguments, which PLAIN_HOOK cannot do without. */
SEC("lsm/tun_dev_create")
int BPF_PROG(tun_dev_create, int ret)
{
	EVENT(e, tun_dev_create, ret);

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	return event_end(&e);
}

PLAIN_HOOK(tun_dev_attach_queue, ATOMIC, ARGS(void *security))

/* The driver makes these sockets itself, so that nobody has created one. */
PLAIN_HOOK(tun_dev_attach, ATOMIC, ARGS(struct sock *sk, void *security), cell_sock(&e, sk, 0))

PLAIN_HOOK(tun_dev_open, ATOMIC, ARGS(void *security))
