// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/apiserver"
	"github.com/berth-run/berth/node-agent/source"
)

// objects are the ConfigMaps and Secrets that the node's OCIBundles refer to. Each is watched
// alone, and once, however many refer to it: the controller lets the agent read those names and
// nothing else of their namespaces. One that is immutable is read once, and kept for as long as one
// of them refers to it, as the kubelet does. Nothing of a Secret is ever written down.
type objects struct {
	client rest.Interface
	log    *slog.Logger

	mu      sync.Mutex
	wg      sync.WaitGroup // of the goroutines that watch
	watched map[objectKey]*object
	// named are the objects that each OCIBundle refers to.
	named map[source.Key][]objectKey
}

// objectKey names a ConfigMap or Secret.
type objectKey struct{ kind, namespace, name string }

func (k objectKey) String() string { return k.kind + " " + k.namespace + "/" + k.name }

// object has the last known content of one ConfigMap or Secret.
type object struct {
	stop  context.CancelFunc
	users map[source.Key]bool
	// known is false until the API server has said whether the object exists. err is the error of the
	// last attempt to ask it.
	known bool
	err   error
	// ended is true once nobody watches it any more.
	ended bool
	// data is nil if the object does not exist. binary is of a ConfigMap.
	data, binary map[string]string
}

// coreScheme returns a scheme with the kinds of objects alone.
func coreScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.ConfigMap{}, &corev1.ConfigMapList{},
		&corev1.Secret{}, &corev1.SecretList{})
	metav1.AddToGroupVersion(s, corev1.SchemeGroupVersion)
	return s
}

func newObjects(config *rest.Config, log *slog.Logger) (*objects, error) {
	c, err := apiserver.NewClient(config, corev1.SchemeGroupVersion, coreScheme())
	if err != nil {
		return nil, err
	}
	return &objects{
		client: c, log: log, watched: map[objectKey]*object{}, named: map[source.Key][]objectKey{},
	}, nil
}

// follow watches what an OCIBundle refers to now, and no longer what it referred to before. changed
// is called with the OCIBundle's key when one of the objects has changed, or is known for the first
// time. After the end of ctx nothing is watched any more.
func (o *objects) follow(ctx context.Context, b *v1alpha1.OCIBundle, changed func(source.Key)) {
	refs := slices.Concat(environment.References(b.Spec.Process.Env, b.Spec.Process.EnvFrom),
		files.References(b.Spec.Volumes), environment.PullSecrets(&b.Spec))
	var now []objectKey
	for _, r := range refs {
		k := objectKey{r.Kind, b.Owner().Namespace, r.Name}
		if !slices.Contains(now, k) {
			now = append(now, k)
		}
	}
	key := receivedKey(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, k := range now {
		have := o.watched[k]
		if have == nil {
			watching, stop := context.WithCancel(ctx)
			have = &object{stop: stop, users: map[source.Key]bool{}}
			o.watched[k] = have
			o.wg.Go(func() {
				o.watch(watching, k, have, changed)
				o.mu.Lock()
				have.ended = true
				o.mu.Unlock()
			})
		}
		have.users[key] = true
	}
	o.leave(key, now)
	if len(now) > 0 {
		o.named[key] = now
	}
}

// forget no longer watches what an OCIBundle that is gone referred to.
func (o *objects) forget(key source.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.leave(key, nil)
}

// leave ends the watches of what an OCIBundle referred to and does not now, unless others do. o.mu
// is held.
func (o *objects) leave(key source.Key, now []objectKey) {
	for _, k := range o.named[key] {
		have := o.watched[k]
		if slices.Contains(now, k) || have == nil {
			continue
		}
		delete(have.users, key)
		if len(have.users) == 0 {
			have.stop()
			delete(o.watched, k)
		}
	}
	delete(o.named, key)
}

// Times between attempts to watch an object. The first ones are short, since the agent hears of an
// OCIBundle before the controller has allowed it to read what that refers to.
const (
	firstAttempt = 100 * time.Millisecond
	lastAttempt  = 30 * time.Second
)

// watch follows an object until ctx ends.
func (o *objects) watch(ctx context.Context, key objectKey, into *object,
	changed func(source.Key),
) {
	resource, kind := "configmaps", runtime.Object(&corev1.ConfigMap{})
	if key.kind == environment.KindSecret {
		resource, kind = "secrets", &corev1.Secret{}
	}
	one := cache.NewListWatchFromClient(o.client, resource, key.namespace,
		fields.OneTermEqualSelector(metav1.ObjectNameField, key.name))
	store := &objectStore{objects: o, key: key, into: into, changed: changed}
	reflector := cache.NewReflectorWithOptions(one, kind, store, cache.ReflectorOptions{
		Name: key.String(),
	})
	pause := firstAttempt
	for ctx.Err() == nil {
		began := time.Now()
		if err := reflector.ListAndWatchWithContext(ctx); err != nil && ctx.Err() == nil {
			store.fail(err)
		}
		if time.Since(began) > lastAttempt { // it has watched for a while
			pause = firstAttempt
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait.Jitter(pause, 0.5)):
			pause = min(2*pause, lastAttempt)
		}
	}
}

// objectStore takes what a watch of one object shows. It is a cache.ReflectorStore.
type objectStore struct {
	*objects
	key     objectKey
	into    *object
	changed func(source.Key)
}

var _ cache.ReflectorStore = (*objectStore)(nil)

// Add is part of cache.ReflectorStore.
func (s *objectStore) Add(obj any) error {
	data, binary := contents(obj)
	s.set(data, binary)
	if immutable(obj) {
		s.into.stop() // it has nothing more to say
	}
	return nil
}

// Update is part of cache.ReflectorStore.
func (s *objectStore) Update(obj any) error { return s.Add(obj) }

// Delete is part of cache.ReflectorStore.
func (s *objectStore) Delete(any) error {
	s.set(nil, nil)
	return nil
}

// Replace is part of cache.ReflectorStore.
func (s *objectStore) Replace(list []any, _ string) error {
	if len(list) > 0 {
		return s.Add(list[0])
	}
	return s.Delete(nil)
}

// Resync is part of cache.ReflectorStore.
func (s *objectStore) Resync() error { return nil }

// contents returns the data of an object, not nil, and its binary data.
func contents(obj any) (data, binary map[string]string) {
	text := func(in map[string][]byte) map[string]string {
		out := map[string]string{}
		for k, v := range in {
			out[k] = string(v)
		}
		return out
	}
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		data = map[string]string{}
		maps.Copy(data, o.Data)
		return data, text(o.BinaryData)
	case *corev1.Secret:
		return text(o.Data), nil
	}
	return nil, nil
}

// immutable reports whether an object never changes, until it is deleted.
func immutable(obj any) bool {
	var set *bool
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		set = o.Immutable
	case *corev1.Secret:
		set = o.Immutable
	}
	return set != nil && *set
}

// set notes what the object holds now; nil if it does not exist.
func (s *objectStore) set(data, binary map[string]string) {
	s.mu.Lock()
	was := s.into
	news := !was.known || (was.data == nil) != (data == nil) || !maps.Equal(was.data, data) ||
		!maps.Equal(was.binary, binary)
	was.known, was.err, was.data, was.binary = true, nil, data, binary
	s.tell(news)
}

// fail notes why the API server has not answered. The known content stays, and no message of a
// container says that the object may have changed since.
func (s *objectStore) fail(err error) {
	s.mu.Lock()
	was := s.into
	news := !was.known && (was.err == nil || was.err.Error() != err.Error())
	revoked := was.known && apierrors.IsForbidden(err) && !apierrors.IsForbidden(was.err)
	was.err = err
	s.tell(news)
	if revoked {
		s.log.Warn("the agent may no longer read an object; containers keep what is known of it",
			"object", s.key.String(), "error", err)
	}
}

// tell unlocks s.mu and, if there is news, reports the OCIBundles that refer to the object.
func (s *objectStore) tell(news bool) {
	users := slices.Collect(maps.Keys(s.into.users))
	s.mu.Unlock()
	if !news {
		return
	}
	for _, key := range users {
		s.changed(key)
	}
}

// Unread is part of lifecycle.Objects.
func (k *Kubernetes) Unread(namespace string, refs []environment.Object) error {
	o := k.objects
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range refs {
		key := objectKey{r.Kind, namespace, r.Name}
		have := o.watched[key]
		switch {
		case have != nil && have.known:
		case have != nil && apierrors.IsForbidden(have.err):
			return fmt.Errorf("%s is not read yet: berth-controller has not allowed that yet: %w", key,
				have.err)
		case have != nil && have.err != nil:
			return fmt.Errorf("%s is not read yet: %w", key, have.err)
		default:
			return fmt.Errorf("%s is not read yet", key)
		}
	}
	return nil
}

// Complete is part of lifecycle.Objects: an object that is not there is gone.
func (k *Kubernetes) Complete() bool { return true }

// Data is part of lifecycle.Objects.
func (k *Kubernetes) Data(namespace string, r environment.Object) (map[string]string, bool) {
	data, _ := k.objects.get(objectKey{r.Kind, namespace, r.Name})
	return data, data != nil
}

// Files is part of lifecycle.Objects.
func (k *Kubernetes) Files(namespace string, r environment.Object) (map[string]string, bool) {
	data, binary := k.objects.get(objectKey{r.Kind, namespace, r.Name})
	if len(binary) == 0 {
		return data, data != nil
	}
	all := maps.Clone(binary)
	maps.Copy(all, data)
	return all, true
}

// get returns what an object holds. The maps are never changed, only replaced.
func (o *objects) get(key objectKey) (data, binary map[string]string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if have := o.watched[key]; have != nil {
		return have.data, have.binary
	}
	return nil, nil
}
