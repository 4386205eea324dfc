// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// refusal is a field of a Pod that no Container has.
type refusal struct {
	// usual has values that are accepted, since they mean the same as an absent field.
	usual []string
	// instead says what to do, after "found a field of a Pod that Berth does not have yet; ".
	instead string
	// because replaces the whole message, if it is not empty.
	because string
}

// message returns the message for a field of an owner, such as "a Pod's container".
func (r refusal) message(owner string) string {
	if r.because != "" {
		return r.because
	}
	message := "found a field of " + owner + " that Berth does not have yet; remove it"
	if r.instead != "" {
		message += ", " + r.instead
	}
	return message
}

// podRefusals returns the fields of a Pod's spec that are refused, by name. TestEveryPodField fails
// for a field that is neither here nor honoured.
func podRefusals() map[string]refusal {
	const scheduler = "since there is one host and nothing is scheduled"
	return map[string]refusal{
		"activeDeadlineSeconds": {instead: "or limit the time in the program itself, as with timeout(1)"},
		"affinity":              {instead: scheduler},
		"automountServiceAccountToken": {
			usual:   []string{"false"},
			because: "found true; allowed: false or nothing, since there is no API server to have a token of",
		},
		// There is no Service, so there are no variables of any.
		"enableServiceLinks": {usual: []string{"true", "false"}},
		"ephemeralContainers": {
			instead: "and run programs in a container by berth-agent exec",
		},
		"evictionResponders": {instead: "since nothing is evicted to another node"},
		"hostnameOverride":   {instead: "and write hostname"},
		"os":                 {because: "found another system than linux; allowed: linux"},
		"overhead":           {instead: scheduler},
		"preemptionPolicy":   {usual: []string{"PreemptLowerPriority"}, instead: scheduler},
		"priority":           {instead: scheduler},
		"priorityClassName":  {instead: scheduler},
		"readinessGates":     {instead: "since there are no Services to be ready for"},
		"resourceClaims":     {instead: "or write a Container with devices"},
		"resources":          {instead: "and write resources of each container"},
		"schedulerName":      {usual: []string{"default-scheduler"}, instead: scheduler},
		"schedulingGates":    {instead: scheduler},
		"schedulingGroup":    {instead: scheduler},
		"serviceAccount": {
			usual:   []string{"default"},
			because: "found a ServiceAccount; allowed: default or nothing, since there is no API server that knows others",
		},
		"serviceAccountName": {
			usual:   []string{"default"},
			because: "found a ServiceAccount; allowed: default or nothing, since there is no API server that knows others",
		},
		"shareProcessNamespace": {
			instead: "or write hostPID: true, with which the containers see each other and all of the node's processes",
		},
		"topologySpreadConstraints": {instead: scheduler},
	}
}

// containerRefusals returns the fields of a Pod's container that are refused.
func containerRefusals() map[string]refusal {
	const probe = "and have the program end when it fails, so that it is started again"
	return map[string]refusal{
		"lifecycle": {
			instead: "and do the work in the program itself, or in an init container",
		},
		"livenessProbe":  {instead: probe},
		"readinessProbe": {},
		"resizePolicy": {
			because: "found a restart for new resources; allowed: NotRequired, since a running container gets them",
		},
		"restartPolicyRules": {instead: "and write restartPolicy"},
		"startupProbe":       {instead: probe},
		"stdin":              {},
		"stdinOnce":          {},
		"terminationMessagePath": {
			usual:   []string{"/dev/termination-log"},
			instead: "and write the message to the log",
		},
		"terminationMessagePolicy": {
			usual: []string{"File"}, instead: "and read the message in the log",
		},
		"tty":           {},
		"volumeDevices": {instead: "or write a Container with devices"},
	}
}

// podSecurityRefusals returns the fields of a Pod's securityContext that are refused here. Others
// that no Container has, such as windowsOptions, are the compiler's to refuse.
func podSecurityRefusals() map[string]refusal {
	return map[string]refusal{
		"seLinuxChangePolicy":      {usual: []string{"Recursive"}},
		"supplementalGroupsPolicy": {usual: []string{"Merge"}},
	}
}

// refuse adds a fault for each refused field of a struct, unless it has the usual value. A value
// without content, such as {} or false, means the same as an absent field.
func (d *decoder) refuse(at, owner string, object any, refusals map[string]refusal) {
	v := reflect.Indirect(reflect.ValueOf(object))
	if !v.IsValid() {
		return
	}
	values := map[string]reflect.Value{}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values[name] = v.Field(i)
	}
	for _, name := range slices.Sorted(maps.Keys(refusals)) {
		r, value := refusals[name], reflect.Indirect(values[name])
		if !value.IsValid() || empty(value) || name == "os" && isLinux(value) ||
			name == "resizePolicy" && inPlace(value) ||
			slices.Contains(r.usual, fmt.Sprint(value.Interface())) {
			continue
		}
		d.faultAtField(at+"."+name, r.message(owner))
	}
}

// empty reports whether a value has no content.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

// isLinux reports whether a Pod's os is linux.
func isLinux(os reflect.Value) bool { return os.FieldByName("Name").String() == "linux" }

// inPlace reports whether a resizePolicy restarts no container: resources change in place anyway.
func inPlace(policies reflect.Value) bool {
	for i := range policies.Len() {
		if policies.Index(i).FieldByName("RestartPolicy").String() != "NotRequired" {
			return false
		}
	}
	return true
}

// faultAtField adds a fault at the name of a field.
func (d *decoder) faultAtField(path, message string) {
	above := parent(path)
	key := d.places[above+"\x00"+strings.TrimPrefix(path[len(above):], ".")]
	d.faultAt(key, path, message)
}

// faultAtValue adds a fault at the value of a field or, if it is absent, of its nearest parent.
func (d *decoder) faultAtValue(path, message string) { d.faultAt(nil, path, message) }

func (d *decoder) faultAt(n *yaml.Node, path, message string) {
	if len(d.faults) >= manyFaults {
		return
	}
	f := Fault{Line: d.line + 1, Column: 1, Field: d.below(path), Message: message}
	for at := path; n == nil && at != ""; at = parent(at) {
		n = d.places[at]
	}
	if n != nil {
		f.Line, f.Column = d.line+n.Line, n.Column
	}
	d.faults = append(d.faults, f)
	d.touched = append(d.touched, path)
}
