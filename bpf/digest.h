/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The digest of a file's content, as far as the kernel half knows it. Taken
 * before a describe buffer is claimed, because reading the file may take long.
 */
#ifndef TSEM_DIGEST_H
#define TSEM_DIGEST_H

#include "inode.h"

#define FMODE_READ 1

/* include/uapi/linux/hash_info.h */
#define HASH_ALGO_SHA256 4

/*
 * The largest file that is digested in the hook: the task waits for it, and a
 * task that maps a disk image should not. The daemon takes the larger ones.
 */
#define IMA_SIZE_MAX (64 << 20)

/*
 * Two writes within one tick of the clock leave the same change time, so a
 * digest is kept only of a file that rested this long (ns).
 */
#define SETTLED 1000000000ULL

struct digest {
	__u64 inode;		/* its address, a number to a SHARED function */
	__u64 sha256[4];	/* words, for the compiler copies by the alignment of the type */
	__u32 state;		/* enum tsem_digest_state */
	__u32 pad;
	struct created created;	/* in the namespace of the event; decides the digest too */
};

/* include/linux/fs.h: the filesystem counts changes of its inodes in i_version. */
#define SB_I_VERSION (1 << 23)

#define TMPFS_MAGIC 0x01021994
#define OVERLAYFS_MAGIC 0x794c7630

static __always_inline bool has_version(const struct inode *inode)
{
	return VIEW(struct inode, inode)->i_sb->s_flags & SB_I_VERSION;
}

static __always_inline void content_of(struct inode *inode, struct content *c)
{
	/*
	 * Bit 0 says that somebody asked for the version (I_VERSION_QUERIED), as IMA
	 * does; elsewhere it is a part of what a server counts.
	 */
	c->i_version = (__u64)inode->i_version.counter >> (has_version(inode) ? 1 : 0);
	c->size = inode->i_size;
	inode_ctime(inode, &c->ctime_sec, &c->ctime_nsec);
}

/* What keeps the version and the times of an inode from telling that its content changed. */
enum content_doubt {
	/*
	 * It is open for writing somewhere. A shared mapping that is writable counts as
	 * well: it holds the open file that it was made from, on overlayfs that of the
	 * inode below.
	 */
	CONTENT_HAS_WRITERS = 1,
	/*
	 * It changes without a trace: a page that is mapped shared and writable tells of its
	 * first store only, on tmpfs not even of that.
	 */
	CONTENT_IS_VOLATILE = 2,
	/* Overlayfs copies the times of the inode below, but not after every change. */
	CONTENT_HAS_OTHER_TIMES = 4,
};

/*
 * Takes the address of an inode (number_of) and returns the doubts about its content. On
 * overlayfs the pages of a file that was written to belong to an inode below: struct ovl_inode
 * (fs/overlayfs/ovl_entry.h) has its directory entry right behind the inode; as the type
 * of a module it is not in the kernel's BTF.
 */
SHARED int content_doubts(__u64 inode)
{
	__u64 magic = FIELD(struct super_block, FIELD(struct inode, inode, i_sb), s_magic);
	struct dentry *upper = NULL;
	__u64 owner = inode;	/* of the pages */
	int doubts = 0;

	if (FIELD(struct inode, inode, i_writecount.counter) > 0)
		doubts |= CONTENT_HAS_WRITERS;
	if (magic == OVERLAYFS_MAGIC)
		bpf_probe_read_kernel(&upper, sizeof(upper),
				      (const void *)(inode + bpf_core_type_size(struct inode)));
	if (upper) {
		owner = (__u64)FIELD(struct dentry, upper, d_inode);
		doubts |= CONTENT_HAS_OTHER_TIMES;
		if (FIELD(struct inode, owner, i_writecount.counter) > 0)
			doubts |= CONTENT_HAS_WRITERS;
		magic = FIELD(struct super_block, FIELD(struct inode, owner, i_sb), s_magic);
	}
	if (magic == TMPFS_MAGIC ||
	    FIELD(struct address_space, FIELD(struct inode, owner, i_mapping),
		  i_mmap_writable.counter) > 0)
		doubts |= CONTENT_IS_VOLATILE;
	return doubts;
}

static __always_inline bool content_equal(const struct content *a, const struct content *b)
{
	return a->i_version == b->i_version && a->size == b->size &&
	       a->ctime_sec == b->ctime_sec && a->ctime_nsec == b->ctime_nsec;
}

/* `version` is odd while a writer is inside; it decides who writes. */
static __always_inline bool digest_cached(struct inode_digest *s, const struct content *now,
					  __u64 *sha256)
{
	__u64 version = *(volatile __u64 *)&s->version;
	bool equal;

	if (!version || (version & 1))
		return false;
	equal = content_equal(&s->content, now);
	__builtin_memcpy(sha256, s->sha256, 32);
	return equal && __sync_fetch_and_add(&s->version, 0) == version;
}

static __always_inline void digest_keep(struct inode_digest *s, const struct content *now,
					const __u64 *sha256)
{
	__u64 version = *(volatile __u64 *)&s->version;

	if ((version & 1) || __sync_val_compare_and_swap(&s->version, version, version + 1) != version)
		return;
	s->content = *now;
	__builtin_memcpy(s->sha256, sha256, 32);
	__sync_fetch_and_add(&s->version, 1);
}

static __always_inline bool content_settled(const struct content *c)
{
	__u64 real = bpf_ktime_get_tai_ns() - tai_offset;

	return real - (c->ctime_sec * 1000000000ULL + c->ctime_nsec) - SETTLED < 1ULL << 62;
}

/*
 * Reads the file, in a hook that may. The digest is that of the content at the time of
 * the event: nobody has the file open for writing before and after it is read, and what
 * the kernel tells of the content is the same, in which a change would have shown. Not
 * SHARED, because the helper wants a typed pointer; it is called once in a program, and
 * so walked once.
 */
static __noinline int digest_by_ima(struct file *file, struct digest *d, struct tsem_namespace *ns)
{
	struct inode *inode = file->f_inode;
	struct content before, after;
	struct inode_digest *s;
	bool settled;
	int doubts;

	content_of(inode, &before);
	if (content_doubts(number_of(inode)) & CONTENT_HAS_WRITERS)
		return 0;
	s = bpf_inode_storage_get(&digests, inode, 0, 0);
	if (s && digest_cached(s, &before, d->sha256)) {
		d->state = TSEM_DIGEST_IMA;
		__sync_fetch_and_add(&ns->digests_cached, 1);
		return 0;
	}
	if (before.size > IMA_SIZE_MAX)
		return 0;
	/*
	 * A hash that a policy made IMA take is of unknown age: it is kept as long as the
	 * inode tells of no change. Without one the next helper reads the file.
	 */
	if (bpf_ima_inode_hash(inode, d->sha256, 32) >= 0)
		return 0;
	if (bpf_ima_file_hash(file, d->sha256, 32) != HASH_ALGO_SHA256)
		return 0;
	content_of(inode, &after);
	settled = content_settled(&before);
	doubts = content_doubts(number_of(inode));
	if ((doubts & CONTENT_HAS_WRITERS) || !content_equal(&before, &after) ||
	    !(settled || has_version(inode)))
		return 0;
	d->state = TSEM_DIGEST_IMA;
	__sync_fetch_and_add(&ns->digests_ima, 1);
	if (!settled || doubts)
		return 0;
	if (!s)
		s = bpf_inode_storage_get(&digests, inode, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (s)
		digest_keep(s, &before, d->sha256);
	return 0;
}

SHARED int is_pseudo_filesystem(__u64 magic)
{
	switch (magic) {
	case 0x9fa0:		/* proc */
	case 0x62656572:	/* sysfs */
	case 0x64626720:	/* debugfs */
	case TMPFS_MAGIC:
	case 0x1cd1:		/* devpts */
	case 0x42494e4d:	/* binfmt_misc */
	case 0x73636673:	/* securityfs */
	case 0xf97cff8c:	/* selinuxfs */
	case 0x43415d53:	/* smackfs */
	case 0x0027e0eb:	/* cgroup v1 */
	case 0x63677270:	/* cgroup v2 */
	case 0x6e736673:	/* nsfs */
	case 0xde5e81e4:	/* efivarfs */
		return true;
	}
	return false;
}

enum digest_rules {
	DIGEST_PSEUDO = 1,	/* pseudo filesystems are measured too */
	DIGEST_ZERO = 2,	/* zeros for what is not a regular file */
	DIGEST_READ = 4,	/* the hook may read the file */
};

/* What becomes of a file that is not digested yet. */
SHARED int digest_left(struct digest *d, struct tsem_namespace *ns)
{
	if (!d || !ns || d->state != TSEM_DIGEST_WANTED)
		return 0;
	if (content_doubts(d->inode) & CONTENT_IS_VOLATILE) {
		d->state = TSEM_DIGEST_VOLATILE;
		__sync_fetch_and_add(&ns->digests_volatile, 1);
	} else {
		__sync_fetch_and_add(&ns->digests_wanted, 1);
	}
	return 0;
}

/* TSEM's order of rules (its digest of a FILE). */
static __always_inline enum tsem_digest_state digest_by_rule(struct event *e, struct inode *inode,
							     __u32 rules, struct created *created)
{
	struct creator *c;

	if (!S_ISREG(inode->i_mode))
		return rules & DIGEST_ZERO ? TSEM_DIGEST_ZERO : TSEM_DIGEST_EMPTY;
	c = creator_of(inode);
	if (c && c->namespace == e->ns->id) {
		created->set = true;
		created->owner = c->owner;
		created->instance = c->instance;
	}
	if (!inode->i_size || created->set)
		return TSEM_DIGEST_EMPTY;
	if (!(rules & DIGEST_PSEUDO) && is_pseudo_filesystem(VIEW(struct inode, inode)->i_sb->s_magic))
		return TSEM_DIGEST_EMPTY;
	return TSEM_DIGEST_WANTED;
}

/* The digest, as far as it can be had here, and who created the file. */
static __always_inline void take_digest(struct event *e, struct file *file, __u32 rules,
					struct digest *d)
{
	struct inode *inode = file->f_inode;

	__builtin_memset(d, 0, sizeof(*d));
	d->inode = (__u64)inode;
	d->state = digest_by_rule(e, inode, rules, &d->created);
	/*
	 * A file that is not open for reading would be opened again by IMA, and
	 * come back to these hooks.
	 */
	if (d->state == TSEM_DIGEST_WANTED && may_sleep(e) && (rules & DIGEST_READ) &&
	    (file->f_mode & FMODE_READ) && (e->ns->flags & TSEM_NS_SHA256))
		digest_by_ima(file, d, e->ns);
	/* Always: behind the call the verifier sees one case and not each of those above. */
	digest_left(d, e->ns);
}

#endif
