// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/berth-run/berth/api/v1alpha1"
)

// identify refuses documents that are not Containers; another spelling of kind or version is only
// noted. Documents of the other supported kinds come here with a wrong version alone.
func (d *decoder) identify(root *yaml.Node) *Fault {
	fault := func(n *yaml.Node, path, message string) *Fault {
		return &Fault{Line: d.line + n.Line, Column: n.Column, Field: d.below(path), Message: message}
	}
	if root.Kind != yaml.MappingNode {
		return fault(root, "", "found "+describe(root)+
			"; allowed: a Container, which begins with apiVersion and kind")
	}
	entry := func(name string) *yaml.Node {
		for i := 0; i+1 < len(root.Content); i += 2 {
			if root.Content[i].Value == name {
				return resolve(root.Content[i+1])
			}
		}
		return nil
	}
	apiVersion, kind := entry("apiVersion"), entry("kind")
	text := func(n *yaml.Node) string {
		if n == nil || n.Kind != yaml.ScalarNode {
			return ""
		}
		return n.Value
	}
	version := v1alpha1.GroupVersion.String()
	if text(apiVersion) == version && text(kind) == containerKind {
		return nil
	}
	at := root
	switch {
	case kind != nil && text(kind) != containerKind:
		at = kind
	case apiVersion != nil:
		at = apiVersion
	}
	message := fmt.Sprintf("found %q, %q; allowed: %q, %q", text(apiVersion), text(kind), version,
		containerKind)
	switch {
	case apiVersion == nil && kind == nil && entry("services") != nil:
		message += "; this looks like a compose file: write each service as a Container of its own"
	case text(kind) == kindList || text(kind) == containerKind+kindList:
		message += fmt.Sprintf("; a list is of apiVersion \"v1\" and kind %q", kindList)
	case text(kind) != containerKind && nearest(text(kind), []string{containerKind}) != "":
		message += fmt.Sprintf("; did you mean %q?", containerKind)
	case slices.Contains([]string{
		"Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "Job", "CronJob",
	}, text(kind)):
		message += "; write each container of the " + text(kind) +
			" as a Container: its fields stand directly in spec. Or write metadata and spec of its template" +
			" as a Pod"
	case slices.Contains(append(objectKinds(), kindPod), text(kind)):
		message = fmt.Sprintf("found %q, %q; allowed: \"v1\", %q", text(apiVersion), text(kind),
			text(kind))
	}
	return fault(at, "apiVersion, kind", message)
}

const containerKind = "Container"
