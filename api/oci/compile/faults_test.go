// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
)

// parse returns a Container from the lines of its spec.
func parse(t *testing.T, spec string) *v1alpha1.Container {
	t.Helper()
	c := &v1alpha1.Container{}
	c.Name = "x"
	if err := yaml.UnmarshalStrict([]byte(spec), &c.Spec); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFaults(t *testing.T) {
	const image = "image: busybox\n"
	mount := func(m string) string {
		return image + "volumes: [{name: v, hostPath: {path: /v}}]\nvolumeMounts: [{name: v, " + m + "}]"
	}
	for _, tc := range []struct{ name, spec, path, message string }{
		{"neither image nor rootfs", `command: [x]`, "spec.image", "exactly one"},
		{"both image and rootfs", image + `rootfs: {path: /r}`, "spec.rootfs", "exactly one"},
		{"both image and archive", image + `archive: {path: /a.tar}`, "spec.archive", "exactly one"},
		{
			"both archive and rootfs", "archive: {path: /a.tar}\nrootfs: {path: /r}", "spec.rootfs",
			"exactly one",
		},
		{"path without a leading slash", `archive: {path: a.tar}`, "spec.archive.path", "absolute"},
		{"path with a way up", `archive: {path: /a/../b.tar}`, "spec.archive.path", `".."`},
		{"path with a colon", `archive: {path: "/a:b.tar"}`, "spec.archive.path", "archive.name"},
		{"path with a control character", `archive: {path: "/a\nb.tar"}`, "spec.archive.path", "control"},
		{
			"name with a control character", `archive: {path: /b.tar, name: "a\n"}`, "spec.archive.name",
			"control",
		},
		{"a file as image", `image: /srv/x.tar`, "spec.image", "archive: {path: /srv/x.tar}"},
		{"a relative file as image", `image: ./x`, "spec.image", "archive: {path: /PATH/OF/x}"},
		{"an archive as image", `image: x.tar.gz`, "spec.image", "archive: {path: /PATH/OF/x.tar.gz}"},
		{
			"a number with a thousandth as memory", image + `resources: {limits: {memory: 64m}}`,
			"spec.resources.limits[memory]", "did you mean 64Mi or 64M?",
		},
		{"image that is no reference", `image: "Not A Reference"`, "spec.image", "registry reference"},
		{"image of an unknown transport", `image: "docker://busybox"`, "spec.image", "oci-archive:FILE"},
		{"relative archive", `image: "oci-archive:hello.tar"`, "spec.image", "absolute"},
		{"archive with a way up", `image: "oci:/a/../b"`, "spec.image", `".."`},
		{"an unknown ulimit", image + `ulimits: [{name: files, soft: 1, hard: 1}]`, "spec.ulimits[0].name", "nofile"},
		{"a ulimit below -1", image + `ulimits: [{name: core, soft: -2, hard: 1}]`, "spec.ulimits[0].soft", "-1 for no limit"},
		{"a soft above the hard ulimit", image + `ulimits: [{name: core, soft: 2, hard: 1}]`, "spec.ulimits[0].soft", "at most hard"},
		{"no soft limit below a hard one", image + `ulimits: [{name: core, soft: -1, hard: 1}]`, "spec.ulimits[0].soft", "at most hard"},
		{
			"a ulimit twice", image + `ulimits: [{name: core, soft: 1, hard: 1}, {name: core, soft: 1, hard: 1}]`,
			"spec.ulimits[1].name", "Duplicate",
		},
		{"a device elsewhere", image + `devices: [{path: /etc/x}]`, "spec.devices[0].path", "below /dev"},
		{"a device by a way up", image + `devices: [{path: /dev/../x}]`, "spec.devices[0].path", `".."`},
		{
			"a device beside /dev", image + `devices: [{path: /dev/x, containerPath: /x}]`,
			"spec.devices[0].containerPath", "below /dev",
		},
		{
			"a device of every container", image + `devices: [{path: /dev/x, containerPath: /dev/null}]`,
			"spec.devices[0].containerPath", "made by the runtime",
		},
		{
			"a device in another filesystem", image + `devices: [{path: /dev/shm/x}]`, "spec.devices[0].path",
			"made by the runtime",
		},
		{
			"two devices at a path", image + `devices: [{path: /dev/x}, {path: /dev/y, containerPath: /dev/x}]`,
			"spec.devices[1].containerPath", "Duplicate",
		},
		{
			"a device below a volume", mount("mountPath: /dev/x") + "\ndevices: [{path: /dev/x/y}]",
			"spec.devices[0].path", "mountPath of volumeMounts",
		},
		{
			"a device above a volume", mount("mountPath: /dev/x/y") + "\ndevices: [{path: /dev/x}]",
			"spec.devices[0].path", "mountPath of volumeMounts",
		},
		{
			"a device below a device", image + `devices: [{path: /dev/x}, {path: /dev/x/y}]`,
			"spec.devices[1].path", "another device",
		},
		{
			"permissions of a device", image + `devices: [{path: /dev/x, permissions: wr}]`,
			"spec.devices[0].permissions", "rwm",
		},
		{
			"capabilities of a privileged container", image +
				"securityContext: {privileged: true, capabilities: {drop: [ALL]}}",
			"spec.securityContext.capabilities", "remove it or privileged",
		},
		{
			"no privileges for a privileged container", image +
				"securityContext: {privileged: true, allowPrivilegeEscalation: false}",
			"spec.securityContext.allowPrivilegeEscalation", "remove it or privileged",
		},
		{
			"devices of a privileged container", image +
				"securityContext: {privileged: true}\ndevices: [{path: /dev/x}]",
			"spec.devices", "remove devices by path or privileged",
		},
		{"a device of nothing", image + `devices: [{}]`, "spec.devices[0].path", "below /dev"},
		{
			"a device by path and by cdi", image + `devices: [{path: /dev/x, cdi: v.com/c=n}]`,
			"spec.devices[0].path", "one of path and cdi",
		},
		{
			"a path of a device by cdi", image + `devices: [{containerPath: /dev/x, cdi: v.com/c=n}]`,
			"spec.devices[0].containerPath", "remove containerPath or cdi",
		},
		{
			"permissions of a device by cdi", image + `devices: [{permissions: r, cdi: v.com/c=n}]`,
			"spec.devices[0].permissions", "remove permissions or cdi",
		},
		{
			"a device by cdi twice", image + `devices: [{cdi: v.com/c=n}, {cdi: v.com/c=n}]`,
			"spec.devices[1].cdi", "Duplicate",
		},
		{"a device by cdi without a kind", image + `devices: [{cdi: gpu0}]`, "spec.devices[0].cdi", "VENDOR/CLASS=NAME"},
		{"a device by cdi without a vendor", image + `devices: [{cdi: gpu=0}]`, "spec.devices[0].cdi", "VENDOR/CLASS=NAME"},
		{"a device by cdi without a name", image + `devices: [{cdi: v.com/c=}]`, "spec.devices[0].cdi", "VENDOR/CLASS=NAME"},
		{"a device by cdi of a strange vendor", image + `devices: [{cdi: 0v/c=n}]`, "spec.devices[0].cdi", "VENDOR/CLASS=NAME"},
		{"a device by cdi of a strange class", image + `devices: [{cdi: v/c:d=n}]`, "spec.devices[0].cdi", "VENDOR/CLASS=NAME"},
		{"a device by cdi of a strange name", image + `devices: [{cdi: "v/c=n é"}]`, "spec.devices[0].cdi", "VENDOR/CLASS=NAME"},
		{"a device by cdi whose name ends badly", image + `devices: [{cdi: "v/c=n:"}]`, "spec.devices[0].cdi", "VENDOR/CLASS=NAME"},
		{"shmSize of nothing", image + `shmSize: 0`, "spec.shmSize", "greater than 0"},
		{"shmSize below a byte", image + `shmSize: 1m`, "spec.shmSize", "whole number"},
		{"shmSize of the node's /dev/shm", image + "shmSize: 1Mi\nhostIPC: true", "spec.shmSize", "remove shmSize or hostIPC"},
		{"shmSize below a volume", mount("mountPath: /dev/shm/") + "\nshmSize: 1Mi", "spec.shmSize", "replaces /dev/shm"},
		{
			"a sysctl of the node", image + `securityContext: {sysctls: [{name: vm.swappiness, value: "1"}]}`, "spec.securityContext.sysctls[0].name",
			"net.*, kernel.shm*",
		},
		{
			"a sysctl of the node's network", image + "securityContext: {sysctls: [{name: net.ipv4.tcp_rmem, value: '1'}]}\nhostNetwork: true",
			"spec.securityContext.sysctls[0].name", "the node's",
		},
		{
			"a sysctl of the node's IPC", image + "securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: '1'}]}\nhostIPC: true",
			"spec.securityContext.sysctls[0].name", "the node's",
		},
		{
			"an unsafe sysctl", image + `securityContext: {sysctls: [{name: net.core.somaxconn, value: "1"}]}`, "spec.securityContext.sysctls[0].name",
			"ip_unprivileged_port_start",
		},
		{
			"a sysctl in another spelling", image + `securityContext: {sysctls: [{name: net/ipv4/tcp_rmem, value: "1"}]}`,
			"spec.securityContext.sysctls[0].name", "not allowed in a cluster",
		},
		{
			"a group beyond the kernel's", image + `securityContext: {supplementalGroups: [1, -1]}`,
			"spec.securityContext.supplementalGroups[1]", "between 0 and 2147483647",
		},
		{"pull policy", image + `imagePullPolicy: Sometimes`, "spec.imagePullPolicy", "IfNotPresent"},
		{
			"pull policy without an image", "rootfs: {path: /r}\ncommand: [x]\nimagePullPolicy: Always",
			"spec.imagePullPolicy", "no image",
		},
		{"relative rootfs", "rootfs: {path: r}\ncommand: [x]", "spec.rootfs.path", "absolute"},
		{
			"rootfs with a way up", "rootfs: {path: /r/../../etc}\ncommand: [x]", "spec.rootfs.path",
			`".."`,
		},
		{"the node's root", "rootfs: {path: //}\ncommand: [x]", "spec.rootfs.path", "below it"},
		{"rootfs without command", `rootfs: {path: /r}`, "spec.command", "no image"},
		{"empty command", image + `command: [""]`, "spec.command[0]", "name a program"},
		{"NUL in an argument", image + `args: ["a", "b\0c"]`, "spec.args[1]", "NUL"},
		{"relative workingDir", image + `workingDir: srv`, "spec.workingDir", "absolute"},
		{"variable without a name", image + `env: [{value: x}]`, "spec.env[0].name", "name"},
		{"variable with =", image + `env: [{name: "A=B"}]`, "spec.env[0].name", "'='"},
		{
			"variable from nowhere", image + `env: [{name: A, valueFrom: {}}]`, "spec.env[0].valueFrom",
			"set one of fieldRef, resourceFieldRef",
		},
		{"variable from two", image +
			`env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}, resourceFieldRef: {resource: limits.cpu}}}]`, "spec.env[0].valueFrom.resourceFieldRef", "remove one of them"},
		{
			"variable from a Secret without a key", image +
				`env: [{name: A, valueFrom: {secretKeyRef: {name: s}}}]`,
			"spec.env[0].valueFrom.secretKeyRef.key", "name a key of the object",
		},
		{
			"path of a variable that there is not", image + "env: [{name: A, value: x}]\n" +
				"volumes: [{name: v, emptyDir: {}}]\n" +
				"volumeMounts: [{name: v, mountPath: /v, subPathExpr: $(A)/$(B)}]",
			"spec.volumeMounts[0].subPathExpr", "has $(B), which is no variable of env and envFrom",
		},
		{
			"path of a variable that leads out", image + "env: [{name: A, value: ..}]\n" +
				"volumes: [{name: v, emptyDir: {}}]\n" +
				"volumeMounts: [{name: v, mountPath: /v, subPathExpr: x/$(A)}]",
			"spec.volumeMounts[0].subPathExpr",
			`"x/$(A)": with the values of its variables, the path must not contain ".."`,
		},
		{
			"two paths in a volume", image + "volumes: [{name: v, emptyDir: {}}]\n" +
				"volumeMounts: [{name: v, mountPath: /v, subPath: a, subPathExpr: b}]",
			"spec.volumeMounts[0].subPath", "may not stand beside subPathExpr",
		},
		{
			"variable from an address that there is not", image +
				"env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]\nnetwork: {none: true}",
			"spec.env[0].valueFrom.fieldRef.fieldPath", "remove it or network.none",
		},
		{
			"variable from all labels", image +
				`env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.labels}}}]`,
			"spec.env[0].valueFrom.fieldRef.fieldPath", "write metadata.labels['KEY']",
		},
		{
			"variable from a bad key", image +
				`env: [{name: A, valueFrom: {fieldRef: {fieldPath: "metadata.labels['a b']"}}}]`,
			"spec.env[0].valueFrom.fieldRef.fieldPath", "the key in brackets",
		},
		{
			"variable from another field", image +
				`env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.image}}}]`,
			"spec.env[0].valueFrom.fieldRef.fieldPath", "spec.nodeName",
		},
		{
			"variable from another version", image +
				`env: [{name: A, valueFrom: {fieldRef: {apiVersion: v2, fieldPath: metadata.name}}}]`,
			"spec.env[0].valueFrom.fieldRef.apiVersion", "v1",
		},
		{
			"variable from another resource", image +
				`env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.gpu}}}]`,
			"spec.env[0].valueFrom.resourceFieldRef.resource", "limits.memory",
		},
		{
			"variable with another divisor", image +
				`env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1Mi}}}]`,
			"spec.env[0].valueFrom.resourceFieldRef.divisor", "1m, 1",
		},
		{
			"variable from another container", image +
				`env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, containerName: other}}}]`,
			"spec.env[0].valueFrom.resourceFieldRef.containerName", "the name of this Container",
		},
		{
			"variable with a value and a source", image +
				`env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]`,
			"spec.env[0].valueFrom", "beside value",
		},
		{"variable twice", image + `env: [{name: A}, {name: A}]`, "spec.env[1].name", "Duplicate"},
		{"hostname", image + `hostname: a_b`, "spec.hostname", "RFC 1123"},
		{
			"no network on the host's network", image + "network: {none: true}\nhostNetwork: true",
			"spec.network.none", "remove network.none or hostNetwork",
		},
		{
			"networks on the host's network", image + "networks: [{name: a}]\nhostNetwork: true",
			"spec.networks", "remove networks or hostNetwork",
		},
		{
			"networks beside none", image + "networks: [{name: a}]\nnetwork: {none: true}",
			"spec.networks", "remove networks or network.none",
		},
		{
			"a network twice", image + "networks: [{name: a}, {}, {name: a}]", "spec.networks[2].name",
			"Duplicate",
		},
		{
			"name of a network", image + "networks: [{name: a/b}]", "spec.networks[0].name",
			"CNI configuration",
		},
		{
			"alias", image + "networks: [{aliases: [db, DB]}]", "spec.networks[0].aliases[1]", "lower case",
		},
		{
			"port out of range", image + "ports: [{containerPort: 0}]", "spec.ports[0].containerPort",
			"between 1 and 65535",
		},
		{
			"host port out of range", image + "ports: [{containerPort: 80, hostPort: 65536}]",
			"spec.ports[0].hostPort", "between 1 and 65535",
		},
		{
			"protocol of a port", image + "ports: [{containerPort: 80, protocol: tcp}]",
			"spec.ports[0].protocol", "TCP",
		},
		{
			"address of a port", image + "ports: [{containerPort: 80, hostPort: 80, hostIP: localhost}]",
			"spec.ports[0].hostIP", "127.0.0.1",
		},
		{
			"all addresses twice", image + "ports: [{containerPort: 80, hostPort: 80}, " +
				"{containerPort: 81, hostPort: 80, hostIP: 0.0.0.0}]",
			"spec.ports[1].hostPort", "than that of ports[0]",
		},
		{
			"all addresses of IPv6 and one of them", image +
				"ports: [{containerPort: 80, hostPort: 80, hostIP: '::'}, " +
				"{containerPort: 80, hostPort: 80, hostIP: '::1'}]",
			"spec.ports[1].hostPort", "than that of ports[0]",
		},
		{
			"an address and all", image +
				"ports: [{containerPort: 53, hostPort: 53, protocol: UDP, hostIP: 127.0.0.1}, " +
				"{containerPort: 53, hostPort: 53, protocol: TCP}, " +
				"{containerPort: 53, hostPort: 53, protocol: UDP}]",
			"spec.ports[2].hostPort", "than that of ports[0]",
		},
		{
			"an address in two forms", image +
				"ports: [{containerPort: 80, hostPort: 80, hostIP: 127.0.0.1}, " +
				"{containerPort: 80, hostPort: 80, hostIP: '::ffff:127.0.0.1'}]",
			"spec.ports[1].hostPort", "than that of ports[0]",
		},
		{
			"address without a port", image + "ports: [{containerPort: 80, hostIP: 127.0.0.1}]",
			"spec.ports[0].hostIP", "add hostPort",
		},
		{
			"name of a port", image + "ports: [{containerPort: 80, name: http_1}]", "spec.ports[0].name",
			"alpha-numeric",
		},
		{
			"name of two ports", image +
				"ports: [{containerPort: 80, name: a}, {containerPort: 81, name: a}]", "spec.ports[1].name",
			"Duplicate",
		},
		{
			"one host port twice", image +
				"ports: [{containerPort: 80, hostPort: 80}, {containerPort: 81, hostPort: 80}]",
			"spec.ports[1].hostPort", "Duplicate",
		},
		{
			"host port without a network", image +
				"network: {none: true}\nports: [{containerPort: 80, hostPort: 80}]", "spec.ports[0].hostPort",
			"remove hostPort or network.none",
		},
		{
			"host port in the node's network", image +
				"hostNetwork: true\nports: [{containerPort: 80, hostPort: 81}]", "spec.ports[0].hostPort",
			"must be 80",
		},
		{
			"hostname on the host's network", image + "hostname: a\nhostNetwork: true", "spec.hostname",
			"UTS namespace",
		},
		{
			"subdomain on the host's network", image + "subdomain: a\nhostNetwork: true", "spec.subdomain",
			"remove subdomain or hostNetwork",
		},
		{"subdomain with dots", image + "subdomain: a.b", "spec.subdomain", "must not contain dots"},
		{
			"FQDN on the host's network", image + "setHostnameAsFQDN: true\nhostNetwork: true",
			"spec.setHostnameAsFQDN", "remove setHostnameAsFQDN or hostNetwork",
		},
		{
			"address of an alias", image + "hostAliases: [{ip: db, hostnames: [a]}]",
			"spec.hostAliases[0].ip", "192.0.2.1",
		},
		{
			"zone of an alias", image + "hostAliases: [{ip: 'fe80::1%eth0', hostnames: [a]}]",
			"spec.hostAliases[0].ip", "192.0.2.1",
		},
		{
			"name of an alias", image + "hostAliases: [{ip: 192.0.2.1, hostnames: [a, \"b\\n192.0.2.2 c\"]}]",
			"spec.hostAliases[0].hostnames[1]", "RFC 1123 subdomain",
		},
		{
			"aliases beside a hosts file", image + "hostAliases: [{ip: 192.0.2.1, hostnames: [a]}]\n" + mountAt("/etc//hosts"),
			"spec.hostAliases", "is for /etc/hosts, which volumeMounts[0] replaces: remove hostAliases or that volumeMount",
		},
		{
			"subdomain beside an /etc", image + "subdomain: a\n" + mountAt("/etc/"),
			"spec.subdomain", "is for /etc/hosts, which volumeMounts[0] replaces",
		},
		{
			"dnsPolicy beside an /etc", image + "dnsPolicy: Default\n" + mountAt("/etc"),
			"spec.dnsPolicy", "is for /etc/resolv.conf, which volumeMounts[0] replaces",
		},
		{
			"dnsConfig beside a resolv.conf", image + "dnsConfig: {searches: [a]}\n" + mountAt("/etc/./resolv.conf"),
			"spec.dnsConfig", "is for /etc/resolv.conf, which volumeMounts[0] replaces",
		},
		{
			"alias without names", image + "hostAliases: [{ip: 192.0.2.1}]",
			"spec.hostAliases[0].hostnames", "name at least one",
		},
		{"unknown dnsPolicy", image + "dnsPolicy: Host", "spec.dnsPolicy", "ClusterFirst"},
		{
			"dnsPolicy None alone", image + "dnsPolicy: None\ndnsConfig: {searches: [a]}",
			"spec.dnsConfig.nameservers", "add dnsConfig.nameservers",
		},
		{
			"four nameservers", image + "dnsConfig: {nameservers: ['::1', '::2', '::3', '::4']}",
			"spec.dnsConfig.nameservers", "at most 3",
		},
		{
			"name of a nameserver", image + "dnsConfig: {nameservers: [dns.example.com]}",
			"spec.dnsConfig.nameservers[0]", "192.0.2.1",
		},
		{
			"search domain", image + `dnsConfig: {searches: [., a_b.c., "a options ndots:1"]}`,
			"spec.dnsConfig.searches[2]", "RFC 1123 subdomain",
		},
		{
			"33 search domains",
			image + "dnsConfig: {searches: [" + strings.Repeat("a,", 32) + "a]}",
			"spec.dnsConfig.searches", "at most 32",
		},
		{
			"long search list", image + "dnsConfig: {searches: [" +
				strings.Repeat(strings.Repeat("a", 227)+", ", 9) + "b]}",
			"spec.dnsConfig.searches", "2053 characters", // 9 of 227, 1, and 9 spaces
		},
		{
			"option without a name", image + "dnsConfig: {options: [{value: '1'}]}",
			"spec.dnsConfig.options[0].name", "name an option",
		},
		{
			"option of two words", image + `dnsConfig: {options: [{name: rotate, value: "1 ndots:9"}]}`,
			"spec.dnsConfig.options[0].value", "without spaces",
		},
		{
			"option of two lines", image + `dnsConfig: {options: [{name: "a\nnameserver ::1"}]}`,
			"spec.dnsConfig.options[0].name", "without spaces",
		},
		{
			"user below 0", image + `securityContext: {runAsUser: -1}`, "spec.securityContext.runAsUser",
			"2147483647",
		},
		{
			"user above the range", image + `securityContext: {runAsUser: 2147483648}`,
			"spec.securityContext.runAsUser", "2147483647",
		},
		{
			"group above the range", image + `securityContext: {runAsGroup: 4294967296}`,
			"spec.securityContext.runAsGroup", "2147483647",
		},
		{
			"root who must not be", image + `securityContext: {runAsNonRoot: true, runAsUser: 0}`,
			"spec.securityContext.runAsUser", "runAsNonRoot",
		},
		{
			"rootfs whose user must not be root",
			"rootfs: {path: /r}\ncommand: [x]\nsecurityContext: {runAsNonRoot: true}",
			"spec.securityContext.runAsUser", "user 0",
		},
		{
			"unknown capability", image + `securityContext: {capabilities: {add: [CHOWN, FLY]}}`,
			"spec.securityContext.capabilities.add[1]", "capabilities(7)",
		},
		{
			"user namespace in a namespace of the node", image + "hostUsers: false\nhostPID: true",
			"spec.hostUsers", "remove hostUsers",
		},
		{
			"user namespace of a privileged container",
			image + "hostUsers: false\nsecurityContext: {privileged: true}", "spec.hostUsers", "or privileged",
		},
		{
			"user of no user namespace", image + "hostUsers: false\nsecurityContext: {runAsUser: 65536}",
			"spec.securityContext.runAsUser", "at most 65535",
		},
		{
			"all of the node's /proc", image + "securityContext: {procMount: Unmasked}",
			"spec.securityContext.procMount", "set hostUsers: false",
		},
		{
			"procMount of no kind", image + "securityContext: {procMount: x}",
			"spec.securityContext.procMount", "Unmasked",
		},
		{
			"group below 0", image + `securityContext: {fsGroup: -1}`, "spec.securityContext.fsGroup",
			"between 0 and 2147483647",
		},
		{
			"policy of no group", image + `securityContext: {fsGroupChangePolicy: Always}`,
			"spec.securityContext.fsGroupChangePolicy", "set both",
		},
		{
			"seccomp of no type", image + `securityContext: {seccompProfile: {type: Local}}`,
			"spec.securityContext.seccompProfile.type", "RuntimeDefault",
		},
		{
			"seccomp from no file", image + `securityContext: {seccompProfile: {type: Localhost}}`,
			"spec.securityContext.seccompProfile.localhostProfile", "below the node's directory",
		},
		{
			"seccomp from an absolute path",
			image + `securityContext: {seccompProfile: {type: Localhost, localhostProfile: /x}}`,
			"spec.securityContext.seccompProfile.localhostProfile", "remove the leading /",
		},
		{
			"seccomp from above",
			image + `securityContext: {seccompProfile: {type: Localhost, localhostProfile: a/../../x}}`,
			"spec.securityContext.seccompProfile.localhostProfile", `".."`,
		},
		{
			"seccomp from a file that counts for nothing",
			image + `securityContext: {seccompProfile: {type: RuntimeDefault, localhostProfile: x}}`,
			"spec.securityContext.seccompProfile.localhostProfile", "set type",
		},
		{
			"socketcall in a profile of one's own", image + "allowSocketcall: true\n" +
				`securityContext: {seccompProfile: {type: Localhost, localhostProfile: x}}`,
			"spec.allowSocketcall", "in the file of localhostProfile",
		},
		{
			"SELinux type with more parts", image + `securityContext: {seLinuxOptions: {type: "a:b"}}`,
			"spec.securityContext.seLinuxOptions.type", "must consist of letters, digits",
		},
		{
			"SELinux level with a quote", image + `securityContext: {seLinuxOptions: {level: 's0"'}}`,
			"spec.securityContext.seLinuxOptions.level", "comma and colon",
		},
		{
			"SELinux user without an end",
			image + `securityContext: {seLinuxOptions: {user: ` + strings.Repeat("u", 256) + `}}`,
			"spec.securityContext.seLinuxOptions.user", "255",
		},
		{
			"SELinux of a privileged container",
			image + `securityContext: {privileged: true, seLinuxOptions: {role: r}}`,
			"spec.securityContext.seLinuxOptions.type", "such as spc_t",
		},
		{
			"AppArmor of no type", image + `securityContext: {appArmorProfile: {type: x}}`,
			"spec.securityContext.appArmorProfile.type", "RuntimeDefault",
		},
		{
			"AppArmor without a profile", image + `securityContext: {appArmorProfile: {type: Localhost}}`,
			"spec.securityContext.appArmorProfile.localhostProfile", "has loaded",
		},
		{
			"AppArmor with a profile that counts for nothing",
			image + `securityContext: {appArmorProfile: {type: Unconfined, localhostProfile: x}}`,
			"spec.securityContext.appArmorProfile.localhostProfile", "set type",
		},
		{
			"AppArmor by the name of no profile",
			image + `securityContext: {appArmorProfile: {type: Localhost, localhostProfile: unconfined}}`,
			"spec.securityContext.appArmorProfile.localhostProfile", "set type: Unconfined",
		},
		{
			"AppArmor for a privileged container",
			image + `securityContext: {privileged: true, appArmorProfile: {type: RuntimeDefault}}`,
			"spec.securityContext.appArmorProfile", "remove it or privileged",
		},

		{
			"negative cpu", image + `resources: {limits: {cpu: "-1"}}`, "spec.resources.limits[cpu]",
			"negative",
		},
		{
			"no cpu", image + `resources: {limits: {cpu: "0"}}`, "spec.resources.limits[cpu]",
			"0 allows nothing",
		},
		{
			"cpu finer than the kernel", image + `resources: {limits: {cpu: "0.0005"}}`,
			"spec.resources.limits[cpu]", "multiple of 1m",
		},
		{
			"cpu beyond the kernel", image + `resources: {limits: {cpu: "175921861"}}`,
			"spec.resources.limits[cpu]", "at most",
		},
		{
			"cpu beyond all", image + `resources: {limits: {cpu: 100E}}`, "spec.resources.limits[cpu]",
			"at most",
		},
		{
			"half a byte", image + `resources: {limits: {memory: 1500m}}`, "spec.resources.limits[memory]",
			"whole number",
		},
		{
			"memory beyond all", image + `resources: {limits: {memory: 8Ei}}`,
			"spec.resources.limits[memory]", "at most",
		},
		{
			"request above the limit", image + `resources: {limits: {memory: 1Mi}, requests: {memory: 2Mi}}`,
			"spec.resources.requests[memory]", "exceed the limit",
		},
		{
			"pids beyond the kernel", image + `resources: {limits: {pids: "4194305"}}`,
			"spec.resources.limits[pids]", "at most",
		},
		{
			"pids as a request", image + `resources: {requests: {pids: "1"}}`,
			"spec.resources.requests[pids]", `"cpu", "memory"`,
		},
		{
			"swap as a request", image + `resources: {limits: {memory: 1Mi}, requests: {swap: 1Mi}}`,
			"spec.resources.requests[swap]", `"cpu", "memory"`,
		},
		{
			"swap without memory", image + `resources: {limits: {swap: 1Mi}}`,
			"spec.resources.limits[swap]", "set limits[memory], or remove it",
		},
		{
			"swap of nothing", image + `resources: {limits: {memory: 1Mi, swap: "0"}}`,
			"spec.resources.limits[swap]", "remove it",
		},
		{
			"a number with a thousandth as swap", image + `resources: {limits: {memory: 1Mi, swap: 64m}}`,
			"spec.resources.limits[swap]", "did you mean 64Mi or 64M?",
		},
		{
			"swap beyond all beside memory", image + `resources: {limits: {memory: 4Ei, swap: 4Ei}}`,
			"spec.resources.limits[swap]", "beside this limit of memory",
		},
		{
			"unknown resource", image + `resources: {limits: {nvidia.com/gpu: "1"}}`,
			"spec.resources.limits[nvidia.com/gpu]", `"cpu", "memory", "swap", "pids"`,
		},

		{"volume of no kind", image + `volumes: [{name: v}]`, "spec.volumes[0]", "exactly one"},
		{
			"volume of two kinds", image + `volumes: [{name: v, emptyDir: {}, hostPath: {path: /v}}]`,
			"spec.volumes[0].emptyDir", "exactly one",
		},
		{
			"volume with a bad name", image + `volumes: [{name: ../v, emptyDir: {}}]`,
			"spec.volumes[0].name", "RFC 1123",
		},
		{
			"volume twice", image + `volumes: [{name: v, emptyDir: {}}, {name: v, emptyDir: {}}]`,
			"spec.volumes[1].name", "Duplicate",
		},
		{
			"relative hostPath", image + `volumes: [{name: v, hostPath: {path: v}}]`,
			"spec.volumes[0].hostPath.path", "absolute",
		},
		{
			"hostPath with a way up", image + `volumes: [{name: v, hostPath: {path: /a/../b}}]`,
			"spec.volumes[0].hostPath.path", `".."`,
		},
		{
			"hostPath of an unknown type", image + `volumes: [{name: v, hostPath: {path: /v, type: Pipe}}]`,
			"spec.volumes[0].hostPath.type", "Socket",
		},
		{
			"a medium that there is not", image + `volumes: [{name: v, emptyDir: {medium: HugePages-4Mi}}]`,
			"spec.volumes[0].emptyDir.medium", "HugePages-1Gi",
		},
		{
			"huge pages of no size", image + `volumes: [{name: v, emptyDir: {medium: HugePages}}]`,
			"spec.volumes[0].emptyDir.medium", "hugepages-2Mi and hugepages-1Gi",
		},
		{
			"huge pages of two sizes", image + `resources: {limits: {hugepages-2Mi: 2Mi, hugepages-1Gi: 1Gi}}
volumes: [{name: v, emptyDir: {medium: HugePages}}]`,
			"spec.volumes[0].emptyDir.medium", "name the size",
		},
		{
			"huge pages without a limit", image + `resources: {limits: {hugepages-1Gi: 1Gi}}
volumes: [{name: v, emptyDir: {medium: HugePages-2Mi}}]`,
			"spec.volumes[0].emptyDir.medium", "needs resources.limits[hugepages-2Mi]",
		},
		{
			"a part of a huge page", image + `resources: {limits: {hugepages-2Mi: 2Mi}}
volumes: [{name: v, emptyDir: {medium: HugePages, sizeLimit: 3Mi}}]`,
			"spec.volumes[0].emptyDir.sizeLimit", "multiple",
		},
		{
			"a limit of a part of a huge page", image + `resources: {limits: {hugepages-2Mi: 3Mi}}`,
			"spec.resources.limits[hugepages-2Mi]", "multiple",
		},
		{
			"fewer huge pages requested", image +
				`resources: {limits: {hugepages-2Mi: 4Mi}, requests: {hugepages-2Mi: 2Mi}}`,
			"spec.resources.requests[hugepages-2Mi]", "equal to the limit",
		},
		{
			"huge pages requested alone", image + `resources: {requests: {hugepages-2Mi: 2Mi}}`,
			"spec.resources.requests[hugepages-2Mi]", "equal to the limit",
		},
		{
			"size of 0 on disk", image + `volumes: [{name: v, emptyDir: {sizeLimit: "0"}}]`,
			"spec.volumes[0].emptyDir.sizeLimit", "greater than 0",
		},
		{
			"negative size", image + `volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: "-1"}}]`,
			"spec.volumes[0].emptyDir.sizeLimit", "negative",
		},
		{
			"size of 0", image + `volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: "0"}}]`,
			"spec.volumes[0].emptyDir.sizeLimit", "greater than 0",
		},
		{
			"size beyond all", image + `volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 9Ei}}]`,
			"spec.volumes[0].emptyDir.sizeLimit", "at most",
		},

		{
			"mount of nothing", image + `volumeMounts: [{name: v, mountPath: /v}]`,
			"spec.volumeMounts[0].name", "Not found",
		},
		{"relative mount", mount(`mountPath: v`), "spec.volumeMounts[0].mountPath", "absolute"},
		{"mount with a way up", mount(`mountPath: /a/../proc`), "spec.volumeMounts[0].mountPath", `".."`},
		{"mount with a colon", mount(`mountPath: "/a:b"`), "spec.volumeMounts[0].mountPath", `":"`},
		{"mount over the root", mount(`mountPath: /./`), "spec.volumeMounts[0].mountPath", "root"},
		{"mount over /proc", mount(`mountPath: //proc/`), "spec.volumeMounts[0].mountPath", "/proc"},
		{
			"mount in /proc", mount(`mountPath: /proc/sys/kernel`), "spec.volumeMounts[0].mountPath",
			"/proc",
		},
		{"mount over /sys", mount(`mountPath: /sys`), "spec.volumeMounts[0].mountPath", "/sys"},
		{"mount over /dev", mount(`mountPath: /dev/`), "spec.volumeMounts[0].mountPath", "/dev"},
		{
			"mount that would be masked", mount(`mountPath: /sys/firmware/efi`),
			"spec.volumeMounts[0].mountPath", "hidden",
		},
		{
			"mount over a default device", mount(`mountPath: /dev/null`), "spec.volumeMounts[0].mountPath",
			"runtime",
		},
		{
			"propagation to the host", mount(`mountPath: /v, mountPropagation: Bidirectional`),
			"spec.volumeMounts[0].mountPropagation", "set securityContext.privileged",
		},
		{
			"propagation of a path to the host", mount(`mountPath: /v, subPath: a, mountPropagation: Bidirectional`) +
				"\nsecurityContext: {privileged: true}",
			"spec.volumeMounts[0].mountPropagation", "hostPath",
		},
		{
			"propagation of an emptyDir to the host", image + `volumes: [{name: v, emptyDir: {}}]
volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]
securityContext: {privileged: true}`,
			"spec.volumeMounts[0].mountPropagation", "hostPath",
		},
		{
			"unknown propagation", mount(`mountPath: /v, mountPropagation: Sideways`),
			"spec.volumeMounts[0].mountPropagation", "HostToContainer",
		},
		{
			"recursive without readOnly", mount(`mountPath: /v, recursiveReadOnly: IfPossible`),
			"spec.volumeMounts[0].recursiveReadOnly", "readOnly",
		},
		{
			"recursive with propagation",
			mount(`mountPath: /v, readOnly: true, recursiveReadOnly: Enabled, mountPropagation: HostToContainer`), "spec.volumeMounts[0].recursiveReadOnly", "mountPropagation",
		},
		{
			"unknown recursion", mount(`mountPath: /v, readOnly: true, recursiveReadOnly: Maybe`),
			"spec.volumeMounts[0].recursiveReadOnly", "IfPossible",
		},
		{
			"unknown mount option", mount(`mountPath: /v, bindMountOptions: [nodev, suid]`),
			"spec.volumeMounts[0].bindMountOptions[1]", "noexec",
		},
		{"two mounts on a path", image +
			"volumes: [{name: v, emptyDir: {}}]\nvolumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v/}]", "spec.volumeMounts[1].mountPath", "Duplicate"},

		{"unknown restart policy", image + `restartPolicy: Sometimes`, "spec.restartPolicy", "OnFailure"},
		{
			"no time for progress", image + `progressDeadlineSeconds: 0`, "spec.progressDeadlineSeconds",
			"at least 1",
		},
		{
			"negative grace", image + `terminationGracePeriodSeconds: -1`,
			"spec.terminationGracePeriodSeconds", "negative",
		},
		{
			"no back-off", image + `restartBackOff: {maxSeconds: 0}`, "spec.restartBackOff.maxSeconds",
			"must be 1 to 86400",
		},
		{
			"a back-off of more than a day", image + `restartBackOff: {maxSeconds: 86401}`,
			"spec.restartBackOff.maxSeconds", "must be 1 to 86400",
		},
		{
			"a negative first back-off", image + `restartBackOff: {initialSeconds: -1}`,
			"spec.restartBackOff.initialSeconds", "must be 1 to 86400",
		},
		{
			"a first back-off above the longest", image +
				`restartBackOff: {initialSeconds: 5, maxSeconds: 4}`, "spec.restartBackOff.initialSeconds",
			"at most maxSeconds, which is 4: lower it or raise maxSeconds",
		},
		{
			"a first back-off above the default", image + `restartBackOff: {initialSeconds: 301}`,
			"spec.restartBackOff.initialSeconds", "at most maxSeconds, which is 300",
		},
		{
			"a log file too small for an entry", image + `logging: {maxSize: 32767}`, "spec.logging.maxSize",
			"at least 32Ki",
		},
		{
			"a log file of no size", image + `logging: {maxSize: 0}`, "spec.logging.maxSize",
			"at least 32Ki",
		},
		{
			"a log file of a thousandth", image + `logging: {maxSize: 10m}`, "spec.logging.maxSize",
			"did you mean 10Mi or 10M?",
		},
		{
			"a log file without end", image + `logging: {maxSize: 1e30}`, "spec.logging.maxSize",
			"must be at most",
		},
		{"one log file", image + `logging: {maxFiles: 1}`, "spec.logging.maxFiles", "must be 2 to 1000"},
		{
			"too many log files", image + `logging: {maxFiles: 1001}`, "spec.logging.maxFiles",
			"must be 2 to 1000",
		},
		{
			"all keys but not Exists", image + `tolerations: [{operator: Equal}]`,
			"spec.tolerations[0].operator", "Exists",
		},
	} {
		t.Run(tc.name, func(t *testing.T) { wantFault(t, parse(t, tc.spec), tc.path, tc.message) })
	}
}

func TestNames(t *testing.T) {
	c := parse(t, "image: busybox")
	c.Name = ""
	wantFault(t, c, "metadata.name", "needs a name")
	c.Name = "../../etc"
	wantFault(t, c, "metadata.name", "RFC 1123")
	c.Name, c.Namespace = "x", "a/b"
	wantFault(t, c, "metadata.namespace", "RFC 1123")
	if _, faults := Bundle(nil); len(faults) != 1 {
		t.Errorf("no Container: got %v", faults)
	}
}

// TestAllFaultsAtOnce: a user corrects a file once, not a fault at a time.
func TestAllFaultsAtOnce(t *testing.T) {
	_, faults := Bundle(parse(t, `
image: "A B"
workingDir: x
env: [{name: "="}]
resources: {limits: {cpu: "-1", gpu: "1"}}
securityContext: {procMount: Unmasked, runAsUser: -1}
volumeMounts: [{name: v, mountPath: x, subPath: /y}]
restartPolicy: Maybe`))
	var paths []string
	for _, f := range faults {
		paths = append(paths, f.Field)
	}
	want := "spec.image spec.env[0].name spec.workingDir spec.securityContext.runAsUser spec.securityContext.procMount " +
		"spec.volumeMounts[0].name spec.volumeMounts[0].subPath spec.volumeMounts[0].mountPath " +
		"spec.resources.limits[cpu] spec.resources.limits[gpu] spec.restartPolicy"
	if got := strings.Join(paths, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestCPU holds the kubelet's formulas at their edges.
func TestCPU(t *testing.T) {
	for _, tc := range []struct {
		limit, request string
		quota          int64
		shares         uint64
	}{
		{"", "", 0, 2},
		{"1m", "", 1000, 2},
		{"10m", "", 1000, 10},
		{"11m", "1m", 1100, 2},
		{"1", "", 100_000, 1024},
		{"2500m", "500m", 250_000, 512},
		{"", "256", 0, 262_144},
		{"", "257", 0, 262_144},
		{"1", "0", 100_000, 2},
		{"175921860444m", "1", 17_592_186_044_400, 1024},
	} {
		spec := "image: busybox\nresources: {limits: {"
		if tc.limit != "" {
			spec += "cpu: " + tc.limit
		}
		spec += "}, requests: {"
		if tc.request != "" {
			spec += "cpu: " + tc.request
		}
		b, faults := Bundle(parse(t, spec+"}}"))
		if len(faults) > 0 {
			t.Errorf("%+v: %v", tc, faults.ToAggregate())
			continue
		}
		var doc specs.Spec
		if err := json.Unmarshal(b.Config.Raw, &doc); err != nil {
			t.Fatal(err)
		}
		cpu := doc.Linux.Resources.CPU
		var quota int64
		if cpu.Quota != nil {
			quota = *cpu.Quota
		}
		if quota != tc.quota || *cpu.Shares != tc.shares {
			t.Errorf("%+v: got quota %d, shares %d", tc, quota, *cpu.Shares)
		}
	}
}

// mountAt returns the fields of a volume that is mounted at a path.
func mountAt(path string) string {
	return "volumes: [{name: own, emptyDir: {}}]\nvolumeMounts: [{name: own, mountPath: " + path + "}]\n"
}
