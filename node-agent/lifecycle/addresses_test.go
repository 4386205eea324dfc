// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
)

// TestAddressVariables: variables are the container's addresses once it is connected, and with the
// node's network the node's.
func TestAddressVariables(t *testing.T) {
	leaktest.Check(t)
	own := &specs.Spec{Linux: &specs.Linux{
		Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}},
	}}
	two := []netip.Addr{netip.MustParseAddr("10.89.0.2"), netip.MustParseAddr("fd00::2")}
	node := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	for name, tc := range map[string]struct {
		c       Container
		path    string
		nodeErr error
		want    string
		err     string
	}{
		"before it is connected": {Container{}, "status.podIP", nil, "", ""},
		"the first": {
			Container{Connected: true, Spec: own, Addresses: two},
			"status.podIP", nil,
			"10.89.0.2", "",
		},
		"all": {
			Container{Connected: true, Spec: own, Addresses: two},
			"status.podIPs", nil,
			"10.89.0.2,fd00::2", "",
		},
		"none": {
			Container{Connected: true, Spec: own},
			"status.podIPs", nil, "",
			"status.podIPs: found no address of the container",
		},
		"the node's": {
			Container{Connected: true, Spec: &specs.Spec{}},
			"status.podIP", nil,
			"192.0.2.1", "",
		},
		"all of the node": {
			Container{Connected: true, Spec: &specs.Spec{Linux: &specs.Linux{}}},
			"status.podIPs", nil,
			"192.0.2.1,192.0.2.2", "",
		},
		"none of the node": {
			Container{Connected: true, Spec: &specs.Spec{}},
			"status.podIP", errors.New("no route"), "",
			"status.podIP: no route",
		},
		"the host's": {Container{Spec: own, Addresses: two}, "status.hostIPs", nil, "192.0.2.1,192.0.2.2", ""},
	} {
		t.Run(name, func(t *testing.T) {
			stage := environmentStage{node: Node{
				Addresses: func() ([]netip.Addr, error) { return node, tc.nodeErr },
			}}
			got, err := nodeValues{stage, &tc.c}.Field(tc.path)
			if tc.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tc.err) {
					t.Fatalf("found %v; want %s", err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("found %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

// TestNoAddressInAFile: a file of downwardAPI, which is written before the container is connected,
// never has an address that is not known.
func TestNoAddressInAFile(t *testing.T) {
	leaktest.Check(t)
	v := nodeValues{environmentStage{}, &Container{Bundle: &v1alpha1.OCIBundle{}}}
	_, err := v.Item("ip", &corev1.DownwardAPIVolumeFile{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"},
	})
	if err == nil || !strings.Contains(err.Error(), `found "status.podIP"; allowed: in a variable`) {
		t.Errorf("found %v; want an error", err)
	}
}

// TestAddressesStageIsForAddresses: the variables of any other container are not computed twice.
func TestAddressesStageIsForAddresses(t *testing.T) {
	leaktest.Check(t)
	c := &Container{Bundle: &v1alpha1.OCIBundle{}, Connected: true, Spec: &specs.Spec{}}
	c.Bundle.Spec.Process.Env = []corev1.EnvVar{
		{Name: "A", Value: "status.podIP"},
		{Name: "B", ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIP"},
		}},
	}
	// Without a function for the node's addresses, computing them would panic.
	if err := (addressesStage{}).Ensure(t.Context(), c); err != nil {
		t.Error(err)
	}
}
