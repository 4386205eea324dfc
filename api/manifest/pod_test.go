// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
)

// podHead begins a Pod; its spec's first line is line 4.
const podHead = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n"

const podContainers = "  containers:\n  - {name: app, image: a}\n  - {name: log, image: b}\n"

// compilePods returns the Containers of a file with Pods, as an agent without a cluster takes them,
// and what a user reads of its faults.
func compilePods(text string) ([]*v1alpha1.Container, []string) {
	var out []*v1alpha1.Container
	var faults []string
	for _, d := range manifest.Parse([]byte(text)) {
		if d.Container != nil {
			out = append(out, d.Container)
			_, found := compile.Bundle(d.Container, compile.Neighbours(), compile.UnsafeSysctls())
			d.Report(found)
		}
		for _, f := range d.Faults {
			faults = append(faults, f.Error())
		}
	}
	return out, faults
}

// wholePod has two init containers, a sidecar and two apps that share what a Pod shares.
const wholePod = `apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {app: web}
spec:
  subdomain: shops
  hostAliases: [{ip: 192.0.2.1, hostnames: [db]}]
  dnsConfig: {options: [{name: ndots, value: "2"}]}
  terminationGracePeriodSeconds: 5
  serviceAccountName: default
  securityContext:
    runAsUser: 1000
    runAsNonRoot: true
    fsGroup: 7
    sysctls: [{name: kernel.sem, value: "1 2 3 4"}, {name: net.core.somaxconn, value: "9"}]
  initContainers:
  - name: setup
    image: tools
    volumeMounts: [{name: site, mountPath: /out}, {name: keys, mountPath: /keys}]
  - name: proxy
    image: proxy
    restartPolicy: Always
    ports: [{name: web, containerPort: 8443, hostPort: 443}]
  - {name: check, image: tools}
  containers:
  - name: app
    image: nginx
    ports: [{name: web, containerPort: 80, hostPort: 8080}]
    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    securityContext: {runAsUser: 33}
    volumeMounts: [{name: site, mountPath: /site, readOnly: true}, {name: info, mountPath: /info}]
  - name: log
    image: log
    volumeMounts: [{name: site, mountPath: /site}, {name: own, mountPath: /own}]
  volumes:
  - {name: unused, configMap: {name: settings}}
  - {name: site, emptyDir: {sizeLimit: 1Mi}}
  - {name: keys, secret: {secretName: keys}}
  - {name: own}
  - name: info
    downwardAPI:
      items:
      - {path: name, fieldRef: {fieldPath: metadata.name}}
      - {path: cpu, resourceFieldRef: {containerName: app, resource: limits.cpu}}
`

// TestPod checks what a Pod becomes, field by field of each of its Containers.
func TestPod(t *testing.T) {
	all, faults := compilePods(wholePod)
	if len(faults) > 0 {
		t.Fatalf("found %q", faults)
	}
	got := map[string]v1alpha1.ContainerSpec{}
	var names []string
	for _, c := range all {
		if c.Namespace != "shop" || c.Labels["app"] != "web" || c.Annotations["berth.run/pod"] != "web" {
			t.Errorf("found %+v; want the Pod's metadata", c.ObjectMeta)
		}
		names = append(names, c.Name)
		got[c.Name] = c.Spec
	}
	if want := []string{"web-setup", "web-proxy", "web-check", "web-app", "web-log"}; !slices.Equal(
		names, want) {
		t.Fatalf("found %q; want %q", names, want)
	}
	for _, tc := range []struct{ container, field, want string }{
		{"web-setup", "RestartPolicy", `"OnFailure"`},
		{"web-proxy", "RestartPolicy", `"Always"`},
		{"web-app", "RestartPolicy", `"Always"`},
		{"web-setup", "DependsOn", `null`},
		{"web-proxy", "DependsOn", `[{"name":"web-setup","condition":"Completed"}]`},
		{"web-check", "DependsOn", `[{"name":"web-proxy","condition":"Started"}]`},
		{
			"web-log", "DependsOn",
			`[{"name":"web-setup","condition":"Completed"},{"name":"web-proxy","condition":"Started"},{"name":"web-check","condition":"Completed"}]`,
		},
		{"web-setup", "Network", `null`},
		{"web-app", "Network", `{"container":"web-setup"}`},
		{"web-proxy", "Network", `{"container":"web-setup"}`},
		{
			"web-setup", "Ports",
			`[{"name":"web","hostPort":443,"containerPort":8443},{"hostPort":8080,"containerPort":80}]`,
		},
		{"web-app", "Ports", `null`},
		{"web-setup", "Hostname", `"web"`},
		{"web-log", "Hostname", `"web"`},
		{"web-setup", "Subdomain", `"shops"`},
		{"web-app", "Subdomain", `""`},
		{"web-setup", "HostAliases", `[{"ip":"192.0.2.1","hostnames":["db"]}]`},
		{"web-setup", "DNSConfig", `{"options":[{"name":"ndots","value":"2"}]}`},
		{"web-app", "DNSConfig", `null`},
		{"web-app", "TerminationGracePeriodSeconds", `5`},
		{
			"web-setup", "SecurityContext",
			`{"runAsUser":1000,"runAsNonRoot":true,"fsGroup":7,"sysctls":[{"name":"kernel.sem","value":"1 2 3 4"},{"name":"net.core.somaxconn","value":"9"}]}`,
		},
		{
			"web-app", "SecurityContext",
			`{"runAsUser":33,"runAsNonRoot":true,"fsGroup":7,"sysctls":[{"name":"kernel.sem","value":"1 2 3 4"}]}`,
		},
		{
			"web-setup", "Volumes",
			`[{"name":"unused","configMap":{"name":"settings"}},{"name":"site","container":{"name":"web-app","volume":"site"}},{"name":"keys","secret":{"secretName":"keys"}}]`,
		},
		{"web-proxy", "Volumes", `null`},
		{
			"web-app", "Volumes",
			`[{"name":"site","emptyDir":{"sizeLimit":"1Mi"}},` +
				`{"name":"info","downwardAPI":{"items":[{"path":"name","fieldRef":{"fieldPath":"metadata.annotations['berth.run/pod']"}},` +
				`{"path":"cpu","resourceFieldRef":{"resource":"limits.cpu","divisor":"0"}}]}}]`,
		},
		{
			"web-log", "Volumes",
			`[{"name":"site","container":{"name":"web-app","volume":"site"}},{"name":"own","emptyDir":{}}]`,
		},
	} {
		found, err := json.Marshal(reflect.ValueOf(got[tc.container]).FieldByName(tc.field).Interface())
		if err != nil || string(found) != tc.want {
			t.Errorf("%s, %s: found %s, %v; want %s", tc.container, tc.field, found, err, tc.want)
		}
	}
}

// TestPodVolumeOfVariables: a container that takes a variable from a file has the volume with the
// file.
func TestPodVolumeOfVariables(t *testing.T) {
	all, _ := compilePods(podHead + `  initContainers:
  - {name: i, image: a, volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: c, image: a, env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: p, key: K}}}]}
  volumes: [{name: v}]
`)
	if len(all) != 2 || len(all[0].Spec.Volumes) != 1 || len(all[1].Spec.Volumes) != 1 ||
		all[0].Spec.Volumes[0].Container.Name != "web-c" || all[1].Spec.Volumes[0].EmptyDir == nil {
		t.Errorf("found %+v; want an emptyDir of both", all)
	}
}

// TestPodVariables: the name of the Pod is that of the Pod, and not of one of its Containers.
func TestPodVariables(t *testing.T) {
	for _, d := range manifest.Parse([]byte(wholePod)) {
		if d.Container.Name != "web-app" {
			continue
		}
		b, faults := compile.Bundle(d.Container, compile.Neighbours(), compile.UnsafeSysctls())
		if len(faults) > 0 || !strings.Contains(string(b.Config.Raw), `"POD=web"`) {
			t.Errorf("found %v, %v; want POD=web", b, faults)
		}
		if len(b.Downward) != 1 || b.Downward[0].Value != "web" {
			t.Errorf("found the files %+v; want the name of the Pod", b.Downward)
		}
	}
}

// TestPodPolicies: what the containers of a Pod do at their end.
func TestPodPolicies(t *testing.T) {
	for _, tc := range []struct{ pod, container, init, want string }{
		{"", "", "", "OnFailure Always"},
		{"OnFailure", "", "", "OnFailure OnFailure"},
		{"Never", "", "", "Never Never"},
		{"Never", "", "Always", "Always Never"},
		{"Always", "Never", "", "OnFailure Never"},
	} {
		text := podHead + "  restartPolicy: " + tc.pod + "\n  initContainers: [{name: i, image: a, restartPolicy: " +
			tc.init + "}]\n  containers: [{name: c, image: a, restartPolicy: " + tc.container + "}]\n"
		all, faults := compilePods(text)
		if len(faults) > 0 {
			t.Fatalf("found %q in\n%s", faults, text)
		}
		got := fmt.Sprint(all[0].Spec.RestartPolicy, " ", all[1].Spec.RestartPolicy)
		if got != tc.want {
			t.Errorf("found %s; want %s of\n%s", got, tc.want, text)
		}
	}
}

// TestPodOnNodesNetwork: the containers of a Pod with hostNetwork join nobody, and have no hostname.
func TestPodOnNodesNetwork(t *testing.T) {
	all, faults := compilePods(podHead + "  hostNetwork: true\n  containers:\n" +
		"  - {name: app, image: a, ports: [{containerPort: 80}]}\n  - {name: log, image: b, ports: [{containerPort: 81}]}\n")
	if len(faults) > 0 {
		t.Fatalf("found %q", faults)
	}
	for _, c := range all {
		if s := c.Spec; !s.HostNetwork || s.Network != nil || s.Hostname != "" || len(s.Ports) != 1 {
			t.Errorf("found %+v", s)
		}
	}
}

// TestPodFaults checks that a fault is at its place in the Pod, and is there once.
func TestPodFaults(t *testing.T) {
	long := strings.Repeat("a", 251)
	two := func(a, b string) string {
		return "  containers:\n  - {name: app, image: a" + a + "}\n  - {name: log, image: b" + b + "}\n"
	}
	for _, tc := range []struct {
		name, spec string
		want       []string
	}{
		{"no container", "  hostname: a\n", []string{
			`5:3: spec.containers: found nothing; allowed: at least one container`,
		}},
		{"twice", strings.Replace(podContainers, "log", "app", 1), []string{
			`7:12: spec.containers[1].name: found "app" a second time; allowed: once`,
		}},
		{"too many", "  containers: [{name: a, image: a}" + numbered(", {name: a%d, image: a}", 64) + "]\n", []string{
			`5:3: spec.containers: found 65 containers, with those of initContainers; allowed: 64`,
		}},
		{"no name", "  containers: [{image: a}]\n", []string{
			`5:16: spec.containers[0].name: found nothing; a container of a Pod needs a name`,
		}},
		{"image", "  containers: [{name: a}]\n", []string{
			`5:16: spec.containers[0].image: found nothing; set exactly one of image, archive and rootfs`,
		}},
		{"probe", two(", livenessProbe: {exec: {command: [a]}}", ", tty: true"), []string{
			`6:27: spec.containers[0].livenessProbe: found a field of a Pod's container that Berth does not have yet; remove it, and have the program end when it fails, so that it is started again`,
			`7:27: spec.containers[1].tty: found a field of a Pod's container that Berth does not have yet; remove it`,
		}},
		{"of each container, once", podContainers + "  nodeName: \"-\"\n  volumes: [{name: A}, {name: b, hostPath: {path: b}}]\n", []string{
			`8:13: spec.nodeName: found "-"; a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character`,
			`9:20: spec.volumes[0].name: found "A"; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character`,
			`9:51: spec.volumes[1].hostPath.path: found "b"; must be absolute: start it with /`,
		}},
		{"the Pod's security", "  securityContext: {runAsUser: -1, runAsGroup: -1}\n" + two("", ", securityContext: {runAsUser: -2}"), []string{
			`5:32: spec.securityContext.runAsUser: found -1; must be between 0 and 2147483647, inclusive`,
			`5:48: spec.securityContext.runAsGroup: found -1; must be between 0 and 2147483647, inclusive`,
			`8:56: spec.containers[1].securityContext.runAsUser: found -2; must be between 0 and 2147483647, inclusive`,
		}},
		{"sysctl", "  securityContext: {sysctls: [{name: net.a, value: a}, {name: vm.a, value: a}]}\n" + podContainers, []string{
			`5:63: spec.securityContext.sysctls[1].name: found "vm.a"; must be a sysctl of a container's namespaces: net.*, kernel.shm*, kernel.msg*, kernel.sem or fs.mqueue.*`,
		}},
		{"ports", two(", ports: [{containerPort: 1, hostPort: 8}]", ", ports: [{containerPort: 2}, {containerPort: 3, hostPort: 8}, {name: a, containerPort: 4}, {name: a, containerPort: 5}]"), []string{
			`7:84: spec.containers[1].ports[1].hostPort: found "8" a second time; allowed: once`,
			`7:124: spec.containers[1].ports[3].name: found "a" a second time; allowed: once`,
		}},
		{"ports of the node", "  hostNetwork: true\n" + two(", ports: [{containerPort: 8}]", ", ports: [{containerPort: 8}]"), []string{
			`8:51: spec.containers[1].ports[0].containerPort: found 8 a second time; allowed: once, since the containers are in the node's network`,
		}},
		{"restartPolicy", "  restartPolicy: always\n" + podContainers, []string{
			`5:18: spec.restartPolicy: found "always"; allowed: "Always", "OnFailure", "Never"; did you mean "Always"?`,
		}},
		{"user namespace", "  hostUsers: false\n" + podContainers, []string{
			`5:3: spec.hostUsers: found false in a Pod of several containers, whose network one user namespace would own, while each Container has its own; allowed: true`,
		}},
		{"hostname as FQDN", "  setHostnameAsFQDN: true\n  subdomain: a\n" + podContainers, []string{
			`5:3: spec.setHostnameAsFQDN: found true in a Pod of several containers, of which one alone would have the name; allowed: false, with the name in hostname`,
		}},
		{"volume twice", podContainers + "  volumes: [{name: a}, {name: a}]\n", []string{
			`8:31: spec.volumes[1].name: found "a" a second time; allowed: once`,
		}},
		{"no such volume", two(", volumeMounts: [{name: none, mountPath: /a}]", ""), []string{
			`6:49: spec.containers[0].volumeMounts[0].name: found "none", which is not defined`,
		}},
		{"kind of a volume", podContainers + "  volumes: [{name: a, nfs: {server: a, path: /}}]\n", []string{
			`8:23: spec.volumes[0].nfs: found a field of a Pod's volume that Berth does not have yet; remove it, or use one of ` + kindsOfBoth(),
		}},
		{"another indentation", podContainers + "  image: a\n  readOnly: true\n", []string{
			`8:3: spec.image: found an unknown field; it belongs in spec.containers[]: check the indentation`,
			`9:3: spec.readOnly: found an unknown field; allowed: ` + namesOf(reflect.TypeFor[corev1.PodSpec]()),
		}},
		{"a Container's field", two(", shmSize: 1Mi", "") + "  archive: {path: /a}\n", []string{
			`6:27: spec.containers[0].shmSize: found a field of a Container that no Pod has; write the Pod's containers as Containers, or remove it`,
			`8:3: spec.archive: found a field of a Container that no Pod has; write the Pod's containers as Containers, or remove it`,
		}},
		{"slip", two(", comand: [a]", ", command: run me"), []string{
			`6:27: spec.containers[0].comand: found an unknown field; did you mean "command"?`,
			`7:36: spec.containers[1].command: found "run me"; allowed: a list of strings: write ["run", "me"]`,
		}},
		{"name too long", "  containers: [{name: " + strings.Repeat("b", 64) + ", image: a}]\n", []string{
			`5:23: spec.containers[0].name: found "` + strings.Repeat("b", 64) + `"; must be no more than 63 characters`,
		}},
	} {
		if _, got := compilePods(podHead + tc.spec); !slices.Equal(got, tc.want) {
			t.Errorf("%s: found\n%s\nwant\n%s", tc.name, strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
		}
	}
	for text, want := range map[string]string{
		strings.Replace(podHead, "web", long, 1) + podContainers: `6:12: spec.containers[0].name: found "app"; makes the Container's name ` +
			long + `-app longer than 253 characters`,
		strings.Replace(podHead, "web", "Web", 1) + podContainers:        `3:18: metadata.name: found "Web"; a lowercase RFC 1123 subdomain`,
		strings.Replace(podHead, "{name: web}", "{}", 1) + podContainers: `3:11: metadata.name: found nothing; a Pod needs a name`,
		strings.Replace(podHead, "web}", "web, annotations: {container.apparmor.security.beta.kubernetes.io/app: unconfined}}", 1) +
			podContainers: `3:89: metadata.annotations[container.apparmor.security.beta.kubernetes.io/app]: found an annotation in place of a field; write securityContext.appArmorProfile of the container`,
		"apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(podHead, "\n", "\n  ") +
			"  containers: [{name: app, image: A}]\n": `8:37: items[0].spec.containers[0].image: found "A"; must be a registry reference`,
	} {
		if _, got := compilePods(text); len(got) == 0 || !strings.HasPrefix(got[0], want) {
			t.Errorf("found %q; want %q", got, want)
		}
	}
}

// TestPodsAreBounded: a file of a megabyte is read in seconds.
func TestPodsAreBounded(t *testing.T) {
	begin := time.Now()
	for name, text := range map[string]string{
		"volumes": "  containers: [{name: a, image: a, volumeMounts: [" + numbered("{name: v%d, mountPath: a}, ", 4_000) +
			"]}]\n  volumes: [" + numbered("{name: v%d}, ", 4_000) + "]\n",
		"same volumes": podContainers + "  volumes: [" + strings.Repeat("{name: v}, ", 4_000) + "]\n",
		"ports": "  containers: [{name: a, image: a}, {name: b, image: a, ports: [" +
			strings.Repeat("{name: a, containerPort: 0}, ", 4_000) + "]}]\n",
		"containers": "  containers: [" + numbered("{name: a%d, image: a}, ", 8_000) + "]\n",
	} {
		_, faults := compilePods(podHead + text)
		if len(faults) == 0 || len(faults) > 140 {
			t.Errorf("%s: found %d faults", name, len(faults))
		}
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

// kindsOfBoth returns the kinds of volumes that Pods and Containers have.
func kindsOfBoth() string {
	ofContainer := strings.Split(namesOf(reflect.TypeFor[v1alpha1.Volume]()), ", ")
	return strings.Join(slices.DeleteFunc(strings.Split(namesOf(reflect.TypeFor[corev1.VolumeSource]()), ", "),
		func(kind string) bool { return !slices.Contains(ofContainer, kind) }), ", ")
}

// namesOf returns the names of a struct's fields in JSON, sorted.
func namesOf(t reflect.Type) string {
	var out []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// faultsOfPods fails for a document of a Pod that cannot be compiled and has no fault, or has one
// without a place.
func faultsOfPods(t *testing.T, text string) {
	t.Helper()
	lines := 1 + strings.Count(text, "\n")
	faults := 0
	for _, d := range manifest.Parse([]byte(text)) {
		if d.Pod == "" {
			continue
		}
		b, found := compile.Bundle(d.Container, compile.Neighbours())
		d.Report(found)
		faults += len(d.Faults)
		if b == nil && faults == 0 {
			t.Errorf("found no fault at the Pod's place for %v in\n%s", found, text)
		}
		for _, f := range d.Faults {
			if f.Line < 1 || f.Line > lines {
				t.Errorf("found a fault at line %d of %d in\n%s", f.Line, lines, text)
			}
		}
	}
}

// TestPodBandwidth: what limits the traffic of a Pod limits that of the container whose network its
// containers share. None of them is left to the agent's default of hostUsers, which is for one alone.
func TestPodBandwidth(t *testing.T) {
	head := strings.Replace(podHead, "{name: web}",
		"{name: web, annotations: {kubernetes.io/ingress-bandwidth: 10M, kubernetes.io/egress-bandwidth: 1M}}", 1)
	containers, faults := compilePods(head + podContainers)
	if len(faults) > 0 || len(containers) != 2 {
		t.Fatalf("found %v, %q; want two Containers", containers, faults)
	}
	for i, c := range containers {
		limits := 0
		for _, name := range []string{v1alpha1.AnnotationIngressBandwidth, v1alpha1.AnnotationEgressBandwidth} {
			if _, ok := c.Annotations[name]; ok {
				limits++
			}
		}
		if want := 2 - 2*i; limits != want || c.Spec.HostUsers == nil || !*c.Spec.HostUsers {
			t.Errorf("%s: found %d limits, hostUsers %v; want %d, true", c.Name, limits, c.Spec.HostUsers, want)
		}
	}
	containers, faults = compilePods(head + "  containers:\n  - {name: app, image: a}\n")
	if len(faults) > 0 || len(containers) != 1 || containers[0].Spec.HostUsers != nil {
		t.Errorf("found %v, %q; want one Container that leaves hostUsers to the agent", containers, faults)
	}
}
