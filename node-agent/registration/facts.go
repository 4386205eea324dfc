// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/cgrouplayout"
)

// Facts describe a machine.
type Facts struct {
	Info     v1alpha1.NodeInfo
	Capacity corev1.ResourceList
}

// Read reads the facts of the machine from /proc, /sys and /etc below root ("/" but in tests), and
// from the kernel itself.
func Read(root, agentVersion string) (Facts, error) {
	var f Facts
	mode, controllers, err := cgroups(root)
	if err != nil {
		return f, err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return f, fmt.Errorf("uname: %w", err)
	}
	f.Info = v1alpha1.NodeInfo{
		AgentVersion:    agentVersion,
		AgentRevision:   v1alpha1.AgentRevision,
		KernelVersion:   unix.ByteSliceToString(uts.Release[:]),
		OperatingSystem: runtime.GOOS,
		Architecture:    runtime.GOARCH,
		OSImage:         osImage(line(root, "etc/os-release")),
		BootID:          strings.TrimSpace(line(root, "proc/sys/kernel/random/boot_id")),

		CgroupMode: mode, CgroupControllers: controllers,
	}
	// The file is not there without securityfs: then the LSMs are not known, and none can be named.
	if lsms := strings.TrimSpace(line(root, "sys/kernel/security/lsm")); lsms != "" {
		f.Info.LSMs = strings.Split(lsms, ",")
	}

	cpus, err := cpuCount(line(root, "sys/devices/system/cpu/online"))
	if err != nil {
		cpus = runtime.NumCPU()
	}
	memory, err := memTotal([]byte(line(root, "proc/meminfo")))
	if err != nil {
		return f, err
	}
	f.Capacity = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(cpus), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
	}
	pidMax, err1 := strconv.ParseInt(strings.TrimSpace(line(root, "proc/sys/kernel/pid_max")), 10, 64)
	threadsMax, err2 := strconv.ParseInt(strings.TrimSpace(line(root, "proc/sys/kernel/threads-max")),
		10, 64)
	if err1 == nil && err2 == nil {
		f.Capacity[v1alpha1.ResourcePIDs] = *resource.NewQuantity(min(pidMax, threadsMax),
			resource.DecimalSI)
	}
	return f, nil
}

// line returns the content of a file, or "" if it cannot be read.
func line(root, path string) string {
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return ""
	}
	return string(data)
}

// osImage is PRETTY_NAME of os-release(5).
func osImage(content string) string {
	for l := range strings.Lines(content) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// cgroups finds the mode and the controllers that there are, whichever hierarchy they are on.
func cgroups(root string) (v1alpha1.CgroupMode, []string, error) {
	layout, err := cgrouplayout.Read(root)
	if err != nil {
		return "", nil, fmt.Errorf("cgroup hierarchies: %w", err)
	}
	var controllers []string
	if v2 := layout.V2(); v2 != "" {
		controllers = strings.Fields(line(root, filepath.Join(v2, "cgroup.controllers")))
	}
	if layout.Unified {
		return v1alpha1.CgroupV2, sorted(controllers), nil
	}
	for _, m := range cgrouplayout.Memberships(line(root, "proc/self/cgroup")) {
		for _, name := range m.Controllers {
			if !strings.HasPrefix(name, "name=") {
				controllers = append(controllers, name)
			}
		}
	}
	if layout.Hybrid != "" {
		return v1alpha1.CgroupHybrid, sorted(controllers), nil
	}
	return v1alpha1.CgroupV1, sorted(controllers), nil
}

func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// cpuCount counts a list of the kernel such as "0-3,8" (Documentation/admin-guide/cputopology.rst).
func cpuCount(list string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		if err != nil {
			return 0, fmt.Errorf("list of cpus: found %q", list)
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(to); err != nil || b < a {
				return 0, fmt.Errorf("list of cpus: found %q", list)
			}
		}
		n += b - a + 1
	}
	return n, nil
}

// memTotal returns the memory of the machine in bytes.
func memTotal(meminfo []byte) (int64, error) {
	s := bufio.NewScanner(bytes.NewReader(meminfo))
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("meminfo: MemTotal: %w", err)
			}
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("meminfo: found no MemTotal")
}

// Handler describes a handler by the features that it reports; f may be nil.
func Handler(name string, f *features.Features) v1alpha1.NodeHandler {
	h := v1alpha1.NodeHandler{Name: name}
	if f == nil {
		return h
	}
	h.OCIVersionMax = f.OCIVersionMax
	if f.Linux != nil {
		h.Namespaces = sorted(slices.Clone(f.Linux.Namespaces))
		h.Seccomp = f.Linux.Seccomp != nil && f.Linux.Seccomp.Enabled != nil && *f.Linux.Seccomp.Enabled
	}
	return h
}

// Labels returns the labels that select the machine, as a Node's.
func Labels(name string) map[string]string {
	return map[string]string{
		corev1.LabelHostname:   name,
		corev1.LabelOSStable:   runtime.GOOS,
		corev1.LabelArchStable: runtime.GOARCH,
	}
}

// Load is the current demand on the machine.
type Load struct {
	// Allocated is the sum of all requests.
	Allocated corev1.ResourceList
	// Containers is the number of bundles.
	Containers int32
	// Ready is nil if the agent can run containers, else why it cannot.
	Ready error
	// Network describes the node's network for containers; "" if it is not known yet. NetworkErr is
	// nil if containers can be connected to it.
	Network    string
	NetworkErr error
}

// LoadOf returns the demand of bundles. ready is nil if the agent can run containers.
func LoadOf(bundles []*v1alpha1.OCIBundle, ready error) Load {
	l := Load{Containers: int32(len(bundles)), Allocated: corev1.ResourceList{}, Ready: ready}
	for _, b := range bundles {
		for name, q := range b.Spec.Requests {
			sum := l.Allocated[name]
			sum.Add(q)
			l.Allocated[name] = sum
		}
	}
	return l
}
