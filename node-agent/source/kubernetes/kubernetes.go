// SPDX-License-Identifier: Apache-2.0

// Package kubernetes is the source of an agent that belongs to a cluster: the OCIBundles of its node, which are in a namespace of
// their own, where alone the agent may read and watch.
//
// An OCIBundle is known to the agent by its Container's namespace and name, and by the uid of the first OCIBundle from which
// its container was made: see received.
//
// The agent is the only one that has anything to say in an OCIBundle's status, so the status is replaced as a whole, and what others
// write there is reported as a change, so that it is put right. The package must not know
// Containers: those are the controller's.
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
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// Options of a Kubernetes source.
type Options struct {
	// Config says how to reach the API server.
	Config *rest.Config
	// NodeName is the node whose OCIBundles are watched.
	NodeName string
	// Log is optional.
	Log *slog.Logger
}

// Kubernetes is a source.Source.
type Kubernetes struct {
	o        Options
	client   client.Client
	cache    cache.Cache
	store    atomic.Pointer[toolscache.Indexer]
	profiles *profiles
	synced   atomic.Bool
	own      ownWrites
}

var _ source.Source = (*Kubernetes)(nil)

// New makes a source that asks nothing of the API server before Run.
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
	// The mapping of our own kinds is known: no discovery is needed, so that the agent starts without an API server.
	mapper := v1alpha1Mapper()
	c, err := client.New(o.Config, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return nil, fmt.Errorf("kubernetes source: %w", err)
	}
	informers, err := cache.New(o.Config, cache.Options{
		Scheme: receivedScheme(), Mapper: mapper,
		ByObject: map[client.Object]cache.ByObject{
			// With this selector the cache asks for that one namespace.
			&received{}: {Field: fields.OneTermEqualSelector("metadata.namespace", v1alpha1.NodeNamespace(o.NodeName)), Transform: unwrap},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("kubernetes source: %w", err)
	}
	return &Kubernetes{o: o, client: c, cache: informers, profiles: &profiles{client: c, known: map[string]*profile{}}}, nil
}

// Run is part of source.Source.
func (k *Kubernetes) Run(ctx context.Context, events source.Events) error {
	informer, err := k.cache.GetInformer(ctx, &received{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch OCIBundles: %w", err)
	}
	shared, ok := informer.(toolscache.SharedIndexInformer)
	if !ok {
		return fmt.Errorf("watch OCIBundles: found an informer of type %T", informer)
	}
	indexer := shared.GetIndexer()
	k.store.Store(&indexer)
	tell := func(obj any) {
		// One that is being deleted needs no profile.
		if b, ok := obj.(*v1alpha1.OCIBundle); ok && (k.profiles.need(ctx, b, events.Changed) || b.DeletionTimestamp != nil) {
			events.Changed(source.Key{Namespace: b.Namespace, Name: b.Name})
		}
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: tell,
		UpdateFunc: func(old, now any) {
			a, aok := old.(*v1alpha1.OCIBundle)
			b, bok := now.(*v1alpha1.OCIBundle)
			if aok && bok && k.nothingNew(a, b) {
				return
			}
			tell(now)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if b, ok := obj.(*v1alpha1.OCIBundle); ok {
				k.own.forget(b)
				events.Changed(client.ObjectKeyFromObject(b))
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
	return k.cache.Start(ctx)
}

// nothingNew reports whether an update tells the agent nothing: its spec is the same, and its status is the same or the agent's own.
func (k *Kubernetes) nothingNew(old, now *v1alpha1.OCIBundle) bool {
	return old.UID == now.UID && old.Generation == now.Generation && old.DeletionTimestamp.Equal(now.DeletionTimestamp) &&
		(equality.Semantic.DeepEqual(old.Status, now.Status) || k.own.includes(now))
}

// Synced is part of source.Source.
func (k *Kubernetes) Synced() bool { return k.synced.Load() }

// Get is part of source.Source.
func (k *Kubernetes) Get(key source.Key) *v1alpha1.OCIBundle {
	store := k.store.Load()
	if store == nil {
		return nil
	}
	obj, ok, err := (*store).GetByKey(key.Namespace + "/" + key.Name)
	if err != nil || !ok {
		return nil
	}
	b, ok := obj.(*v1alpha1.OCIBundle)
	if !ok {
		return nil
	}
	return k.profiles.join(b, k.synced.Load())
}

// List is part of source.Source.
func (k *Kubernetes) List() []*v1alpha1.OCIBundle {
	store := k.store.Load()
	if store == nil {
		return nil
	}
	var out []*v1alpha1.OCIBundle
	for _, obj := range (*store).List() {
		if b, ok := obj.(*v1alpha1.OCIBundle); ok {
			out = append(out, b)
		}
	}
	return out
}

// object is the OCIBundle of that key, with the namespace and name that it has in the cluster. One that names no Container has no
// other key.
func (k *Kubernetes) object(key source.Key, hasContainer bool) *v1alpha1.OCIBundle {
	b := &v1alpha1.OCIBundle{}
	b.Namespace, b.Name = key.Namespace, key.Name
	if hasContainer {
		b.Namespace, b.Name = v1alpha1.NodeNamespace(k.o.NodeName), v1alpha1.BundleName(key.Namespace, key.Name)
	}
	return b
}

// sameBundle is the condition that an OCIBundle is the one that the agent knows.
func sameBundle(b *v1alpha1.OCIBundle) patch {
	if b.Spec.Former != nil {
		return patch{"test", "/spec/former/uid", b.UID}
	}
	return patch{"test", "/metadata/uid", b.UID}
}

// patch is one operation of a JSON patch (RFC 6902).
type patch struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// ReportStatus is part of source.Source. It replaces the status as a whole, on condition that the bundle is still the same one.
func (k *Kubernetes) ReportStatus(ctx context.Context, b *v1alpha1.OCIBundle, status *v1alpha1.OCIBundleStatus) error {
	data, err := json.Marshal([]patch{sameBundle(b), {"add", "/status", sent(b, status)}})
	if err != nil {
		return fmt.Errorf("report status: %w", err)
	}
	target := k.object(client.ObjectKeyFromObject(b), named(b))
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	k.own.begin(b, status)
	err = k.client.Status().Patch(ctx, target, client.RawPatch(types.JSONPatchType, data))
	if err == nil {
		k.own.done(b, target.ResourceVersion)
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

// replaced tells whether a patch failed because another bundle has the name now: a failed test is Invalid.
func (k *Kubernetes) replaced(ctx context.Context, err error, b *v1alpha1.OCIBundle) bool {
	if !apierrors.IsInvalid(err) {
		return false
	}
	now := k.object(client.ObjectKeyFromObject(b), named(b))
	err = k.client.Get(ctx, client.ObjectKeyFromObject(now), now)
	return apierrors.IsNotFound(err) || err == nil && identity(now) != b.UID
}

// Release is part of source.Source: it removes the finalizer.
func (k *Kubernetes) Release(ctx context.Context, key source.Key, uid types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	known := k.Get(key)
	b := k.object(key, known == nil || named(known))
	err := k.client.Get(ctx, client.ObjectKeyFromObject(b), b)
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
	before := b.DeepCopy()
	b.Finalizers = slices.Delete(b.Finalizers, i, i+1)
	// With the resourceVersion, since a merge patch replaces the whole list and others may have finalizers there, too.
	err = k.client.Patch(ctx, b, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("release OCIBundle %s: %w", key, err)
	}
	return nil
}
