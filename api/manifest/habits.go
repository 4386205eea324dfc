// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"path"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// habit is how a field of another system is written in a Container.
type habit struct {
	// what the field is, after "found"; empty: an unknown field.
	what string
	// fix says what to do, after what write returns for the value.
	fix   string
	write func(*yaml.Node) string
	// instead are the paths whose absence follows from the mistake.
	instead []string
}

// habits are fields of other systems by the pattern of their path. Fields of a Pod that need no
// explanation are found by reflection, and other spellings by their letters.
func habits() map[string]habit {
	moved := func(to string) habit {
		return habit{what: "compose's name", fix: "write " + to, instead: []string{to}}
	}
	missing := func(fix string) habit {
		return habit{what: "a field of compose that Berth does not have yet", fix: fix}
	}
	root := func(name string) habit {
		return habit{fix: "did you mean spec." + name + "? It belongs below spec", instead: []string{"spec"}}
	}
	noOther := "the fields of one container (image, command, args, env and others) stand directly in spec"
	return map[string]habit{
		"services": {what: "compose's services", fix: "write each service as a Container of its own"},
		"image":    root("image"),
		"command":  root("command"),
		"args":     root("args"),
		"env":      root("env"),
		"name":     {fix: "did you mean metadata.name? It belongs below metadata", instead: []string{"metadata.name"}},
		"labels":   {fix: "did you mean metadata.labels? It belongs below metadata"},

		"spec.containers": {
			what: "a Pod's list of containers", fix: noOther,
			instead: []string{"spec.image", "spec.command", "spec.volumeMounts"},
		},
		"spec.initContainers": {what: "a field of a Pod that Berth does not have yet", fix: "run the work in the container's own command"},
		"spec.template": {
			what: "the template of a Deployment or Job", fix: noOther,
			instead: []string{"spec.image", "spec.command"},
		},
		"spec.replicas": {what: "a field of a Deployment", fix: "a Container is one container: remove it, and write one Container for each"},
		"spec.ports": {
			what: "a field of a Pod's container that Berth does not have yet",
			fix:  "remove it; hostNetwork: true lets the process listen on the node's own ports",
		},
		"spec.envFrom": {what: "a field of a Pod's container that Berth does not have yet", fix: "write the variables into env"},

		"spec.environment":       {what: "compose's name", write: writeEnv, instead: []string{"spec.env"}},
		"spec.env_file":          missing("write the variables into env"),
		"spec.entrypoint":        moved("spec.command"),
		"spec.cmd":               {what: "a Dockerfile's name", fix: "write spec.args (after the image's entrypoint) or spec.command (in its place)"},
		"spec.restart":           {what: "compose's name", write: writeRestart, instead: []string{"spec.restartPolicy"}},
		"spec.user":              {what: "compose's name", write: writeUser, instead: []string{"spec.securityContext.runAsUser"}},
		"spec.privileged":        {fix: "it belongs in spec.securityContext, where Berth does not support it: add the capabilities that are needed to spec.securityContext.capabilities.add"},
		"spec.cap_add":           moved("spec.securityContext.capabilities.add"),
		"spec.cap_drop":          moved("spec.securityContext.capabilities.drop"),
		"spec.read_only":         moved("spec.securityContext.readOnlyRootFilesystem"),
		"spec.mem_limit":         moved("spec.resources.limits.memory"),
		"spec.memory":            {fix: "write spec.resources.limits.memory"},
		"spec.cpus":              moved("spec.resources.limits.cpu"),
		"spec.cpu":               {fix: "write spec.resources.limits.cpu"},
		"spec.pids_limit":        moved("spec.resources.limits.pids"),
		"spec.network_mode":      {what: "compose's name", fix: "for the node's own network write spec.hostNetwork: true", instead: []string{"spec.hostNetwork"}},
		"spec.pid":               {what: "compose's name", fix: "for the node's own processes write spec.hostPID: true"},
		"spec.ipc":               {what: "compose's name", fix: "for the node's own IPC write spec.hostIPC: true"},
		"spec.tmpfs":             {what: "compose's name", fix: "write a volume {name: tmp, emptyDir: {medium: Memory}} and a volumeMount of it"},
		"spec.container_name":    moved("metadata.name"),
		"spec.labels":            {fix: "write metadata.labels"},
		"spec.name":              {fix: "write metadata.name"},
		"spec.annotations":       {fix: "write metadata.annotations"},
		"spec.stop_grace_period": moved("spec.terminationGracePeriodSeconds"),
		"spec.pull_policy":       moved("spec.imagePullPolicy"),
		"spec.runtime":           moved("spec.runtimeClassName"),
		"spec.mounts":            {fix: "write spec.volumes and spec.volumeMounts"},
		"spec.build":             missing("build the image with another program, and name it in spec.image"),
		"spec.depends_on":        missing("remove it"),
		"spec.healthcheck":       missing("remove it"),
		"spec.networks":          missing("remove it"),
		"spec.secrets":           missing("remove it"),
		"spec.configs":           missing("remove it"),
		"spec.deploy":            missing("write limits into spec.resources"),
		"spec.devices":           missing("remove it"),
		"spec.ulimits":           missing("remove it"),
		"spec.sysctls":           missing("remove it"),
		"spec.extra_hosts":       missing("remove it"),
		"spec.init":              missing("remove it"),
		"spec.group_add":         missing("remove it"),
		"spec.shm_size":          missing("remove it"),
		"spec.security_opt":      missing("write spec.securityContext"),
		"spec.stop_signal":       missing("the image's STOPSIGNAL is honoured"),

		"spec.logging.driver":         {what: "compose's name", fix: "remove it: the node keeps the output in log files, limited by maxSize and maxFiles"},
		"spec.logging.options":        {what: "compose's name", write: writeLogOptions},
		"spec.resources.memory":       {fix: "write limits: {memory: 64Mi}, requests, or both"},
		"spec.resources.cpu":          {fix: "write limits: {cpu: 500m}, requests, or both"},
		"spec.volumeMounts[].path":    {fix: "write mountPath", instead: []string{"spec.volumeMounts"}},
		"spec.volumeMounts[].target":  {what: "compose's name", fix: "write mountPath", instead: []string{"spec.volumeMounts"}},
		"spec.volumes[].mountPath":    {fix: "write a volumeMount {name, mountPath}: volumes say what there is, volumeMounts where it appears"},
		"spec.volumes[].source":       {what: "compose's name", fix: "write hostPath: {path: PATH}", instead: []string{"spec.volumes"}},
		"spec.volumes[].target":       {what: "compose's name", fix: "write a volumeMount {name, mountPath}"},
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
	policy := map[string]string{"always": "Always", "unless-stopped": "Always", "on-failure": "OnFailure", "no": "Never"}
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

// wrongForm notes a value of another kind than its field has.
func (d *decoder) wrongForm(n, place *yaml.Node, t reflect.Type, at *field.Path) {
	found := "found " + describe(n)
	where := pattern(at)
	if form, ok := forms()[where]; ok {
		if fix := form(n); fix != "" {
			d.fault(place, at, found+"; "+fix)
			return
		}
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	message := found + "; allowed: "
	switch kind := kindOf(n); {
	case t.Kind() == reflect.String && (kind == "bool" || kind == "number"):
		if words := enums()[where]; len(words) > 0 {
			message += strings.Join(words, ", ")
			if where == "spec.restartPolicy" && n.Value == "no" {
				message += "; did you mean Never?"
			}
			break
		}
		message += "a string" + quoteIt(n)
	case t.Kind() == reflect.String && kind == "map":
		message += `a string; text with ": " or braces in it needs quotes`
		if len(n.Content) == 2 && n.Content[1].Kind == yaml.ScalarNode && n.Content[1].Value != "" {
			message = fmt.Sprintf("%s; allowed: a string: write %s, as text with %q in it needs quotes", found, strconv.Quote(n.Content[0].Value+": "+n.Content[1].Value), ": ")
		}
	case t.Kind() == reflect.Bool && kind == "string" && (n.Value == "true" || n.Value == "false"):
		message += "true or false without quotes: write " + n.Value
	case (t.Kind() == reflect.Int32 || t.Kind() == reflect.Int64) && kind == "string" && isNumber(n.Value):
		message += "a whole number without quotes: write " + n.Value
	case (t.Kind() == reflect.Int32 || t.Kind() == reflect.Int64) && kind == "number" && isWhole(n.Value):
		most := uint64(1)<<(t.Bits()-1) - 1
		message += fmt.Sprintf("a whole number from -%d to %d", most+1, most)
	default:
		message += expected(t)
		if name, _, ok := strings.Cut(n.Value, ":"); ok && t.Kind() == reflect.Struct && kind == "string" && fields(t)[name] != nil {
			message = found + "; allowed: a space after the colon of " + name
		}
	}
	d.fault(place, at, message)
}

func isNumber(s string) bool {
	_, err := strconv.ParseInt(s, 10, 64)
	return err == nil
}

// isWhole returns whether a number has digits alone, however many.
func isWhole(s string) bool {
	s = strings.TrimLeft(s, "+-")
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// forms say for a value of the wrong kind, by the pattern of its path, what to write; "" is nothing
// in particular.
func forms() map[string]func(*yaml.Node) string {
	scalar := func(f func(string) string) func(*yaml.Node) string {
		return func(n *yaml.Node) string {
			if n.Kind != yaml.ScalarNode {
				return ""
			}
			return f(n.Value)
		}
	}
	list := func(n *yaml.Node) string {
		if n.Kind != yaml.ScalarNode || n.Value == "" {
			return ""
		}
		return "allowed: a list of strings: write " + words(n.Value)
	}
	name := scalar(func(s string) string {
		if isNumber(s) {
			return ""
		}
		if user, _, ok := strings.Cut(s, ":"); ok && isNumber(user) {
			return "allowed: a number; the group is runAsGroup"
		}
		return "allowed: a number, which /etc/passwd and /etc/group of the image have for the name" + number(s)
	})
	seconds := scalar(func(s string) string {
		if v, err := time.ParseDuration(s); err == nil && v >= 0 && v%time.Second == 0 && !isNumber(s) {
			return fmt.Sprintf("allowed: a whole number of seconds: write %d", int64(v/time.Second))
		}
		return ""
	})
	inPath := scalar(func(s string) string { return fmt.Sprintf("allowed: a map: write {path: %s}", s) })
	return map[string]func(*yaml.Node) string{
		"spec.env": func(n *yaml.Node) string {
			return "allowed: a list of {name, value}: " + writeEnv(n)
		},
		"spec.env[]": func(n *yaml.Node) string {
			if n.Kind != yaml.ScalarNode {
				return ""
			}
			before, after, _ := strings.Cut(n.Value, "=")
			return fmt.Sprintf("allowed: {name, value}: write {name: %s, value: %s}", before, strconv.Quote(after))
		},
		"spec.command": list,
		"spec.args":    list,
		"spec.volumes": func(n *yaml.Node) string {
			if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
				return ""
			}
			return fmt.Sprintf("allowed: a list: write - {name: %s, emptyDir: {}} or - {name: %s, hostPath: {path: PATH}}", n.Content[0].Value, n.Content[0].Value)
		},
		"spec.volumes[]": scalar(func(s string) string {
			parts := strings.Split(s, ":")
			if len(parts) < 2 {
				return fmt.Sprintf("allowed: a map: write {name: %s, emptyDir: {}} or {name: %s, hostPath: {path: PATH}}", label(s), label(s))
			}
			source, volume := parts[0], label(parts[0])
			what := "hostPath: {path: " + source + "}"
			switch {
			case strings.HasPrefix(source, "/"):
			case strings.ContainsAny(source, "./~"):
				what = "hostPath: {path: /absolute/path/of/" + path.Base(source) + "}"
			default:
				what = "emptyDir: {}"
			}
			mount := fmt.Sprintf("{name: %s, mountPath: %s", volume, parts[1])
			if len(parts) > 2 && strings.Contains(parts[2], "ro") {
				mount += ", readOnly: true"
			}
			return fmt.Sprintf("compose's short form is not read: write volumes: [{name: %s, %s}] and volumeMounts: [%s}]", volume, what, mount)
		}),
		"spec.volumeMounts[]": scalar(func(s string) string {
			volume, to, ok := strings.Cut(s, ":")
			if !ok {
				return fmt.Sprintf("allowed: a map: write {name: %s, mountPath: PATH}", label(s))
			}
			return fmt.Sprintf("allowed: a map: write {name: %s, mountPath: %s}", label(volume), to)
		}),
		"spec.securityContext.capabilities": func(n *yaml.Node) string {
			if n.Kind != yaml.SequenceNode {
				return ""
			}
			var names []string
			for _, item := range n.Content {
				names = append(names, resolve(item).Value)
			}
			return "allowed: a map: write {add: [" + strings.Join(names, ", ") + "]}"
		},
		"spec.securityContext.seccompProfile": scalar(func(s string) string { return "allowed: a map: write {type: " + s + "}" }),
		"spec.securityContext.runAsUser":      name,
		"spec.securityContext.runAsGroup":     name,
		"spec.rootfs":                         inPath,
		"spec.archive":                        inPath,
		"spec.volumes[].hostPath":             inPath,
		"spec.volumes[].emptyDir":             scalar(func(string) string { return "allowed: a map: write {} for the node's disk, or {medium: Memory}" }),
		"spec.terminationGracePeriodSeconds":  seconds,
		"spec.restartBackOff.initialSeconds":  seconds,
		"spec.restartBackOff.maxSeconds":      seconds,
		"spec": func(n *yaml.Node) string {
			if n.Kind != yaml.SequenceNode {
				return ""
			}
			return "allowed: a map; the fields of one container stand directly in it, without -"
		},
	}
}

// number is a hint for the names of users that every system has.
func number(name string) string {
	switch name {
	case "root":
		return ": write 0"
	case "nobody", "nogroup":
		return ": write 65534"
	}
	return ""
}

// label makes a volume's name of the last element of a path.
func label(s string) string {
	s = strings.ToLower(path.Base(s))
	s = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, s), "-")
	if s == "" {
		return "data"
	}
	return s
}

// words shows a command line as a list: through a shell if it needs one.
func words(s string) string {
	split := strings.Fields(s)
	if strings.ContainsAny(s, "|&;<>()$`\\\"'*?[]#~{}") || len(split) == 0 {
		split = []string{"sh", "-c", s}
	}
	for i, w := range split {
		split[i] = strconv.Quote(w)
	}
	return "[" + strings.Join(split, ", ") + "]"
}

// emptyField notes a field without a value where that means something else than the user thinks.
func (d *decoder) emptyField(p pair, at *field.Path) {
	switch pattern(at) {
	case "spec.volumes[].emptyDir":
		d.fault(p.key, at, "found nothing; allowed: a map: write emptyDir: {}")
	case "spec.image", "spec.rootfs", "spec.archive", "metadata.name", "spec.volumes[].hostPath":
		d.fault(p.key, at, "found nothing; write a value after the colon, or remove the field", "spec.image")
	}
}

// quantityHint says what a quantity that cannot be read may have meant.
func quantityHint(s string, at *field.Path) string {
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ% ")
	unit := strings.ToLower(strings.TrimSpace(s[len(digits):]))
	if _, err := strconv.ParseFloat(digits, 64); err == nil && digits != "" {
		if unit == "%" {
			return "allowed: an amount, not a share: write 500m for half a CPU, or 64Mi of memory"
		}
		if strings.HasSuffix(pathOf(at), "[cpu]") {
			return "allowed: a number of CPUs such as 2, 0.5 or 500m"
		}
		letter := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(unit, "ytes"), "b"), "i")
		if power, ok := map[string]string{"k": "Ki", "m": "Mi", "g": "Gi", "t": "Ti", "p": "Pi", "e": "Ei"}[letter]; ok {
			return fmt.Sprintf("allowed: a quantity: write %s%s", digits, power)
		}
		if unit == "b" || unit == "bytes" {
			return "allowed: a quantity: write " + digits
		}
	}
	if strings.HasSuffix(pathOf(at), "[cpu]") {
		return "allowed: a number of CPUs such as 2, 0.5 or 500m"
	}
	return "allowed: a quantity such as 64Mi (binary) or 64M (decimal)"
}
