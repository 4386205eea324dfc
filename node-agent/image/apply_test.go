// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

func discardLogger() *log.Logger { return log.New(io.Discard, "", 0) }

// box is a place to unpack into, with something beside it that must not change.
type box struct {
	base, diff, trash, secret string
}

func newBox(t testing.TB) box {
	t.Helper()
	b := box{base: t.TempDir()}
	b.diff, b.trash, b.secret = filepath.Join(b.base, "diff"), filepath.Join(b.base, "trash"),
		filepath.Join(b.base, "outside")
	for _, d := range []string{b.diff, b.trash, b.secret} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(b.secret, "file"), []byte("secret"))
	return b
}

// untouched asserts that nothing happened outside of the layer.
func (b box) untouched(t testing.TB) {
	t.Helper()
	want := map[string]string{
		"diff": "dir", "trash": "dir", "outside": "dir",
		"outside/file": "secret",
	}
	got := tree(t, b.base)
	maps.DeleteFunc(got, func(k, _ string) bool {
		return strings.HasPrefix(k, "diff/") || strings.HasPrefix(k, "trash/")
	})
	if !maps.Equal(got, want) {
		t.Errorf("outside of the layer: got %v, want %v", got, want)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(b.secret, "file"), &st); err != nil || st.Mode != unix.S_IFREG|
		0o644 || st.Nlink != 1 || st.Uid != 0 {
		t.Errorf("the file outside changed: mode %o, %d links, owner %d, %v", st.Mode, st.Nlink,
			st.Uid, err)
	}
}

func (b box) apply(data []byte, lowers ...string) (applied, error) {
	return apply(context.Background(), bytes.NewReader(data), b.diff, b.trash, lowers, trustedFormat(),
		DefaultLimits())
}

func mode(m int64) func(*tar.Header) { return func(h *tar.Header) { h.Mode = m } }

func xattr(name, value string) func(*tar.Header) { return pax("SCHILY.xattr."+name, value) }

func pax(key, value string) func(*tar.Header) {
	return func(h *tar.Header) { h.PAXRecords = map[string]string{key: value} }
}

// goodCapability is cap_net_bind_service, permitted and effective, as the kernel has it in version
// 2.
const goodCapability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// TestHostileLayers: no layer reads, creates or changes a file outside of its directory.
func TestHostileLayers(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	long := strings.Repeat("n", 255)
	type want = map[string]string
	// OUT stands for a directory outside of the layer, by its absolute name.
	for _, tc := range []struct {
		name    string
		entries []*entry
		err     string // part of the error; "" when the layer is fine
		want    want
	}{
		{"parent", []*entry{file("../outside/file", "x")}, `".."`, nil},
		{"parent inside", []*entry{dir("a"), file("a/../../outside/file", "x")}, `".."`, nil},
		{"absolute", []*entry{file("/OUT/file", "x")}, "", nil},
		{
			"absolute is of the image",
			[]*entry{file("/etc/passwd", "x")},
			"",
			want{"etc": "dir", "etc/passwd": "x"},
		},
		{"symlink absolute then through", []*entry{symlink("l", "OUT"), file("l/file", "x")}, "", nil},
		{
			"symlink relative then through",
			[]*entry{symlink("l", "../outside"), file("l/file", "x")},
			"",
			want{"l": "-> ../outside", "outside": "dir", "outside/file": "x"},
		},
		{
			"symlink far up then through",
			[]*entry{symlink("l", "../../../../../../../.."), file("l/tmp/x", "x")},
			"",
			want{"l": "-> ../../../../../../../..", "tmp": "dir", "tmp/x": "x"},
		},
		{
			"symlink chain",
			[]*entry{symlink("a", "b"), symlink("b", ".."), file("a/c", "x")},
			"",
			want{"a": "-> b", "b": "-> ..", "c": "x"},
		},
		{
			"symlink loop",
			[]*entry{symlink("a", "b"), symlink("b", "a"), file("a/c", "x")},
			"too many levels", nil,
		},
		{"write onto a symlink", []*entry{symlink("l", "OUT/file"), file("l", "x")}, "", want{"l": "x"}},
		{"directory onto a symlink", []*entry{
			symlink("l", "OUT"), dir("l").with(mode(0o777)),
			file("l/file", "x"),
		}, "", want{"l": "dir", "l/file": "x"}},
		{"hard link up", []*entry{hard("h", "../outside/file")}, `".."`, nil},
		{"hard link absolute", []*entry{hard("h", "OUT/file")}, "found nothing", nil},
		{
			"hard link through a symlink",
			[]*entry{symlink("l", "OUT"), hard("h", "l/file")},
			"found nothing", nil,
		},
		{"hard link to a symlink, then write", []*entry{
			symlink("l", "OUT/file"), hard("h", "l"),
			file("h", "x"),
		}, "", nil},
		{
			"hard link to a symlink",
			[]*entry{symlink("l", "target"), hard("h", "l")},
			"",
			want{"l": "-> target", "h": "-> target"},
		},
		{"hard link to a directory", []*entry{dir("d"), hard("h", "d")}, "found a directory", nil},
		// CVE-2026-50163 (oras-go): the working directory, which has a file of this name, means nothing.
		{"hard link to a name of the working directory", []*entry{hard("h", "file")}, "found nothing", nil},
		{"hard link to ./ of it", []*entry{hard("h", "./file")}, "found nothing", nil},
		{
			"hard link to a name of the image",
			[]*entry{file("file", "x"), hard("h", "file")},
			"",
			want{"file": "x", "h": "x"},
		},
		{
			"hard link to a directory's neighbour",
			[]*entry{dir("d"), file("d/f", "x"), hard("d/h", "f")},
			"found nothing", nil,
		},
		{"symlink of a name of the working directory", []*entry{symlink("l", "file"), file("l", "x")}, "", want{"l": "x"}},
		{"hard link to itself", []*entry{file("f", "x"), hard("f", "f")}, "", want{"f": "x"}},
		{
			"hard link over its own directory",
			[]*entry{dir("d"), file("d/f", "x"), hard("d", "d/f")},
			"",
			want{"d": "x"},
		},
		{"hard link to nothing", []*entry{hard("h", "nowhere")}, "found nothing", nil},
		{"hard link to the root", []*entry{hard("h", "/")}, "the root", nil},
		{"whiteout of the parent", []*entry{file(".wh...", "")}, "whiteout of", nil},
		{"whiteout of itself", []*entry{file("a/.wh..", "")}, "whiteout of", nil},
		{"whiteout of no name", []*entry{file(".wh.", "")}, "whiteout of", nil},
		{
			"whiteout through a symlink",
			[]*entry{symlink("l", "OUT"), file("l/.wh.file", "")},
			"",
			want{"l": "-> OUT"},
		},
		{
			"opaque through a symlink",
			[]*entry{symlink("l", "../outside"), file("l/.wh..wh..opq", "")},
			"",
			want{"l": "-> ../outside", "outside": "dir"},
		},
		{"whiteout as a directory", []*entry{dir(".wh.x")}, "whiteout's name", nil},
		{"whiteout as a parent", []*entry{file(".wh.x/y", "")}, "whiteout's name", nil},
		{"raw overlay whiteout", []*entry{{Typeflag: tar.TypeChar, Name: "w"}}, "0:0", nil},
		{
			"overlay attribute",
			[]*entry{dir("d").with(xattr("trusted.overlay.opaque", "y"))},
			"trusted.overlay.opaque", nil,
		},
		{
			"overlay redirect",
			[]*entry{dir("d").with(xattr("trusted.overlay.redirect", "/etc"))},
			"overlayfs's own", nil,
		},
		{
			"capability that the filesystem does not take",
			[]*entry{file("f", "x").with(xattr("security.capability", "rubbish"))},
			"security.capability", nil,
		},
		{"attribute without a name", []*entry{file("f", "x").with(xattr("", "x"))}, "cannot be set", nil},
		{
			"bsdtar's attribute, no base64",
			[]*entry{file("f", "x").with(pax("LIBARCHIVE.xattr.user.a", "!"))},
			"base64", nil,
		},
		{
			"bsdtar's attribute, not escaped",
			[]*entry{file("f", "x").with(pax("LIBARCHIVE.xattr.user.%zz", "YQ"))},
			"as in a URL", nil,
		},
		{
			"bsdtar's overlay attribute",
			[]*entry{dir("d").with(pax("LIBARCHIVE.xattr.trusted.overlay.opaqu%65", "eQ"))},
			"overlayfs's own", nil,
		},
		{"device", []*entry{{Typeflag: tar.TypeChar, Name: "null", header: func(h *tar.Header) {
			h.Devmajor, h.Devminor = 1, 3
		}}}, "", want{"null": "dev"}},
		{"device over a symlink", []*entry{symlink("l", "OUT/file"), {
			Typeflag: tar.TypeBlock, Name: "l",
			header: func(h *tar.Header) {
				h.Devmajor, h.Devminor = 7, 99
			},
		}}, "", want{"l": "dev"}},
		{"fifo", []*entry{{Typeflag: tar.TypeFifo, Name: "p"}}, "", want{"p": "fifo"}},
		{"duplicates", []*entry{file("f", "1"), file("f", "2")}, "", want{"f": "2"}},
		{
			"directory replaced by file",
			[]*entry{dir("d"), file("d/a", "1"), file("d", "2")},
			"",
			want{"d": "2"},
		},
		{
			"file replaced by directory",
			[]*entry{file("d", "1"), dir("d"), file("d/a", "2")},
			"",
			want{"d": "dir", "d/a": "2"},
		},
		{"replaced parent", []*entry{
			dir("d"), file("d/a", "1"), symlink("d", "e"), dir("e"),
			file("d/b", "2"),
		}, "", want{"d": "-> e", "e": "dir", "e/b": "2"}},
		{"file as a parent", []*entry{file("f", "1"), file("f/x", "2")}, "allowed: a directory", nil},
		{"root as a file", []*entry{file(".", "x")}, "root of the image", nil},
		{"root as a symlink", []*entry{symlink("./", "OUT")}, "root of the image", nil},
		{"longest name", []*entry{file(long, "x")}, "", want{long: "x"}},
		{"name too long", []*entry{file(long+"n", "x")}, "256 bytes", nil},
		{"path too long", []*entry{file(strings.Repeat("d/", 2048)+"f", "x")}, "4097 bytes", nil},
		{"hard link to a path too long", []*entry{hard("h", strings.Repeat("d", 5000))}, "5000 bytes", nil},
		{"symlink to a path too long", []*entry{symlink("l", strings.Repeat("d", 5000))}, "5000 bytes", nil},
		{
			"attribute's name too long",
			[]*entry{file("f", "x").with(xattr("user."+strings.Repeat("n", 5000), "x"))},
			"cannot be set", nil,
		},
		{
			"attribute's value too long",
			[]*entry{file("f", "x").with(xattr("security.capability", strings.Repeat("v", 1<<17)))},
			"security.capability", nil,
		},
		{"negative owner", []*entry{file("f", "x").with(func(h *tar.Header) {
			h.Uid = -1
		})}, "owner", nil},
		{"huge owner", []*entry{file("f", "x").with(func(h *tar.Header) {
			h.Gid = 1<<32 - 1
		})}, "owner", nil},
		{"unknown type", []*entry{{Typeflag: 'Q', Name: "q"}}, "type 'Q'", nil},
		{"aufs bookkeeping", []*entry{
			dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"),
			file(".wh..wh.aufs", ""),
		}, "", want{}},
		{"symlink onto a parent in use", []*entry{
			dir("d"), file("d/a", "1"), symlink("d", "OUT"),
			file("d/file", "x"),
		}, "", nil},
		{
			"deep through links",
			[]*entry{
				symlink("l", strings.Repeat("d/", 1500)), file("l/x", "x"),
				symlink(strings.Repeat("d/", 1500)+"l", strings.Repeat("e/", 1000)), file("l/l/x", "x"),
			},
			"name too long", nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBox(t)
			for _, e := range tc.entries {
				e.Name = strings.ReplaceAll(e.Name, "OUT", strings.TrimPrefix(b.secret, "/"))
				e.Linkname = strings.ReplaceAll(e.Linkname, "OUT", b.secret)
			}
			t.Chdir(b.secret)
			_, err := b.apply(layerTar(t, tc.entries...))
			b.untouched(t)
			if tc.err != "" {
				var ee *EntryError
				if !errors.As(err, &ee) || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got error %v, want an EntryError with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tc.want == nil {
				return
			}
			got := tree(t, b.diff)
			for k, v := range got {
				got[k] = strings.ReplaceAll(v, b.secret, "OUT")
			}
			if !maps.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// TestHonoured: every allowed property of a layer's entries arrives on the disk.
func TestHonoured(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	b := newBox(t)
	a, err := b.apply(layerTar(t,
		dir("./").with(mode(0o555)),
		file("su", "x").with(mode(0o4755)),
		dir("sticky").with(mode(0o1777)),
		file("sticky/later", "x"),
		file("cap", "x").with(func(h *tar.Header) {
			xattr("security.capability", goodCapability)(h)
			h.Uid, h.Gid = 1000, 1001
		}),
		file("user", "x").with(xattr("user.note", "hello")),
		file("label", "x").with(xattr("security.selinux", "system_u:object_r:etc_t:s0")),
		symlink("l", "nowhere").with(func(h *tar.Header) { h.Uid, h.Gid = 7, 8 }),
		hard("hard", "su"),
		&entry{Typeflag: tar.TypeChar, Name: "null", header: func(h *tar.Header) {
			h.Devmajor, h.Devminor, h.Mode = 1, 3, 0o666
		}},
	))
	if err != nil {
		t.Fatal(err)
	}
	if a.dependent {
		t.Error("the layer says all about itself, so it depends on none")
	}
	if len(a.skipped) != 1 || a.skipped[0] != "security.selinux" {
		t.Errorf("skipped %v, want security.selinux", a.skipped)
	}
	stat := func(name string) unix.Stat_t {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(b.diff, name), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	for name, want := range map[string]uint32{
		".": unix.S_IFDIR | 0o555, "su": unix.S_IFREG | 0o4755, "sticky": unix.S_IFDIR | 0o1777,
		"hard": unix.S_IFREG | 0o4755, "null": unix.S_IFCHR | 0o666,
	} {
		if got := stat(name).Mode; got != want {
			t.Errorf("%s: mode %o, want %o", name, got, want)
		}
	}
	for _, name := range []string{".", "su", "sticky", "sticky/later", "l", "null"} {
		if st := stat(name); st.Mtim.Sec != then.Unix() {
			t.Errorf("%s: mtime %d, want %d", name, st.Mtim.Sec, then.Unix())
		}
	}
	if st := stat("cap"); st.Uid != 1000 || st.Gid != 1001 {
		t.Errorf("cap: owner %d:%d, want 1000:1001", st.Uid, st.Gid)
	}
	if st := stat("l"); st.Uid != 7 || st.Gid != 8 {
		t.Errorf("l: owner %d:%d, want 7:8", st.Uid, st.Gid)
	}
	if stat("su").Ino != stat("hard").Ino {
		t.Error("hard is not a link to su")
	}
	if st := stat("null"); st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("null: device %x", st.Rdev)
	}
	for name, kv := range map[string][2]string{
		"cap":  {"security.capability", goodCapability},
		"user": {"user.note", "hello"},
	} {
		buf := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(b.diff, name), kv[0], buf)
		if err != nil || string(buf[:n]) != kv[1] {
			t.Errorf("%s: %s is %q, %v; want %q", name, kv[0], buf[:max(n, 0)], err, kv[1])
		}
	}
}

// TestForeignXattrs: attributes that the filesystem refuses are skipped and logged, the rest of the
// layer arrives.
func TestForeignXattrs(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	b := newBox(t)
	both := func(h *tar.Header) {
		h.PAXRecords = map[string]string{
			"SCHILY.xattr.user.note":     "schily",
			"LIBARCHIVE.xattr.user.note": "bGliYXJjaGl2ZQ", "LIBARCHIVE.xattr.user.%61": "YQ==",
		}
	}
	a, err := b.apply(layerTar(t,
		file("mac", "1").with(xattr("com.apple.provenance", "abc")),
		dir("macdir").with(xattr("com.apple.provenance", "abc")),
		file("bsdmac", "2").with(pax("LIBARCHIVE.xattr.com.apple.quarantine", "YWJj")),
		file("nfs", "3").with(xattr("system.nfs4_acl", "abcd")),
		symlink("link", "nowhere").with(xattr("user.x", "1")),
		&entry{Typeflag: tar.TypeFifo, Name: "fifo", header: xattr("user.y", "1")},
		dir("origin").with(xattr("user.overlay.origin", "\x00\xfb")),
		dir("opaque").with(xattr("user.overlay.opaque", "y")),
		file("cap", "4").with(pax("LIBARCHIVE.xattr.security.capability",
			base64.RawStdEncoding.EncodeToString([]byte(goodCapability)))),
		file("both", "5").with(both),
	))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"mac": "1", "macdir": "dir", "bsdmac": "2", "nfs": "3",
		"link": "-> nowhere", "fifo": "fifo", "origin": "dir", "opaque": "dir", "cap": "4", "both": "5",
	}
	if got := tree(t, b.diff); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	slices.Sort(a.skipped)
	skipped := []string{
		"com.apple.provenance", "com.apple.quarantine", "system.nfs4_acl",
		"user.overlay.opaque", "user.overlay.origin", "user.x", "user.y",
	}
	if !slices.Equal(a.skipped, skipped) {
		t.Errorf("skipped %v, want %v", a.skipped, skipped)
	}
	for _, tc := range []struct{ file, name, value string }{{
		"cap", "security.capability",
		goodCapability,
	}, {"both", "user.note", "schily"}, {"both", "user.a", "a"}} {
		buf := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(b.diff, tc.file), tc.name, buf)
		if err != nil || string(buf[:max(n, 0)]) != tc.value {
			t.Errorf("%s: %s is %q, %v; want %q", tc.file, tc.name, buf[:max(n, 0)], err, tc.value)
		}
	}
	for _, name := range []string{"origin", "opaque"} {
		if n, err := unix.Llistxattr(filepath.Join(b.diff, name), make([]byte, 100)); n != 0 {
			t.Errorf("%s: found attributes, %v; want none", name, err)
		}
	}
}

// TestNoXattrs: on a filesystem without extended attributes a layer is unpacked without them, but
// not without a capability.
func TestNoXattrs(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	runtime.LockOSThread() // and end the thread with the test: its mount namespace is its own
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
		t.Fatal(err)
	}
	at := t.TempDir()
	if err := unix.Mount("none", at, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b := box{diff: filepath.Join(at, "diff"), trash: filepath.Join(at, "trash")}
	if err := errors.Join(os.Mkdir(b.diff, 0o755), os.Mkdir(b.trash, 0o755)); err != nil {
		t.Fatal(err)
	}
	a, err := b.apply(layerTar(t, file("f", "1").with(xattr("user.note", "x")),
		dir("d").with(xattr("trusted.note", "x"))))
	if want := []string{"trusted.note", "user.note"}; err != nil ||
		!slices.Equal(slices.Sorted(slices.Values(a.skipped)), want) {
		t.Errorf("found %v skipped, %v; want %v", a.skipped, err, want)
	}
	var ee *EntryError
	if _, err := b.apply(layerTar(t,
		file("g", "1").with(xattr("security.capability", goodCapability)))); !errors.As(err, &ee) ||
		!strings.Contains(err.Error(), "security.capability") {
		t.Errorf("found %v; want an error that names security.capability", err)
	}
}

// TestSparse: a sparse entry as GNU tar makes it keeps its content, and its hole stays one.
func TestSparse(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	for _, format := range []string{"posix", "gnu"} {
		t.Run(format, func(t *testing.T) {
			src := t.TempDir()
			f, err := os.Create(filepath.Join(src, "s"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("tail"), 8<<20); err != nil {
				t.Fatal(err)
			}
			data, err := exec.Command("tar", "--sparse", "--format="+format, "-C", src, "-c", "s").Output()
			if err != nil {
				t.Fatal(err)
			}
			b := newBox(t)
			if _, err := b.apply(data); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(b.diff, "s"))
			if err != nil || len(got) != 8<<20+4 || string(got[8<<20:]) != "tail" {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(b.diff, "s"), &st); err != nil || st.Blocks*512 > 1<<20 {
				t.Errorf("the file takes %d bytes on the disk, %v", st.Blocks*512, err)
			}
		})
	}
}

// contents is a tree as function tree describes it.
type contents map[string]string

func (c contents) plus(kv ...string) contents {
	out := maps.Clone(c)
	for i := 0; i < len(kv); i += 2 {
		out[kv[i]] = kv[i+1]
	}
	return out
}

// TestMerged: layers as the kernel merges them are the image as the specification has it.
func TestMerged(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	type layer = []*entry
	type want = contents
	base := layer{
		dir("etc"), file("etc/a", "a"), file("etc/b", "b"), dir("d"), dir("d/sub"),
		file("d/sub/x", "x"), file("d/y", "y"), symlink("lib", "usr/lib"), dir("usr"), dir("usr/lib"),
		dir("tmp").with(mode(0o1777)), file("f", "f"),
	}
	rest := want{
		"etc": "dir", "etc/a": "a", "etc/b": "b", "d": "dir", "d/sub": "dir", "d/sub/x": "x",
		"d/y": "y", "lib": "-> usr/lib", "usr": "dir", "usr/lib": "dir", "tmp": "dir", "f": "f",
	}
	with := func(changes want) want {
		out := maps.Clone(rest)
		for k, v := range changes {
			if v == "" {
				maps.DeleteFunc(out, func(p, _ string) bool { return p == k || strings.HasPrefix(p, k+"/") })
			}
		}
		for k, v := range changes {
			if v != "" {
				out[k] = v
			}
		}
		return out
	}
	for _, tc := range []struct {
		name      string
		upper     []layer
		want      want
		dependent bool // of the last layer
	}{
		{
			"whiteout of a file",
			[]layer{{dir("etc"), file("etc/.wh.a", "")}},
			with(want{"etc/a": ""}), true,
		},
		{"whiteout of a directory", []layer{{file(".wh.d", "")}}, with(want{"d": ""}), true},
		{
			"whiteout of nothing",
			[]layer{{dir("new"), file("new/.wh.none", ""), file(".wh.none", "")}},
			with(want{"new": "dir"}), true,
		},
		{
			"whiteout then anew",
			[]layer{{file(".wh.d", "")}, {dir("d"), file("d/new", "n")}},
			with(want{"d": "", "d/new": "n"}).plus("d", "dir"), false,
		},
		{
			"whiteout and directory in one layer",
			[]layer{{file(".wh.d", ""), dir("d"), file("d/new", "n")}},
			with(want{"d": ""}).plus("d", "dir",
				"d/new", "n"), true,
		},
		{
			"directory and whiteout in one layer",
			[]layer{{dir("d"), file("d/new", "n"), file(".wh.d", "")}},
			with(want{"d": ""}).plus("d", "dir",
				"d/new", "n"), true,
		},
		{
			"whiteout and child in one layer",
			[]layer{{file(".wh.d", ""), file("d/new", "n")}},
			with(want{"d": ""}).plus("d", "dir", "d/new", "n"), true,
		},
		{
			"whiteout and file in one layer",
			[]layer{{file(".wh.f", ""), file("f", "new")}},
			with(want{"f": "new"}), true,
		},
		{
			"opaque",
			[]layer{{dir("d"), file("d/.wh..wh..opq", ""), file("d/new", "n")}},
			with(want{"d": ""}).plus("d", "dir", "d/new", "n"), true,
		},
		{"opaque last", []layer{{
			dir("d"), file("d/new", "n"), file("d/.wh.y", ""), dir("d/sub"),
			file("d/sub/.wh.x", ""), file("d/.wh..wh..opq", ""),
		}}, with(want{"d": ""}).plus("d", "dir",
			"d/new", "n", "d/sub", "dir"), true},
		{
			"opaque directory of none",
			[]layer{{dir("o"), file("o/.wh..wh..opq", "")}},
			with(want{"o": "dir"}), true,
		},
		{
			"opaque root",
			[]layer{{file(".wh..wh..opq", ""), dir("d"), file("d/new", "n")}},
			want{"d": "dir", "d/new": "n"},
			true,
		},
		{"directory by file", []layer{{file("d", "file")}}, with(want{"d": ""}).plus("d", "file"), false},
		{
			"directory by file by directory",
			[]layer{{file("d", "file")}, {dir("d"), file("d/new", "n")}},
			with(want{"d": ""}).plus("d", "dir", "d/new", "n"), false,
		},
		{
			"file by directory",
			[]layer{{dir("f"), file("f/x", "x")}},
			with(want{"f": "dir", "f/x": "x"}),
			false,
		},
		{
			"through a link of a lower layer",
			[]layer{{file("lib/libc.so", "c")}},
			with(want{"usr/lib/libc.so": "c"}), true,
		},
		{"parents not described", []layer{{file("d/sub/new", "n")}}, with(want{"d/sub/new": "n"}), true},
		{
			"hard link to a lower layer",
			[]layer{{dir("etc"), hard("etc/c", "etc/a")}},
			with(want{"etc/c": "a"}), true,
		},
		{
			"hard link to a removed file",
			[]layer{
				{dir("etc"), file("etc/.wh.a", "")},
				{dir("etc"), file("etc/a", "new"), hard("etc/c", "etc/a")},
			},
			with(want{"etc/a": "new", "etc/c": "new"}), false,
		},
		{"whiteout in a middle layer", []layer{
			{file("etc/.wh.a", "")},
			{file("etc/.wh.a", ""), file("etc/.wh.b", "")},
		}, with(want{"etc/a": "", "etc/b": ""}), true},
		{
			"self-contained",
			[]layer{{dir("new"), file("new/x", "x")}},
			with(want{"new": "dir", "new/x": "x"}), false,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var dirs []string
			var last applied
			for _, l := range append([]layer{base}, tc.upper...) {
				b := newBox(t)
				var err error
				if last, err = b.apply(layerTar(t, l...), dirs...); err != nil {
					t.Fatal(err)
				}
				dirs = append(dirs, b.diff)
			}
			root := mountOverlay(t, dirs)
			if got := contents(tree(t, root)); !maps.Equal(got, tc.want) {
				t.Errorf("got %v\nwant %v", got, tc.want)
			}
			if last.dependent != tc.dependent {
				t.Errorf("dependent: got %v, want %v", last.dependent, tc.dependent)
			}
			info, err := os.Stat(filepath.Join(root, "tmp"))
			if err == nil && info.Mode().Perm() != 0o777 {
				t.Errorf("tmp is %v", info.Mode())
			}
		})
	}
	t.Run("parents not described keep owner and mode", func(t *testing.T) {
		lower, upper := newBox(t), newBox(t)
		if _, err := lower.apply(layerTar(t, dir("tmp").with(func(h *tar.Header) {
			h.Mode, h.Uid = 0o1777, 42
		}))); err != nil {
			t.Fatal(err)
		}
		if _, err := upper.apply(layerTar(t, file("tmp/x", "x")), lower.diff); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(upper.diff, "tmp"), &st); err != nil ||
			st.Mode != unix.S_IFDIR|0o1777 || st.Uid != 42 || st.Mtim.Sec != then.Unix() {
			t.Errorf("tmp: mode %o, owner %d, mtime %d, %v", st.Mode, st.Uid, st.Mtim.Sec, err)
		}
	})
	t.Run("lowest layer needs no whiteouts", func(t *testing.T) {
		b := newBox(t)
		if _, err := b.apply(layerTar(t, dir("d"), file("d/.wh.x", ""), file(".wh.y", ""))); err != nil {
			t.Fatal(err)
		}
		if got := contents(tree(t, b.diff)); !maps.Equal(got, want{"d": "dir"}) {
			t.Errorf("got %v", got)
		}
	})
}

// TestLayerLimits: a layer that would fill the disk is refused.
func TestLayerLimits(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	for name, tc := range map[string]struct {
		limits  func(*Limits)
		entries []*entry
	}{
		"entries": {func(l *Limits) { l.Entries = 2 }, []*entry{dir("a"), dir("b"), dir("c")}},
		"bytes":   {func(l *Limits) { l.Layer = 10 }, []*entry{file("a", "12345"), file("b", "123456")}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			limits := DefaultLimits()
			tc.limits(&limits)
			_, err := apply(context.Background(), bytes.NewReader(layerTar(t, tc.entries...)), b.diff,
				b.trash, nil, trustedFormat(), limits)
			var se *SizeError
			if !errors.As(err, &se) {
				t.Errorf("got %v, want a SizeError", err)
			}
		})
	}
}

// program turns any bytes into a layer: three bytes an entry, of few names, so that entries meet
// each other.
func program(t testing.TB, code []byte) []byte {
	names := []string{
		"a", "b", "a/b", "a/b/c", "b/a", "l", "l/a", "l/file", "a/l/b", ".", "../outside", "..",
		"outside/file", ".wh.a", "a/.wh.b", "l/.wh.file",
		".wh..wh..opq", "a/.wh..wh..opq", "l/.wh..wh..opq", ".wh...", "a/../b", "./a//b",
		"../outside/file", "../../../..",
	}
	var entries []*entry
	for len(code) >= 3 && len(entries) < 100 {
		name, link := names[int(code[1])%len(names)], names[int(code[2])%len(names)]
		types := []byte{
			tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar,
			tar.TypeFifo,
		}
		e := &entry{Typeflag: types[int(code[0])%len(types)], Name: name}
		switch e.Typeflag {
		case tar.TypeReg:
			e.body = link
		case tar.TypeSymlink, tar.TypeLink:
			e.Linkname = link
		case tar.TypeChar:
			minor := int64(code[2])
			e.header = func(h *tar.Header) { h.Devmajor, h.Devminor = 1, minor }
		}
		entries = append(entries, e)
		code = code[3:]
	}
	return layerTar(t, entries...)
}

// FuzzApply: no sequence of entries, on no lower layer, makes the applier write outside, panic or
// leak descriptors. A layer that is refused is tried again from its next entry on, in what the
// first try left.
func FuzzApply(f *testing.F) {
	needs.Root(f)
	f.Add([]byte{1, 0, 0, 0, 2, 0, 2, 5, 22, 0, 7, 0, 3, 1, 12}, []byte{})
	f.Add([]byte{0, 14, 0, 0, 17, 0, 1, 0, 0, 0, 0, 0}, []byte{1, 0, 0, 0, 2, 0})
	f.Add([]byte{0, 7, 0, 3, 2, 6, 0, 15, 0, 0, 18, 0}, []byte{2, 5, 23, 0, 4, 0})
	f.Fuzz(func(t *testing.T, upper, lower []byte) {
		b, below := newBox(t), newBox(t)
		before := openFds(t)
		_, _ = below.apply(program(t, lower))
		for n := 0; n < len(upper); n += 3 {
			if _, err := b.apply(program(t, upper[n:]), below.diff); err == nil {
				break
			}
		}
		if after := openFds(t); after != before {
			t.Errorf("%d descriptors open before, %d after", before, after)
		}
		b.untouched(t)
		below.untouched(t)
	})
}

// FuzzUnpack: no stream of bytes makes decompression and tar reading panic, or succeed with a
// digest that the content does not have.
func FuzzUnpack(f *testing.F) {
	needs.Root(f)
	layer := layerTar(f, dir("a"), file("a/b", "x"))
	f.Add(layer)
	f.Add(gz(layer))
	f.Add(zst(layer))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := newBox(t)
		limits := DefaultLimits()
		limits.Layer, limits.Entries = 1<<20, 100
		in := layerInput{
			diffID: digest.FromString("none of these"), blob: digest.FromBytes(data),
			r: bytes.NewReader(data),
		}
		_, err := unpackLayer(context.Background(), in, b.diff, b.trash, nil, trustedFormat(), limits)
		if err == nil {
			t.Error("a layer of another digest was taken")
		}
		b.untouched(t)
	})
}

func openFds(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
