// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/api/v1alpha1"
)

// base is a Container that each case below changes in one field.
func base() *v1alpha1.Container {
	c := &v1alpha1.Container{}
	c.Name = "base"
	c.Spec.Image = "busybox"
	c.Spec.Env = []corev1.EnvVar{{Name: "A", Value: "1"}}
	c.Spec.SecurityContext = &corev1.SecurityContext{
		Capabilities:   &corev1.Capabilities{},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	c.Spec.Volumes = []v1alpha1.Volume{
		{Name: "e", EmptyDir: &corev1.EmptyDirVolumeSource{}},
		{Name: "h", HostPath: &corev1.HostPathVolumeSource{Path: "/h"}},
		{Name: "m", EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}},
	}
	c.Spec.VolumeMounts = []corev1.VolumeMount{
		{Name: "e", MountPath: "/e"},
		{Name: "h", MountPath: "/h", ReadOnly: true},
	}
	c.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
	return c
}

// fieldCase is what becomes of one field of the API.
type fieldCase struct {
	// set gives the field a value.
	set func(*v1alpha1.ContainerSpec)
	// refused is the path of the fault that set causes, for a field that is not
	// supported; empty for one that is honoured: set changes the bundle.
	refused string
	// placement says that the scheduler honours the field, not the bundle; then
	// bad is a value that is refused at badPath.
	placement bool
	bad       func(*v1alpha1.ContainerSpec)
	badPath   string
}

func fieldCases() map[string]fieldCase {
	type spec = v1alpha1.ContainerSpec
	quantity := resource.MustParse
	honoured := func(set func(*spec)) fieldCase { return fieldCase{set: set} }
	refused := func(path string, set func(*spec)) fieldCase { return fieldCase{set: set, refused: path} }
	placement := func(set func(*spec), badPath string, bad func(*spec)) fieldCase {
		return fieldCase{set: set, placement: true, bad: bad, badPath: badPath}
	}
	return map[string]fieldCase{
		"ContainerSpec.image":           honoured(func(s *spec) { s.Image = "other" }),
		"ContainerSpec.imagePullPolicy": honoured(func(s *spec) { s.ImagePullPolicy = corev1.PullNever }),
		"ContainerSpec.rootfs": honoured(func(s *spec) {
			s.Image, s.RootFS, s.Command = "", &v1alpha1.RootFS{Path: "/r"}, []string{"x"}
		}),
		"ContainerSpec.command":         honoured(func(s *spec) { s.Command = []string{"x"} }),
		"ContainerSpec.args":            honoured(func(s *spec) { s.Args = []string{"x"} }),
		"ContainerSpec.workingDir":      honoured(func(s *spec) { s.WorkingDir = "/x" }),
		"ContainerSpec.env":             honoured(func(s *spec) { s.Env = nil }),
		"ContainerSpec.hostname":        honoured(func(s *spec) { s.Hostname = "x" }),
		"ContainerSpec.hostNetwork":     honoured(func(s *spec) { s.HostNetwork = true }),
		"ContainerSpec.hostPID":         honoured(func(s *spec) { s.HostPID = true }),
		"ContainerSpec.hostIPC":         honoured(func(s *spec) { s.HostIPC = true }),
		"ContainerSpec.resources":       honoured(func(s *spec) { s.Resources.Limits = corev1.ResourceList{"pids": quantity("9")} }),
		"ContainerSpec.securityContext": honoured(func(s *spec) { s.SecurityContext.RunAsUser = new(int64(9)) }),
		"ContainerSpec.allowSocketcall": honoured(func(s *spec) { s.AllowSocketcall = true }),
		"ContainerSpec.volumes":         honoured(func(s *spec) { s.Volumes = s.Volumes[:2] }),
		"ContainerSpec.volumeMounts":    honoured(func(s *spec) { s.VolumeMounts = nil }),
		"ContainerSpec.restartPolicy":   honoured(func(s *spec) { s.RestartPolicy = corev1.RestartPolicyNever }),
		"ContainerSpec.terminationGracePeriodSeconds": honoured(func(s *spec) {
			s.TerminationGracePeriodSeconds = new(int64(9))
		}),
		"ContainerSpec.progressDeadlineSeconds": placement(func(s *spec) { s.ProgressDeadlineSeconds = new(int32(9)) },
			"spec.progressDeadlineSeconds", func(s *spec) { s.ProgressDeadlineSeconds = new(int32(0)) }),
		"ContainerSpec.nodeName": placement(func(s *spec) { s.NodeName = "n" },
			"spec.nodeName", func(s *spec) { s.NodeName = "N!" }),
		"ContainerSpec.nodeSelector": placement(func(s *spec) { s.NodeSelector = map[string]string{"a": "b"} },
			"spec.nodeSelector[a]", func(s *spec) { s.NodeSelector = map[string]string{"a": "b!"} }),
		"ContainerSpec.tolerations": placement(func(s *spec) { s.Tolerations = nil },
			"spec.tolerations[0].operator", func(s *spec) { s.Tolerations = []corev1.Toleration{{}} }),
		"ContainerSpec.runtimeClassName": placement(func(s *spec) { s.RuntimeClassName = new("kata") },
			"spec.runtimeClassName", func(s *spec) { s.RuntimeClassName = new("Kata!") }),

		"ContainerSpec.archive": honoured(func(s *spec) {
			s.Image, s.Archive = "", &v1alpha1.Archive{Path: "/a.tar"}
		}),
		"Archive.path": honoured(func(s *spec) {
			s.Image, s.Archive = "", &v1alpha1.Archive{Path: "/a.tar"}
		}),
		"Archive.name": honoured(func(s *spec) {
			s.Image, s.Archive = "", &v1alpha1.Archive{Path: "/a.tar", Name: "app:v1"}
		}),

		"RootFS.path": honoured(func(s *spec) {
			s.Image, s.RootFS, s.Command = "", &v1alpha1.RootFS{Path: "/r"}, []string{"x"}
		}),

		"EnvVar.name":  honoured(func(s *spec) { s.Env[0].Name = "B" }),
		"EnvVar.value": honoured(func(s *spec) { s.Env[0].Value = "2" }),
		"EnvVar.valueFrom": refused("spec.env[0].valueFrom", func(s *spec) {
			s.Env[0].ValueFrom = &corev1.EnvVarSource{}
		}),

		"Volume.name":     honoured(func(s *spec) { s.Volumes[2].Name = "x" }),
		"Volume.hostPath": honoured(func(s *spec) { s.Volumes[1].HostPath.Path = "/x" }),
		"Volume.emptyDir": honoured(func(s *spec) { s.Volumes[0].EmptyDir.Medium = "Memory" }),

		"HostPathVolumeSource.path": honoured(func(s *spec) { s.Volumes[1].HostPath.Path = "/x" }),
		"HostPathVolumeSource.type": honoured(func(s *spec) { s.Volumes[1].HostPath.Type = new(corev1.HostPathFile) }),

		"EmptyDirVolumeSource.medium":    honoured(func(s *spec) { s.Volumes[0].EmptyDir.Medium = "Memory" }),
		"EmptyDirVolumeSource.sizeLimit": honoured(func(s *spec) { s.Volumes[2].EmptyDir.SizeLimit = new(quantity("1Mi")) }),

		"EmptyDirVolumeSource.mode": refused("spec.volumes[0].emptyDir.mode", func(s *spec) {
			s.Volumes[0].EmptyDir.Mode = new(int32(0o755))
		}),

		"VolumeMount.name":     honoured(func(s *spec) { s.VolumeMounts[0].Name = "m" }),
		"VolumeMount.readOnly": honoured(func(s *spec) { s.VolumeMounts[0].ReadOnly = true }),
		"VolumeMount.recursiveReadOnly": honoured(func(s *spec) {
			s.VolumeMounts[1].RecursiveReadOnly = new(corev1.RecursiveReadOnlyIfPossible)
		}),
		"VolumeMount.mountPath":   honoured(func(s *spec) { s.VolumeMounts[0].MountPath = "/x" }),
		"VolumeMount.subPath":     refused("spec.volumeMounts[0].subPath", func(s *spec) { s.VolumeMounts[0].SubPath = "x" }),
		"VolumeMount.subPathExpr": refused("spec.volumeMounts[0].subPathExpr", func(s *spec) { s.VolumeMounts[0].SubPathExpr = "x" }),
		"VolumeMount.mountPropagation": honoured(func(s *spec) {
			s.VolumeMounts[0].MountPropagation = new(corev1.MountPropagationHostToContainer)
		}),
		"VolumeMount.bindMountOptions": honoured(func(s *spec) { s.VolumeMounts[0].BindMountOptions = []string{"noexec"} }),

		"ResourceRequirements.limits":   honoured(func(s *spec) { s.Resources.Limits = corev1.ResourceList{"cpu": quantity("1")} }),
		"ResourceRequirements.requests": honoured(func(s *spec) { s.Resources.Requests = corev1.ResourceList{"cpu": quantity("1")} }),
		"ResourceRequirements.claims": refused("spec.resources.claims", func(s *spec) {
			s.Resources.Claims = []corev1.ResourceClaim{{Name: "x"}}
		}),

		"SecurityContext.capabilities": honoured(func(s *spec) {
			s.SecurityContext.Capabilities.Drop = []corev1.Capability{"ALL"}
		}),
		"SecurityContext.privileged": refused("spec.securityContext.privileged", func(s *spec) {
			s.SecurityContext.Privileged = new(true)
		}),
		"SecurityContext.seLinuxOptions": refused("spec.securityContext.seLinuxOptions", func(s *spec) {
			s.SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{}
		}),
		"SecurityContext.windowsOptions": refused("spec.securityContext.windowsOptions", func(s *spec) {
			s.SecurityContext.WindowsOptions = &corev1.WindowsSecurityContextOptions{}
		}),
		"SecurityContext.appArmorProfile": refused("spec.securityContext.appArmorProfile", func(s *spec) {
			s.SecurityContext.AppArmorProfile = &corev1.AppArmorProfile{}
		}),
		"SecurityContext.procMount": refused("spec.securityContext.procMount", func(s *spec) {
			s.SecurityContext.ProcMount = new(corev1.UnmaskedProcMount)
		}),
		"SecurityContext.runAsUser":    honoured(func(s *spec) { s.SecurityContext.RunAsUser = new(int64(9)) }),
		"SecurityContext.runAsGroup":   honoured(func(s *spec) { s.SecurityContext.RunAsGroup = new(int64(9)) }),
		"SecurityContext.runAsNonRoot": honoured(func(s *spec) { s.SecurityContext.RunAsNonRoot = new(true) }),
		"SecurityContext.readOnlyRootFilesystem": honoured(func(s *spec) {
			s.SecurityContext.ReadOnlyRootFilesystem = new(true)
		}),
		"SecurityContext.allowPrivilegeEscalation": honoured(func(s *spec) {
			s.SecurityContext.AllowPrivilegeEscalation = new(true)
		}),
		"SecurityContext.seccompProfile": honoured(func(s *spec) { s.SecurityContext.SeccompProfile.Type = "Unconfined" }),

		"Capabilities.add":  honoured(func(s *spec) { s.SecurityContext.Capabilities.Add = []corev1.Capability{"BPF"} }),
		"Capabilities.drop": honoured(func(s *spec) { s.SecurityContext.Capabilities.Drop = []corev1.Capability{"KILL"} }),

		"SeccompProfile.type": honoured(func(s *spec) { s.SecurityContext.SeccompProfile.Type = "Unconfined" }),
		"SeccompProfile.localhostProfile": refused("spec.securityContext.seccompProfile.localhostProfile", func(s *spec) {
			s.SecurityContext.SeccompProfile.LocalhostProfile = new("x")
		}),

		"Toleration.key": placement(func(s *spec) { s.Tolerations[0].Key = "x" },
			"spec.tolerations[0].key", func(s *spec) { s.Tolerations[0].Key = "!" }),
		"Toleration.operator": placement(func(s *spec) { s.Tolerations[0].Operator = "Equal" },
			"spec.tolerations[0].operator", func(s *spec) { s.Tolerations[0].Operator = "Gt" }),
		"Toleration.value": placement(func(s *spec) { s.Tolerations[0].Operator, s.Tolerations[0].Value = "", "x" },
			"spec.tolerations[0].value", func(s *spec) { s.Tolerations[0].Value = "x" }),
		"Toleration.effect": placement(func(s *spec) { s.Tolerations[0].Effect = "NoExecute" },
			"spec.tolerations[0].effect", func(s *spec) { s.Tolerations[0].Effect = "Never" }),
		"Toleration.tolerationSeconds": refused("spec.tolerations[0].tolerationSeconds", func(s *spec) {
			s.Tolerations[0].TolerationSeconds = new(int64(1))
		}),
	}
}

// TestEveryField: no field of the API is decoration. Each is honoured, so that
// setting it changes the bundle, or refused with its path; and a field that a
// newer Kubernetes adds fails this test until somebody decides.
func TestEveryField(t *testing.T) {
	cases := fieldCases()
	seen := map[string]bool{}
	for _, v := range []any{
		v1alpha1.ContainerSpec{}, v1alpha1.RootFS{}, v1alpha1.Archive{}, v1alpha1.Volume{}, corev1.EnvVar{}, corev1.VolumeMount{},
		corev1.SecurityContext{}, corev1.Capabilities{}, corev1.SeccompProfile{}, corev1.HostPathVolumeSource{},
		corev1.EmptyDirVolumeSource{}, corev1.ResourceRequirements{}, corev1.Toleration{},
	} {
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			name = typ.Name() + "." + name
			seen[name] = true
			t.Run(name, func(t *testing.T) {
				c, ok := cases[name]
				if !ok {
					t.Fatal("this field is neither honoured nor refused: decide, then add it to fieldCases and to docs/fields.md")
				}
				checkField(t, c)
			})
		}
	}
	for name := range cases {
		if !seen[name] {
			t.Errorf("%s is no field of the API any more", name)
		}
	}
}

func checkField(t *testing.T, c fieldCase) {
	without, _ := compiled(t, base())
	with := base()
	c.set(&with.Spec)
	switch {
	case c.refused != "":
		wantFault(t, with, c.refused, "")
	case c.placement:
		compiled(t, with)
		bad := base()
		c.bad(&bad.Spec)
		wantFault(t, bad, c.badPath, "")
	default:
		got, _ := compiled(t, with)
		a, _ := json.Marshal(without)
		b, _ := json.Marshal(got)
		if string(a) == string(b) {
			t.Error("the bundle is the same with and without the field")
		}
	}
}

// wantFault asserts that the Container has exactly one fault, with a path and a
// part of its message.
func wantFault(t *testing.T, c *v1alpha1.Container, path, message string) {
	t.Helper()
	b, faults := Bundle(c)
	if b != nil && len(faults) > 0 {
		t.Error("there is a bundle beside the faults")
	}
	if len(faults) != 1 || faults[0].Field != path || !strings.Contains(faults[0].Error(), message) {
		t.Errorf("got %v, want a single fault of %s with %q", faults.ToAggregate(), path, message)
	}
}
