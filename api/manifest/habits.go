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
			fix:  "run the work in the container's own command",
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

// composeHabits returns fields of a compose file's service.
func composeHabits() map[string]habit {
	moved := func(to string) habit {
		return habit{what: "compose's name", fix: "write " + to, instead: []string{to}}
	}
	missing := func(fix string) habit {
		return habit{what: "a field of compose that Berth does not have yet", fix: fix}
	}
	return map[string]habit{
		"spec.environment": {
			what: "compose's name", write: writeEnv,
			instead: []string{"spec.env"},
		},
		"spec.env_file":   missing("write the variables into env"),
		"spec.entrypoint": moved("spec.command"),
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
			fix: "it belongs in spec.securityContext, where Berth does not support it: add the capabilities that are needed to spec.securityContext.capabilities.add",
		},
		"spec.cap_add":    moved("spec.securityContext.capabilities.add"),
		"spec.cap_drop":   moved("spec.securityContext.capabilities.drop"),
		"spec.read_only":  moved("spec.securityContext.readOnlyRootFilesystem"),
		"spec.mem_limit":  moved("spec.resources.limits.memory"),
		"spec.memory":     {fix: "write spec.resources.limits.memory"},
		"spec.cpus":       moved("spec.resources.limits.cpu"),
		"spec.cpu":        {fix: "write spec.resources.limits.cpu"},
		"spec.pids_limit": moved("spec.resources.limits.pids"),
		"spec.network_mode": {
			what:    "compose's name",
			fix:     "for the node's own network write spec.hostNetwork: true",
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
		"spec.tmpfs": {
			what: "compose's name",
			fix:  "write a volume {name: tmp, emptyDir: {medium: Memory}} and a volumeMount of it",
		},
		"spec.container_name":    moved("metadata.name"),
		"spec.labels":            {fix: "write metadata.labels"},
		"spec.name":              {fix: "write metadata.name"},
		"spec.annotations":       {fix: "write metadata.annotations"},
		"spec.stop_grace_period": moved("spec.terminationGracePeriodSeconds"),
		"spec.pull_policy":       moved("spec.imagePullPolicy"),
		"spec.runtime":           moved("spec.runtimeClassName"),
		"spec.mounts":            {fix: "write spec.volumes and spec.volumeMounts"},
		"spec.build": missing(
			"build the image with another program, and name it in spec.image"),
		"spec.depends_on":   missing("remove it"),
		"spec.healthcheck":  missing("remove it"),
		"spec.networks":     missing("remove it"),
		"spec.secrets":      missing("remove it"),
		"spec.configs":      missing("remove it"),
		"spec.deploy":       missing("write limits into spec.resources"),
		"spec.devices":      missing("remove it"),
		"spec.ulimits":      missing("remove it"),
		"spec.sysctls":      missing("remove it"),
		"spec.extra_hosts":  missing("remove it"),
		"spec.init":         missing("remove it"),
		"spec.group_add":    missing("remove it"),
		"spec.shm_size":     missing("remove it"),
		"spec.security_opt": missing("write spec.securityContext"),
		"spec.stop_signal":  missing("the image's STOPSIGNAL is honoured"),
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
