// SPDX-License-Identifier: Apache-2.0

package event

// Where the fields of the payloads are (bpf/record.h).
const (
	offCredsCapeff     = 32
	offCredsSecurebits = 40
	sizeCreds          = 48

	offInodeUID       = 0
	offInodeGID       = 4
	offInodeMode      = 8
	offInodeSMagic    = 12
	offInodeDevMajor  = 16
	offInodeDevMinor  = 20
	offInodeIno       = 24
	offInodeSize      = 32
	offInodeCtimeSec  = 40
	offInodeCtimeNsec = 48
	offInodeSID       = 56
	offInodeSUUID     = 88
	sizeInode         = 104

	offPathDevMajor = 0
	offPathDevMinor = 4
	offPathOwner    = 8
	offPathInstance = 16
	offPathFlags    = 24
	offPathType     = 28
	sizePath        = 32

	offFileFFlags      = 0
	offFileDigestState = 4
	offFileDigest      = 8
	sizeFile           = 40

	offSockFamily   = 0
	offSockType     = 4
	offSockProtocol = 8
	offSockOwner    = 16
	sizeSock        = 24

	offIPCUID   = 0
	offIPCGID   = 4
	offIPCCUID  = 8
	offIPCCGID  = 12
	offIPCMode  = 16
	offIPCOwner = 24
	sizeIPC     = 32

	offAddrFamily = 0
	sizeAddr      = 8
)

// Creds are credentials: ids as the namespace sees them.
type Creds struct {
	UID, EUID, SUID, GID, EGID, SGID, FSUID, FSGID uint32

	CapEff     uint64 // bit n is capability n
	Securebits uint32
}

func credsOf(b []byte) Creds {
	at := func(i int) uint32 { return native.Uint32(b[4*i:]) }
	return Creds{
		at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7),
		native.Uint64(b[offCredsCapeff:]), native.Uint32(b[offCredsSecurebits:]),
	}
}

// InodeView is an inode as its cell has it.
type InodeView struct {
	UID, GID, Mode, SMagic uint32
	DevMajor, DevMinor     uint32 // of the superblock
	Ino, Size              uint64
	CtimeSec, CtimeNsec    uint64
	SID                    [32]byte
	UUID                   [16]byte
}

func inodeOf(b []byte) InodeView {
	v := InodeView{
		UID:       native.Uint32(b[offInodeUID:]),
		GID:       native.Uint32(b[offInodeGID:]),
		Mode:      native.Uint32(b[offInodeMode:]),
		SMagic:    native.Uint32(b[offInodeSMagic:]),
		DevMajor:  native.Uint32(b[offInodeDevMajor:]),
		DevMinor:  native.Uint32(b[offInodeDevMinor:]),
		Ino:       native.Uint64(b[offInodeIno:]),
		Size:      native.Uint64(b[offInodeSize:]),
		CtimeSec:  native.Uint64(b[offInodeCtimeSec:]),
		CtimeNsec: native.Uint64(b[offInodeCtimeNsec:]),
	}
	copy(v.SID[:], b[offInodeSID:])
	copy(v.UUID[:], b[offInodeSUUID:])
	return v
}

// PathType says whose root a path is seen from.
type PathType uint32

// Types of paths (enum tsem_path_type in bpf/record.h).
const (
	PathInFilesystem PathType = iota // a path inside its filesystem
	PathRoot                         // the initial mount namespace
	PathNamespace                    // another mount namespace
	PathChroot                       // the task is in a chroot
)

var pathTypeNames = [...]string{PathRoot: "root", PathNamespace: "namespace", PathChroot: "chroot"}

// enum tsem_path_flags of bpf/record.h.
const (
	pathDev      = 1
	pathCreated  = 2
	pathNameOnly = 4
	pathFlags    = pathDev | pathCreated | pathNameOnly
)

// PathView is a path as its cell has it; Text refers to the record.
type PathView struct {
	HasDevice    bool
	Major, Minor uint32
	Created      bool   // in a modeling namespace: Owner and Instance count
	NameOnly     bool   // no full path could be built: the last component
	Owner        uint64 // identity of the creator
	Instance     uint64
	Type         PathType
	Text         []byte
}

func pathOf(b []byte) PathView {
	flags := native.Uint32(b[offPathFlags:])
	return PathView{
		HasDevice: flags&pathDev != 0,
		Major:     native.Uint32(b[offPathDevMajor:]),
		Minor:     native.Uint32(b[offPathDevMinor:]),
		Created:   flags&pathCreated != 0,
		NameOnly:  flags&pathNameOnly != 0,
		Owner:     native.Uint64(b[offPathOwner:]),
		Instance:  native.Uint64(b[offPathInstance:]),
		Type:      PathType(native.Uint32(b[offPathType:])),
		Text:      b[sizePath:],
	}
}

// digestSource says where the digest of a file is to come from (enum tsem_digest_state).
type digestSource uint32

const (
	digestEmpty    digestSource = iota // not measured by rule: digest of no bytes
	digestWanted                       // user space has to read the file
	digestIMA                          // sha256 by IMA, in the cell
	digestZero                         // kernel_read_file of something not regular
	digestVolatile                     // nobody can know: content changes without a trace
)

// FileView is the inode and the path of an open file as its cells have them.
type FileView struct {
	Inode InodeView
	Path  PathView
}

// file takes the three cells of a FILE.
func (c *cells) file() FileView {
	c.next() // the flags and where the digest comes from
	return FileView{
		Inode: inodeOf(c.next()),
		Path:  pathOf(c.next()),
	}
}

func (c *cells) scalar() uint64 { return native.Uint64(c.next()) }

// u32 takes a scalar of 32 bits; a signed one wraps.
func (c *cells) u32() uint32 { return uint32(c.scalar()) }

// addr takes an address: the family of the socket, what the caller gave, and the same with
// zeros behind it, which the kernel sees where that is less than the family needs.
func (c *cells) addr() (family uint32, given []byte, padded [addressMax]byte) {
	a := c.next()
	copy(padded[:], a[sizeAddr:])
	return native.Uint32(a[offAddrFamily:]), a[sizeAddr:], padded
}
