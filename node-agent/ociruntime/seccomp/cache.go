// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
)

// formatVersion is part of every key and file: it must change with the filters that Compile
// generates (tables included), and with the form of a file.
const formatVersion = 2

// Key returns a name for the filter that Compile generates from a profile: the SHA-256, in hex, of
// the profile in a canonical form, the architecture and a format version. Profiles with equal keys
// have equal filters. Where notifications go (listenerPath, listenerMetadata) does not matter to
// it.
func Key(profile *specs.LinuxSeccomp) string {
	// Each string has its length before it and each list its count, so that no two profiles are
	// written alike. (Their JSON would not do: it has no difference between no list of flags and an
	// empty one, which mean different things. It is also several times slower.)
	b := make([]byte, 0, 16<<10)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	number := func(n *uint) {
		if n == nil {
			b = append(b, 0)
			return
		}
		b = append(b, 1)
		b = binary.AppendUvarint(b, uint64(*n))
	}
	text("berth seccomp")
	b = append(b, formatVersion)
	text(runtime.GOARCH)
	if profile != nil {
		text(string(profile.DefaultAction))
		number(profile.DefaultErrnoRet)
		b = binary.AppendUvarint(b, uint64(len(profile.Architectures)))
		for _, a := range profile.Architectures {
			text(string(a))
		}
		if profile.Flags == nil {
			b = append(b, 0)
		} else {
			b = append(b, 1)
			b = binary.AppendUvarint(b, uint64(len(profile.Flags)))
			for _, f := range profile.Flags {
				text(string(f))
			}
		}
		b = binary.AppendUvarint(b, uint64(len(profile.Syscalls)))
		for i := range profile.Syscalls {
			s := &profile.Syscalls[i]
			b = binary.AppendUvarint(b, uint64(len(s.Names)))
			for _, name := range s.Names {
				text(name)
			}
			text(string(s.Action))
			number(s.ErrnoRet)
			b = binary.AppendUvarint(b, uint64(len(s.Args)))
			for _, a := range s.Args {
				b = binary.AppendUvarint(b, uint64(a.Index))
				b = binary.AppendUvarint(b, a.Value)
				b = binary.AppendUvarint(b, a.ValueTwo)
				text(string(a.Op))
			}
		}
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// magic starts the binary form of a filter.
const magic = "berth-bpf"

// MarshalBinary returns the filter in a form that UnmarshalBinary of the same format version takes,
// on a machine of the same byte order.
func (f Filter) MarshalBinary() ([]byte, error) {
	if len(f.Program) == 0 || len(f.Program) > maxInstructions {
		return nil, fmt.Errorf("seccomp: a filter of %d instructions", len(f.Program))
	}
	b := make([]byte, 0, len(magic)+1+4+1+2+8*len(f.Program)+sha256.Size)
	b = append(b, magic...)
	b = append(b, formatVersion)
	b = binary.NativeEndian.AppendUint32(b, uint32(f.Flags))
	notify := byte(0)
	if f.Notify {
		notify = 1
	}
	b = append(b, notify)
	b = binary.NativeEndian.AppendUint16(b, uint16(len(f.Program)))
	for _, in := range f.Program {
		b = binary.NativeEndian.AppendUint16(b, in.Code)
		b = append(b, in.Jt, in.Jf)
		b = binary.NativeEndian.AppendUint32(b, in.K)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// UnmarshalBinary reads the output of MarshalBinary. Anything else, and any change to it, is an
// error.
func (f *Filter) UnmarshalBinary(b []byte) error {
	const header = len(magic) + 1 + 4 + 1 + 2
	if len(b) < header+8+sha256.Size {
		return errors.New("seccomp: stored filter: too short")
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return errors.New("seccomp: stored filter: checksum does not match")
	}
	if string(body[:len(magic)]) != magic || body[len(magic)] != formatVersion {
		return errors.New("seccomp: stored filter: another format")
	}
	rest := body[len(magic)+1:]
	count := int(binary.NativeEndian.Uint16(rest[5:]))
	code := rest[7:]
	if count > maxInstructions || len(code) != 8*count || rest[4] > 1 {
		return errors.New("seccomp: stored filter: malformed")
	}
	f.Flags = uint(binary.NativeEndian.Uint32(rest))
	f.Notify = rest[4] == 1
	f.Program = make([]unix.SockFilter, count)
	for i := range f.Program {
		in := code[8*i:]
		f.Program[i] = unix.SockFilter{
			Code: binary.NativeEndian.Uint16(in), Jt: in[2], Jf: in[3],
			K: binary.NativeEndian.Uint32(in[4:]),
		}
	}
	return nil
}

// Cache keeps compiled filters in a directory, a file each, named by Key. Several processes may use
// one directory at once. What is damaged, or was not written by this user, is compiled anew.
type Cache struct {
	dir string
	// most is the number of files above which all are dropped.
	most int
}

// defaultMost is some 5 MiB of filters as large as docker's default one.
const defaultMost = 1024

// NewCache returns a cache in dir, which is made (mode 0700) when a filter is first stored.
func NewCache(dir string) *Cache { return &Cache{dir: dir, most: defaultMost} }

// Get returns the filter for a profile, from the directory or else by Compile. A filter that
// had warnings is not stored, so that each caller gets them. That a filter cannot be stored is no
// error: the next Get compiles again.
func (c *Cache) Get(profile *specs.LinuxSeccomp) (*Filter, []Warning, error) {
	key := Key(profile)
	if f, err := c.read(key); err == nil {
		return f, nil, nil
	}
	f, warnings, err := Compile(profile)
	if err == nil && len(warnings) == 0 {
		_ = c.write(key, f)
	}
	return f, warnings, err
}

func (c *Cache) read(key string) (*Filter, error) {
	file, err := os.OpenFile(filepath.Join(c.dir, key), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|
		unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, errors.New("seccomp: stored filter: not a file that only this user can write")
	}
	b, err := io.ReadAll(io.LimitReader(file, 8*maxInstructions+1024))
	if err != nil {
		return nil, err
	}
	// The file is bound to its name, or swapping two files would swap filters.
	if len(b) < len(key) || string(b[:len(key)]) != key {
		return nil, errors.New("seccomp: stored filter: of another profile")
	}
	f := &Filter{}
	if err := f.UnmarshalBinary(b[len(key):]); err != nil {
		return nil, err
	}
	return f, nil
}

func (c *Cache) write(key string, f *Filter) error {
	b, err := f.MarshalBinary()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	c.shrink()
	// Several containers may write one filter at the same time.
	temporary := filepath.Join(c.dir, ".new-"+rand.Text())
	return durable.Replace(filepath.Join(c.dir, key), append([]byte(key), b...),
		durable.Options{Temporary: temporary})
}

// shrink empties a directory that is full, so that ever new profiles cannot fill the disk.
func (c *Cache) shrink() {
	dir, err := os.Open(c.dir)
	if err != nil {
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(c.most)
	if err != nil || len(names) < c.most {
		return
	}
	for _, name := range names {
		_ = os.Remove(filepath.Join(c.dir, name))
	}
}
