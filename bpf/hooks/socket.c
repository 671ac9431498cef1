/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sockets; SOCK is family, type, protocol and owner of a socket.
 *
 * socket_create: family, type, protocol, whether for the kernel itself.
 * socket_connect, socket_bind: SOCK, address.
 * socket_accept: SOCK that listens, and its own address.
 * socket_listen: SOCK, how many may wait.
 * socket_socketpair: SOCK of both.
 * socket_sendmsg: SOCK, destination if it is of IPv4 or IPv6.
 * socket_recvmsg: SOCK, address as of socket_sendmsg if there is one already.
 * socket_getsockname, socket_getpeername: SOCK.
 * socket_setsockopt: SOCK, level, option.
 * socket_shutdown: SOCK, which directions.
 * unix_stream_connect, unix_may_send: SOCK of both ends.
 * netlink_send: SOCK and the parameters of the message (struct netlink_skb_parms).
 *
 * Bookkeeping: socket_post_create, who created a socket.
 */
#include "../cells.h"

/* sizeof(struct sockaddr_storage): the kernel copies no more from user space. */
#define ADDRESS_MAX 128

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10

static __always_inline __u64 owner_of(struct sock *sk)
{
	__u64 *owner = bpf_sk_storage_get(&sockets, sk, 0, 0);

	return owner ? *owner : 0;
}

SHARED int describe_address(struct buffer *buf, __u64 sk, __u64 address, __u32 length)
{
	struct tsem_addr *a;
	__u32 start;

	if (!buf)
		return 0;
	start = buf->used;
	a = cell_in(buf, TSEM_CELL_ADDR, sizeof(*a));
	if (!a)
		return 0;
	a->family = FIELD(struct sock, sk, __sk_common.skc_family);
	a->length = length;
	cell_append(buf, start, sizeof(*a), address, length > ADDRESS_MAX ? ADDRESS_MAX : length);
	return 0;
}

/* The socket of a system call. */
static __always_inline void cell_socket(struct event *e, struct socket *sock)
{
	struct sock *sk = sock->sk;

	if (sk)
		cell_sock(e, sk, owner_of(sk));
	else
		e->buf->failed = 1;
}

/* An address for a socket; absent where there is none. */
static __always_inline void cell_address(struct event *e, struct sock *sk, const void *address,
					 int length)
{
	if (address)
		describe_address(e->buf, address_of(e->buf, sk), address_of(e->buf, address), length);
	else
		cell_absent(e);
}

PLAIN_HOOK(socket_create, SLEEPABLE, ARGS(int family, int type, int protocol, int kern),
	   cell_scalar(&e, family), cell_scalar(&e, type), cell_scalar(&e, protocol),
	   cell_scalar(&e, kern))

SEC("lsm.s/socket_post_create")
int BPF_PROG(socket_post_create, struct socket *sock, int family, int type, int protocol, int kern,
	     int ret)
{
	struct tsem_task *t = booked_task();
	struct sock *sk = sock->sk;
	__u64 *owner;

	if (!t || !sk)
		return ret;
	owner = bpf_sk_storage_get(&sockets, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (owner)
		*owner = t->identity;
	return ret;
}

PLAIN_HOOK(socket_connect, SLEEPABLE,
	   ARGS(struct socket *sock, struct sockaddr *address, int addrlen),
	   cell_socket(&e, sock), cell_address(&e, sock->sk, address, addrlen))

PLAIN_HOOK(socket_bind, SLEEPABLE,
	   ARGS(struct socket *sock, struct sockaddr *address, int addrlen),
	   cell_socket(&e, sock), cell_address(&e, sock->sk, address, addrlen))

/* What getsockname would give of IPv4 and IPv6, but with the port in the order of the host. */
struct local_address {
	__u16 family;
	__u16 port;
	__u32 address;
	struct in6_addr address6;
	__u32 scope;
};

/* TSEM knows the address of a listening socket of three families, of others just the family. */
SHARED int describe_local_address(struct buffer *buf, __u64 sk)
{
	struct local_address *a;
	__u32 length = sizeof(*a);
	__u64 name;

	if (!buf)
		return 0;
	a = (void *)buf->text;
	__builtin_memset(a, 0, sizeof(*a));
	a->family = FIELD(struct sock, sk, __sk_common.skc_family);
	if (a->family == AF_UNIX && bpf_core_type_exists(struct unix_sock)) {
		name = address_of(buf, FIELD(struct unix_sock, sk, addr));
		describe_address(buf, sk, name + bpf_core_field_offset(struct unix_address, name),
				 name ? FIELD(struct unix_address, name, len) : 0);
		return 0;
	}
	a->port = FIELD(struct sock, sk, __sk_common.skc_num);
	if (a->family == AF_INET)
		a->address = FIELD(struct sock, sk, __sk_common.skc_rcv_saddr);
	else if (a->family == AF_INET6 && bpf_core_field_exists(struct sock_common, skc_v6_rcv_saddr))
		a->address6 = FIELD(struct sock, sk, __sk_common.skc_v6_rcv_saddr);
	else
		length = sizeof(a->family);
	describe_address(buf, sk, address_of(buf, a), length);
	return 0;
}

static __always_inline void cell_local_address(struct event *e, struct sock *sk)
{
	describe_local_address(e->buf, address_of(e->buf, sk));
}

PLAIN_HOOK(socket_accept, SLEEPABLE, ARGS(struct socket *sock, struct socket *newsock),
	   cell_socket(&e, sock), cell_local_address(&e, sock->sk))

PLAIN_HOOK(socket_listen, SLEEPABLE, ARGS(struct socket *sock, int backlog),
	   cell_socket(&e, sock), cell_scalar(&e, backlog))

PLAIN_HOOK(socket_socketpair, SLEEPABLE, ARGS(struct socket *socka, struct socket *sockb),
	   cell_socket(&e, socka), cell_socket(&e, sockb))

/* TSEM describes the destination of these two families only. */
static __always_inline bool is_inet(struct sock *sk)
{
	return sk && (sk->__sk_common.skc_family == AF_INET ||
		      sk->__sk_common.skc_family == AF_INET6);
}

PLAIN_HOOK(socket_sendmsg, SLEEPABLE, ARGS(struct socket *sock, struct msghdr *msg, int size),
	   cell_socket(&e, sock),
	   cell_address(&e, sock->sk, is_inet(sock->sk) ? msg->msg_name : NULL, msg->msg_namelen))

/* Nothing has been received yet: a system call has room for an address, and none in it. */
PLAIN_HOOK(socket_recvmsg, SLEEPABLE,
	   ARGS(struct socket *sock, struct msghdr *msg, int size, int flags),
	   cell_socket(&e, sock),
	   cell_address(&e, sock->sk,
			is_inet(sock->sk) && msg->msg_namelen > 0 ? msg->msg_name : NULL,
			msg->msg_namelen))

PLAIN_HOOK(socket_getsockname, SLEEPABLE, ARGS(struct socket *sock), cell_socket(&e, sock))

PLAIN_HOOK(socket_getpeername, SLEEPABLE, ARGS(struct socket *sock), cell_socket(&e, sock))

PLAIN_HOOK(socket_setsockopt, ATOMIC, ARGS(struct socket *sock, int level, int optname),
	   cell_socket(&e, sock), cell_scalar(&e, level), cell_scalar(&e, optname))

PLAIN_HOOK(socket_shutdown, SLEEPABLE, ARGS(struct socket *sock, int how),
	   cell_socket(&e, sock), cell_scalar(&e, how))

PLAIN_HOOK(unix_may_send, ATOMIC, ARGS(struct socket *sock, struct socket *other),
	   cell_socket(&e, sock), cell_socket(&e, other))

PLAIN_HOOK(unix_stream_connect, ATOMIC,
	   ARGS(struct sock *sock, struct sock *other, struct sock *newsk),
	   cell_sock(&e, sock, owner_of(sock)), cell_sock(&e, other, owner_of(other)))

SEC("lsm.s/netlink_send")
int BPF_PROG(netlink_send, struct sock *sk, struct sk_buff *skb, int ret)
{
	EVENT(e, netlink_send, ret);
	struct netlink_skb_parms *parms;

	if (!modeled(&e) || !event_begin(&e))
		return unraised(&e);
	/* include/linux/netlink.h, NETLINK_CB */
	parms = (void *)skb + bpf_core_field_offset(skb->cb);
	cell_sock(&e, sk, owner_of(sk));
	cell_scalar(&e, map_uid(e.buf, BPF_CORE_READ(parms, creds.uid.val)));
	cell_scalar(&e, map_gid(e.buf, BPF_CORE_READ(parms, creds.gid.val)));
	cell_scalar(&e, BPF_CORE_READ(parms, portid));
	cell_scalar(&e, BPF_CORE_READ(parms, dst_group));
	cell_scalar(&e, BPF_CORE_READ(parms, flags));
	cell_scalar(&e, BPF_CORE_READ(parms, nsid_is_set));
	cell_scalar(&e, BPF_CORE_READ(parms, nsid));
	return event_end(&e);
}
