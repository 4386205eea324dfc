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

// wrongForm notes a value of another kind than its field has.
func (d *decoder) wrongForm(n, place *yaml.Node, t reflect.Type, at *field.Path) {
	found := "found " + describe(n)
	where := d.pattern(at)
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
			message = fmt.Sprintf("%s; allowed: a string: write %s, as text with %q in it needs quotes",
				found, strconv.Quote(n.Content[0].Value+": "+n.Content[1].Value), ": ")
		}
	case t.Kind() == reflect.Bool && kind == "string" && (n.Value == "true" || n.Value == "false"):
		message += "true or false without quotes: write " + n.Value
	case (t.Kind() == reflect.Int32 || t.Kind() == reflect.Int64) && kind == "string" &&
		isNumber(n.Value):
		message += "a whole number without quotes: write " + n.Value
	case (t.Kind() == reflect.Int32 || t.Kind() == reflect.Int64) && kind == "number" &&
		isWhole(n.Value):
		most := uint64(1)<<(t.Bits()-1) - 1
		message += fmt.Sprintf("a whole number from -%d to %d", most+1, most)
	default:
		message += expected(t)
		if name, _, ok := strings.Cut(n.Value, ":"); ok && t.Kind() == reflect.Struct &&
			kind == "string" && fields(t)[name] != nil {
			message = found + "; allowed: a space after the colon of " + name
		}
	}
	d.fault(place, at, message)
}

func isNumber(s string) bool {
	_, err := strconv.ParseInt(s, 10, 64)
	return err == nil
}

// isWhole reports whether a number has digits alone, however many.
func isWhole(s string) bool {
	s = strings.TrimLeft(s, "+-")
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// forms returns advice for a value of the wrong kind by the pattern of its path, or "" if there is
// none.
func forms() map[string]func(*yaml.Node) string {
	name, seconds, inPath := scalar(writeID), scalar(writeSeconds), scalar(writePath)
	return map[string]func(*yaml.Node) string{
		"spec.env": func(n *yaml.Node) string {
			return "allowed: a list of {name, value}: " + writeEnv(n)
		},
		"spec.env[]":                        writeVariable,
		"spec.command":                      writeList,
		"spec.args":                         writeList,
		"spec.volumes":                      writeVolumes,
		"spec.volumes[]":                    scalar(writeVolume),
		"spec.volumeMounts[]":               scalar(writeVolumeMount),
		"spec.securityContext.capabilities": writeCapabilities,
		"spec.securityContext.seccompProfile": scalar(func(s string) string {
			return "allowed: a map: write {type: " + s + "}"
		}),
		"spec.securityContext.runAsUser":  name,
		"spec.securityContext.runAsGroup": name,
		"spec.rootfs":                     inPath,
		"spec.archive":                    inPath,
		"spec.volumes[].hostPath":         inPath,
		"spec.volumes[].emptyDir": scalar(func(string) string {
			return "allowed: a map: write {} for the node's disk, or {medium: Memory}"
		}),
		"spec.terminationGracePeriodSeconds": seconds,
		"spec.restartBackOff.initialSeconds": seconds,
		"spec.restartBackOff.maxSeconds":     seconds,
		"spec": func(n *yaml.Node) string {
			if n.Kind != yaml.SequenceNode {
				return ""
			}
			return "allowed: a map; the fields of one container stand directly in it, without -"
		},
	}
}

// scalar returns a form for scalars alone.
func scalar(f func(string) string) func(*yaml.Node) string {
	return func(n *yaml.Node) string {
		if n.Kind != yaml.ScalarNode {
			return ""
		}
		return f(n.Value)
	}
}

// writeList shows a command line as a list.
func writeList(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		return ""
	}
	return "allowed: a list of strings: write " + words(n.Value)
}

// writeID asks for the number of a user or group in place of its name.
func writeID(s string) string {
	if isNumber(s) {
		return ""
	}
	if user, _, ok := strings.Cut(s, ":"); ok && isNumber(user) {
		return "allowed: a number; the group is runAsGroup"
	}
	return "allowed: a number, which /etc/passwd and /etc/group of the image have for the name" +
		number(s)
}

// writeSeconds shows a duration such as 5m as a number of seconds.
func writeSeconds(s string) string {
	if v, err := time.ParseDuration(s); err == nil && v >= 0 && v%time.Second == 0 && !isNumber(s) {
		return fmt.Sprintf("allowed: a whole number of seconds: write %d", int64(v/time.Second))
	}
	return ""
}

// writePath shows a path as a map.
func writePath(s string) string { return fmt.Sprintf("allowed: a map: write {path: %s}", s) }

// writeVariable shows NAME=VALUE as an item of env.
func writeVariable(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return ""
	}
	before, after, _ := strings.Cut(n.Value, "=")
	return fmt.Sprintf("allowed: {name, value}: write {name: %s, value: %s}", before,
		strconv.Quote(after))
}

// writeVolumes shows a map of volumes as a list.
func writeVolumes(n *yaml.Node) string {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		return ""
	}
	return fmt.Sprintf(
		"allowed: a list: write - {name: %s, emptyDir: {}} or - {name: %s, hostPath: {path: PATH}}",
		n.Content[0].Value, n.Content[0].Value)
}

// writeVolume shows a volume in compose's short form, SOURCE:TARGET[:OPTIONS], as a volume and its
// mount.
func writeVolume(s string) string {
	parts := strings.Split(s, ":")
	if len(parts) < 2 {
		return fmt.Sprintf(
			"allowed: a map: write {name: %s, emptyDir: {}} or {name: %s, hostPath: {path: PATH}}", label(s),
			label(s))
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
	return fmt.Sprintf(
		"compose's short form is not read: write volumes: [{name: %s, %s}] and volumeMounts: [%s}]",
		volume, what, mount)
}

// writeVolumeMount shows NAME:PATH as a map.
func writeVolumeMount(s string) string {
	volume, to, ok := strings.Cut(s, ":")
	if !ok {
		return fmt.Sprintf("allowed: a map: write {name: %s, mountPath: PATH}", label(s))
	}
	return fmt.Sprintf("allowed: a map: write {name: %s, mountPath: %s}", label(volume), to)
}

// writeCapabilities shows a list of capabilities as those to add.
func writeCapabilities(n *yaml.Node) string {
	if n.Kind != yaml.SequenceNode {
		return ""
	}
	var names []string
	for _, item := range n.Content {
		names = append(names, resolve(item).Value)
	}
	return "allowed: a map: write {add: [" + strings.Join(names, ", ") + "]}"
}

// number returns a hint for the names of users that every system has.
func number(name string) string {
	switch name {
	case "root":
		return ": write 0"
	case "nobody", "nogroup":
		return ": write 65534"
	}
	return ""
}

// label derives a volume's name from the last element of a path.
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
	switch d.pattern(at) {
	case "spec.volumes[].emptyDir":
		d.fault(p.key, at, "found nothing; allowed: a map: write emptyDir: {}")
	case "spec.image", "spec.rootfs", "spec.archive", "metadata.name", "spec.volumes[].hostPath":
		d.fault(p.key, at, "found nothing; write a value after the colon, or remove the field",
			"spec.image")
	}
}

// quantityHint guesses the intended value of an invalid quantity.
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
		power, ok := map[string]string{
			"k": "Ki", "m": "Mi", "g": "Gi", "t": "Ti", "p": "Pi",
			"e": "Ei",
		}[letter]
		if ok {
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
