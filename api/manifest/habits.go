// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// habit explains a field that people know from another system: where Berth has it, or what to write
// in its place.
type habit struct {
	// what the field is, after "found"; empty: an unknown field.
	what string
	// fix is advice that follows the text that write returns for the value.
	fix   string
	write func(*yaml.Node) string
	// instead are the paths whose absence follows from the mistake.
	instead []string
}

// habits returns fields of other systems by the pattern of their path. Fields of a Pod that need no
// explanation are found by reflection, and other spellings by their letters.
func habits() map[string]habit {
	out := objectHabits()
	maps.Copy(out, composeHabits())
	maps.Copy(out, nestedHabits())
	return out
}

// objectHabits returns fields of a Pod, a Deployment or a compose file, and such as stand at the
// wrong level.
func objectHabits() map[string]habit {
	root := func(name string) habit {
		return habit{
			fix:     "did you mean spec." + name + "? It belongs below spec",
			instead: []string{"spec"},
		}
	}
	noOther := "the fields of one container (image, command, args, env and others) stand directly in spec"
	return map[string]habit{
		"services": {what: "compose's services", fix: "write each service as a Container of its own"},
		"image":    root("image"),
		"command":  root("command"),
		"args":     root("args"),
		"env":      root("env"),
		"name": {
			fix:     "did you mean metadata.name? It belongs below metadata",
			instead: []string{"metadata.name"},
		},
		"labels": {fix: "did you mean metadata.labels? It belongs below metadata"},

		"spec.containers": {
			what: "a Pod's list of containers", fix: noOther,
			instead: []string{"spec.image", "spec.command", "spec.volumeMounts"},
		},
		"spec.initContainers": {
			what: "a field of a Pod that Berth does not have yet",
			fix: "run the work in the container's own command or, without a cluster, in a Container of its own" +
				" that spec.dependsOn names with the condition Completed",
		},
		"spec.template": {
			what: "the template of a Deployment or Job", fix: noOther,
			instead: []string{"spec.image", "spec.command"},
		},
		"spec.replicas": {
			what: "a field of a Deployment",
			fix:  "a Container is one container: remove it, and write one Container for each",
		},
	}
}

// composeRenamed are the fields of a compose file's service that Berth has under another name.
var composeRenamed = map[string]string{
	"cap_add":           "spec.securityContext.capabilities.add",
	"cap_drop":          "spec.securityContext.capabilities.drop",
	"container_name":    "metadata.name",
	"cpus":              "spec.resources.limits.cpu",
	"depends_on":        "spec.dependsOn",
	"dns":               "spec.dnsConfig.nameservers",
	"dns_search":        "spec.dnsConfig.searches",
	"entrypoint":        "spec.command",
	"group_add":         "spec.securityContext.supplementalGroups",
	"mem_limit":         "spec.resources.limits.memory",
	"pids_limit":        "spec.resources.limits.pids",
	"pull_policy":       "spec.imagePullPolicy",
	"read_only":         "spec.securityContext.readOnlyRootFilesystem",
	"runtime":           "spec.runtimeClassName",
	"shm_size":          "spec.shmSize",
	"stop_grace_period": "spec.terminationGracePeriodSeconds",
	"sysctls":           "spec.securityContext.sysctls",
}

// composeMissing are the fields of a compose file's service that Berth does not have yet, with what
// to do instead.
var composeMissing = map[string]string{
	"build":        "build the image with another program, and name it in spec.image",
	"deploy":       "write limits into spec.resources",
	"env_file":     "write the variables into env",
	"healthcheck":  "remove it",
	"init":         "remove it",
	"security_opt": "write spec.securityContext",
	"stop_signal":  "the image's STOPSIGNAL is honoured",
}

// composeHabits returns fields of a compose file's service.
func composeHabits() map[string]habit {
	out := serviceHabits()
	for name, to := range composeRenamed {
		out["spec."+name] = habit{what: "compose's name", fix: "write " + to, instead: []string{to}}
	}
	for name, fix := range composeMissing {
		out["spec."+name] = habit{what: "a field of compose that Berth does not have yet", fix: fix}
	}
	return out
}

// serviceHabits returns fields of a compose file's service, and others that people write into spec,
// whose value is written in another form or belongs at another level.
func serviceHabits() map[string]habit {
	return map[string]habit{
		"spec.environment": {
			what: "compose's name", write: writeEnv,
			instead: []string{"spec.env"},
		},
		"spec.cmd": {
			what: "a Dockerfile's name",
			fix:  "write spec.args (after the image's entrypoint) or spec.command (in its place)",
		},
		"spec.restart": {
			what: "compose's name", write: writeRestart,
			instead: []string{"spec.restartPolicy"},
		},
		"spec.user": {
			what: "compose's name", write: writeUser,
			instead: []string{"spec.securityContext.runAsUser"},
		},
		"spec.privileged": {
			fix:     "write spec.securityContext.privileged",
			instead: []string{"spec.securityContext.privileged"},
		},
		"spec.memory": {fix: "write spec.resources.limits.memory"},
		"spec.cpu":    {fix: "write spec.resources.limits.cpu"},
		"spec.network_mode": {
			what: "compose's name", write: writeNetworkMode,
			instead: []string{"spec.hostNetwork"},
		},
		"spec.pid": {
			what: "compose's name",
			fix:  "for the node's own processes write spec.hostPID: true",
		},
		"spec.ipc": {
			what: "compose's name",
			fix:  "for the node's own IPC write spec.hostIPC: true",
		},
		"spec.configs": {
			what: "compose's name",
			fix:  "write a ConfigMap, a volume {name: NAME, configMap: {name: NAME}} and a volumeMount of it",
		},
		"spec.secrets": {
			what: "compose's name",
			fix:  "write a Secret, a volume {name: NAME, secret: {secretName: NAME}} and a volumeMount of it",
		},
		"spec.tmpfs": {
			what: "compose's name",
			fix:  "write a volume {name: tmp, emptyDir: {medium: Memory}} and a volumeMount of it",
		},
		"spec.extra_hosts": {
			what: "compose's name", fix: "write hostAliases: [{ip: ADDRESS, hostnames: [NAME]}]",
			instead: []string{"spec.hostAliases"},
		},
		"spec.dns_opt": {
			what: "compose's name", fix: "write dnsConfig: {options: [{name: NAME, value: VALUE}]}",
			instead: []string{"spec.dnsConfig"},
		},
		"spec.mounts":      {fix: "write spec.volumes and spec.volumeMounts"},
		"spec.name":        {fix: "write metadata.name"},
		"spec.labels":      {fix: "write metadata.labels"},
		"spec.annotations": {fix: "write metadata.annotations"},
	}
}

// nestedHabits returns fields of the maps in spec.
func nestedHabits() map[string]habit {
	return map[string]habit{
		"spec.logging.driver": {
			what: "compose's name",
			fix:  "remove it: the node keeps the output in log files, limited by maxSize and maxFiles",
		},
		"spec.logging.options":     {what: "compose's name", write: writeLogOptions},
		"spec.resources.memory":    {fix: "write limits: {memory: 64Mi}, requests, or both"},
		"spec.resources.cpu":       {fix: "write limits: {cpu: 500m}, requests, or both"},
		"spec.volumeMounts[].path": {fix: "write mountPath", instead: []string{"spec.volumeMounts"}},
		"spec.volumeMounts[].target": {
			what: "compose's name", fix: "write mountPath",
			instead: []string{"spec.volumeMounts"},
		},
		"spec.volumes[].mountPath": {
			fix: "write a volumeMount {name, mountPath}: volumes say what there is, volumeMounts where it appears",
		},
		"spec.volumes[].source": {
			what: "compose's name", fix: "write hostPath: {path: PATH}",
			instead: []string{"spec.volumes"},
		},
		"spec.volumes[].target": {
			what: "compose's name",
			fix:  "write a volumeMount {name, mountPath}",
		},
		"spec.securityContext.user":   {fix: "write runAsUser"},
		"spec.securityContext.group":  {fix: "write runAsGroup"},
		"spec.securityContext.capAdd": {fix: "write capabilities.add"},
	}
}

// writeEnv shows the first variable of compose's environment as an item of env.
func writeEnv(n *yaml.Node) string {
	name, value := "NAME", "VALUE"
	switch {
	case n.Kind == yaml.MappingNode && len(n.Content) > 1:
		name, value = n.Content[0].Value, resolve(n.Content[1]).Value
	case n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.ScalarNode:
		name, value, _ = strings.Cut(n.Content[0].Value, "=")
	case n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "="):
		name, value, _ = strings.Cut(n.Value, "=")
	}
	return fmt.Sprintf("write env: [{name: %s, value: %s}]", name, strconv.Quote(value))
}

// writeLogOptions shows compose's options of the json-file driver as fields of logging.
func writeLogOptions(n *yaml.Node) string {
	size, files := "10Mi", "5"
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		value := resolve(n.Content[i+1]).Value
		switch n.Content[i].Value {
		case "max-size":
			digits := strings.TrimRight(value, "bkmgBKMG")
			unit := strings.ToLower(strings.TrimRight(value[len(digits):], "bB"))
			size = digits + map[string]string{"k": "Ki", "m": "Mi", "g": "Gi"}[unit]
		case "max-file":
			files = value
		}
	}
	return fmt.Sprintf("write logging: {maxSize: %s, maxFiles: %s}", size, files)
}

func writeRestart(n *yaml.Node) string {
	policy := map[string]string{
		"always": "Always", "unless-stopped": "Always",
		"on-failure": "OnFailure", "no": "Never",
	}
	word, _, _ := strings.Cut(n.Value, ":")
	if p := policy[word]; p != "" {
		return "write restartPolicy: " + p
	}
	return "write restartPolicy: Always, OnFailure or Never"
}

// writeNetworkMode shows compose's network_mode as the field of that network.
func writeNetworkMode(n *yaml.Node) string {
	mode, name, _ := strings.Cut(n.Value, ":")
	switch {
	case mode == "none":
		return "write network: {none: true}"
	case (mode == "service" || mode == "container") && name != "":
		return fmt.Sprintf("write network: {container: %s}", name)
	}
	return "for the node's own network write spec.hostNetwork: true"
}

func writeUser(n *yaml.Node) string {
	user, group, _ := strings.Cut(n.Value, ":")
	if _, err := strconv.Atoi(user); err != nil {
		return "write securityContext: {runAsUser: 1000} with the number of the user"
	}
	if _, err := strconv.Atoi(group); err != nil {
		return fmt.Sprintf("write securityContext: {runAsUser: %s}", user)
	}
	return fmt.Sprintf("write securityContext: {runAsUser: %s, runAsGroup: %s}", user, group)
}
