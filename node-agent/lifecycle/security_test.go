// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// TestAppArmorWithoutTheModule: a profile is refused, and its absence is not.
func TestAppArmorWithoutTheModule(t *testing.T) {
	leaktest.Check(t)
	for kind, refused := range map[corev1.AppArmorProfileType]bool{
		corev1.AppArmorProfileTypeUnconfined:     false,
		corev1.AppArmorProfileTypeRuntimeDefault: true,
		corev1.AppArmorProfileTypeLocalhost:      true,
	} {
		p := &corev1.AppArmorProfile{Type: kind}
		if kind == corev1.AppArmorProfileTypeLocalhost {
			p.LocalhostProfile = new("x")
		}
		profile, err := (&securityStage{}).appArmor(t.Context(), p, false)
		if profile != "" || (err != nil) != refused {
			t.Errorf("%s: found %q, %v; want refused: %t", kind, profile, err, refused)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "type: found "+string(kind)) {
			t.Errorf("%s: found %v; want the path and the type", kind, err)
		}
	}
	unconfined := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	if profile, err := (&securityStage{}).appArmor(t.Context(), unconfined, true); profile != "unconfined" || err != nil {
		t.Errorf("with the module: found %q, %v; want unconfined", profile, err)
	}
}

// TestAppArmorRules has apparmor_parser read the default profile. The kernel is not asked.
func TestAppArmorRules(t *testing.T) {
	leaktest.Check(t)
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		needs.Skip(t, "apt-get install apparmor: "+err.Error())
	}
	if err := loadAppArmor(t.Context(), "--skip-kernel-load"); err != nil {
		t.Error(err)
	}
}
