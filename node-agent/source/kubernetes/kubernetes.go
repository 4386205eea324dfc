// SPDX-License-Identifier: Apache-2.0

// Package kubernetes is the source of an agent that belongs to a cluster: the OCIBundles of its
// node, which are in a namespace of their own, where alone the agent may read and watch.
//
// An OCIBundle is known to the agent by its Container's namespace and name, and by the uid of the
// first OCIBundle from which its container was made: see received.
//
// The agent is the only one that has anything to say in an OCIBundle's status, so the status is
// replaced as a whole, and what others write there is reported as a change, so that it is put
// right. The package must not know Containers: those are the controller's.
package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/apiserver"
	"github.com/berth-run/berth/node-agent/source"
)

// Options of a Kubernetes source.
type Options struct {
	// Config is the client configuration for the API server.
	Config *rest.Config
	// NodeName is the node whose OCIBundles are watched.
	NodeName string
	// Log receives the messages; optional.
	Log *slog.Logger
}

// Kubernetes is a source.Source.
type Kubernetes struct {
	o        Options
	client   rest.Interface
	informer cache.SharedIndexInformer
	profiles *profiles
	objects  *objects
	tokens   *tokens
	synced   atomic.Bool
	own      ownWrites
}

var _ source.Source = (*Kubernetes)(nil)

// New returns a source, which sends no request to the API server before Run.
func New(o Options) (*Kubernetes, error) {
	if o.NodeName == "" {
		return nil, errors.New("kubernetes source: found no node name")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	c, errClient := apiserver.NewClient(o.Config, v1alpha1.GroupVersion, scheme)
	watched, errWatched := apiserver.NewClient(o.Config, v1alpha1.GroupVersion, receivedScheme())
	objects, errObjects := newObjects(o.Config, o.Log)
	tokens, errTokens := newTokens(o.Config, o.NodeName, o.Log)
	if err := errors.Join(errClient, errWatched, errObjects, errTokens); err != nil {
		return nil, fmt.Errorf("kubernetes source: %w", err)
	}
	bundles := cache.NewListWatchFromClient(watched, "ocibundles", v1alpha1.NodeNamespace(o.NodeName),
		fields.Everything())
	informer := cache.NewSharedIndexInformer(bundles, &received{}, 0, cache.Indexers{})
	if err := informer.SetTransform(hold); err != nil {
		return nil, fmt.Errorf("kubernetes source: %w", err)
	}
	return &Kubernetes{
		o: o, client: c, informer: informer, objects: objects, tokens: tokens,
		profiles: &profiles{client: c, known: map[string]*profile{}},
	}, nil
}

// Run is part of source.Source.
func (k *Kubernetes) Run(ctx context.Context, events source.Events) error {
	tell := func(obj any) {
		b, ok := obj.(*held)
		if ok {
			k.objects.follow(ctx, &b.OCIBundle, events.Changed)
			k.tokens.follow(ctx, &b.OCIBundle, events.Changed)
		}
		// One that is being deleted needs no profile.
		if ok && (k.profiles.need(ctx, &b.OCIBundle, events.Changed) || b.DeletionTimestamp != nil) {
			events.Changed(receivedKey(&b.OCIBundle))
		}
	}
	registration, err := k.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell,
		UpdateFunc: func(old, now any) {
			a, aok := old.(*held)
			b, bok := now.(*held)
			if aok && bok && k.nothingNew(&a.OCIBundle, &b.OCIBundle) {
				return
			}
			tell(now)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if b, ok := obj.(*held); ok {
				k.own.forget(&b.OCIBundle)
				k.objects.forget(receivedKey(&b.OCIBundle))
				k.tokens.forget(receivedKey(&b.OCIBundle))
				events.Changed(receivedKey(&b.OCIBundle))
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch OCIBundles: %w", err)
	}
	go func() {
		warned := time.Now()
		for !registration.HasSynced() || k.profiles.reading() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			if time.Since(warned) > 30*time.Second {
				k.o.Log.Warn("the API server has not told yet which bundles are wanted; what runs goes on")
				warned = time.Now()
			}
		}
		k.synced.Store(true)
		events.Synced()
	}()
	k.informer.RunWithContext(ctx)
	k.objects.wg.Wait()
	k.tokens.wg.Wait()
	return nil
}

// nothingNew reports whether an update has no news for the agent: its spec is the same, and its
// status is the same or the agent's own.
func (k *Kubernetes) nothingNew(old, now *v1alpha1.OCIBundle) bool {
	return old.UID == now.UID && old.Generation == now.Generation &&
		old.DeletionTimestamp.Equal(now.DeletionTimestamp) &&
		(equality.Semantic.DeepEqual(old.Status, now.Status) || k.own.includes(now))
}

// Synced is part of source.Source.
func (k *Kubernetes) Synced() bool { return k.synced.Load() }

// Get is part of source.Source.
func (k *Kubernetes) Get(key source.Key) *v1alpha1.OCIBundle {
	obj, ok, err := k.informer.GetStore().GetByKey(key.Namespace + "/" + key.Name)
	if err != nil || !ok {
		return nil
	}
	b, ok := obj.(*held)
	if !ok {
		return nil
	}
	return k.profiles.join(b.config.In(&b.OCIBundle), k.synced.Load())
}

// List is part of source.Source.
func (k *Kubernetes) List() []*v1alpha1.OCIBundle {
	var out []*v1alpha1.OCIBundle
	for _, obj := range k.informer.GetStore().List() {
		if b, ok := obj.(*held); ok {
			out = append(out, &b.OCIBundle)
		}
	}
	return out
}

// receivedKey returns the key of an OCIBundle that was received.
func receivedKey(b *v1alpha1.OCIBundle) source.Key {
	return source.Key{Namespace: b.Namespace, Name: b.Name}
}

// nameOf returns the namespace and the name that the OCIBundle of a key has in the cluster. One
// that names no Container has no other key.
func (k *Kubernetes) nameOf(key source.Key, hasContainer bool) types.NamespacedName {
	if !hasContainer {
		return key
	}
	return types.NamespacedName{
		Namespace: v1alpha1.NodeNamespace(k.o.NodeName),
		Name:      v1alpha1.BundleName(key.Namespace, key.Name),
	}
}

// read reads an OCIBundle.
func (k *Kubernetes) read(ctx context.Context, name types.NamespacedName) (*v1alpha1.OCIBundle,
	error,
) {
	b := &v1alpha1.OCIBundle{}
	return b, k.client.Get().Namespace(name.Namespace).Resource(
		"ocibundles").Name(name.Name).Do(ctx).Into(b)
}

// patch patches an OCIBundle, or its subresource, and returns the API server's answer.
func (k *Kubernetes) patch(
	ctx context.Context, name types.NamespacedName, form types.PatchType, data []byte,
	subresource ...string,
) (*v1alpha1.OCIBundle, error) {
	b := &v1alpha1.OCIBundle{}
	return b, k.client.Patch(form).Namespace(name.Namespace).Resource(
		"ocibundles").Name(name.Name).SubResource(subresource...).
		Body(data).Do(ctx).Into(b)
}

// sameBundle returns the condition that an OCIBundle is the one that the agent knows.
func sameBundle(b *v1alpha1.OCIBundle) operation {
	if b.Spec.Former != nil {
		return operation{"test", "/spec/former/uid", b.UID}
	}
	return operation{"test", "/metadata/uid", b.UID}
}

// operation is one operation of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// ReportStatus is part of source.Source. It replaces the status as a whole, on condition that the
// bundle is still the same one.
func (k *Kubernetes) ReportStatus(ctx context.Context, b *v1alpha1.OCIBundle,
	status *v1alpha1.OCIBundleStatus,
) error {
	data, err := json.Marshal([]operation{sameBundle(b), {"add", "/status", sent(b, status)}})
	if err != nil {
		return fmt.Errorf("report status: %w", err)
	}
	name := k.nameOf(receivedKey(b), named(b))
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	k.own.begin(b, status)
	written, err := k.patch(ctx, name, types.JSONPatchType, data, "status")
	if err == nil {
		k.own.done(b, written.ResourceVersion)
	}
	if apierrors.IsNotFound(err) || k.replaced(ctx, err, b) {
		k.own.forget(b)
		return nil
	}
	if err != nil {
		return fmt.Errorf("report status of OCIBundle %s/%s: %w", b.Namespace, b.Name, err)
	}
	return nil
}

// replaced reports whether a patch failed because another bundle has the name now: a failed test is
// Invalid.
func (k *Kubernetes) replaced(ctx context.Context, err error, b *v1alpha1.OCIBundle) bool {
	if !apierrors.IsInvalid(err) {
		return false
	}
	now, err := k.read(ctx, k.nameOf(receivedKey(b), named(b)))
	return apierrors.IsNotFound(err) || err == nil && identity(now) != b.UID
}

// Release is part of source.Source: it removes the finalizer.
func (k *Kubernetes) Release(ctx context.Context, key source.Key, uid types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	known := k.Get(key)
	name := k.nameOf(key, known == nil || named(known))
	b, err := k.read(ctx, name)
	if apierrors.IsNotFound(err) || err == nil && identity(b) != uid {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release OCIBundle %s: %w", key, err)
	}
	i := slices.Index(b.Finalizers, v1alpha1.OCIBundleFinalizer)
	if i < 0 || b.DeletionTimestamp == nil {
		return nil
	}
	// With the resourceVersion, since a merge patch replaces the whole list and others may have
	// finalizers there, too.
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": b.ResourceVersion, "finalizers": slices.Delete(b.Finalizers, i, i+1),
	}})
	if err == nil {
		_, err = k.patch(ctx, name, types.MergePatchType, data)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("release OCIBundle %s: %w", key, err)
	}
	return nil
}
