// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestStandalonePull has a registry that does not answer. While two containers wait for one pull,
// one is removed and the other is edited to an image that is there.
func TestStandalonePull(t *testing.T) {
	var asked, waiting atomic.Int32
	registry := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		waiting.Add(1)
		defer waiting.Add(-1)
		<-r.Context().Done()
	}))
	t.Cleanup(registry.Close)
	reference := strings.TrimPrefix(registry.URL, "http://") + "/x:1"

	h := newHost(t)
	h.start()
	for _, name := range []string{"one", "two"} {
		h.write(name+".yaml", "  image: "+reference+"\n  command: [sleep, \"1000\"]\n")
	}
	h.until("the registry is asked", func() bool { return asked.Load() > 0 })
	for _, name := range []string{"one", "two"} {
		h.until(name+" waits for its image", func() bool {
			c := h.get(name)
			if c == nil {
				return false
			}
			image := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionImageReady)
			return image != nil && image.Reason == v1alpha1.ReasonPulling
		})
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the registry was asked %d times; want once", n)
	}
	h.remove("one.yaml")
	h.until("one is gone", func() bool { return h.get("one") == nil })
	if n := waiting.Load(); n != 1 {
		t.Errorf("found %d requests that wait; want that for two", n)
	}
	h.write("two.yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [sleep, \"1000\"]\n")
	h.untilRunning("two")
	h.until("the pull is given up", func() bool { return waiting.Load() == 0 })
	if n := asked.Load(); n != 1 {
		t.Errorf("the registry was asked %d times; want once", n)
	}
	h.removeAll("two.yaml")
}
