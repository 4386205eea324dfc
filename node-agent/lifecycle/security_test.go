// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
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

// TestAppArmorRules has apparmor_parser compile the default profile for a kernel of the ABI 3.0. It
// is the same whichever ABI the node has for rules that name none. The kernel is not asked.
func TestAppArmorRules(t *testing.T) {
	leaktest.Check(t)
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		needs.Skip(t, "apt-get install apparmor: "+err.Error())
	}
	const abi = "/etc/apparmor.d/abi/3.0"
	if _, err := os.Stat(abi); err != nil {
		needs.Skip(t, "apt-get install apparmor, 3.0 or newer: "+err.Error())
	}
	noSignals := filepath.Join(t.TempDir(), "abi")
	if err := os.WriteFile(noSignals, []byte("file {mask {create read write}}\n"+
		"domain {version {1.2}}\npolicy {versions {v5 {yes}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	compiled := func(policy string) []byte {
		t.Helper()
		out := filepath.Join(t.TempDir(), "profile")
		if err := loadAppArmor(t.Context(), "--skip-kernel-load", "--ofile="+out,
			"--kernel-features="+abi, "--policy-features="+policy); err != nil {
			t.Fatal(err)
		}
		profile, err := os.ReadFile(out)
		if err != nil || len(profile) == 0 {
			t.Fatalf("found %d bytes, %v; want a profile", len(profile), err)
		}
		return profile
	}
	if !bytes.Equal(compiled(abi), compiled(noSignals)) {
		t.Error("the profile depends on the node's ABI")
	}
}

// TestAppArmorSignals: an agent with a profile of its own may end containers with the default one.
func TestAppArmorSignals(t *testing.T) {
	leaktest.Check(t)
	const rule = "signal (receive) peer=\"berth agent\",\n"
	if rules := appArmorRules("berth agent"); !strings.Contains(rules, rule) {
		t.Errorf("found the rules %s; want %s", rules, rule)
	}
	if rules := appArmorRules(""); strings.Contains(rules, `peer="`) {
		t.Errorf("found the rules %s; want no signals of the agent's profile", rules)
	}
}
