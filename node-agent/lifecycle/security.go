// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/node-agent/bundle"
)

// securityStage adds to the document what fields of securityContext name on the node. It looks at
// the node at each start.
type securityStage struct {
	seccompRoot string
	installing  sync.Mutex // held while the default AppArmor profile is loaded
}

func (*securityStage) Name() string { return "security" }
func (*securityStage) Scope() Scope { return PerRun }

func (s *securityStage) Ensure(ctx context.Context, c *Container) error {
	wanted := c.Bundle.Spec.Security
	if wanted == nil {
		return nil
	}
	if wanted.SELinuxOptions != nil {
		c.Spec.Process.SelinuxLabel, c.Spec.Linux.MountLabel = c.Labels.Process, c.Labels.File
	}
	if wanted.AppArmorProfile != nil {
		profile, err := s.appArmor(ctx, wanted.AppArmorProfile, appArmorEnabled())
		if err != nil {
			return fmt.Errorf("spec.securityContext.appArmorProfile.%w", err)
		}
		c.Spec.Process.ApparmorProfile = profile
	}
	if path := wanted.LocalhostSeccompProfile; path != "" {
		profile, err := bundle.ReadSeccomp(s.seccompRoot, path)
		if err != nil {
			return fmt.Errorf("spec.securityContext.seccompProfile.localhostProfile: %w", err)
		}
		c.Spec.Linux.Seccomp = profile
	}
	return nil
}

func (*securityStage) Release(context.Context, *Container) error { return nil }

// appArmor returns the process's profile. As the kubelet does, it refuses a profile on a node whose
// kernel has not enabled AppArmor.
func (s *securityStage) appArmor(ctx context.Context, p *corev1.AppArmorProfile, enabled bool) (
	string, error,
) {
	if p.Type == corev1.AppArmorProfileTypeUnconfined {
		if enabled {
			return "unconfined", nil // else it would be the supervisor's own
		}
		return "", nil
	}
	if !enabled {
		return "", fmt.Errorf("type: found %s, and a kernel that has not enabled AppArmor on this node;"+
			" allowed here: Unconfined, or no appArmorProfile", p.Type)
	}
	if p.Type == corev1.AppArmorProfileTypeLocalhost && p.LocalhostProfile != nil {
		name := *p.LocalhostProfile
		// Without securityfs the runtime finds out.
		if loaded, err := appArmorLoaded(name); err == nil && !loaded {
			return "", fmt.Errorf("localhostProfile: found %q, which is not loaded on this node;"+
				" allowed: a profile that aa-status lists", name)
		}
		return name, nil
	}
	s.installing.Lock()
	defer s.installing.Unlock()
	if loaded, err := appArmorLoaded(defaultAppArmorProfile); err == nil && loaded {
		return defaultAppArmorProfile, nil
	}
	if err := loadAppArmor(ctx, "--replace"); err != nil {
		return "", fmt.Errorf("type: found RuntimeDefault, whose profile cannot be loaded: %w", err)
	}
	return defaultAppArmorProfile, nil
}

// appArmorEnabled reports whether AppArmor is among the kernel's active security modules
// (apparmor(7)).
func appArmorEnabled() bool {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(data), "Y")
}
