// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/userns"
)

// TestUsersByDefault: under an agent whose default is a user namespace, a container has one unless its
// bundle says otherwise or shares something with the node. Ids that it would not have are refused.
func TestUsersByDefault(t *testing.T) {
	leaktest.Check(t)
	ranges, err := userns.Open(t.TempDir(), userns.Size, 20*userns.Size-1)
	if err != nil {
		t.Fatal(err)
	}
	const namespaces = `{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"mount"}`
	config := func(namespaces, process string) runtime.RawExtension {
		return runtime.RawExtension{Raw: []byte(`{"process":{` + process + `},"linux":{"namespaces":[` +
			namespaces + `]}}`)}
	}
	type spec = v1alpha1.OCIBundleSpec
	for name, tc := range map[string]struct {
		byDefault bool
		edit      func(*spec)
		want      bool
		refused   string
	}{
		"by default":               {byDefault: true, want: true},
		"by another default":       {},
		"asked for":                {edit: func(s *spec) { s.UserNamespace = true }, want: true},
		"asked for and default":    {byDefault: true, edit: func(s *spec) { s.UserNamespace = true }, want: true},
		"not wanted":               {byDefault: true, edit: func(s *spec) { s.HostUsers = true }},
		"privileged":               {byDefault: true, edit: func(s *spec) { s.AllDevices = true }},
		"in another's network":     {byDefault: true, edit: func(s *spec) { s.Network = &v1alpha1.BundleNetwork{Container: "x"} }},
		"the node's processes":     {byDefault: true, edit: func(s *spec) { s.Config = config(namespaces[15:], "") }},
		"the node's network":       {byDefault: true, edit: func(s *spec) { s.Config = config(`{"type":"pid"},{"type":"ipc"}`, "") }},
		"the node's IPC":           {byDefault: true, edit: func(s *spec) { s.Config = config(namespaces[:33], "") }},
		"a user":                   {byDefault: true, edit: func(s *spec) { s.Process.RunAsUser = new(int64(65535)) }, want: true},
		"a user that is not":       {byDefault: true, edit: func(s *spec) { s.Process.RunAsUser = new(int64(65536)) }, refused: "runAsUser: found 65536"},
		"a group that is not":      {byDefault: true, edit: func(s *spec) { s.Process.RunAsGroup = new(int64(65536)) }, refused: "runAsGroup"},
		"a fsGroup that is not":    {byDefault: true, edit: func(s *spec) { s.Security = &v1alpha1.BundleSecurity{FSGroup: new(int64(65536))} }, refused: "fsGroup"},
		"groups that are not":      {byDefault: true, edit: func(s *spec) { s.Config = config(namespaces, `"user":{"additionalGids":[5,65536]}`) }, refused: "supplementalGroups"},
		"a user of the node's":     {edit: func(s *spec) { s.Process.RunAsUser = new(int64(65536)) }},
		"a user of those it wants": {byDefault: true, edit: func(s *spec) { s.HostUsers, s.Process.RunAsUser = true, new(int64(65536)) }},
	} {
		b := &v1alpha1.OCIBundle{Spec: v1alpha1.OCIBundleSpec{Config: config(namespaces, "")}}
		if tc.edit != nil {
			tc.edit(&b.Spec)
		}
		c := &Container{ID: name, Bundle: b, OwnUsers: tc.byDefault}
		err := usersStage{ranges}.Ensure(t.Context(), c)
		if tc.refused != "" {
			if err == nil || !strings.HasPrefix(err.Error(), "spec.securityContext."+tc.refused) {
				t.Errorf("%s: found %v; want a refusal of %s", name, err, tc.refused)
			}
			continue
		}
		if err != nil || c.Users != 0 != tc.want {
			t.Errorf("%s: found the ids from %d, %v; want a user namespace: %v", name, c.Users, err, tc.want)
		}
	}
}

// TestRangeStaysWithItsContainer: a container that asks for a user namespace no more, and whose
// start ends before the stage network, still has the pinned one. No other container gets its ids
// until it is removed.
func TestRangeStaysWithItsContainer(t *testing.T) {
	leaktest.Check(t)
	ranges, err := userns.Open(t.TempDir(), userns.Size, 10*userns.Size-1)
	if err != nil {
		t.Fatal(err)
	}
	stage := usersStage{ranges}
	ensure := func(id string, mapped bool) uint32 {
		t.Helper()
		c := &Container{ID: id, Bundle: &v1alpha1.OCIBundle{
			Spec: v1alpha1.OCIBundleSpec{UserNamespace: mapped},
		}}
		if err := stage.Ensure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		return c.Users
	}
	first := ensure("edited", true)
	if got := ensure("edited", false); got != 0 {
		t.Errorf("found the ids from %d without a user namespace; want the node's", got)
	}
	if other := ensure("other", true); other == first {
		t.Errorf("found the ids from %d with another container", other)
	}
	if again := ensure("edited", true); again != first {
		t.Errorf("found the ids from %d; want %d, which the pinned namespace has", again, first)
	}
	if err := stage.Release(t.Context(), &Container{ID: "edited"}); err != nil {
		t.Fatal(err)
	}
	if next := ensure("next", true); next != first {
		t.Errorf("found the ids from %d; want %d of the container that was removed", next, first)
	}
}
