// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// warnings are what the API server warns of.
type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

// take returns the warnings since the last call.
func (w *warnings) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.text, "\n")
	w.text = nil
	return text
}

// TestGracePeriodOfADeletion: the API server drops it for custom resources, so whoever gives one is told what to do instead; what
// the warning says does work.
func TestGracePeriodOfADeletion(t *testing.T) {
	a := newApplier(t)
	a.install(t, "policy")
	config := rest.CopyConfig(restConfig(t))
	warned := &warnings{}
	config.WarningHandler = warned
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	client := d.Resource(containers).Namespace("default")
	for name, spec := range map[string]string{"graceful": "image: busybox\nterminationGracePeriodSeconds: 60", "default-grace": "image: busybox"} {
		u := object(t, "Container", name, spec)
		u.SetFinalizers([]string{"berth.run/container"})
		if _, err := client.Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string, seconds *int64) string {
		t.Helper()
		if err := client.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: seconds}); err != nil {
			t.Fatal(err)
		}
		return warned.take()
	}
	const patch = `kubectl -n default patch container graceful --type=merge -p '{"spec":{"terminationGracePeriodSeconds":0}}'`
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) { // a policy takes effect some time after it was created
		warning := remove("graceful", ptr.To[int64](0))
		if strings.Contains(warning, patch) && strings.Contains(warning, "which has 60 s") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the warning is %q", warning)
		}
	}
	now, err := client.Get(t.Context(), "graceful", metav1.GetOptions{})
	if err != nil || now.GetDeletionTimestamp() == nil || ptr.Deref(now.GetDeletionGracePeriodSeconds(), -1) != 0 {
		t.Errorf("the deletion does not go on (%v): %v", err, now)
	}
	// While it terminates, the spec can be edited.
	if _, err := client.Patch(t.Context(), "graceful", "application/merge-patch+json", []byte(`{"spec":{"terminationGracePeriodSeconds":0}}`), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	for name, seconds := range map[string]*int64{"graceful": ptr.To[int64](0), "default-grace": nil} {
		if warning := remove(name, seconds); warning != "" {
			t.Errorf("%s: the warning is %q", name, warning)
		}
	}
	if warning := remove("default-grace", ptr.To[int64](1)); !strings.Contains(warning, "which has 30 s") {
		t.Errorf("the warning is %q", warning)
	}
	for _, name := range []string{"graceful", "default-grace"} {
		if _, err := client.Patch(t.Context(), name, "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
}
