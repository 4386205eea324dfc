// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// TestRepeatedLayers: an image may name one layer several times, and its content follows from its
// layers in their order. The kernel refuses a directory that is named twice.
func TestRepeatedLayers(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	base := layerTar(t, dir("bin"), file("bin/sh", "#!"), dir("d"), file("d/x", "x"))
	rest := contents{"bin": "dir", "bin/sh": "#!", "d": "dir", "d/x": "x"}
	empty := layerTar(t)
	a1, a2, noA := layerTar(t, file("a", "1")), layerTar(t, file("a", "2")),
		layerTar(t, file(".wh.a", ""))
	noD, newD, fileD := layerTar(t, file(".wh.d", "")), layerTar(t, dir("d"), file("d/new", "n")),
		layerTar(t, file("d", "file"))
	opaqueD := layerTar(t, dir("d"), file("d/.wh..wh..opq", ""))
	emptyD := contents{"bin": "dir", "bin/sh": "#!", "d": "dir", "d/new": "n"}
	for _, tc := range []struct {
		name   string
		layers [][]byte
		want   contents
	}{
		{"empty twice", [][]byte{base, empty, empty}, rest},
		{
			"empty five times between others",
			[][]byte{empty, base, empty, empty, a1, empty, empty},
			rest.plus("a", "1"),
		},
		{"only empty ones", [][]byte{empty, empty}, contents{}},
		{"a file twice", [][]byte{base, a1, a1}, rest.plus("a", "1")},
		{"another between", [][]byte{base, a1, a2, a1}, rest.plus("a", "1")},
		{"others between three times", [][]byte{base, a1, a2, a1, a2, a1}, rest.plus("a", "1")},
		{"a removal between", [][]byte{base, a1, noA, a1}, rest.plus("a", "1")},
		{"removals between three times", [][]byte{base, a1, noA, a1, noA, a1}, rest.plus("a", "1")},
		{"a removal twice", [][]byte{base, a1, noA, noA}, rest},
		{"a removal twice of different files", [][]byte{base, a1, noA, a2, noA}, rest},
		{"the base twice", [][]byte{base, base}, rest},
		{"the base again over a removal", [][]byte{base, noD, base}, rest},
		{"the base again over a replacement", [][]byte{base, fileD, base}, rest},
		{"a directory again over its removal", [][]byte{base, newD, noD, newD}, emptyD},
		{"a directory again over its emptying", [][]byte{base, newD, opaqueD, newD}, emptyD},
		{"a directory again over a file", [][]byte{base, newD, fileD, newD}, emptyD},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for ref, transport := range repeated(t, tc.layers) {
				s := openStore(t)
				img := ensure(t, s, ref, Default)
				if got := contents(tree(t, mountOverlay(t, img.Layers))); !maps.Equal(got, tc.want) {
					t.Errorf("%s: got %v, want %v", transport, got, tc.want)
				}
				again := ensure(t, openStoreAt(t, s.dir), ref, Never)
				if !slices.Equal(again.Layers, img.Layers) {
					t.Errorf("%s: after reopening: got layers %v, want %v", transport, again.Layers, img.Layers)
				}
			}
		})
	}
}

// repeated writes an image of these layers in each form, and returns the references with what they
// are.
func repeated(t *testing.T, layers [][]byte) map[string]string {
	m, c, ls := testImage{layers: layers}.build(t)
	layout := writeLayout(t, v1.Index{Manifests: []v1.Descriptor{m.desc}}, append(ls, m, c)...)
	docker := t.TempDir()
	config := c.desc.Digest.Encoded() + ".json"
	write(t, filepath.Join(docker, config), c.data)
	var names []string
	for _, l := range layers {
		names = append(names, digest.FromBytes(l).Encoded()+".tar")
		write(t, filepath.Join(docker, names[len(names)-1]), l)
	}
	write(t, filepath.Join(docker, "manifest.json"),
		mustJSON(t, []map[string]any{{"Config": config, "RepoTags": []string{"x:1"}, "Layers": names}}))
	archive := filepath.Join(t.TempDir(), "docker.tar")
	write(t, archive, tarDirectory(t, docker))
	return map[string]string{
		newRegistry(t).push(t, "app", "v1", testImage{layers: layers}): "registry", "oci:" +
			layout: "directory", "docker-archive:" + archive: "docker archive",
	}
}

// TestDistinct: whatever layers hold, an image whose equal layers share a directory is the same as
// one whose layers each have their own, which is as the specification has it.
func TestDistinct(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	names := []string{"a", "b", "a/b", "a/c", "b/a", "a/b/c"}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same sequence each time
	layer := func(body string) []byte {
		var entries []*entry
		made := map[string]byte{} // a layer has each name once, and no file above another
		for range 1 + random.IntN(6) {
			name := names[random.IntN(len(names))]
			var e *entry
			switch random.IntN(5) {
			case 0, 1:
				e = file(name, body)
			case 2:
				e = dir(name)
			case 3:
				e = file(filepath.Join(filepath.Dir(name), ".wh."+filepath.Base(name)), "")
			default:
				e = file(filepath.Join(filepath.Dir(name), ".wh..wh..opq"), "")
			}
			blocked := made[e.Name] != 0
			for above := filepath.Dir(e.Name); above != "."; above = filepath.Dir(above) {
				switch made[above] {
				case tar.TypeReg:
					blocked = true
				case 0:
					if random.IntN(2) == 0 { // described or not
						entries, made[above] = append([]*entry{dir(above)}, entries...), tar.TypeDir
					}
				}
			}
			for below := range made {
				blocked = blocked || e.Typeflag == tar.TypeReg && strings.HasPrefix(below, e.Name+"/")
			}
			if !blocked {
				entries, made[e.Name] = append(entries, e), e.Typeflag
			}
		}
		return layerTar(t, entries...)
	}
	compared := 0
	for n := range 100 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			pool := [][]byte{layer("0"), layer("1"), layer("2")}
			var own, shared []string
			independent := map[int]string{}
			for range 3 + random.IntN(4) {
				i := random.IntN(len(pool))
				b := newBox(t)
				if _, err := b.apply(pool[i], own...); err != nil {
					return // a file of a lower layer is in the way
				}
				own = append(own, b.diff)
				if independent[i] == "" {
					b := newBox(t)
					result, err := b.apply(pool[i], shared...)
					if err != nil {
						t.Fatal(err)
					}
					if !result.dependent {
						independent[i] = b.diff
					}
					shared = append(shared, b.diff)
					continue
				}
				shared = append(shared, independent[i])
			}
			if len(distinct(shared)) == len(shared) {
				return
			}
			compared++
			want, got := tree(t, mountOverlay(t, own)), tree(t, mountOverlay(t, distinct(shared)))
			if !maps.Equal(got, want) {
				t.Errorf("layers %v: got %v, want %v", shared, got, want)
			}
		})
	}
	if compared < 10 {
		t.Errorf("found %d images with repeated layers; want at least 10", compared)
	}
}
