// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/source"
)

// ImageUses returns the images that the containers of the bundles have, and those that they will
// have at their next start. It reads what the agent has written down, so that a command beside the
// agent may call it, too. It fails if it cannot know all.
func ImageUses(bundles *bundle.Root) ([]image.Use, error) {
	ids, err := bundles.List()
	if err != nil {
		return nil, err
	}
	var out []image.Use
	for _, id := range ids {
		uses, err := imageUses(bundles.Dir(id))
		if err != nil {
			return nil, fmt.Errorf("find out which images are in use: %w", err)
		}
		out = append(out, uses...)
	}
	return out, nil
}

// imageUses returns the images of one container.
func imageUses(d bundle.Dir) ([]image.Use, error) {
	r, err := readRecord(d, time.Time{}, boottime.Instant{})
	if err != nil {
		return nil, err
	}
	if r == nil {
		if d.ImagesLeft() {
			return nil, fmt.Errorf("found no record of the container in %s; allowed: one that names its image",
				d.Path())
		}
		return nil, nil // its removal ends just now
	}
	var out []image.Use
	by := displayKey(r.Key)
	if r.ImageID != "" {
		out = append(out, image.Use{By: by, Manifest: manifestOf(r.ImageID)})
	}
	for _, v := range r.VolumeImages {
		out = append(out, image.Use{By: by, Manifest: manifestOf(v.ImageID)})
	}
	// It starts, or may start again: by then, the name may lead to another image than the one that
	// it has, or the accepted spec may name another one.
	if b := readDesired(d); b != nil {
		for _, reference := range imagesOf(b) {
			out = append(out, image.Use{By: by, Reference: reference})
		}
	}
	return out, nil
}

// imagesOf returns the references of the images of a spec.
func imagesOf(b *v1alpha1.OCIBundle) (references []string) {
	if b.Spec.Image != nil {
		references = append(references, b.Spec.Image.Reference)
	}
	for _, v := range b.Spec.Volumes {
		if v.Image != nil {
			references = append(references, v.Image.Reference)
		}
	}
	return references
}

// manifestOf returns the digest at the end of an image's ID.
func manifestOf(id string) digest.Digest {
	return digest.Digest(id[strings.LastIndexByte(id, '@')+1:])
}

// displayKey returns the name of a container for people: with its namespace, unless it is default.
func displayKey(key source.Key) string {
	if key.Namespace == corev1.NamespaceDefault {
		return key.Name
	}
	return cmp.Or(strings.Trim(key.Namespace+"/"+key.Name, "/"), "a container without a name")
}
