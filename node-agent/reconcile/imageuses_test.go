// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestImageUses: the images of all containers and of their volumes are in use, and those that start will have theirs. If
// a record cannot be read, nothing is known.
func TestImageUses(t *testing.T) {
	leaktest.Check(t)
	root, err := bundle.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const digest = "sha256:28ab0519af4d29415103f912b253b87c96e8cbae856a5d15d1948e7d6d9c970b"
	for _, r := range []Record{
		{ID: "runs", State: stateRunning, ImageID: "x:1@" + digest},
		{ID: "starts", State: stateStarting},
		{ID: "stopped", State: stateEnded, ImageID: "x:1@" + digest},
		{ID: "volume", State: stateRunning, VolumeImages: []v1alpha1.VolumeImage{
			{Name: "v", ImageID: "v:1@" + digest},
		}},
	} {
		r.Key = source.Key{Namespace: "default", Name: r.ID}
		d := root.Dir(r.ID)
		if err := d.Make(); err != nil {
			t.Fatal(err)
		}
		b := &v1alpha1.OCIBundle{}
		b.Spec.Image = &v1alpha1.BundleImage{Reference: "x:2"}
		if r.VolumeImages != nil {
			b.Spec.Volumes = []v1alpha1.Volume{
				{Name: "e"}, {Name: "v", Image: &v1alpha1.ImageVolumeSource{Reference: "v:2"}},
			}
		}
		if err := writeDesired(d, b, bundle.Dir.Replace); err != nil {
			t.Fatal(err)
		}
		if err := r.write(d, bundle.Dir.Replace); err != nil {
			t.Fatal(err)
		}
	}
	uses, err := ImageUses(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, use := range uses {
		got = append(got, strings.Trim(fmt.Sprint(use.By, " ", use.Manifest, use.Reference), " "))
	}
	want := "runs " + digest + ", runs x:2, starts x:2, stopped " + digest + ", stopped x:2" +
		", volume " + digest + ", volume x:2, volume v:2"
	if strings.Join(got, ", ") != want {
		t.Errorf("found %q; want %q", got, want)
	}
	for name, text := range map[string]string{"record.json": "{", "rootfs": "", "images": ""} {
		d := root.Dir("damaged")
		if err := d.Make(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.File(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ImageUses(root); err == nil || !strings.Contains(err.Error(), d.Path()) {
			t.Errorf("%s: found %v; want an error that names the directory", name, err)
		}
		if err := os.RemoveAll(d.Path()); err != nil {
			t.Fatal(err)
		}
	}
}
