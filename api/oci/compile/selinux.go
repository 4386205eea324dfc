// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxLabelPart is the greatest length of a part of an SELinux label. The kernel takes a page for a
// whole one.
const maxLabelPart = 255

// seLinux passes the parts of an SELinux label to the agent, which knows the node's policy. A part
// becomes one of a text with colons, so it has none.
func seLinux(d *draft, at *field.Path, o *corev1.SELinuxOptions) {
	const name, level = "letters, digits, _, . and -", "letters, digits, _, ., -, comma and colon"
	for _, part := range []struct {
		name, value, more, allowed string
	}{
		{"user", o.User, "", name},
		{"role", o.Role, "", name},
		{"type", o.Type, "", name},
		{"level", o.Level, ",:", level},
	} {
		if len(part.value) > maxLabelPart {
			d.faults = append(d.faults, field.TooLong(at.Child(part.name), "", maxLabelPart))
		} else if strings.ContainsFunc(part.value, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') &&
				!strings.ContainsRune("_.-"+part.more, r)
		}) {
			d.invalid(at.Child(part.name), part.value, "must consist of "+part.allowed)
		}
	}
	if d.privileged() && o.Type == "" {
		d.faults = append(d.faults, field.Required(at.Child("type"), "the default type confines, and the"+
			" container is privileged: name a type such as spc_t, or remove seLinuxOptions"))
	}
	d.security().SELinuxOptions = &corev1.SELinuxOptions{
		User: o.User, Role: o.Role, Type: o.Type, Level: o.Level,
	}
}
