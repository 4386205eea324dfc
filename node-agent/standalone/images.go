// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/reconcile"
)

// Image is an item of the list of images.
type Image struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Status            struct {
		// Names are the references that lead to the image.
		Names        []string     `json:"names"`
		Digest       string       `json:"digest"`
		ConfigDigest string       `json:"configDigest"`
		Size         int64        `json:"size"`
		Created      *metav1.Time `json:"created,omitempty"`
		Pulled       *metav1.Time `json:"pulled,omitempty"`
		LastUsed     metav1.Time  `json:"lastUsed"`
		Pinned       bool         `json:"pinned"`
		// UsedBy are the Containers that have the image, or will have it at their next start.
		UsedBy []string `json:"usedBy"`
	} `json:"status"`
}

// Images are the images of the node of a state directory.
type Images struct {
	stateDir string
	store    *image.Store
}

// OpenImages opens the images beside the agent, or without one. Options say how to pull.
func OpenImages(stateDir string, options ...image.Option) (*Images, error) {
	stateDir, err := filepath.Abs(stateDir)
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	store, err := image.Open(filepath.Join(stateDir, "images"), append(options, image.Beside())...)
	if err != nil {
		return nil, err
	}
	return &Images{stateDir, store}, nil
}

// Close removes what an interrupted pull has left.
func (i *Images) Close() error { return i.store.Close() }

func (i *Images) users() ([]image.Use, error) {
	bundles, err := bundle.Open(filepath.Join(i.stateDir, "bundles"))
	if err != nil {
		return nil, err
	}
	return reconcile.ImageUses(bundles)
}

// List returns all images.
func (i *Images) List() ([]Image, error) {
	all, err := i.store.List(i.users)
	if err != nil {
		return nil, err
	}
	out := make([]Image, len(all))
	for n := range all {
		out[n] = shown(&all[n])
	}
	return out, nil
}

func shown(s *image.Stored) Image {
	out := Image{TypeMeta: metav1.TypeMeta{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "Image",
	}}
	out.Name = s.Name()
	st := &out.Status
	st.Names, st.UsedBy = append([]string{}, s.Names...), append([]string{}, s.UsedBy...)
	st.Digest, st.ConfigDigest = s.Digest.String(), s.ConfigDigest.String()
	st.Size, st.Pinned, st.LastUsed = s.Size, s.Pinned, metav1.NewTime(s.LastUsed)
	if !s.Created.IsZero() {
		st.Created = &metav1.Time{Time: s.Created}
	}
	if !s.Pulled.IsZero() {
		st.Pulled = &metav1.Time{Time: s.Pulled}
	}
	return out
}

// Remove removes an image by a name or digest, unless a container has it. Of an image with several
// names, a name is removed alone. It returns the name or the digest that is gone.
func (i *Images) Remove(ctx context.Context, text string) (string, error) {
	all, err := i.store.List(i.users)
	if err != nil {
		return "", err
	}
	img, named, err := image.Find(all, text)
	if err != nil {
		return "", err
	}
	if named && len(img.Names) > 1 {
		// The containers that were started by this name start again by it.
		if len(img.UsedBy) > 0 {
			return "", &image.InUseError{Name: text, By: img.UsedBy}
		}
		return text, i.store.RemoveName(ctx, img, text)
	}
	_, err = i.store.Remove(ctx, img)
	return img.Name(), err
}

// Prunable returns the images that no container has and that are not pinned; those without a name
// unless all is set.
func (i *Images) Prunable(all bool) ([]Image, error) {
	list, err := i.List()
	return slices.DeleteFunc(list, func(img Image) bool { return !img.prunable(all) }), err
}

func (i *Image) prunable(all bool) bool {
	return len(i.Status.UsedBy) == 0 && !i.Status.Pinned && (all || len(i.Status.Names) == 0)
}

// Prune removes an image of Prunable, and reports whether it has removed it: it may be in use by
// now.
func (i *Images) Prune(ctx context.Context, img *Image, all bool) (bool, error) {
	list, err := i.store.List(i.users)
	if err != nil {
		return false, err
	}
	for n := range list {
		now := shown(&list[n])
		if now.Status.Digest != img.Status.Digest || !now.prunable(all) {
			continue
		}
		_, err := i.store.Remove(ctx, &list[n])
		if inUse := (*image.InUseError)(nil); errors.As(err, &inUse) {
			return false, nil
		}
		return err == nil, err
	}
	return false, nil
}

// Pull asks the registry for the image, fetches what the node lacks, and returns the reference with
// the digest.
func (i *Images) Pull(ctx context.Context, reference string) (string, error) {
	img, err := i.store.Ensure(ctx, reference, image.Always)
	if err != nil {
		return "", err
	}
	img.Release()
	return img.ID(), nil
}

// Pin keeps whichever image a reference names from garbage collection and prune.
func (i *Images) Pin(reference string) error { return i.store.Pin(reference) }

// Unpin takes back Pin.
func (i *Images) Unpin(reference string) error {
	found, err := i.store.Unpin(reference)
	if err == nil && !found {
		err = fmt.Errorf("found no pin of %s; allowed: a reference that berth-agent image pin has pinned",
			reference)
	}
	return err
}
