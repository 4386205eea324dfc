// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/berth-run/berth/api/oci/seccompref"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// profiles are the SeccompProfiles that the node's OCIBundles refer to: one copy of each, however
// many refer to it. The Syncer gets OCIBundles with the profile in their document, and keeps that
// document with the container, so that a container needs the profile's object once.
type profiles struct {
	client rest.Interface

	mu    sync.Mutex
	known map[string]*profile // by digest
}

// profile is the cached profile of one digest.
type profile struct {
	// content is empty until the profile was read; err is why it could not be.
	content string
	err     error
	// waiting are the bundles that need it.
	waiting map[source.Key]bool
}

// need requests the profile that a bundle refers to. changed is called with the bundle's key once
// the profile is there, or the first attempt to read it has failed. need returns true if it is
// there already.
func (p *profiles) need(ctx context.Context, b *v1alpha1.OCIBundle, changed func(source.Key)) bool {
	digest, key := b.Spec.SeccompProfile, receivedKey(b)
	if digest == "" {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	have := p.known[digest]
	switch {
	case have == nil:
		have = &profile{waiting: map[source.Key]bool{key: true}}
		p.known[digest] = have
		go p.read(ctx, digest, have, changed)
		return false
	case have.content != "":
		return true
	}
	have.waiting[key] = true
	return have.err != nil // known to fail so far
}

// Times between attempts to read a profile.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// read reads a profile, again and again until that succeeds.
func (p *profiles) read(ctx context.Context, digest string, into *profile,
	changed func(source.Key),
) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		content, err := p.get(ctx, digest)
		p.mu.Lock()
		news := err == nil || into.err == nil || into.err.Error() != err.Error()
		into.content, into.err = content, err
		waiting := slices.Collect(maps.Keys(into.waiting))
		if err == nil {
			into.waiting = nil
		}
		p.mu.Unlock()
		if news {
			for _, key := range waiting {
				changed(key)
			}
		}
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// reading reports whether the first attempt to read a profile is under way.
func (p *profiles) reading() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, have := range p.known {
		if have.content == "" && have.err == nil {
			return true
		}
	}
	return false
}

func (p *profiles) get(ctx context.Context, digest string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	o := &v1alpha1.SeccompProfile{}
	err := p.client.Get().Resource("seccompprofiles").Name(seccompref.Name(digest)).Do(ctx).Into(o)
	if err != nil {
		return "", fmt.Errorf("read SeccompProfile %s: %w", seccompref.Name(digest), err)
	}
	if found := seccompref.Digest(o.Spec.Profile); found != digest {
		return "", fmt.Errorf(
			"SeccompProfile %s: found a content of digest %s; allowed: the one of its name", o.Name, found)
	}
	return o.Spec.Profile, nil
}

// join returns b with its seccomp profile in its document. Without the profile,
// source.AnnotationUnresolved says why; while the profile is read for the first time, join returns
// nil if nothing else is known yet (synced is false): then it need not be said.
func (p *profiles) join(b *v1alpha1.OCIBundle, synced bool) *v1alpha1.OCIBundle {
	digest := b.Spec.SeccompProfile
	if digest == "" {
		return b
	}
	p.mu.Lock()
	content, err := "", error(nil)
	if have := p.known[digest]; have != nil {
		content, err = have.content, have.err
	}
	p.mu.Unlock()
	out := *b
	if content != "" {
		var spec *v1alpha1.OCIBundleSpec
		if spec, err = seccompref.Join(&b.Spec, content); err == nil {
			out.Spec = *spec
			return &out
		}
	}
	if err == nil && !synced {
		return nil
	}
	why := "it is being read"
	if err != nil {
		why = err.Error()
	}
	out.ObjectMeta = *b.ObjectMeta.DeepCopy()
	metav1.SetMetaDataAnnotation(&out.ObjectMeta, source.AnnotationUnresolved,
		fmt.Sprintf("spec.seccompProfile: %s: %s", digest, why))
	return &out
}
