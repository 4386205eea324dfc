// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/compile"
)

const head = "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata:\n  name: web\nspec:\n"

// bare returns a Container with the lines of its spec, which begins in line 6.
func bare(lines string) string {
	return head + "  " + strings.ReplaceAll(lines, "\n", "\n  ") + "\n"
}

// spec returns a Container with an image in line 6, and more lines of its spec from line 7 on.
func spec(lines string) string { return bare("image: nginx\n" + lines) }

// check returns what a user reads about a file.
func check(text string) []string {
	var out []string
	for _, d := range manifest.Parse([]byte(text)) {
		if d.Container != nil {
			_, faults := compile.Bundle(d.Container)
			d.Report(faults)
		}
		for _, f := range d.Faults {
			out = append(out, f.Error())
		}
	}
	return out
}

// TestMistakes checks the exact messages for mistakes that people make.
func TestMistakes(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{
			"tab", "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata:\n  name: web\nspec:\n\timage: nginx\n",
			[]string{`6:1: found a tab in the indentation; allowed: spaces`},
		},
		{
			"unclosed quote", bare(`image: "nginx
args: [a]`),
			[]string{`6: found a quote that is not closed; allowed: the same quote at the end of the text`},
		},
		{
			"unclosed bracket", spec(`command: ["a", "b"
hostNetwork: true`),
			[]string{
				`7: found a bracket that is not closed, or a comma that is missing before this line's end`,
			},
		},
		{
			"indentation", spec(`hostNetwork: true
 hostPID: true`),
			[]string{
				`8: found ": " where no field can begin; allowed: quotes around text that has ": " in it, or another indentation`,
			},
		},
		{
			"no colon", spec(`hostNetwork`),
			[]string{`7: found a line without a colon; allowed: NAME: VALUE, with a space after the colon`},
		},
		{
			"no space after colon", bare(`image:nginx`),
			[]string{`6:3: spec: found "image:nginx"; allowed: a space after the colon of image`},
		},
		{
			"colon in text", spec(`args:
- echo a: b: c`),
			[]string{
				`8: found ": " where no field can begin; allowed: quotes around text that has ": " in it, or another indentation`,
			},
		},
		{
			"text", `just words
`,
			[]string{`1:1: found "just words"; allowed: a Container, which begins with apiVersion and kind`},
		},
		{
			"list at top", `- image: nginx
`,
			[]string{`1:1: found a list; allowed: a Container, which begins with apiVersion and kind`},
		},
		{
			"NUL byte", "a\x00b",
			[]string{`1: found a NUL byte; allowed: text in UTF-8`},
		},
		{
			"second document without marker", `apiVersion: berth.run/v1alpha1
kind: Container
metadata:
  name: web
spec:
  image: a
...
}`,
			[]string{`8: found text that is not YAML: did not find expected node content`},
		},
		{
			"text after JSON",
			`{"apiVersion":"berth.run/v1alpha1","kind":"Container","metadata":{"name":"web"},"spec":{"image":"a"}} more
`,
			[]string{
				`1: found more text after the end of the document; allowed: a line --- between documents`,
			},
		},
		{
			"unknown anchor", spec(`args: *none`),
			[]string{
				`7: found text that YAML takes for an alias (unknown anchor 'none' referenced); allowed: quotes around text that begins with *`,
			},
		},
		{
			"pod of another version", `apiVersion: v2
kind: Pod
metadata: {name: web}
spec: {containers: [{name: a, image: b}]}
`,
			[]string{`2:7: apiVersion, kind: found "v2", "Pod"; allowed: "v1", "Pod"`},
		},
		{
			"deployment", `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
`,
			[]string{
				`2:7: apiVersion, kind: found "apps/v1", "Deployment"; allowed: "berth.run/v1alpha1", "Container"; write each container of the Deployment as a Container: its fields stand directly in spec. Or write metadata and spec of its template as a Pod`,
			},
		},
		{
			"kind in another case", `apiVersion: berth.run/v1alpha1
kind: container
metadata: {name: web}
`,
			[]string{
				`2:7: apiVersion, kind: found "berth.run/v1alpha1", "container"; allowed: "berth.run/v1alpha1", "Container"; did you mean "Container"?`,
			},
		},
		{
			"version", `apiVersion: berth.run/v1
kind: Container
metadata: {name: web}
spec: {image: a}
`,
			[]string{
				`1:13: apiVersion, kind: found "berth.run/v1", "Container"; allowed: "berth.run/v1alpha1", "Container"`,
			},
		},
		{
			"version missing", `kind: Container
metadata: {name: web}
spec: {image: a}
`,
			[]string{
				`1:1: apiVersion, kind: found "", "Container"; allowed: "berth.run/v1alpha1", "Container"`,
			},
		},
		{
			"compose file", `services:
  web:
    image: nginx
`,
			[]string{
				`1:1: apiVersion, kind: found "", ""; allowed: "berth.run/v1alpha1", "Container"; this looks like a compose file: write each service as a Container of its own`,
			},
		},
		{
			"list of another version", `apiVersion: berth.run/v1alpha1
kind: ContainerList
items: []
`,
			[]string{
				`2:7: apiVersion, kind: found "berth.run/v1alpha1", "ContainerList"; allowed: "berth.run/v1alpha1", "Container"; a list is of apiVersion "v1" and kind "List"`,
			},
		},
		{
			"list", `apiVersion: v1
kind: List
metadata: {resourceVersion: 1, names: x}
item: []
items:
- apiVersion: berth.run/v1alpha1
  kind: Container
  metadata: {name: a}
  spec: {image: a, comand: [b]}
- apiVersion: v1
  kind: Secret
  metadata: {name: b}
  data: {a: topsecret}
-
- {apiVersion: v1, kind: List, items: []}
- apiVersion: apps/v1
  kind: Deployment
- apiVersion: berth.run/v1alpha1
  kind: Container
  metadata: {name: c}
  spec: {}
`,
			[]string{
				`3:29: metadata.resourceVersion: found the number 1; allowed: a string: write "1"`,
				`3:32: metadata.names: found an unknown field; allowed: continue, remainingItemCount, resourceVersion, selfLink, shardInfo`,
				`4:1: item: found an unknown field; allowed: apiVersion, kind, metadata and items`,
				`9:20: items[0].spec.comand: found an unknown field; did you mean "command"?`,
				`13:13: items[1].data[a]: found a value of another form, which is not shown; allowed: a map of keys to text in base64`,
				`14:2: items[2]: found nothing; allowed: a Container`,
				`15:3: items[3]: found a List in a List; allowed: its items in its place`,
				`17:9: items[4].apiVersion, kind: found "apps/v1", "Deployment"; allowed: "berth.run/v1alpha1", "Container"; write each container of the Deployment as a Container: its fields stand directly in spec. Or write metadata and spec of its template as a Pod`,
				`21:9: items[5].spec.image: found nothing; set exactly one of image, archive and rootfs`,
			},
		},
		{
			"items of a list", `{apiVersion: v1, kind: List, items: {a: b}}`,
			[]string{`1:37: items: found a map; allowed: a list of documents`},
		},
		{
			"config map", `apiVersion: berth.run/v1alpha1
kind: ConfigMap
metadata: {name: web}
`,
			[]string{
				`2:7: apiVersion, kind: found "berth.run/v1alpha1", "ConfigMap"; allowed: "v1", "ConfigMap"`,
			},
		},
		{
			"no name", `apiVersion: berth.run/v1alpha1
kind: Container
spec: {image: a}
`,
			[]string{`1:1: metadata.name: found nothing; a Container needs a name`},
		},
		{
			"capital name", `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: Web_1}
spec: {image: a}
`,
			[]string{
				`3:18: metadata.name: found "Web_1"; a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character`,
			},
		},
		{
			"number as name", `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: 1234}
spec: {image: a}
`,
			[]string{`3:18: metadata.name: found the number 1234; allowed: a string: write "1234"`},
		},
		{
			"no spec", `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: web}
`,
			[]string{`1:1: spec.image: found nothing; set exactly one of image, archive and rootfs`},
		},
		{
			"spec as list", `apiVersion: berth.run/v1alpha1
kind: Container
metadata:
  name: web
spec:
- image: nginx
`,
			[]string{
				`6:1: spec: found a list; allowed: a map; the fields of one container stand directly in it, without -`,
			},
		},
		{
			"fields at the root", `apiVersion: berth.run/v1alpha1
kind: Container
name: web
image: nginx
spec: {}
`,
			[]string{
				`3:1: name: found an unknown field; did you mean metadata.name? It belongs below metadata`,
				`4:1: image: found an unknown field; did you mean spec.image? It belongs below spec`,
			},
		},
		{
			"near miss", spec(`comand: [a]`),
			[]string{`7:3: spec.comand: found an unknown field; did you mean "command"?`},
		},
		{
			"other case", spec(`workingdir: /srv`),
			[]string{`7:3: spec.workingdir: found an unknown field; did you mean "workingDir"?`},
		},
		{
			"snake case", spec(`working_dir: /srv`),
			[]string{`7:3: spec.working_dir: found an unknown field; did you mean "workingDir"?`},
		},
		{
			"swapped letters", spec(`hostNetowrk: true`),
			[]string{`7:3: spec.hostNetowrk: found an unknown field; did you mean "hostNetwork"?`},
		},
		{
			"near miss of image", bare(`imgae: nginx`),
			[]string{`6:3: spec.imgae: found an unknown field; did you mean "image"?`},
		},
		{
			"near miss with a bad value", spec(`comand: nginx -g x`),
			[]string{
				`7:3: spec.comand: found an unknown field; did you mean "command"?`,
				`7:11: spec.command: found "nginx -g x"; allowed: a list of strings: write ["nginx", "-g", "x"]`,
			},
		},
		{
			"far from all", spec(`colour: blue`),
			[]string{`7:3: spec.colour: found an unknown field; allowed: ...`},
		},
		{
			"twice", spec(`image: b`),
			[]string{`7:3: spec.image: found field "image" a second time; the first is at line 6`},
		},
		{
			"one level too high", spec(`runAsUser: 1000`),
			[]string{
				`7:3: spec.runAsUser: found an unknown field; it belongs in spec.securityContext: check the indentation`,
			},
		},
		{
			"limits one level too high", spec(`limits: {memory: 64Mi}`),
			[]string{
				`7:3: spec.limits: found an unknown field; it belongs in spec.resources: check the indentation`,
			},
		},
		{
			"compose's sysctls", spec("sysctls: {net.core.somaxconn: 1024}"),
			[]string{`7:3: spec.sysctls: found compose's name; write spec.securityContext.sysctls`},
		},
		{
			"compose's ulimits", spec(`ulimits: {nofile: 1024}`),
			[]string{
				`7:12: spec.ulimits: found a map; allowed: a list of maps with the fields hard, name, soft`,
			},
		},
		{
			"compose's devices", spec("devices: [/dev/fuse]"),
			[]string{
				`7:13: spec.devices[0]: found "/dev/fuse"; allowed: a map with the fields cdi, containerPath, path, permissions`,
			},
		},
		{
			"compose's size of /dev/shm", spec(`shm_size: 64m`),
			[]string{`7:3: spec.shm_size: found compose's name; write spec.shmSize`},
		},
		{
			"name in spec", spec(`name: web`),
			[]string{`7:3: spec.name: found an unknown field; write metadata.name`},
		},
		{
			"labels in spec", spec(`labels: {a: b}`),
			[]string{`7:3: spec.labels: found an unknown field; write metadata.labels`},
		},
		{
			"near miss in a list", spec(`env:
- name: A
  val: b`),
			[]string{`9:5: spec.env[0].val: found an unknown field; did you mean "value"?`},
		},
		{
			"near miss in the securityContext", spec(`securityContext:
  runAsuser: 1`),
			[]string{
				`8:5: spec.securityContext.runAsuser: found an unknown field; did you mean "runAsUser"?`,
			},
		},
		{
			"near miss in metadata", `apiVersion: berth.run/v1alpha1
kind: Container
metadata:
  name: web
  label: {a: b}
spec: {image: a}
`,
			[]string{`5:3: metadata.label: found an unknown field; did you mean "labels"?`},
		},
		{
			"containers", bare(`containers:
- name: a
  image: nginx`),
			[]string{
				`6:3: spec.containers: found a Pod's list of containers; the fields of one container (image, command, args, env and others) stand directly in spec`,
			},
		},
		{
			"initContainers", spec(`initContainers: []`),
			[]string{
				`7:3: spec.initContainers: found a field of a Pod that Berth does not have yet; run the work in the container's own command or, without a cluster, in a Container of its own that spec.dependsOn names with the condition Completed`,
			},
		},
		{
			"livenessProbe", spec(`livenessProbe: {httpGet: {path: /, port: 80}}`),
			[]string{
				`7:3: spec.livenessProbe: found a field of a Pod's container that Berth does not have yet; remove it`,
			},
		},
		{
			"envFrom of two objects", spec(`envFrom: [{configMapRef: {name: a}, secretRef: {name: b}}]`),
			[]string{
				`7:50: spec.envFrom[0].secretRef: may not stand beside configMapRef: write two items`,
			},
		},
		{
			"stdin and tty", spec(`stdin: true
tty: true`),
			[]string{
				`7:3: spec.stdin: found a field of a Pod's container that Berth does not have yet; remove it`,
				`8:3: spec.tty: found a field of a Pod's container that Berth does not have yet; remove it`,
			},
		},
		{
			"priorityClassName", spec(`priorityClassName: a`),
			[]string{
				`7:3: spec.priorityClassName: found a field of a Pod that Berth does not have yet; remove it`,
			},
		},
		{
			"lifecycle", spec(`lifecycle: {}`),
			[]string{
				`7:3: spec.lifecycle: found a field of a Pod's container that Berth does not have yet; remove it`,
			},
		},
		{
			"serviceAccountName", spec(`serviceAccountName: A_b`),
			[]string{
				`7:23: spec.serviceAccountName: found "A_b"; a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character`,
			},
		},
		{
			"fsGroup", spec(`securityContext: {fsGroup: -1}`),
			[]string{
				`7:30: spec.securityContext.fsGroup: found -1; must be between 0 and 2147483647, inclusive`,
			},
		},
		{
			"configMap volume", spec(`volumes:
- name: a
  configMap: {name: A_b}
volumeMounts:
- {name: a, mountPath: /a}`),
			[]string{
				`9:23: spec.volumes[0].configMap.name: found "A_b"; a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character`,
			},
		},
		{
			"source of a projected volume", spec(`volumes:
- name: a
  projected: {sources: [{clusterTrustBundle: {name: a, path: b}}]}`),
			[]string{
				`9:28: spec.volumes[0].projected.sources[0].clusterTrustBundle: found a field of a Pod's projected volume that Berth does not have yet; remove it, or use one of configMap, downwardAPI, secret, serviceAccountToken`,
			},
		},
		{
			"PVC", spec(`volumes:
- name: a
  persistentVolumeClaim: {readOnly: true}`),
			[]string{
				`9:28: spec.volumes[0].persistentVolumeClaim.claimName: found nothing; name a PersistentVolumeClaim of the Container's namespace`,
			},
		},
		{
			"valueFrom", spec(`env:
- name: A
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
network: {none: true}`),
			[]string{
				`9:39: spec.env[0].valueFrom.fieldRef.fieldPath: found "status.podIP"; is an address, which a container without a network does not have: remove it or network.none`,
			},
		},
		{
			"procMount", spec(`securityContext: {procMount: Unmasked}`),
			[]string{
				`7:32: spec.securityContext.procMount: Unmasked shows all of /proc, which takes a user namespace: set hostUsers: false`,
			},
		},
		{
			"privileged in spec", spec(`privileged: true`),
			[]string{
				`7:3: spec.privileged: found an unknown field; write spec.securityContext.privileged`,
			},
		},
		{
			"subPath", spec(`volumes: [{name: a, emptyDir: {}}]
volumeMounts:
- name: a
  mountPath: /a
  subPath: b/../../c`),
			[]string{
				`11:14: spec.volumeMounts[0].subPath: found "b/../../c"; must not contain ".."`,
			},
		},
		{
			"template", bare(`replicas: 3
template: {spec: {}}`),
			[]string{
				`6:3: spec.replicas: found a field of a Deployment; a Container is one container: remove it, and write one Container for each`,
				`7:3: spec.template: found the template of a Deployment or Job; the fields of one container (image, command, args, env and others) stand directly in spec`,
			},
		},
		{
			"compose ports", spec(`ports: ["80:80"]`),
			[]string{
				`7:11: spec.ports[0]: found "80:80"; allowed: a map with the fields containerPort, hostIP, hostPort, name, protocol`,
			},
		},
		{
			"env as a map", spec(`env:
  LOG: debug`),
			[]string{
				`8:5: spec.env: found a map; allowed: a list of {name, value}: write env: [{name: LOG, value: "debug"}]`,
			},
		},
		{
			"env as words", spec(`env: [LOG=debug, B=c]`),
			[]string{
				`7:9: spec.env[0]: found "LOG=debug"; allowed: {name, value}: write {name: LOG, value: "debug"}`,
				`7:20: spec.env[1]: found "B=c"; allowed: {name, value}: write {name: B, value: "c"}`,
			},
		},
		{
			"environment", spec(`environment:
  LOG: debug`),
			[]string{
				`7:3: spec.environment: found compose's name; write env: [{name: LOG, value: "debug"}]`,
			},
		},
		{
			"environment list", spec(`environment:
- LOG=debug`),
			[]string{
				`7:3: spec.environment: found compose's name; write env: [{name: LOG, value: "debug"}]`,
			},
		},
		{
			"restart", spec(`restart: always`),
			[]string{`7:3: spec.restart: found compose's name; write restartPolicy: Always`},
		},
		{
			"restart unless-stopped", spec(`restart: unless-stopped`),
			[]string{`7:3: spec.restart: found compose's name; write restartPolicy: Always`},
		},
		{
			"restartPolicy always", spec(`restartPolicy: always`),
			[]string{
				`7:18: spec.restartPolicy: found "always"; allowed: "Always", "OnFailure", "Never"; did you mean "Always"?`,
			},
		},
		{
			"restartPolicy on-failure", spec(`restartPolicy: on-failure`),
			[]string{
				`7:18: spec.restartPolicy: found "on-failure"; allowed: "Always", "OnFailure", "Never"; did you mean "OnFailure"?`,
			},
		},
		{
			"restartPolicy no", spec(`restartPolicy: no`),
			[]string{
				`7:18: spec.restartPolicy: found no, which YAML reads as the boolean false; allowed: Always, OnFailure, Never; did you mean Never?`,
			},
		},
		{
			"compose volumes", spec(`volumes: ["./html:/usr/share/nginx/html:ro"]`),
			[]string{
				`7:13: spec.volumes[0]: found "./html:/usr/share/nginx/html:ro"; compose's short form is not read: write volumes: [{name: html, hostPath: {path: /absolute/path/of/html}}] and volumeMounts: [{name: html, mountPath: /usr/share/nginx/html, readOnly: true}]`,
			},
		},
		{
			"compose logging", spec(`logging:
  driver: json-file
  options: {max-size: "10m", max-file: "3"}`),
			[]string{
				`8:5: spec.logging.driver: found compose's name; remove it: the node keeps the output in log files, limited by maxSize and maxFiles`,
				`9:5: spec.logging.options: found compose's name; write logging: {maxSize: 10Mi, maxFiles: 3}`,
			},
		},
		{
			"size of logs without a unit of Kubernetes", spec(`logging: {maxSize: 10mb, maxFiles: "3"}`),
			[]string{
				`7:22: spec.logging.maxSize: found "10mb"; allowed: a quantity: write 10Mi`,
				`7:38: spec.logging.maxFiles: found "3"; allowed: a whole number without quotes: write 3`,
			},
		},
		{
			"size of logs too small", spec(`logging: {maxSize: 4Ki, maxFiles: 1}`),
			[]string{
				`7:22: spec.logging.maxSize: found "4Ki"; must be at least 32Ki, since a file has to hold the longest entry`,
				`7:37: spec.logging.maxFiles: found 1; must be 2 to 1000`,
			},
		},
		{
			"duration of a back-off", spec(`restartBackOff: {initialSeconds: 5s, maxSeconds: 5m}`),
			[]string{
				`7:36: spec.restartBackOff.initialSeconds: found "5s"; allowed: a whole number of seconds: write 5`,
				`7:52: spec.restartBackOff.maxSeconds: found "5m"; allowed: a whole number of seconds: write 300`,
			},
		},
		{
			"named compose volume", spec(`volumes: ["data:/data"]
volumeMounts: [{name: data, mountPath: /data}]`),
			[]string{
				`7:13: spec.volumes[0]: found "data:/data"; compose's short form is not read: write volumes: [{name: data, emptyDir: {}}] and volumeMounts: [{name: data, mountPath: /data}]`,
			},
		},
		{
			"volumes as a map", spec(`volumes:
  data: {}`),
			[]string{
				`8:5: spec.volumes: found a map; allowed: a list: write - {name: data, emptyDir: {}} or - {name: data, hostPath: {path: PATH}}`,
			},
		},
		{
			"volumeMounts as words", spec(`volumes: [{name: data, emptyDir: {}}]
volumeMounts: ["data:/data"]`),
			[]string{
				`8:18: spec.volumeMounts[0]: found "data:/data"; allowed: a map: write {name: data, mountPath: /data}`,
			},
		},
		{
			"command as text", spec(`command: nginx -g quiet`),
			[]string{
				`7:12: spec.command: found "nginx -g quiet"; allowed: a list of strings: write ["nginx", "-g", "quiet"]`,
			},
		},
		{
			"command for a shell", spec(`command: echo $HOME && sleep 1`),
			[]string{
				`7:12: spec.command: found "echo $HOME && sleep 1"; allowed: a list of strings: write ["sh", "-c", "echo $HOME && sleep 1"]`,
			},
		},
		{
			"args as text", spec(`args: --verbose`),
			[]string{`7:9: spec.args: found "--verbose"; allowed: a list of strings: write ["--verbose"]`},
		},
		{
			"entrypoint", spec(`entrypoint: [a]`),
			[]string{`7:3: spec.entrypoint: found compose's name; write spec.command`},
		},
		{
			"user", spec(`user: "1000:1000"`),
			[]string{
				`7:3: spec.user: found compose's name; write securityContext: {runAsUser: 1000, runAsGroup: 1000}`,
			},
		},
		{
			"runAsUser nobody", spec(`securityContext: {runAsUser: nobody}`),
			[]string{
				`7:32: spec.securityContext.runAsUser: found "nobody"; allowed: a number, which /etc/passwd and /etc/group of the image have for the name: write 65534`,
			},
		},
		{
			"runAsUser with a group", spec(`securityContext: {runAsUser: "1000:1000"}`),
			[]string{
				`7:32: spec.securityContext.runAsUser: found "1000:1000"; allowed: a number; the group is runAsGroup`,
			},
		},
		{
			"cap_add", spec(`cap_add: [NET_ADMIN]`),
			[]string{`7:3: spec.cap_add: found compose's name; write spec.securityContext.capabilities.add`},
		},
		{
			"capabilities as a list", spec(`securityContext: {capabilities: [NET_ADMIN]}`),
			[]string{
				`7:35: spec.securityContext.capabilities: found a list; allowed: a map: write {add: [NET_ADMIN]}`,
			},
		},
		{
			"mem_limit", spec(`mem_limit: 64m`),
			[]string{`7:3: spec.mem_limit: found compose's name; write spec.resources.limits.memory`},
		},
		{
			"network_mode of another service", spec(`network_mode: service:db`),
			[]string{
				`7:3: spec.network_mode: found compose's name; write network: {container: db}`,
			},
		},
		{
			"network_mode none", spec(`network_mode: none`),
			[]string{
				`7:3: spec.network_mode: found compose's name; write network: {none: true}`,
			},
		},
		{
			"configs", spec(`configs: [shop]`),
			[]string{
				`7:3: spec.configs: found compose's name; write a ConfigMap, a volume {name: NAME, configMap: {name: NAME}} and a volumeMount of it`,
			},
		},
		{
			"secrets", spec(`secrets: [login]`),
			[]string{
				`7:3: spec.secrets: found compose's name; write a Secret, a volume {name: NAME, secret: {secretName: NAME}} and a volumeMount of it`,
			},
		},
		{
			"network_mode", spec(`network_mode: host`),
			[]string{
				`7:3: spec.network_mode: found compose's name; for the node's own network write spec.hostNetwork: true`,
			},
		},
		{
			"extra_hosts", spec(`extra_hosts: ["db:192.0.2.1"]`),
			[]string{
				`7:3: spec.extra_hosts: found compose's name; write hostAliases: [{ip: ADDRESS, hostnames: [NAME]}]`,
			},
		},
		{
			"dns", spec("dns: 192.0.2.53\ndns_search: [a]\ndns_opt: [rotate]"),
			[]string{
				`7:3: spec.dns: found compose's name; write spec.dnsConfig.nameservers`,
				`8:3: spec.dns_search: found compose's name; write spec.dnsConfig.searches`,
				`9:3: spec.dns_opt: found compose's name; write dnsConfig: {options: [{name: NAME, value: VALUE}]}`,
			},
		},
		{
			"one alias, and none of a Pod's", spec("hostAliases: {db: 192.0.2.1}"),
			[]string{
				`7:16: spec.hostAliases: found a map; allowed: a list of maps with the fields hostnames, ip`,
			},
		},
		{
			"depends_on", spec(`depends_on: [db]`),
			[]string{
				`7:3: spec.depends_on: found compose's name; write spec.dependsOn`,
			},
		},
		{
			"healthcheck", spec(`healthcheck: {}`),
			[]string{
				`7:3: spec.healthcheck: found a field of compose that Berth does not have yet; remove it`,
			},
		},
		{
			"grace as a duration", spec(`terminationGracePeriodSeconds: 1m30s`),
			[]string{
				`7:34: spec.terminationGracePeriodSeconds: found "1m30s"; allowed: a whole number of seconds: write 90`,
			},
		},
		{
			"number in env", spec(`env:
- name: PORT
  value: 8080`),
			[]string{`9:12: spec.env[0].value: found the number 8080; allowed: a string: write "8080"`},
		},
		{
			"yes in env", spec(`env:
- name: TLS
  value: yes`),
			[]string{
				`9:12: spec.env[0].value: found yes, which YAML reads as the boolean true; allowed: a string: write "yes"`,
			},
		},
		{
			"on in env", spec(`env:
- name: TLS
  value: on`),
			[]string{
				`9:12: spec.env[0].value: found on, which YAML reads as the boolean true; allowed: a string: write "on"`,
			},
		},
		{
			"true in env", spec(`env:
- name: TLS
  value: true`),
			[]string{`9:12: spec.env[0].value: found the boolean true; allowed: a string: write "true"`},
		},
		{
			"number in args", spec(`args: [sleep, 3600]`),
			[]string{`7:17: spec.args[1]: found the number 3600; allowed: a string: write "3600"`},
		},
		{
			"map in args", spec(`args:
- key: value`),
			[]string{
				`8:5: spec.args[0]: found a map; allowed: a string: write "key: value", as text with ": " in it needs quotes`,
			},
		},
		{
			"boolean label", `apiVersion: berth.run/v1alpha1
kind: Container
metadata:
  name: web
  labels: {on: a, b: true}
spec: {image: a}
`,
			[]string{
				`5:12: metadata.labels: found on, which YAML reads as the boolean true as a name; allowed: a string: write "on"`,
				`5:22: metadata.labels[b]: found the boolean true; allowed: a string: write "true"`,
			},
		},
		{
			"boolean in nodeSelector", spec(`nodeSelector: {ssd: true}`),
			[]string{
				`7:23: spec.nodeSelector[ssd]: found the boolean true; allowed: a string: write "true"`,
			},
		},
		{
			"text for a boolean", spec(`hostNetwork: "true"`),
			[]string{
				`7:16: spec.hostNetwork: found "true"; allowed: true or false without quotes: write true`,
			},
		},
		{
			"text for a number", spec(`terminationGracePeriodSeconds: "30"`),
			[]string{
				`7:34: spec.terminationGracePeriodSeconds: found "30"; allowed: a whole number without quotes: write 30`,
			},
		},
		{
			"fraction for a number", spec(`terminationGracePeriodSeconds: 1.5`),
			[]string{
				`7:34: spec.terminationGracePeriodSeconds: found the number 1.5; allowed: a whole number, without quotes`,
			},
		},
		{
			"beyond 64 bits", spec(`terminationGracePeriodSeconds: 99999999999999999999`),
			[]string{
				`7:34: spec.terminationGracePeriodSeconds: found the number 99999999999999999999; allowed: a whole number from -9223372036854775808 to 9223372036854775807`,
			},
		},
		{
			"beyond 32 bits", spec(`progressDeadlineSeconds: 99999999999`),
			[]string{
				`7:28: spec.progressDeadlineSeconds: found the number 99999999999; allowed: a whole number from -2147483648 to 2147483647`,
			},
		},
		{
			"number as an image", bare(`image: 5`),
			[]string{`6:10: spec.image: found the number 5; allowed: a string: write "5"`},
		},
		{
			"image without a value", bare(`image:`),
			[]string{`6:3: spec.image: found nothing; write a value after the colon, or remove the field`},
		},
		{
			"emptyDir without a value", spec(`volumes:
- name: tmp
  emptyDir:`),
			[]string{`9:5: spec.volumes[0].emptyDir: found nothing; allowed: a map: write emptyDir: {}`},
		},
		{
			"empty item", spec(`args:
-`),
			[]string{`8:4: spec.args[0]: found nothing; allowed: a string`},
		},
		{
			"hostPath as text", spec(`volumes:
- name: a
  hostPath: /srv`),
			[]string{`9:15: spec.volumes[0].hostPath: found "/srv"; allowed: a map: write {path: /srv}`},
		},
		{
			"rootfs as text", bare(`rootfs: /srv/root
command: [a]`),
			[]string{`6:11: spec.rootfs: found "/srv/root"; allowed: a map: write {path: /srv/root}`},
		},
		{
			"seccomp as text", spec(`securityContext: {seccompProfile: Unconfined}`),
			[]string{
				`7:37: spec.securityContext.seccompProfile: found "Unconfined"; allowed: a map: write {type: Unconfined}`,
			},
		},
		{
			"tag", spec(`args: [!ref a]`),
			[]string{`7:10: spec.args[0]: found the tag !ref; allowed: no tag`},
		},
		{
			"32mb", spec(`resources:
  limits:
    memory: 32mb`),
			[]string{`9:15: spec.resources.limits[memory]: found "32mb"; allowed: a quantity: write 32Mi`},
		},
		{
			"512MB", spec(`resources: {limits: {memory: 512MB}}`),
			[]string{`7:32: spec.resources.limits[memory]: found "512MB"; allowed: a quantity: write 512Mi`},
		},
		{
			"1 GiB", spec(`resources: {limits: {memory: 1 GiB}}`),
			[]string{`7:32: spec.resources.limits[memory]: found "1 GiB"; allowed: a quantity: write 1Gi`},
		},
		{
			"64m of memory", spec(`resources: {limits: {memory: 64m}}`),
			[]string{
				`7:32: spec.resources.limits[memory]: found "64m"; must be a whole number: m is a thousandth; did you mean 64Mi or 64M?`,
			},
		},
		{
			"half of the CPU", spec(`resources: {limits: {cpu: 50%}}`),
			[]string{
				`7:29: spec.resources.limits[cpu]: found "50%"; allowed: an amount, not a share: write 500m for half a CPU, or 64Mi of memory`,
			},
		},
		{
			"cpu in words", spec(`resources: {limits: {cpu: two}}`),
			[]string{
				`7:29: spec.resources.limits[cpu]: found "two"; allowed: a number of CPUs such as 2, 0.5 or 500m`,
			},
		},
		{
			"limits without a value", spec(`resources: {limits: {cpu: }}`),
			[]string{
				`7:29: spec.resources.limits[cpu]: found nothing; allowed: a quantity such as 500m (of cpu) or 64Mi (of memory)`,
			},
		},
		{
			"cpus", spec(`resources: {limits: {cpus: 2}}`),
			[]string{
				`7:30: spec.resources.limits[cpus]: found "cpus"; allowed: "cpu", "memory", "swap", "pids", "hugepages-2Mi", "hugepages-1Gi"; did you mean "cpu"?`,
			},
		},
		{
			"gpu", spec(`resources: {limits: {nvidia.com/gpu: 1}}`),
			[]string{
				`7:40: spec.resources.limits[nvidia.com/gpu]: found "nvidia.com/gpu"; allowed: "cpu", "memory", "swap", "pids", "hugepages-2Mi", "hugepages-1Gi"`,
			},
		},
		{
			"memory directly below resources", spec(`resources: {memory: 64Mi}`),
			[]string{
				`7:15: spec.resources.memory: found an unknown field; write limits: {memory: 64Mi}, requests, or both`,
			},
		},
		{
			"mount without a volume", spec(`volumeMounts: [{name: data, mountPath: /data}]`),
			[]string{`7:25: spec.volumeMounts[0].name: found "data", which is not defined`},
		},
		{
			"relative mountPath", spec(`volumes: [{name: a, emptyDir: {}}]
volumeMounts:
- name: a
  mountPath: data`),
			[]string{
				`10:16: spec.volumeMounts[0].mountPath: found "data"; must be absolute: start it with /`,
			},
		},
		{
			"unknown capability", spec(`securityContext:
  capabilities:
    add: [NET_ADMN]`),
			[]string{
				`9:13: spec.securityContext.capabilities.add[0]: found "NET_ADMN"; must be ALL or the name of a capability of capabilities(7), such as NET_ADMIN`,
			},
		},
		{
			"pull policy", spec(`imagePullPolicy: always`),
			[]string{
				`7:20: spec.imagePullPolicy: found "always"; allowed: "Always", "IfNotPresent", "Never"; did you mean "Always"?`,
			},
		},
		{
			"variable twice", spec(`env:
- {name: A, value: b}
- {name: A, value: c}`),
			[]string{`9:12: spec.env[1].name: found "A" a second time; allowed: once`},
		},
		{
			"image and rootfs", spec(`rootfs: {path: /a}`),
			[]string{`7:11: spec.rootfs: set exactly one of image, archive and rootfs`},
		},
		{
			"neither image nor rootfs", bare(`command: [a]`),
			[]string{`6:3: spec.image: found nothing; set exactly one of image, archive and rootfs`},
		},
		{
			"absolute path as an image", bare(`image: /srv/x.tar`),
			[]string{
				`6:10: spec.image: found "/srv/x.tar"; must be a registry reference such as docker.io/library/busybox:1.36: for a file or an OCI layout of the node set archive.path in place of image, as in archive: {path: /srv/x.tar} (image: oci-archive:FILE is the earlier spelling)`,
			},
		},
		{
			"relative path as an image", bare(`image: ./x.tar`),
			[]string{
				`6:10: spec.image: found "./x.tar"; must be a registry reference such as docker.io/library/busybox:1.36: for a file or an OCI layout of the node set archive.path in place of image, as in archive: {path: /PATH/OF/x.tar} (image: oci-archive:FILE is the earlier spelling)`,
			},
		},
		{
			"docker://", bare(`image: docker://nginx`),
			[]string{
				`6:10: spec.image: found "docker://nginx"; must be a registry reference such as docker.io/library/busybox:1.36: no transport of this name; for a file or an OCI layout of the node set archive.path in place of image (image: oci-archive:FILE is the earlier spelling)`,
			},
		},
		{
			"capitals in an image", bare(`image: Nginx`),
			[]string{
				`6:10: spec.image: found "Nginx"; must be a registry reference such as docker.io/library/busybox:1.36: could not parse reference: Nginx`,
			},
		},
		{
			"hostname with an underscore", spec(`hostname: my_host`),
			[]string{
				`7:13: spec.hostname: found "my_host"; a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character`,
			},
		},
		{
			"all at once", spec(`comand: [a]
env: {A: 1}
resources: {limits: {memory: 32mb}}
restartPolicy: sometimes
workingDir: srv
volumes: [{name: a, emptyDir: {}}, {name: a, emptyDir: {}}]`),
			[]string{
				`7:3: spec.comand: found an unknown field; did you mean "command"?`,
				`8:8: spec.env: found a map; allowed: a list of {name, value}: write env: [{name: A, value: "1"}]`,
				`9:32: spec.resources.limits[memory]: found "32mb"; allowed: a quantity: write 32Mi`,
				`10:18: spec.restartPolicy: found "sometimes"; allowed: "Always", "OnFailure", "Never"`,
				`11:15: spec.workingDir: found "srv"; must be absolute: start it with /`,
				`12:45: spec.volumes[1].name: found "a" a second time; allowed: once`,
			},
		},
		{
			"percent", spec(`args: [%d]`),
			[]string{`7: found text that begins with %, @ or a backquote; allowed: quotes around it`},
		},
		{
			"resources as text", spec(`resources: 64Mi`),
			[]string{`7:14: spec.resources: found "64Mi"; allowed: ...`},
		},
		{
			"requests above limits", spec(`resources: {limits: {memory: 1Mi}, requests: {memory: 2Mi}}`),
			[]string{`7:57: spec.resources.requests[memory]: found "2Mi"; must not exceed the limit`},
		},
		{
			"name in a merge", `apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: web}
x: &x {imagee: a}
spec:
  <<: *x
`,
			[]string{
				`4:1: x: found an unknown field; allowed: ...`,
				`4:8: spec.imagee: found an unknown field; did you mean "image"?`,
			},
		},
		{
			"mode as text", spec(`volumes:
- name: a
  emptyDir: {sizeLimit: 64mb, medium: Memory}`),
			[]string{
				`9:27: spec.volumes[0].emptyDir.sizeLimit: found "64mb"; allowed: a quantity: write 64Mi`,
			},
		},
		{
			"tmpfs", spec(`tmpfs: /tmp`),
			[]string{
				`7:3: spec.tmpfs: found compose's name; write a volume {name: tmp, emptyDir: {medium: Memory}} and a volumeMount of it`,
			},
		},
		{
			"toleration", spec(`tolerations: [{key: a, operator: equal}]`),
			[]string{
				`7:36: spec.tolerations[0].operator: found "equal"; allowed: "Equal", "Exists"; did you mean "Equal"?`,
			},
		},
		{
			"empty name", `apiVersion: berth.run/v1alpha1
kind: Container
metadata:
  name:
spec: {image: a}
`,
			[]string{
				`4:3: metadata.name: found nothing; write a value after the colon, or remove the field`,
			},
		},
		{
			"absolute file as an image", bare(`image: /srv/x.tar`),
			[]string{
				`6:10: spec.image: found "/srv/x.tar"; must be a registry reference such as docker.io/library/busybox:1.36: for a file or an OCI layout of the node set archive.path in place of image, as in archive: {path: /srv/x.tar} (image: oci-archive:FILE is the earlier spelling)`,
			},
		},
		{
			"file as an image", bare(`image: x.tar`),
			[]string{
				`6:10: spec.image: found "x.tar"; must be a registry reference such as docker.io/library/busybox:1.36: for a file or an OCI layout of the node set archive.path in place of image, as in archive: {path: /PATH/OF/x.tar} (image: oci-archive:FILE is the earlier spelling)`,
			},
		},
		{
			"compressed file as an image", bare(`image: hello.tar.gz`),
			[]string{
				`6:10: spec.image: found "hello.tar.gz"; must be a registry reference such as docker.io/library/busybox:1.36: for a file or an OCI layout of the node set archive.path in place of image, as in archive: {path: /PATH/OF/hello.tar.gz} (image: oci-archive:FILE is the earlier spelling)`,
			},
		},
		{
			"file of the home directory", bare(`image: ~/x.tar`),
			[]string{
				`6:10: spec.image: found "~/x.tar"; must be a registry reference such as docker.io/library/busybox:1.36: for a file or an OCI layout of the node set archive.path in place of image, as in archive: {path: /PATH/OF/x.tar} (image: oci-archive:FILE is the earlier spelling)`,
			},
		},
		{
			"oci layout with a transport", bare(`image: oci-layout:/srv/x`),
			[]string{
				`6:10: spec.image: found "oci-layout:/srv/x"; must be a registry reference such as docker.io/library/busybox:1.36: no transport of this name; for a file or an OCI layout of the node set archive.path in place of image (image: oci-archive:FILE is the earlier spelling)`,
			},
		},
		{
			"archive as text", bare(`archive: /srv/x.tar`),
			[]string{`6:12: spec.archive: found "/srv/x.tar"; allowed: a map: write {path: /srv/x.tar}`},
		},
		{
			"relative archive", bare(`archive: {path: x.tar}`),
			[]string{`6:19: spec.archive.path: found "x.tar"; must be absolute: start it with /`},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := check(tc.text)
			// A list of fields is cut in want, so that a new field changes nothing here.
			same := func(got, want string) bool {
				begin, cut := strings.CutSuffix(want, "...")
				return got == want || cut && strings.HasPrefix(got, begin)
			}
			if !slices.EqualFunc(got, tc.want, same) {
				t.Errorf("found:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
			for _, line := range got {
				if strings.Contains(line, "v1alpha1.") || strings.Contains(line, "Go ") ||
					strings.Contains(line, "json:") {
					t.Errorf("found a name of Go's in %q", line)
				}
			}
		})
	}
}
