// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
)

var (
	containers = v1alpha1.GroupVersion.WithResource("containers")
	bundles    = v1alpha1.GroupVersion.WithResource("ocibundles")
	nodeAgents = v1alpha1.GroupVersion.WithResource("nodeagents")
)

// object returns an object of a kind from the YAML of its spec.
func object(t *testing.T, kind, name, spec string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetAPIVersion(v1alpha1.GroupVersion.String())
	u.SetKind(kind)
	u.SetName(name)
	var v map[string]any
	if err := yaml.Unmarshal([]byte(spec), &v); err != nil {
		t.Fatal(err)
	}
	u.Object["spec"] = v
	return u
}

// dryRun asks the API server to check strictly, as kubectl does, and to keep nothing.
var dryRun = metav1.CreateOptions{
	DryRun:          []string{metav1.DryRunAll},
	FieldValidation: metav1.FieldValidationStrict,
}

// TestContainerRules: each rule of the schema refuses a bad object with a message that names the
// fix, and accepts a good object that differs only in that point.
func TestContainerRules(t *testing.T) {
	client := dynamicClient(t).Resource(containers).Namespace("default")
	const image = "image: busybox\n"
	const volume = image + "volumes: [{name: v, emptyDir: {}}]\n"
	for _, tc := range []struct {
		name, good, bad string
		message         string
	}{
		{"image or rootfs", image, "command: [x]", "set exactly one of image, archive and rootfs"},
		{
			"not both", "rootfs: {path: /r}\ncommand: [x]", image + "rootfs: {path: /r}\ncommand: [x]",
			"set exactly one of image, archive and rootfs",
		},
		{
			"image or archive", "archive: {path: /a.tar}", image + "archive: {path: /a.tar}",
			"set exactly one of image, archive and rootfs",
		},
		{
			"archive or rootfs", "archive: {path: /a.tar}",
			"archive: {path: /a.tar}\nrootfs: {path: /r}\ncommand: [x]",
			"set exactly one of image, archive and rootfs",
		},
		{
			"archive is absolute", "archive: {path: /a.tar, name: app:v1}", "archive: {path: a.tar}",
			"archive.path must be absolute: start it with /",
		},
		{
			"archive without a colon", "archive: {path: /a.tar}", "archive: {path: '/a.tar:v1'}",
			"give a tag in archive.name",
		},
		{
			"archive has a path", "archive: {path: /a.tar}", "archive: {}",
			"spec.archive.path: Required value",
		},
		{
			"archive name", "archive: {path: /a.tar, name: v1}", "archive: {path: /a.tar, name: ''}",
			"at least 1 chars",
		},
		{
			"rootfs needs a command", "rootfs: {path: /r}\ncommand: [x]", "rootfs: {path: /r}",
			"set command",
		},
		{
			"rootfs is absolute", "rootfs: {path: /r}\ncommand: [x]", "rootfs: {path: r}\ncommand: [x]",
			"rootfs.path must be absolute: start it with /",
		},
		{
			"rootfs has a path", "rootfs: {path: /r}\ncommand: [x]", "rootfs: {}\ncommand: [x]",
			"spec.rootfs.path: Required value",
		},
		{"image is not empty", image, `image: ""`, "at least 1 chars"},
		{
			"image with a path", "image: registry.example:5000/a.tar/b", "image: /srv/x.tar",
			"for a file of the node write archive: {path: /FILE} in place of image",
		},
		{
			"image with a relative path", "image: a.tar:v1", "image: ./x.tar",
			"for a file of the node write archive: {path: /FILE} in place of image",
		},
		{
			"image with a file's name", "image: oci-archive:/x.tar", "image: x.tar.gz",
			"for a file of the node write archive: {path: /FILE} in place of image",
		},
		{"command", image + "command: [nginx, -g, x]", image + "command: nginx -g x", "spec.command"},
		{"number in env", image + `env: [{name: PORT, value: "1"}]`, image +
			"env: [{name: PORT, value: 1}]", "spec.env[0].value"},
		{"env as a map", image + "env: [{name: A, value: b}]", image + "env: {A: b}", "spec.env"},
		{
			"restartPolicy of compose", image + "restartPolicy: Always", image + "restartPolicy: always",
			`supported values: "Always", "OnFailure", "Never"`,
		},
		{
			"pull policy", image + "imagePullPolicy: Never", image + "imagePullPolicy: Sometimes",
			`supported values: "Always", "IfNotPresent", "Never"`,
		},
		{
			"workingDir", image + "workingDir: /srv", image + "workingDir: srv",
			"workingDir must be absolute: start it with /",
		},
		{
			"env of a file", image + "env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: p, key: k}}}]",
			image + "env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: p, key: k}, secretKeyRef: {name: s, key: k}}}]",
			"set exactly one of fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef and fileKeyRef",
		},
		{
			"imagePullSecrets", image + "imagePullSecrets: [{name: c}]", image + "imagePullSecrets: [{}]",
			"name a Secret of the Container's namespace",
		},
		{
			"envFrom", image + "envFrom: [{configMapRef: {name: c}}, {prefix: P_, secretRef: {name: s}}]",
			image + "envFrom: [{configMapRef: {name: c}, secretRef: {name: s}}]",
			"set exactly one of configMapRef and secretRef",
		},
		{
			"env of one field", image +
				"env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]",
			image + "env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}, configMapKeyRef: {name: s, key: k}}}]",
			"set exactly one of fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef and fileKeyRef",
		},
		{
			"env of a field or a value", image +
				`env: [{name: A, value: "", valueFrom: {fieldRef: {fieldPath: metadata.name}}}]`,
			image + "env: [{name: A, value: b, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
			"set one of value and valueFrom",
		},
		{
			"env once", image + "env: [{name: A}, {name: B}]", image + "env: [{name: A}, {name: A}]",
			"Duplicate value",
		},
		{
			"hostname", image + "hostname: web-1", image + "hostname: Web_1",
			"hostname may have lower case letters, digits and '-', and begins and ends with a letter or digit",
		},
		{"hostname with the host's network", image + "hostNetwork: true", image +
			"hostNetwork: true\nhostname: web", "remove hostname or hostNetwork"},
		{
			"address of no network", image + "network: {none: true}\nenv: [{name: A, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]",
			image + "network: {none: true}\nenv: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]",
			"a container without a network has no address",
		},
		{"subdomain", image + "subdomain: web-1", image + "subdomain: a.b", "subdomain may have lower case"},
		{"subdomain with the host's network", image + "hostNetwork: true", image +
			"hostNetwork: true\nsubdomain: web", "remove subdomain or hostNetwork"},
		{"FQDN with the host's network", image + "hostNetwork: true\nsetHostnameAsFQDN: false", image +
			"hostNetwork: true\nsetHostnameAsFQDN: true", "remove setHostnameAsFQDN or hostNetwork"},
		{
			"address of an alias", image + "hostAliases: [{ip: '::1', hostnames: [a, b.c]}, {ip: 192.0.2.1, hostnames: [a]}]",
			image + "hostAliases: [{ip: db, hostnames: [a]}]", "ip of a host alias is an address",
		},
		{
			"names of an alias", image + "hostAliases: [{ip: '::1', hostnames: [a-1.b2]}]",
			image + "hostAliases: [{ip: '::1', hostnames: [a, 'b c']}]",
			"hostnames of a host alias have lower case letters",
		},
		{
			"alias without names", image + "hostAliases: []", image + "hostAliases: [{ip: '::1', hostnames: []}]",
			"hostnames",
		},
		{"dnsPolicy", image + "dnsPolicy: ClusterFirstWithHostNet", image + "dnsPolicy: Host", "spec.dnsPolicy"},
		{
			"dnsPolicy None", image + "dnsPolicy: None\ndnsConfig: {nameservers: [192.0.2.53]}",
			image + "dnsPolicy: None\ndnsConfig: {searches: [a]}", "add dnsConfig.nameservers",
		},
		{
			"nameservers", image + "dnsConfig: {nameservers: [192.0.2.53, '2001:db8::53', 127.0.0.1]}",
			image + "dnsConfig: {nameservers: [dns.example.com]}", "nameservers are addresses",
		},
		{
			"four nameservers", image + "dnsConfig: {nameservers: []}",
			image + "dnsConfig: {nameservers: ['::1', '::2', '::3', '::4']}", "at most 3",
		},
		{
			"search domains", image + "dnsConfig: {searches: [., example.com., _a.b_c]}",
			image + "dnsConfig: {searches: ['a b']}", "searches are domains",
		},
		{
			"search list", image + "dnsConfig: {searches: [" + strings.Repeat(strings.Repeat("a", 227)+",", 8) + "]}",
			image + "dnsConfig: {searches: [" + strings.Repeat(strings.Repeat("a", 227)+",", 9) + "b]}",
			"2048 characters",
		},
		{
			"option", image + "dnsConfig: {options: [{name: ndots, value: '2'}, {name: rotate}, {name: edns0, value: ''}]}",
			image + `dnsConfig: {options: [{name: "a b"}]}`, "the name of an option is a word",
		},
		{
			"value of an option", image + "dnsConfig: {options: [{name: ndots}]}",
			image + `dnsConfig: {options: [{name: ndots, value: "2\nnameserver ::1"}]}`, "the value of an option is a word",
		},
		{"no network", image + "network: {none: true}", image +
			"hostNetwork: true\nnetwork: {none: true}", "remove network.none or hostNetwork"},
		{"ports", image +
			"ports: [{containerPort: 80, hostPort: 8080, hostIP: '::1', protocol: UDP, name: web}, {containerPort: 80, hostPort: 8081}]", image + "ports: [{containerPort: 0}]", "containerPort may be 1 to 65535"},
		{"host port", image + "ports: [{containerPort: 80}]", image +
			"ports: [{containerPort: 80, hostPort: 65536}]", "hostPort may be 1 to 65535, or absent"},
		{"protocol of a port", image + "ports: [{containerPort: 80, protocol: SCTP}]", image +
			"ports: [{containerPort: 80, protocol: tcp}]", "protocol of a port may be TCP, UDP or SCTP"},
		{
			"host port without a network", image + "network: {none: true}\nports: [{containerPort: 80}]",
			image + "network: {none: true}\nports: [{containerPort: 80, hostPort: 80}]",
			"remove hostPort or network.none",
		},
		{
			"host port in the node's network", image +
				"hostNetwork: true\nports: [{containerPort: 80, hostPort: 80}]", image +
				"hostNetwork: true\nports: [{containerPort: 80, hostPort: 81}]",
			"make it the same as containerPort",
		},
		{"network of compose", image + "network: {}", image + "network: host", "spec.network"},
		{
			"networks", image + "networks: [{name: a}, {aliases: [db, db_1.example]}]\nports: [{containerPort: 80, hostPort: 80}]",
			image + "networks: [{name: a}]\nhostNetwork: true", "remove networks or hostNetwork",
		},
		{
			"networks beside none", image + "networks: [{name: a}]\nnetwork: {none: false}", image +
				"networks: [{name: a}]\nnetwork: {none: true}", "remove networks or network.none",
		},
		{
			"a network twice", image + "networks: [{name: a}, {name: b}]", image +
				"networks: [{}, {name: a}, {}]", "remove the second of the same name",
		},
		{
			"name of a network", image + "networks: [{name: a_b.c-d}]", image + "networks: [{name: a/b}]",
			"networks name CNI configurations: correct the name",
		},
		{
			"alias", image + "networks: [{aliases: [a]}]", image + "networks: [{aliases: [a, -b]}]",
			"aliases are names in lower case",
		},
		{"limits", image + `resources: {limits: {cpu: "1", memory: 1Mi, pids: "9"}}`, image +
			`resources: {limits: {gpu: "1"}}`, "limits may name cpu, memory, swap, pids, hugepages-2Mi and hugepages-1Gi only"},
		{"requests", image + `resources: {requests: {cpu: "1", memory: 1Mi}}`, image +
			`resources: {requests: {pids: "1"}}`, "requests may name cpu, memory, hugepages-2Mi and hugepages-1Gi only"},
		{
			"swap beside memory", image + `resources: {limits: {memory: 64Mi, swap: 1Gi}}`, image +
				`resources: {limits: {swap: 1Gi}}`, "set limits.memory, or remove swap",
		},
		{
			"quantity of swap", image + `resources: {limits: {memory: 64Mi, swap: 1G}}`, image +
				`resources: {limits: {memory: 64Mi, swap: much}}`, "limits are quantities",
		},
		{
			"quantity of huge pages", image + `resources: {limits: {hugepages-2Mi: 4Mi}}`, image +
				`resources: {limits: {hugepages-2Mi: many}}`, "limits are quantities",
		},
		{"quantity", image + `resources: {limits: {cpu: 1500m}}`, image +
			`resources: {limits: {cpu: many}}`, "limits are quantities: write 2, 0.5 or 500m for cpu"},
		{
			"quantity of memory", image + `resources: {limits: {memory: 32Mi}, requests: {memory: 1000000}}`,
			image + `resources: {requests: {memory: 32mb}}`,
			"requests are quantities: write 2, 0.5 or 500m for cpu, and 64Mi, 1Gi or 500M for memory",
		},
		{
			"claims", image + `resources: {claims: []}`, image + `resources: {claims: [{name: x}]}`,
			"claims are not supported: remove claims",
		},
		{
			"privileged with devices", image + "devices: [{path: /dev/x}]", image +
				"devices: [{path: /dev/x}]\nsecurityContext: {privileged: true}",
			"remove devices by path or privileged",
		},
		{
			"privileged with devices by cdi",
			image + "devices: [{cdi: v.com/c=n}]\nsecurityContext: {privileged: true}",
			image + "devices: [{cdi: v.com/c=n}, {path: /dev/x}]\nsecurityContext: {privileged: true}",
			"remove devices by path or privileged",
		},
		{
			"device by cdi", image + `devices: [{cdi: "nvidia.com/gpu_x=0:1"}]`, image + `devices: [{cdi: gpu0}]`,
			"write VENDOR/CLASS=NAME",
		},
		{
			"device by one of path and cdi", image + `devices: [{path: /dev/x}, {cdi: v.com/c=n}]`,
			image + `devices: [{path: /dev/x, cdi: v.com/c=n}]`, "one of path and cdi",
		},
		{"device of something", image + `devices: []`, image + `devices: [{permissions: r}]`, "one of path and cdi"},
		{
			"device by cdi with a path", image + `devices: [{path: /dev/x, containerPath: /dev/y, permissions: r}]`,
			image + `devices: [{cdi: v.com/c=n, containerPath: /dev/y}]`, "remove containerPath and permissions",
		},
		{
			"device by cdi with permissions", image + `devices: [{cdi: v.com/c=n}]`,
			image + `devices: [{cdi: v.com/c=n, permissions: r}]`, "remove containerPath and permissions",
		},
		{
			"size of a /dev/shm that is replaced", image + "shmSize: 1Mi", image + "shmSize: 1Mi\n" +
				"volumes: [{name: v, emptyDir: {}}]\nvolumeMounts: [{name: v, mountPath: /dev/shm}]",
			"remove shmSize or the mount",
		},
		{"privileged", image + "securityContext: {privileged: true}", image +
			"securityContext: {privileged: true, capabilities: {}}", "remove capabilities or privileged"},
		{
			"privileged without privileges", image + "securityContext: {privileged: true}", image +
				"securityContext: {privileged: true, allowPrivilegeEscalation: false}",
			"remove allowPrivilegeEscalation or privileged",
		},
		{
			"seLinuxOptions of a privileged container",
			image + "securityContext: {privileged: true, seLinuxOptions: {type: spc_t}}", image +
				"securityContext: {privileged: true, seLinuxOptions: {level: 's0:c1,c2'}}",
			"set type, such as spc_t, or remove seLinuxOptions",
		},
		{
			"windowsOptions", image + "securityContext: {}", image + "securityContext: {windowsOptions: {}}",
			"windowsOptions is for Windows: remove it",
		},
		{
			"appArmorProfile", image + "securityContext: {}", image +
				"securityContext: {appArmorProfile: {type: x}}",
			"appArmorProfile.type may be RuntimeDefault, Unconfined or Localhost",
		},
		{
			"AppArmor profile of the node",
			image + "securityContext: {appArmorProfile: {type: Localhost, localhostProfile: x}}", image +
				"securityContext: {appArmorProfile: {type: Localhost}}",
			"appArmorProfile.localhostProfile names a profile for the type Localhost: set both or neither",
		},
		{
			"AppArmor profile that counts for nothing",
			image + "securityContext: {appArmorProfile: {type: RuntimeDefault}}", image +
				"securityContext: {appArmorProfile: {type: RuntimeDefault, localhostProfile: ''}}",
			"appArmorProfile.localhostProfile names a profile for the type Localhost: set both or neither",
		},
		{
			"AppArmor profile of a privileged container",
			image + "securityContext: {privileged: true, appArmorProfile: {type: Unconfined}}", image +
				"securityContext: {privileged: true, appArmorProfile: {type: RuntimeDefault}}",
			"remove appArmorProfile or privileged",
		},
		{"procMount", image + "hostUsers: false\nsecurityContext: {procMount: Unmasked}", image +
			"securityContext: {procMount: Unmasked}", "set hostUsers: false"},
		{"procMount of a kind", image + "securityContext: {procMount: Default}", image +
			"securityContext: {procMount: x}", "procMount may be Default or Unmasked"},
		{
			"hostUsers", image + "hostUsers: false", image + "hostUsers: false\nhostNetwork: true",
			"remove hostUsers, or hostNetwork, hostPID and hostIPC",
		},
		{
			"hostUsers of a privileged container",
			image + "hostUsers: true\nsecurityContext: {privileged: true}", image +
				"hostUsers: false\nsecurityContext: {privileged: true}", "remove hostUsers or privileged",
		},
		{
			"user of a user namespace", image + "hostUsers: false\nsecurityContext: {runAsUser: 65535}", image +
				"hostUsers: false\nsecurityContext: {runAsUser: 65536}", "lower runAsUser",
		},
		{
			"seccomp", image + "securityContext: {seccompProfile: {type: Unconfined}}", image +
				"securityContext: {seccompProfile: {type: x}}",
			"seccompProfile.type may be RuntimeDefault, Unconfined or Localhost",
		},
		{
			"fsGroup", image + "securityContext: {fsGroup: 1, fsGroupChangePolicy: Always}", image +
				"securityContext: {fsGroupChangePolicy: Always}", "fsGroupChangePolicy is for fsGroup",
		},
		{
			"seccomp file",
			image + "securityContext: {seccompProfile: {type: Localhost, localhostProfile: x}}", image +
				"securityContext: {seccompProfile: {type: RuntimeDefault, localhostProfile: x}}",
			"localhostProfile names a file of the node for the type Localhost: set both or neither",
		},
		{
			"seccomp file that counts for nothing",
			image + "securityContext: {seccompProfile: {type: RuntimeDefault}}", image +
				"securityContext: {seccompProfile: {type: RuntimeDefault, localhostProfile: ''}}",
			"localhostProfile names a file of the node for the type Localhost: set both or neither",
		},
		{
			"seccomp file of no name",
			image + "securityContext: {seccompProfile: {type: Unconfined}}", image +
				"securityContext: {seccompProfile: {type: Localhost, localhostProfile: ''}}",
			"localhostProfile names a file of the node for the type Localhost: set both or neither",
		},
		{
			"socketcall", image + "allowSocketcall: true", image + "allowSocketcall: true\n" +
				"securityContext: {seccompProfile: {type: Localhost, localhostProfile: x}}",
			"allowSocketcall changes the default seccomp profile",
		},
		{
			"runAsNonRoot", image + "securityContext: {runAsNonRoot: true, runAsUser: 1}", image +
				"securityContext: {runAsNonRoot: true, runAsUser: 0}",
			"runAsNonRoot forbids runAsUser 0: set another runAsUser",
		},
		{
			"volume of one kind", volume, image + "volumes: [{name: v}]",
			"set exactly one of hostPath, emptyDir, configMap, secret, downwardAPI, projected, persistentVolumeClaim, container and image",
		},
		{
			"volume of one kind only", volume, image +
				"volumes: [{name: v, emptyDir: {}, hostPath: {path: /v}}]",
			"set exactly one of hostPath, emptyDir, configMap, secret, downwardAPI, projected, persistentVolumeClaim, container and image",
		},
		{
			"dependsOn", image + "dependsOn: []", image + "dependsOn: [{name: db, condition: Started}]",
			"dependsOn is honoured by an agent without a cluster only",
		},
		{
			"network of another Container", image + "network: {none: true}",
			image + "network: {container: web}",
			"network.container is honoured by an agent without a cluster only",
		},
		{
			"volume of another Container", image + "volumes: [{name: v, emptyDir: {}}]",
			image + "volumes: [{name: v, container: {name: web, volume: v}}]",
			"a volume of another Container is honoured by an agent without a cluster only",
		},
		{
			"named volume", image + "volumes: [{name: v, persistentVolumeClaim: {claimName: x, readOnly: true}}]",
			image + "volumes: [{name: v, persistentVolumeClaim: {claimName: x}, emptyDir: {}}]",
			"set exactly one of hostPath",
		},
		{
			"image of a volume", image + "volumes: [{name: v, image: {reference: x, pullPolicy: Never}}]",
			image + "volumes: [{name: v, image: {pullPolicy: Never}}]",
			"spec.volumes[0].image.reference: Required value",
		},
		{
			"file for the image of a volume", image + "volumes: [{name: v, image: {reference: oci-archive:/x.tar}}]",
			image + "volumes: [{name: v, image: {reference: /x.tar}}]",
			"reference is an image of a registry such as quay.io/team/model:1: for a file of the node write oci-archive:/FILE",
		},
		{
			"pullPolicy of a volume", image + "volumes: [{name: v, image: {reference: x, pullPolicy: Always}}]",
			image + "volumes: [{name: v, image: {reference: x, pullPolicy: Sometimes}}]",
			`spec.volumes[0].image.pullPolicy: Unsupported value: "Sometimes"`,
		},
		{
			"image beside another kind of volume", image + "volumes: [{name: v, image: {reference: x}}]",
			image + "volumes: [{name: v, image: {reference: x}, emptyDir: {}}]", "set exactly one of hostPath",
		},
		{
			"volume of another kind", image + "volumes: [{name: v, configMap: {name: x}}]",
			image + "volumes: [{name: v, nfs: {server: x, path: /}}]", `unknown field "spec.volumes[0].nfs"`,
		},
		{
			"onConfigChange", image + "onConfigChange: Restart", image + "onConfigChange: Reload",
			`supported values: "Ignore", "Restart", "Signal"`,
		},
		{
			"configChangeSignal", image + "onConfigChange: Signal\nconfigChangeSignal: SIGUSR1",
			image + "onConfigChange: Signal\nconfigChangeSignal: SIGKILL", `supported values: "SIGHUP"`,
		},
		{
			"configChangeSignal without Signal", image + "onConfigChange: Signal",
			image + "onConfigChange: Restart\nconfigChangeSignal: SIGHUP", "configChangeSignal is for onConfigChange Signal",
		},
		{
			"volumes of files", image + "volumes: [{name: v, secret: {secretName: x, optional: true}}]",
			image + "volumes: [{name: v, secret: {secretName: x}, emptyDir: {}}]", "set exactly one of hostPath",
		},
		{
			"projected sources", image + "volumes: [{name: v, projected: {sources: [{secret: {name: x}}, " +
				"{downwardAPI: {items: [{path: a, fieldRef: {fieldPath: metadata.name}}]}}]}}]",
			image + "volumes: [{name: v, projected: {sources: [{secret: {name: x}, configMap: {name: x}}]}}]",
			"set exactly one of configMap, secret, downwardAPI and serviceAccountToken",
		},
		{
			"life of a token", image + "volumes: [{name: v, projected: {sources: " +
				"[{serviceAccountToken: {path: t, expirationSeconds: 600}}]}}]",
			image + "volumes: [{name: v, projected: {sources: " +
				"[{serviceAccountToken: {path: t, expirationSeconds: 599}}]}}]",
			"expirationSeconds may be 600 (10 minutes)",
		},
		{
			"volume name", volume, image + "volumes: [{name: V_1, emptyDir: {}}]",
			"the name of a volume may have lower case letters, digits and '-'",
		},
		{
			"volumes once", volume, image + "volumes: [{name: v, emptyDir: {}}, {name: v, emptyDir: {}}]",
			"Duplicate value",
		},
		{"hostPath", image + "volumes: [{name: v, hostPath: {path: /v}}]", image +
			"volumes: [{name: v, hostPath: {path: v}}]", "hostPath.path must be absolute: start it with /"},
		{
			"hostPath type", image + "volumes: [{name: v, hostPath: {path: /v, type: Socket}}]", image +
				"volumes: [{name: v, hostPath: {path: /v, type: Pipe}}]",
			"hostPath.type may be empty, DirectoryOrCreate",
		},
		{
			"emptyDir medium", image + "volumes: [{name: v, emptyDir: {medium: HugePages-2Mi}}]", image +
				"volumes: [{name: v, emptyDir: {medium: HugePages-4Mi}}]",
			"emptyDir.medium may be empty (the node's disk), Memory, HugePages, HugePages-2Mi or HugePages-1Gi",
		},
		{
			"emptyDir mode", volume, image + "volumes: [{name: v, emptyDir: {mode: 448}}]",
			"emptyDir.mode is not supported",
		},
		{"mount of a volume", volume + "volumeMounts: [{name: v, mountPath: /v}]", volume +
			"volumeMounts: [{name: w, mountPath: /v}]", "add the volume or correct the name"},
		{
			"mount without volumes", image, image + "volumeMounts: [{name: w, mountPath: /v}]",
			"add the volume or correct the name",
		},
		{"mountPath", volume + "volumeMounts: [{name: v, mountPath: /v}]", volume +
			"volumeMounts: [{name: v, mountPath: v}]", "mountPath must be absolute: start it with /"},
		{
			"mountPath once", volume + "volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /w}]",
			volume + "volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v}]",
			"Duplicate value",
		},
		{
			"subPath", volume + "volumeMounts: [{name: v, mountPath: /v, subPath: x}]", volume +
				"volumeMounts: [{name: v, mountPath: /v, subPath: /x}]",
			"subPath and subPathExpr are relative to the volume: remove the leading /",
		},
		{
			"subPathExpr", volume + "volumeMounts: [{name: v, mountPath: /v, subPathExpr: $(X)}]", volume +
				"volumeMounts: [{name: v, mountPath: /v, subPathExpr: x, subPath: z}]",
			"set one of subPath and subPathExpr",
		},
		{
			"propagation", volume +
				"volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]", volume +
				"volumeMounts: [{name: v, mountPath: /v, mountPropagation: Sideways}]",
			"mountPropagation may be None, HostToContainer or Bidirectional",
		},
		{
			"propagation to the node", volume +
				"volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]\nsecurityContext: {privileged: true}",
			volume + "volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]",
			"set securityContext.privileged, or use HostToContainer",
		},
		{
			"restartPolicy", image + "restartPolicy: OnFailure", image + "restartPolicy: Sometimes",
			`supported values: "Always", "OnFailure", "Never"`,
		},
		{
			"progress deadline", image + "progressDeadlineSeconds: 1", image + "progressDeadlineSeconds: 0",
			"greater than or equal to 1",
		},
		{"back-off", image + "restartBackOff: {initialSeconds: 1, maxSeconds: 86400}", image +
			"restartBackOff: {maxSeconds: 86401}", "less than or equal to 86400"},
		{
			"no back-off", image + "restartBackOff: {}", image + "restartBackOff: {initialSeconds: 0}",
			"greater than or equal to 1",
		},
		{
			"size of /dev/shm", image + "shmSize: 1Mi", image + "shmSize: 0",
			"shmSize is a quantity greater than 0: write 256Mi or 1Gi",
		},
		{
			"/dev/shm of the node", image + "hostIPC: true", image +
				"shmSize: 1Mi\nhostIPC: true",
			"remove shmSize or hostIPC",
		},
		{
			"ulimits", image + "ulimits: [{name: nofile, soft: 1, hard: -1}]", image +
				"ulimits: [{name: nofile, soft: -1, hard: 1}]",
			"soft may be at most hard",
		},
		{
			"sysctls", image + "securityContext: {sysctls: [{name: net.ipv4.tcp_rmem, value: 1 2 3}]}", image +
				"securityContext: {sysctls: [{name: net.core.somaxconn, value: '1'}]}",
			"sysctls of a cluster may be kernel.shm_rmid_forced and",
		},
		{
			"sysctls of the node's network", image + "hostNetwork: true", image +
				"hostNetwork: true\nsecurityContext: {sysctls: [{name: net.ipv4.tcp_rmem, value: 1 2 3}]}",
			"remove them or hostNetwork",
		},
		{
			"sysctls of the node's IPC", image + "hostIPC: true", image +
				"hostIPC: true\nsecurityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: '1'}]}",
			"remove them or hostIPC",
		},
		{
			"first back-off", image + "restartBackOff: {initialSeconds: 9, maxSeconds: 9}", image +
				"restartBackOff: {initialSeconds: 10, maxSeconds: 9}",
			"lower initialSeconds or raise maxSeconds",
		},
		{
			"first back-off alone", image + "restartBackOff: {initialSeconds: 300}", image +
				"restartBackOff: {initialSeconds: 301}",
			"initialSeconds may be at most maxSeconds, which is 300 if it is absent",
		},
		{
			"size of logs", image + "logging: {maxSize: 32Ki, maxFiles: 2}", image +
				"logging: {maxSize: 4Ki}",
			"maxSize is a quantity of at least 32Ki, since a file has to hold the longest entry: write 1Mi or 10M",
		},
		{"size of logs as a number", image + "logging: {maxSize: 32768}", image +
			"logging: {maxSize: 32767}", "maxSize is a quantity of at least 32Ki"},
		{
			"size of logs of docker", image + "logging: {maxSize: 10M}", image + "logging: {maxSize: 10mb}",
			"maxSize is a quantity of at least 32Ki",
		},
		{
			"number of logs", image + "logging: {maxFiles: 1000}", image + "logging: {maxFiles: 1}",
			"greater than or equal to 2",
		},
		{
			"too many logs", image + "logging: {}", image + "logging: {maxFiles: 1001}",
			"less than or equal to 1000",
		},
		{
			"logging of compose", image + "logging: {maxFiles: 3}", image + "logging: {driver: json-file}",
			`unknown field "spec.logging.driver"`,
		},
		{
			"grace", image + "terminationGracePeriodSeconds: 0", image + "terminationGracePeriodSeconds: -1",
			"greater than or equal to 0",
		},
		{"tolerations", image + "tolerations: [{operator: Exists}]", image +
			"tolerations: [{operator: Exists, tolerationSeconds: 1}]", "tolerationSeconds is not supported"},
		{"toleration operator", image + "tolerations: [{key: a, operator: Equal, value: b}]", image +
			"tolerations: [{key: a, operator: Gt, value: '1'}]", "may be Equal or Exists"},
		{
			"runtimeClassName", image + "runtimeClassName: kata", image + `runtimeClassName: ""`,
			"at least 1 chars",
		},
		{"unknown field", image, image + "comand: [x]", `unknown field "spec.comand"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := client.Create(t.Context(), object(t, "Container", "rules", tc.good),
				dryRun); err != nil {
				t.Errorf("good one refused: %v", err)
			}
			_, err := client.Create(t.Context(), object(t, "Container", "rules", tc.bad), dryRun)
			if err == nil || !strings.Contains(err.Error(), tc.message) {
				t.Errorf("bad one: got %v, want %q", err, tc.message)
			}
		})
	}
}

func TestContainerDefaults(t *testing.T) {
	client := dynamicClient(t).Resource(containers).Namespace("default")
	got := create(t, containers, "default", object(t, "Container", "defaults", "image: busybox"))
	for path, want := range map[string]any{
		"spec.restartPolicy":                 "Always",
		"spec.terminationGracePeriodSeconds": int64(30),
		"spec.progressDeadlineSeconds":       int64(600),
		"status.observedGeneration":          int64(-1),
		"status.restartCount":                int64(0),
		"status.phase":                       "Pending",
	} {
		v, _, _ := unstructured.NestedFieldNoCopy(got.Object, strings.Split(path, ".")...)
		if v != want {
			t.Errorf("%s: got %v, want %v", path, v, want)
		}
	}

	// Status is a subresource: it does not raise the generation, and the object itself cannot carry
	// it.
	changed := got.DeepCopy()
	changed.Object["status"] = map[string]any{"observedGeneration": int64(1), "phase": "Running"}
	got, err := client.UpdateStatus(t.Context(), changed, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetGeneration() != 1 {
		t.Errorf("generation %d after a change of status", got.GetGeneration())
	}
	got.Object["status"] = map[string]any{"phase": "Failed"}
	_ = unstructured.SetNestedField(got.Object, "OnFailure", "spec", "restartPolicy")
	got, err = client.Update(t.Context(), got, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if phase, _, _ := unstructured.NestedString(got.Object, "status", "phase"); phase != "Running" ||
		got.GetGeneration() != 2 {
		t.Errorf("after a change of spec: phase %s, generation %d; want Running and 2", phase,
			got.GetGeneration())
	}
	got.Object["status"] = map[string]any{"phase": "Asleep"}
	if _, err = client.UpdateStatus(t.Context(), got, metav1.UpdateOptions{}); err == nil {
		t.Error("an unknown phase was taken")
	}
}

// TestPrinterColumns checks the columns that kubectl prints for a Container at each stage.
func TestPrinterColumns(t *testing.T) {
	config := rest.CopyConfig(restConfig(t))
	config.GroupVersion, config.NegotiatedSerializer = &v1alpha1.GroupVersion,
		serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	columns := func() string {
		t.Helper()
		var table metav1.Table
		client, err := rest.UnversionedRESTClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := client.Get().AbsPath("/apis", v1alpha1.GroupVersion.String(),
			"namespaces/default/containers/columns").
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
		if err == nil {
			err = json.Unmarshal(raw, &table)
		}
		if err != nil || len(table.Rows) != 1 {
			t.Fatalf("found %v, %s", err, raw)
		}
		var out []string
		for i, c := range table.ColumnDefinitions {
			if c.Priority == 0 && c.Name != "Age" {
				out = append(out, fmt.Sprintf("%s=%v", strings.ToUpper(c.Name), table.Rows[0].Cells[i]))
			}
		}
		return strings.Join(out, " ")
	}
	got := create(t, containers, "default", object(t, "Container", "columns", "image: busybox"))
	if line := columns(); line != "NAME=columns READY=<nil> PHASE=Pending REASON=<nil> RESTARTS=0 NODE=<nil>" {
		t.Errorf("found %s for a new Container", line)
	}
	c := &v1alpha1.Container{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(got.Object, c); err != nil {
		t.Fatal(err)
	}
	c.Status.Phase, c.Status.NodeName = v1alpha1.ContainerRunning, "node-a"
	meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionRunning, Status: metav1.ConditionFalse,
		Reason: v1alpha1.ReasonCrashLoopBackOff, Message: "ended",
	})
	status.OfRun(c.Status.Phase, c.Status.Conditions).Set(&c.Status, 1, 0, time.Now())
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dynamicClient(t).Resource(containers).Namespace("default").UpdateStatus(t.Context(),
		&unstructured.Unstructured{Object: object}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if line := columns(); line != "NAME=columns READY=False PHASE=CrashLoopBackOff REASON=CrashLoopBackOff RESTARTS=0 NODE=node-a" {
		t.Errorf("found %s in a crash loop", line)
	}
}

// create creates an object and removes it after the test.
func create(t *testing.T, gvr schema.GroupVersionResource, namespace string,
	u *unstructured.Unstructured,
) *unstructured.Unstructured {
	t.Helper()
	client := dynamicClient(t).Resource(gvr)
	if gvr == bundles {
		client = as(t, controllerUser()).Resource(gvr)
	}
	var out *unstructured.Unstructured
	var err error
	options := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	if namespace != "" {
		out, err = client.Namespace(namespace).Create(t.Context(), u, options)
	} else {
		out, err = client.Create(t.Context(), u, options)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if namespace != "" {
			err = client.Namespace(namespace).Delete(ctx, u.GetName(), metav1.DeleteOptions{})
		} else {
			err = client.Delete(ctx, u.GetName(), metav1.DeleteOptions{})
		}
		if err != nil && !errors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return out
}

const bundleSpec = `
nodeName: NODE
config: {ociVersion: 1.3.0, anything: {nested: [1]}}
restartPolicy: Always
terminationGracePeriodSeconds: 30
`

func TestOCIBundle(t *testing.T) {
	client := as(t, controllerUser()).Resource(bundles).Namespace("default")
	for _, node := range []string{"a", "b"} {
		create(t, bundles, "default", object(t, "OCIBundle", "on-"+node, strings.Replace(bundleSpec,
			"NODE", node, 1)))
	}

	// An agent watches its own bundles alone.
	list, err := client.List(t.Context(),
		metav1.ListOptions{FieldSelector: v1alpha1.OCIBundleNodeNameField + "=b"})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].GetName() != "on-b" {
		t.Errorf("field selector: got %d bundles", len(list.Items))
	}

	b := list.Items[0]
	if g, _, _ := unstructured.NestedInt64(b.Object, "status", "observedGeneration"); g != -1 {
		t.Errorf("observedGeneration: got %d, want -1", g)
	}
	// The document is kept as it is, with fields that no schema knows.
	if v, _, _ := unstructured.NestedFieldNoCopy(b.Object, "spec", "config", "anything"); v == nil {
		t.Error("config was pruned")
	}

	_ = unstructured.SetNestedField(b.Object, "a", "spec", "nodeName")
	_, err = client.Update(t.Context(), &b, metav1.UpdateOptions{})
	if err == nil || !strings.Contains(err.Error(),
		"nodeName cannot be changed: delete the OCIBundle and create another") {
		t.Errorf("change of nodeName: got %v", err)
	}

	for name, tc := range map[string]struct{ old, new, message string }{
		"no node": {"nodeName: NODE", `nodeName: ""`, "at least 1 chars"},
		"no config": {
			"config: {ociVersion: 1.3.0, anything: {nested: [1]}}", "",
			"spec.config: Required value",
		},
		"config no map": {
			"config: {ociVersion: 1.3.0, anything: {nested: [1]}}", "config: [1]",
			"must be of type object",
		},
		"restart policy": {"restartPolicy: Always", "restartPolicy: Sometimes", "Unsupported value"},
		"negative grace": {"Seconds: 30", "Seconds: -1", "greater than or equal to 0"},
		"empty image":    {"nodeName: NODE", "nodeName: a\nimage: {reference: ''}", "at least 1 chars"},
		"unknown field":  {"nodeName: NODE", "nodeName: a\nimages: {}", "unknown field"},
	} {
		_, err := client.Create(t.Context(), object(t, "OCIBundle", "bad", strings.Replace(bundleSpec,
			tc.old, tc.new, 1)), dryRun)
		if err == nil || !strings.Contains(err.Error(), tc.message) {
			t.Errorf("%s: got %v, want %q", name, err, tc.message)
		}
	}
}

// TestContainerRefIsForGood: the Container of an OCIBundle is set once and never changed.
func TestContainerRefIsForGood(t *testing.T) {
	client := as(t, controllerUser()).Resource(bundles).Namespace("default")
	create(t, bundles, "default", object(t, "OCIBundle", "paired", strings.Replace(bundleSpec, "NODE",
		"a", 1)))
	patch := func(body string) error {
		_, err := client.Patch(t.Context(), "paired", "application/merge-patch+json", []byte(body),
			metav1.PatchOptions{})
		return err
	}
	if err := patch(`{"spec":{"containerRef":{"name":"paired","uid":"1-2"}}}`); err != nil {
		t.Fatalf("set where it is not: %v", err)
	}
	for body, want := range map[string]string{
		`{"spec":{"containerRef":{"uid":"1-3"}}}`:    "containerRef cannot be changed",
		`{"spec":{"containerRef":{"name":"other"}}}`: "containerRef cannot be changed",
		`{"spec":{"containerRef":null}}`:             "containerRef cannot be removed",
	} {
		if err := patch(body); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %v; wanted %q", body, err, want)
		}
	}
	if err := patch(`{"spec":{"restartPolicy":"Never"}}`); err != nil {
		t.Errorf("another field: %v", err)
	}
}

func TestNodeAgent(t *testing.T) {
	client := dynamicClient(t).Resource(nodeAgents)
	n := create(t, nodeAgents, "", object(t, "NodeAgent", "node-1",
		"taints: [{key: a, effect: NoSchedule}]"))
	n.Object["status"] = map[string]any{
		"observedGeneration": int64(1),
		"handlers":           []any{map[string]any{"name": "berth"}},
		"nodeInfo":           map[string]any{"cgroupMode": "hybrid"},
	}
	n, err := client.UpdateStatus(t.Context(), n, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_ = unstructured.SetNestedField(n.Object, "v3", "status", "nodeInfo", "cgroupMode")
	if _, err := client.UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err == nil ||
		!strings.Contains(err.Error(), `"v1", "hybrid", "v2"`) {
		t.Errorf("unknown cgroupMode: got %v", err)
	}
}
