// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestCacheStoresAndFinds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "filters")
	c := NewCache(dir)
	p := defaultProfile(t)
	want, _, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, _, err := c.Get(p)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("another filter than Compile's, or %v", err)
		}
	}
	file := filepath.Join(dir, Key(p))
	st, err := os.Stat(file)
	if err != nil || st.Mode() != 0o600 {
		t.Fatalf("the file: %v %v", st, err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Fatalf("the directory: %v %v", st, err)
	}
	// What is found is used: a filter put there under the profile's name comes back.
	other := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	planted, _, err := Compile(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.write(Key(p), planted); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := c.Get(p); !reflect.DeepEqual(got, planted) {
		t.Error("Get compiled although there was a file")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left in the directory: %v %v", left, err)
	}
}

// TestFormatVersion: a filter that an older version has stored is not taken for what this one
// compiles. Where this fails, raise formatVersion and write the new sum down.
func TestFormatVersion(t *testing.T) {
	var all [2][]string // every other name, so that the numbers of all count
	for i := range syscallTable {
		all[i%2] = append(all[i%2], syscallTable[i].name)
	}
	sum := sha256.New()
	for _, arch := range []string{"amd64", "arm64"} {
		for _, p := range []*specs.LinuxSeccomp{{
			DefaultAction: specs.ActErrno,
			Syscalls: []specs.LinuxSyscall{
				{Names: all[0], Action: specs.ActAllow},
				{Names: all[1], Action: specs.ActTrap},
			},
		}, {
			DefaultAction: specs.ActErrno, Architectures: []specs.Arch{
				specs.ArchX86_64, specs.ArchX86,
				specs.ArchX32, specs.ArchAARCH64, specs.ArchARM,
			},
			Syscalls: []specs.LinuxSyscall{
				{Names: []string{"read", "socket", "semop"}, Action: specs.ActLog},
				{
					Names: []string{"mmap"}, Action: specs.ActAllow,
					Args: []specs.LinuxSeccompArg{
						{Index: 1, Op: specs.OpGreaterThan, Value: 1 << 33},
						{Index: 2, Op: specs.OpMaskedEqual, Value: 7, ValueTwo: 1},
					},
				},
				{
					Names: []string{"clone"}, Action: specs.ActKillProcess,
					Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpNotEqual, Value: 3}},
				},
				{Names: []string{"mkdirat"}, Action: specs.ActNotify},
			},
		}} {
			f, _, err := compile(p, arch)
			if err != nil {
				t.Fatal(err)
			}
			stored, err := f.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			sum.Write(stored)
		}
	}
	const version, want = 2, "994de5a37fcfd677d73fa2cdaa7e672804c80a74c9d39b8b21a99a319f51503b"
	if got := hex.EncodeToString(sum.Sum(nil)); got != want || formatVersion != version {
		t.Errorf("format version %d compiles to %s; version %d to %s", formatVersion, got, version, want)
	}
}

func TestCacheRecompilesDamagedFiles(t *testing.T) {
	p := defaultProfile(t)
	want, _, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) func(string) error {
		return func(file string) error {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			b[(at+len(b))%len(b)] ^= 1
			return os.WriteFile(file, b, 0o600)
		}
	}
	for name, damage := range map[string]func(file string) error{
		"empty":           func(f string) error { return os.Truncate(f, 0) },
		"short":           func(f string) error { return os.Truncate(f, 40) },
		"cut":             func(f string) error { return os.Truncate(f, 500) },
		"key":             flip(3),
		"magic":           flip(65),
		"count":           flip(80),
		"instruction":     flip(300),
		"checksum":        flip(-1),
		"writable by all": func(f string) error { return os.Chmod(f, 0o666) },
		"longer":          func(f string) error { return os.WriteFile(f, make([]byte, 1<<20), 0o600) },
		"link": func(f string) error {
			return replace(f, func() error { return os.Symlink(f+"x", f) }, f+"x")
		},
		"folder": func(f string) error {
			return replace(f, func() error { return os.Mkdir(f, 0o700) }, f+"x")
		},
		"of another filter": func(f string) error {
			return os.Rename(filepath.Join(filepath.Dir(f), "other"), f)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewCache(t.TempDir())
			if _, _, err := c.Get(p); err != nil {
				t.Fatal(err)
			}
			allow, _, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow})
			if err != nil {
				t.Fatal(err)
			}
			if name == "of another filter" {
				if err := c.write("other", allow); err != nil {
					t.Fatal(err)
				}
			}
			if err := damage(filepath.Join(c.dir, Key(p))); err != nil {
				t.Fatal(err)
			}
			got, _, err := c.Get(p)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("another filter than Compile's, or %v", err)
			}
			if name == "folder" {
				return // cannot be replaced by a file
			}
			if _, err := c.read(Key(p)); err != nil {
				t.Errorf("not stored anew: %v", err)
			}
		})
	}
}

func replace(file string, with func() error, aside string) error {
	if err := os.Rename(file, aside); err != nil {
		return err
	}
	return with()
}

func TestCacheWithoutDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := NewCache(filepath.Join(file, "x")).Get(defaultProfile(t)); err != nil {
		t.Errorf("a filter that cannot be stored: %v", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := NewCache(t.TempDir())
	c.most = 10
	for i := range uint(100) {
		_, _, err := c.Get(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &i})
		if err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(c.dir); err != nil || len(left) == 0 || len(left) > c.most {
		t.Errorf("%d files left (%v), at most %d wanted", len(left), err, c.most)
	}
}

func TestCacheRepeatsWarnings(t *testing.T) {
	c := NewCache(t.TempDir())
	p := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"brand_new"}, Action: specs.ActErrno}},
	}
	for range 2 {
		if _, w, err := c.Get(p); err != nil || len(w) != 1 {
			t.Errorf("warnings %v, error %v", w, err)
		}
	}
}

// TestKeysDiffer holds that whatever changes a filter changes its key.
func TestKeysDiffer(t *testing.T) {
	one, two := uint(1), uint(2)
	seen := map[string]string{}
	for i, p := range []*specs.LinuxSeccomp{
		{DefaultAction: specs.ActAllow},
		{DefaultAction: specs.ActErrno},
		{DefaultAction: specs.ActErrno, DefaultErrnoRet: &one},
		{DefaultAction: specs.ActErrno, DefaultErrnoRet: &two},
		{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{}},
		{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}},
		{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"ab", "c"},
			Action: specs.ActTrap,
		}}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"a", "bc"},
			Action: specs.ActTrap,
		}}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"ab"},
			Action: specs.ActTrap,
		}, {Names: []string{"c"}, Action: specs.ActTrap}}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"a"},
			Action: specs.ActErrno, ErrnoRet: &one,
		}}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"a"},
			Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo}},
		}}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"a"},
			Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Value: 1, Op: specs.OpEqualTo}},
		}}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"a"},
			Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{ValueTwo: 1, Op: specs.OpEqualTo}},
		}}},
		{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"a"},
			Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{ValueTwo: 1, Op: specs.OpMaskedEqual}},
		}}},
	} {
		if earlier, ok := seen[Key(p)]; ok {
			t.Errorf("profile %d has the key of %s", i, earlier)
		}
		seen[Key(p)] = fmt.Sprint(i)
		q := *p
		q.ListenerPath, q.ListenerMetadata = "/run/agent.sock", "x"
		if Key(&q) != Key(p) {
			t.Errorf("profile %d: the key depends on the listener", i)
		}
	}
}
