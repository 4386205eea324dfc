// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/json"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/api/oci/capability"
	"github.com/berth-run/berth/api/v1alpha1"
)

// base returns a Container that each case below changes in one field.
func base() *v1alpha1.Container {
	c := &v1alpha1.Container{}
	c.Name = "base"
	c.Spec.Image = "busybox"
	c.Spec.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 80, HostPort: 8080}}
	c.Spec.Env = []corev1.EnvVar{{Name: "A", Value: "1"}}
	c.Spec.SecurityContext = &v1alpha1.SecurityContext{SecurityContext: corev1.SecurityContext{
		Capabilities:   &corev1.Capabilities{},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}}
	c.Spec.Volumes = []v1alpha1.Volume{
		{Name: "e", EmptyDir: &corev1.EmptyDirVolumeSource{}},
		{Name: "h", HostPath: &corev1.HostPathVolumeSource{Path: "/h"}},
		{Name: "m", EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}},
	}
	c.Spec.Volumes = append(c.Spec.Volumes, fileVolumes()...)
	c.Spec.VolumeMounts = []corev1.VolumeMount{
		{Name: "e", MountPath: "/e"},
		{Name: "h", MountPath: "/h", ReadOnly: true},
	}
	c.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.tcp_rmem", Value: "1 2 3"}}
	c.Spec.Devices = []v1alpha1.Device{{Path: "/dev/x"}}
	c.Spec.Ulimits = []v1alpha1.Ulimit{{Name: "nofile", Soft: 8, Hard: 9}}
	c.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
	return c
}

// fieldCase is a value of one API field and its effect on the bundle.
type fieldCase struct {
	// set gives the field a value.
	set func(*v1alpha1.ContainerSpec)
	// arrives has the bundle's resulting values as JSON, by path; "" for an absent one.
	// All else is as it is without the field.
	arrives arrives
	// refused is the path of the fault that set causes, for a field that is not supported.
	refused string
	// placement says that the scheduler or the controller honours the field, and the bundle is the
	// same with it; then bad is a value that is refused at badPath.
	placement bool
	bad       func(*v1alpha1.ContainerSpec)
	badPath   string
}

// arrives has values by the paths of flatten.
type arrives = map[string]string

// everyDevice is the change of the rules of the device cgroup to one that allows everything.
func everyDevice() arrives {
	const rule = `config.linux.resources.devices[{"access":"rwm","allow":true}].`
	out := arrives{rule + "access": `"rwm"`, rule + "allow": `true`}
	for _, gone := range []string{
		`{"access":"rwm","allow":false}`, "b", "c", "c 2", "c 3", "c 4", "c 5", "c 6", "c 7", "c 8", "c 9",
		"c 10",
	} {
		out["config.linux.resources.devices["+gone+"].*"] = ""
	}
	return out
}

func fieldCases() map[string]fieldCase {
	type spec = v1alpha1.ContainerSpec
	quantity := resource.MustParse
	honoured := func(at arrives, set func(*spec)) fieldCase { return fieldCase{set: set, arrives: at} }
	refused := func(path string, set func(*spec)) fieldCase {
		return fieldCase{set: set, refused: path}
	}
	subPathArrives := arrives{
		"config.mounts[/e].source": `"subpaths/0"`, "subPaths[x/1].mount": `0`,
		"subPaths[x/1].source": `"volumes/e"`, "subPaths[x/1].path": `"x/1"`,
	}
	placement := func(set func(*spec), badPath string, bad func(*spec)) fieldCase {
		return fieldCase{set: set, placement: true, bad: bad, badPath: badPath}
	}
	const defaultCaps = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP" +
		" NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
	caps := func(names string) arrives {
		list := `["CAP_` + strings.ReplaceAll(names, " ", `","CAP_`) + `"]`
		return arrives{
			"config.process.capabilities.bounding": list, "config.process.capabilities.permitted": list,
			"config.process.capabilities.effective": list,
		}
	}
	all := func(parts ...arrives) arrives {
		out := arrives{}
		for _, p := range parts {
			maps.Copy(out, p)
		}
		return out
	}
	return map[string]fieldCase{
		"image": honoured(arrives{"image.reference": `"other"`}, func(s *spec) {
			s.Image = "other"
		}),
		"imagePullPolicy": honoured(arrives{"image.pullPolicy": `"Never"`}, func(s *spec) {
			s.ImagePullPolicy = corev1.PullNever
		}),
		"imagePullSecrets[].name": honoured(arrives{"image.pullSecrets": `["s"]`}, func(s *spec) {
			s.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}}
		}),
		"command": honoured(arrives{"process.command": `["x"]`, "config.process.args": `["x"]`},
			func(s *spec) {
				s.Command = []string{"x"}
			}),
		"args": honoured(arrives{"process.args": `["x"]`}, func(s *spec) {
			s.Args = []string{"x"}
		}),
		"workingDir": honoured(arrives{"process.workingDir": `"/x"`, "config.process.cwd": `"/x"`},
			func(s *spec) {
				s.WorkingDir = "/x"
			}),
		"hostname": honoured(arrives{"config.hostname": `"x"`}, func(s *spec) {
			s.Hostname = "x"
		}),
		"subdomain": honoured(arrives{"names.subdomain": `"x"`}, func(s *spec) { s.Subdomain = "x" }),
		"setHostnameAsFQDN": honoured(arrives{"names.setHostnameAsFQDN": `true`}, func(s *spec) {
			s.SetHostnameAsFQDN = true
		}),
		"hostAliases[].ip": honoured(arrives{
			"names.hostAliases[192.0.2.1].ip":        `"192.0.2.1"`,
			"names.hostAliases[192.0.2.1].hostnames": `["x"]`,
		}, func(s *spec) {
			s.HostAliases = []v1alpha1.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"x"}}}
		}),
		"hostAliases[].hostnames": honoured(arrives{
			"names.hostAliases[::1].ip":        `"::1"`,
			"names.hostAliases[::1].hostnames": `["x","y.z"]`,
		}, func(s *spec) {
			s.HostAliases = []v1alpha1.HostAlias{{IP: "::1", Hostnames: []string{"x", "y.z"}}}
		}),
		"dnsPolicy": honoured(arrives{"names.dnsPolicy": `"ClusterFirst"`}, func(s *spec) {
			s.DNSPolicy = corev1.DNSClusterFirst
		}),
		"dnsConfig.nameservers": honoured(arrives{"names.dnsConfig.nameservers": `["192.0.2.53"]`},
			func(s *spec) {
				s.DNSConfig = &v1alpha1.DNSConfig{Nameservers: []string{"192.0.2.53"}}
			}),
		"dnsConfig.searches": honoured(arrives{"names.dnsConfig.searches": `["example.com","."]`},
			func(s *spec) {
				s.DNSConfig = &v1alpha1.DNSConfig{Searches: []string{"example.com", "."}}
			}),
		"dnsConfig.options[].name": honoured(arrives{"names.dnsConfig.options[rotate].name": `"rotate"`},
			func(s *spec) {
				s.DNSConfig = &v1alpha1.DNSConfig{Options: []v1alpha1.DNSOption{{Name: "rotate"}}}
			}),
		"dnsConfig.options[].value": honoured(arrives{
			"names.dnsConfig.options[ndots].name":  `"ndots"`,
			"names.dnsConfig.options[ndots].value": `"2"`,
		}, func(s *spec) {
			two := "2"
			s.DNSConfig = &v1alpha1.DNSConfig{
				Options: []v1alpha1.DNSOption{{Name: "ndots", Value: &two}},
			}
		}),
		"hostNetwork": honoured(arrives{
			"config.linux.namespaces[network].type": "",
			"config.linux.namespaces[uts].type":     "",
			"config.hostname":                       "",
			"config.linux.sysctl.*":                 "",
			"network.ports[8080].*":                 "",
		}, func(s *spec) {
			s.HostNetwork, s.Ports, s.SecurityContext.Sysctls = true, nil, nil
		}),
		"network.none": honoured(arrives{"network.none": `true`, "network.ports[8080].*": ""},
			func(s *spec) {
				s.Network, s.Ports = &v1alpha1.Network{None: true}, nil
			}),
		"networks[].name": honoured(arrives{"network.networks[front].name": `"front"`}, func(s *spec) {
			s.Networks = []v1alpha1.NetworkAttachment{{Name: "front"}}
		}),
		"networks[].aliases": honoured(arrives{
			"network.networks[back].name":    `"back"`,
			"network.networks[back].aliases": `["db"]`,
		}, func(s *spec) {
			s.Networks = []v1alpha1.NetworkAttachment{{Name: "back", Aliases: []string{"db"}}}
		}),
		"dependsOn": refused("spec.dependsOn", func(s *spec) {
			s.DependsOn = []v1alpha1.Dependency{{Name: "db", Condition: v1alpha1.DependencyStarted}}
		}),
		"network.container": refused("spec.network.container", func(s *spec) {
			s.Network, s.Ports, s.SecurityContext.Sysctls = &v1alpha1.Network{Container: "web"}, nil, nil
		}),
		"ports[].name": placement(func(s *spec) { s.Ports[0].Name = "other" },
			"spec.ports[0].name", func(s *spec) { s.Ports[0].Name = "Web!" }),
		"ports[].containerPort": honoured(arrives{"network.ports[8080].containerPort": `81`},
			func(s *spec) {
				s.Ports[0].ContainerPort = 81
			}),
		"ports[].hostPort": honoured(arrives{
			"network.ports[8080].*":             "",
			"network.ports[8081].hostPort":      `8081`,
			"network.ports[8081].containerPort": `80`,
			"network.ports[8081].protocol":      `"TCP"`,
		}, func(s *spec) {
			s.Ports[0].HostPort = 8081
		}),
		"ports[].hostIP": honoured(arrives{"network.ports[8080].hostIP": `"::1"`}, func(s *spec) {
			s.Ports[0].HostIP = "::1"
		}),
		"ports[].protocol": honoured(arrives{"network.ports[8080].protocol": `"UDP"`}, func(s *spec) {
			s.Ports[0].Protocol = corev1.ProtocolUDP
		}),
		"hostPID": honoured(arrives{"config.linux.namespaces[pid].type": ""}, func(s *spec) {
			s.HostPID = true
		}),
		"hostIPC": honoured(arrives{
			"config.linux.namespaces[ipc].type": "",
			"config.mounts[/dev/shm].source":    `"/dev/shm"`,
			"config.mounts[/dev/shm].type":      `"bind"`,
			"config.mounts[/dev/shm].options":   `["rbind","rprivate","nosuid","noexec","nodev","rw"]`,
		}, func(s *spec) {
			s.HostIPC = true
		}),
		"allowSocketcall": honoured(arrives{
			"config.linux.seccomp.syscalls[socketcall].action":   `"SCMP_ACT_ALLOW"`,
			"config.linux.seccomp.syscalls[socketcall].errnoRet": "",
		}, func(s *spec) {
			s.AllowSocketcall = true
		}),
		"restartPolicy": honoured(arrives{"restartPolicy": `"Never"`}, func(s *spec) {
			s.RestartPolicy = corev1.RestartPolicyNever
		}),
		"terminationGracePeriodSeconds": honoured(arrives{"terminationGracePeriodSeconds": `9`},
			func(s *spec) {
				s.TerminationGracePeriodSeconds = new(int64(9))
			}),
		"restartBackOff.initialSeconds": honoured(arrives{"restartBackOff.initialSeconds": `9`},
			func(s *spec) {
				s.RestartBackOff = &v1alpha1.RestartBackOff{InitialSeconds: new(int32(9))}
			}),
		"restartBackOff.maxSeconds": honoured(arrives{"restartBackOff.maxSeconds": `9`}, func(s *spec) {
			s.RestartBackOff = &v1alpha1.RestartBackOff{MaxSeconds: new(int32(9))}
		}),
		"logging.maxSize": honoured(arrives{"logging.maxSize": `"1Mi"`}, func(s *spec) {
			s.Logging = &v1alpha1.Logging{MaxSize: new(quantity("1Mi"))}
		}),
		"logging.maxFiles": honoured(arrives{"logging.maxFiles": `9`}, func(s *spec) {
			s.Logging = &v1alpha1.Logging{MaxFiles: new(int32(9))}
		}),
		"progressDeadlineSeconds": placement(func(s *spec) { s.ProgressDeadlineSeconds = new(int32(9)) },
			"spec.progressDeadlineSeconds", func(s *spec) { s.ProgressDeadlineSeconds = new(int32(0)) }),
		"nodeName": placement(func(s *spec) { s.NodeName = "n" },
			"spec.nodeName", func(s *spec) { s.NodeName = "N!" }),
		"nodeSelector": placement(func(s *spec) { s.NodeSelector = map[string]string{"a": "b"} },
			"spec.nodeSelector[a]", func(s *spec) { s.NodeSelector = map[string]string{"a": "b!"} }),
		"runtimeClassName": placement(func(s *spec) { s.RuntimeClassName = new("kata") },
			"spec.runtimeClassName", func(s *spec) { s.RuntimeClassName = new("Kata!") }),

		"archive.path": honoured(arrives{"image.reference": `"archive:/a.tar"`}, func(s *spec) {
			s.Image, s.Archive = "", &v1alpha1.Archive{Path: "/a.tar"}
		}),
		"archive.name": honoured(arrives{"image.reference": `"archive:/a.tar:app:v1"`}, func(s *spec) {
			s.Image, s.Archive = "", &v1alpha1.Archive{Path: "/a.tar", Name: "app:v1"}
		}),

		"rootfs.path": honoured(arrives{
			"image.reference":     "",
			"process.command":     `["x"]`,
			"config.process.args": `["x"]`,
			"config.root.path":    `"/r"`,
		}, func(s *spec) {
			s.Image, s.RootFS, s.Command = "", &v1alpha1.RootFS{Path: "/r"}, []string{"x"}
		}),

		"env[].name": honoured(arrives{"config.process.env": `["B=1"]`}, func(s *spec) {
			s.Env[0].Name = "B"
		}),
		"env[].value": honoured(arrives{"config.process.env": `["A=2"]`}, func(s *spec) {
			s.Env[0].Value = "2"
		}),
		"env[].valueFrom.fieldRef.fieldPath": honoured(byNode(
			arrives{"process.env[A].valueFrom.fieldRef.fieldPath": `"spec.nodeName"`}), func(s *spec) {
			s.Env[0] = corev1.EnvVar{
				Name: "A",
				ValueFrom: &corev1.EnvVarSource{
					FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"},
				},
			}
		}),
		"env[].valueFrom.fieldRef.apiVersion": honoured(byNode(arrives{
			"process.env[A].valueFrom.fieldRef.apiVersion": `"v1"`,
			"process.env[A].valueFrom.fieldRef.fieldPath":  `"spec.nodeName"`,
		}), func(s *spec) {
			s.Env[0] = corev1.EnvVar{
				Name: "A",
				ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
					APIVersion: "v1", FieldPath: "spec.nodeName",
				}},
			}
		}),
		"env[].valueFrom.resourceFieldRef.resource":      limitVariable("0", ""),
		"env[].valueFrom.resourceFieldRef.divisor":       limitVariable("1Ki", ""),
		"env[].valueFrom.resourceFieldRef.containerName": limitVariable("0", "base"),
		"env[].valueFrom.fileKeyRef.volumeName": fileVariable("volumeName", `"m"`,
			corev1.FileKeySelector{VolumeName: "m", Path: "p", Key: "K"}),
		"env[].valueFrom.fileKeyRef.path": fileVariable("path", `"d/p"`,
			corev1.FileKeySelector{VolumeName: "e", Path: "d/p", Key: "K"}),
		"env[].valueFrom.fileKeyRef.key": fileVariable("key", `"L"`,
			corev1.FileKeySelector{VolumeName: "e", Path: "p", Key: "L"}),
		"env[].valueFrom.fileKeyRef.optional": fileVariable("optional", "true",
			corev1.FileKeySelector{VolumeName: "e", Path: "p", Key: "K", Optional: new(true)}),

		"volumes[].name": honoured(arrives{
			"volumes[m].name":            "",
			"volumes[m].emptyDir.medium": "",
			"volumes[x].name":            `"x"`,
			"volumes[x].emptyDir.medium": `"Memory"`,
		}, func(s *spec) {
			s.Volumes[2].Name = "x"
		}),

		"volumes[].hostPath.path": honoured(arrives{
			"volumes[h].hostPath.path": `"/x"`,
			"config.mounts[/h].source": `"/x"`,
		}, func(s *spec) {
			s.Volumes[1].HostPath.Path = "/x"
		}),
		"volumes[].hostPath.type": honoured(arrives{"volumes[h].hostPath.type": `"File"`}, func(s *spec) {
			s.Volumes[1].HostPath.Type = new(corev1.HostPathFile)
		}),

		"volumes[].emptyDir.medium": honoured(arrives{"volumes[e].emptyDir.medium": `"Memory"`},
			func(s *spec) {
				s.Volumes[0].EmptyDir.Medium = "Memory"
			}),
		"volumes[].emptyDir.sizeLimit": honoured(arrives{
			"volumes[e].emptyDir.sizeLimit": `"3Mi"`, "volumes[m].emptyDir.sizeLimit": `"1Mi"`,
		},
			func(s *spec) {
				s.Volumes[0].EmptyDir.SizeLimit = new(quantity("3Mi"))
				s.Volumes[2].EmptyDir.SizeLimit = new(quantity("1Mi"))
			}),

		"volumes[].emptyDir.mode": refused("spec.volumes[0].emptyDir.mode", func(s *spec) {
			s.Volumes[0].EmptyDir.Mode = new(int32(0o755))
		}),

		"volumeMounts[].name": honoured(arrives{"config.mounts[/e].source": `"volumes/m"`},
			func(s *spec) {
				s.VolumeMounts[0].Name = "m"
			}),
		"volumeMounts[].readOnly": honoured(arrives{
			"config.mounts[/e].options": `["rbind","rprivate","ro"]`,
		}, func(s *spec) {
			s.VolumeMounts[0].ReadOnly = true
		}),
		"volumeMounts[].recursiveReadOnly": honoured(arrives{
			"config.mounts[/h].options": `["rbind","rprivate","rro"]`,
		}, func(s *spec) {
			s.VolumeMounts[1].RecursiveReadOnly = new(corev1.RecursiveReadOnlyIfPossible)
		}),
		"volumeMounts[].mountPath": honoured(arrives{
			"config.mounts[/e].*":           "",
			"config.mounts[/x].destination": `"/x"`,
			"config.mounts[/x].type":        `"bind"`,
			"config.mounts[/x].source":      `"volumes/e"`,
			"config.mounts[/x].options":     `["rbind","rprivate","rw"]`,
		}, func(s *spec) {
			s.VolumeMounts[0].MountPath = "/x"
		}),
		"volumeMounts[].subPath": honoured(subPathArrives, func(s *spec) {
			s.VolumeMounts[0].SubPath = "x/./1"
		}),
		"volumeMounts[].subPathExpr": honoured(subPathArrives, func(s *spec) {
			s.VolumeMounts[0].SubPathExpr = "x/$(A)"
		}),
		"volumeMounts[].mountPropagation": honoured(arrives{
			"config.mounts[/e].options":      `["rbind","rslave","rw"]`,
			"config.linux.rootfsPropagation": `"slave"`,
		}, func(s *spec) {
			s.VolumeMounts[0].MountPropagation = new(corev1.MountPropagationHostToContainer)
		}),
		"volumeMounts[].bindMountOptions": honoured(arrives{
			"config.mounts[/e].options": `["rbind","rprivate","noexec","rw"]`,
		}, func(s *spec) {
			s.VolumeMounts[0].BindMountOptions = []string{"noexec"}
		}),

		"securityContext.supplementalGroups": honoured(
			arrives{"config.process.user.additionalGids": `[9,3]`}, func(s *spec) {
				s.SecurityContext.SupplementalGroups = []int64{9, 3}
			}),
		"securityContext.sysctls[].name": honoured(arrives{
			"config.linux.sysctl.net.ipv4.tcp_rmem": "",
			"config.linux.sysctl.net.ipv4.tcp_wmem": `"1 2 3"`,
		}, func(s *spec) {
			s.SecurityContext.Sysctls[0].Name = "net.ipv4.tcp_wmem"
		}),
		"securityContext.sysctls[].value": honoured(arrives{"config.linux.sysctl.net.ipv4.tcp_rmem": `"1 2 4"`},
			func(s *spec) {
				s.SecurityContext.Sysctls[0].Value = "1 2 4"
			}),
		"devices[].path": honoured(arrives{
			"devices[/dev/x].*":             "",
			"devices[/dev/y].path":          `"/dev/y"`,
			"devices[/dev/y].containerPath": `"/dev/y"`,
			"devices[/dev/y].permissions":   `"rwm"`,
		}, func(s *spec) {
			s.Devices[0].Path = "/dev/y"
		}),
		"devices[].containerPath": honoured(arrives{"devices[/dev/x].containerPath": `"/dev/z"`},
			func(s *spec) {
				s.Devices[0].ContainerPath = "/dev/z"
			}),
		"devices[].permissions": honoured(arrives{"devices[/dev/x].permissions": `"r"`}, func(s *spec) {
			s.Devices[0].Permissions = "r"
		}),
		"devices[].cdi": honoured(arrives{
			"devices[/dev/x].*": "", `devices[{"cdi":"v.com/c=n"}].cdi`: `"v.com/c=n"`,
		}, func(s *spec) {
			s.Devices[0] = v1alpha1.Device{CDI: "v.com/c=n"}
		}),
		"ulimits[].name": honoured(arrives{
			"process.ulimits[nofile].*":   "",
			"process.ulimits[nproc].name": `"nproc"`,
			"process.ulimits[nproc].soft": `8`,
			"process.ulimits[nproc].hard": `9`,
		}, func(s *spec) {
			s.Ulimits[0].Name = "nproc"
		}),
		"ulimits[].soft": honoured(arrives{"process.ulimits[nofile].soft": `7`}, func(s *spec) {
			s.Ulimits[0].Soft = 7
		}),
		"ulimits[].hard": honoured(arrives{"process.ulimits[nofile].hard": `-1`}, func(s *spec) {
			s.Ulimits[0].Hard = -1
		}),
		"shmSize": honoured(arrives{
			"config.mounts[/dev/shm].options": `["nosuid","noexec","nodev","mode=1777","size=268435456"]`,
		}, func(s *spec) {
			s.ShmSize = new(quantity("256Mi"))
		}),
		"resources.limits": honoured(arrives{
			"requests.cpu":                        `"1"`,
			"requests.memory":                     `"64Mi"`,
			"config.linux.resources.cpu.shares":   `1024`,
			"config.linux.resources.cpu.quota":    `100000`,
			"config.linux.resources.cpu.period":   `100000`,
			"config.linux.resources.memory.limit": `67108864`,
			"config.linux.resources.memory.swap":  `83886080`, // both together
			"config.linux.resources.pids.limit":   `9`,
			`config.linux.resources.hugepageLimits[{"limit":4194304,"pageSize":"2MB"}].pageSize`:    `"2MB"`,
			`config.linux.resources.hugepageLimits[{"limit":4194304,"pageSize":"2MB"}].limit`:       `4194304`,
			`config.linux.resources.hugepageLimits[{"limit":1073741824,"pageSize":"1GB"}].pageSize`: `"1GB"`,
			`config.linux.resources.hugepageLimits[{"limit":1073741824,"pageSize":"1GB"}].limit`:    `1073741824`,
		}, func(s *spec) {
			s.Resources.Limits = corev1.ResourceList{
				"cpu": quantity("1"), "memory": quantity("64Mi"), "swap": quantity("16Mi"),
				"pids": quantity("9"), "hugepages-2Mi": quantity("4Mi"), "hugepages-1Gi": quantity("1Gi"),
			}
		}),
		"resources.requests": honoured(arrives{
			"requests.cpu": `"1"`, "requests.memory": `"64Mi"`, "config.linux.resources.cpu.shares": `1024`,
		}, func(s *spec) {
			s.Resources.Requests = corev1.ResourceList{"cpu": quantity("1"), "memory": quantity("64Mi")}
		}),
		"resources.claims": refused("spec.resources.claims", func(s *spec) {
			s.Resources.Claims = []corev1.ResourceClaim{{Name: "x"}}
		}),

		"securityContext.privileged": honoured(all(arrives{
			"allDevices":                            `true`,
			"devices[/dev/x].*":                     "",
			"config.process.noNewPrivileges":        "",
			"config.linux.maskedPaths":              "",
			"config.linux.readonlyPaths":            "",
			"config.linux.seccomp.*":                "",
			"config.mounts[/sys].options":           `["nosuid","noexec","nodev","rw"]`,
			"config.mounts[/sys/fs/cgroup].options": `["nosuid","noexec","nodev","relatime","rw"]`,
		}, everyDevice(),
			caps(strings.ReplaceAll(strings.Join(capability.Names(), " "), "CAP_", ""))), func(s *spec) {
			s.SecurityContext.Privileged, s.SecurityContext.Capabilities = new(true), nil
			s.SecurityContext.SeccompProfile, s.Devices = nil, nil
		}),
		"securityContext.seLinuxOptions.user": honoured(arrives{
			"security.seLinuxOptions.user": `"u"`,
		}, func(s *spec) {
			s.SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{User: "u"}
		}),
		"securityContext.seLinuxOptions.role": honoured(arrives{
			"security.seLinuxOptions.role": `"r"`,
		}, func(s *spec) {
			s.SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{Role: "r"}
		}),
		"securityContext.seLinuxOptions.type": honoured(arrives{
			"security.seLinuxOptions.type": `"t"`,
		}, func(s *spec) {
			s.SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{Type: "t"}
		}),
		"securityContext.seLinuxOptions.level": honoured(arrives{
			"security.seLinuxOptions.level": `"s0:c1,c2"`,
		}, func(s *spec) {
			s.SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{Level: "s0:c1,c2"}
		}),
		"securityContext.windowsOptions": refused("spec.securityContext.windowsOptions", func(s *spec) {
			s.SecurityContext.WindowsOptions = &corev1.WindowsSecurityContextOptions{}
		}),
		"securityContext.appArmorProfile.type": honoured(arrives{
			"security.appArmorProfile.type": `"RuntimeDefault"`,
		}, func(s *spec) {
			s.SecurityContext.AppArmorProfile = &corev1.AppArmorProfile{Type: "RuntimeDefault"}
		}),
		"securityContext.appArmorProfile.localhostProfile": honoured(arrives{
			"security.appArmorProfile.type":             `"Localhost"`,
			"security.appArmorProfile.localhostProfile": `"x"`,
		}, func(s *spec) {
			s.SecurityContext.AppArmorProfile = &corev1.AppArmorProfile{
				Type: "Localhost", LocalhostProfile: new("x"),
			}
		}),
		"securityContext.procMount": honoured(arrives{
			"userNamespace": `true`, "config.linux.maskedPaths": "", "config.linux.readonlyPaths": "",
		}, func(s *spec) {
			s.SecurityContext.ProcMount, s.HostUsers = new(corev1.UnmaskedProcMount), new(false)
		}),
		"hostUsers": honoured(arrives{"userNamespace": `true`}, func(s *spec) {
			s.HostUsers = new(false)
		}),
		"securityContext.runAsUser": honoured(arrives{
			"process.runAsUser":       `9`,
			"config.process.user.uid": `9`,
		}, func(s *spec) {
			s.SecurityContext.RunAsUser = new(int64(9))
		}),
		"securityContext.runAsGroup": honoured(arrives{
			"process.runAsGroup":      `9`,
			"config.process.user.gid": `9`,
		}, func(s *spec) {
			s.SecurityContext.RunAsGroup = new(int64(9))
		}),
		"securityContext.fsGroup": honoured(arrives{
			"security.fsGroup": `2000`, "config.process.user.additionalGids": `[2000]`,
		}, func(s *spec) {
			s.SecurityContext.FSGroup = new(int64(2000))
		}),
		"securityContext.fsGroupChangePolicy": honoured(arrives{
			"security.fsGroup": `2000`, "config.process.user.additionalGids": `[2000]`,
			"security.fsGroupChangePolicy": `"OnRootMismatch"`,
		}, func(s *spec) {
			s.SecurityContext.FSGroup = new(int64(2000))
			s.SecurityContext.FSGroupChangePolicy = corev1.FSGroupChangeOnRootMismatch
		}),
		"securityContext.runAsNonRoot": honoured(arrives{"process.runAsNonRoot": `true`}, func(s *spec) {
			s.SecurityContext.RunAsNonRoot = new(true)
		}),
		"securityContext.readOnlyRootFilesystem": honoured(arrives{"config.root.readonly": `true`},
			func(s *spec) {
				s.SecurityContext.ReadOnlyRootFilesystem = new(true)
			}),
		"securityContext.allowPrivilegeEscalation": honoured(arrives{
			"config.process.noNewPrivileges": "",
		}, func(s *spec) {
			s.SecurityContext.AllowPrivilegeEscalation = new(true)
		}),

		"securityContext.capabilities.add": honoured(merged(caps(defaultCaps+" BPF"),
			arrives{"config.linux.seccomp.syscalls[bpf].action": `"SCMP_ACT_ALLOW"`}), func(s *spec) {
			s.SecurityContext.Capabilities.Add = []corev1.Capability{"BPF"}
		}),
		"securityContext.capabilities.drop": honoured(caps(strings.Replace(defaultCaps, " KILL", "", 1)),
			func(s *spec) {
				s.SecurityContext.Capabilities.Drop = []corev1.Capability{"KILL"}
			}),

		"securityContext.seccompProfile.type": honoured(arrives{"config.linux.seccomp.*": ""},
			func(s *spec) {
				s.SecurityContext.SeccompProfile.Type = "Unconfined"
			}),
		"securityContext.seccompProfile.localhostProfile": honoured(arrives{
			"config.linux.seccomp.*":           "",
			"security.localhostSeccompProfile": `"profiles/x.json"`,
		}, func(s *spec) {
			s.SecurityContext.SeccompProfile.Type = "Localhost"
			s.SecurityContext.SeccompProfile.LocalhostProfile = new("profiles/x.json")
		}),

		"tolerations[].key": placement(func(s *spec) { s.Tolerations[0].Key = "x" },
			"spec.tolerations[0].key", func(s *spec) { s.Tolerations[0].Key = "!" }),
		"tolerations[].operator": placement(func(s *spec) { s.Tolerations[0].Operator = "Equal" },
			"spec.tolerations[0].operator", func(s *spec) { s.Tolerations[0].Operator = "Gt" }),
		"tolerations[].value": placement(func(s *spec) {
			s.Tolerations[0].Operator, s.Tolerations[0].Value = "", "x"
		},
			"spec.tolerations[0].value", func(s *spec) { s.Tolerations[0].Value = "x" }),
		"tolerations[].effect": placement(func(s *spec) { s.Tolerations[0].Effect = "NoExecute" },
			"spec.tolerations[0].effect", func(s *spec) { s.Tolerations[0].Effect = "Never" }),
		"tolerations[].tolerationSeconds": refused("spec.tolerations[0].tolerationSeconds",
			func(s *spec) {
				s.Tolerations[0].TolerationSeconds = new(int64(1))
			}),
	}
}

// byNode adds what is absent in a bundle of which the agent computes the variables.
func byNode(at arrives) arrives {
	return merged(arrives{"config.process.env": "", "process.env[A].name": `"A"`}, at)
}

// fileVariable returns a variable with a key of a file, one of whose fields arrives as it is.
func fileVariable(field, want string, ref corev1.FileKeySelector) fieldCase {
	const at = "process.env[A].valueFrom.fileKeyRef."
	arrive := arrives{
		at + "volumeName": strconv.Quote(ref.VolumeName), at + "path": strconv.Quote(ref.Path),
		at + "key": strconv.Quote(ref.Key),
	}
	arrive[at+field] = want
	return fieldCase{arrives: byNode(arrive), set: func(s *v1alpha1.ContainerSpec) {
		s.Env[0] = corev1.EnvVar{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &ref}}
	}}
}

// limitVariable returns a variable with the node's memory, since the Container has no limit.
func limitVariable(divisor, container string) fieldCase {
	at := byNode(arrives{
		"process.env[A].valueFrom.resourceFieldRef.resource": `"limits.memory"`,
		"process.env[A].valueFrom.resourceFieldRef.divisor":  strconv.Quote(divisor),
	})
	if container != "" {
		at["process.env[A].valueFrom.resourceFieldRef.containerName"] = strconv.Quote(container)
	}
	return fieldCase{arrives: at, set: func(s *v1alpha1.ContainerSpec) {
		s.Env[0] = corev1.EnvVar{
			Name: "A",
			ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{
				Resource: "limits.memory", Divisor: resource.MustParse(divisor), ContainerName: container,
			}},
		}
	}}
}

// TestEveryField walks the type of a Container's spec by reflection. Each field is honoured, so
// that its value arrives in the bundle or its document, at the place that the case names and
// nowhere else; or it is the scheduler's; or it is refused with its path. A field that is added,
// here or by a newer Kubernetes, fails this test until somebody decides. Below a field that is
// refused nothing can be set, so the walk ends there.
func TestEveryField(t *testing.T) {
	cases := fieldCases()
	maps.Copy(cases, fileCases())
	maps.Copy(cases, variableCases())
	seen := map[string]bool{}
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		c, decided := cases[path]
		if decided {
			seen[path] = true
			t.Run(path, func(t *testing.T) { checkField(t, c) })
		}
		for {
			switch typ.Kind() {
			case reflect.Pointer:
				typ = typ.Elem()
				continue
			case reflect.Slice, reflect.Array:
				if typ = typ.Elem(); hasFields(typ) {
					path += "[]"
				}
				continue
			}
			break
		}
		switch {
		case c.refused != "":
		case hasFields(typ):
			for i := range typ.NumField() {
				f := typ.Field(i)
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				switch {
				case name == "-":
				case name == "" && f.Anonymous:
					walk(path, f.Type)
				case name == "":
					t.Errorf("%s.%s has no name in JSON", typ, f.Name)
				default:
					walk(strings.TrimPrefix(path+"."+name, "."), f.Type)
				}
			}
		case !decided:
			t.Errorf("%s is neither honoured nor refused: decide, then add it to fieldCases and to docs/fields.md", path)
		}
	}
	walk("", reflect.TypeFor[v1alpha1.ContainerSpec]())
	for path := range cases {
		if !seen[path] {
			t.Errorf("%s is no field of the API", path)
		}
	}
}

// hasFields reports whether a type is a struct whose fields a user writes, rather than a value that
// is written as one word.
func hasFields(typ reflect.Type) bool {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	return typ.Kind() == reflect.Struct && typ != reflect.TypeFor[resource.Quantity]()
}

func checkField(t *testing.T, c fieldCase) {
	without, _ := compiled(t, base())
	with := base()
	c.set(&with.Spec)
	if c.refused != "" {
		wantFault(t, with, c.refused, "")
		return
	}
	got, _ := compiled(t, with)
	if c.placement {
		bad := base()
		c.bad(&bad.Spec)
		wantFault(t, bad, c.badPath, "")
	} else if len(c.arrives) == 0 {
		t.Error("the case says nowhere that the value arrives")
	}
	a, b := flatten(t, without), flatten(t, got)
	for path, want := range c.arrives {
		if a[path] == want && !strings.HasSuffix(path, "*") {
			t.Errorf("%s is %s without the field, too: choose another value", path, orAbsent(want))
		}
	}
	all := merged(a, b)
	maps.Copy(all, c.arrives)
	for path := range all {
		want, named := c.arrives[path]
		if !named && !absentBelow(c.arrives, path) {
			want = a[path]
		}
		if b[path] != want {
			t.Errorf("%s is %s; want %s", path, orAbsent(b[path]), orAbsent(want))
		}
	}
}

// absentBelow reports whether a case says of a path, by a prefix with a "*", that nothing is there.
func absentBelow(at arrives, path string) bool {
	for prefix := range at {
		if above, ok := strings.CutSuffix(prefix, "*"); ok && strings.HasPrefix(path, above) {
			return true
		}
	}
	return false
}

func merged(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func orAbsent(value string) string {
	if value == "" {
		return "absent"
	}
	return value
}

// flatten returns the value of each path of a bundle, its document below "config", as JSON. A list
// of plain values is one value; a mount's path has its destination, that of another list its index.
func flatten(t *testing.T, b *v1alpha1.OCIBundleSpec) map[string]string {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, child := range v {
				walk(strings.TrimPrefix(path+"."+name, "."), child)
			}
			return
		case []any:
			if len(v) > 0 && reflect.TypeOf(v[0]).Kind() == reflect.Map {
				times := map[string]int{}
				for _, child := range v {
					object := child.(map[string]any)
					names, _ := object["names"].([]any)
					delete(object, "names")
					if names == nil {
						names = []any{nameOf(t, object)}
					}
					for _, name := range names {
						at := name.(string)
						if times[at]++; times[at] > 1 {
							at += " " + strconv.Itoa(times[at])
						}
						walk(path+"["+at+"]", object)
					}
				}
				return
			}
		}
		value, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out[path] = string(value)
	}
	walk("", tree)
	return out
}

// nameOf returns the key of an object in a list: a mount's destination, a volume's
// name, a device's path, a namespace's type, else all of it.
func nameOf(t *testing.T, object map[string]any) string {
	t.Helper()
	for _, key := range []string{"destination", "name", "path", "type", "ip"} {
		if v, ok := object[key].(string); ok {
			return v
		}
	}
	for _, key := range []string{"downwardAPI", "configMap", "secret", "serviceAccountToken", "configMapRef", "secretRef"} {
		if _, ok := object[key]; ok {
			return key
		}
	}
	if port, ok := object["hostPort"].(float64); ok {
		return strconv.Itoa(int(port))
	}
	all, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
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
