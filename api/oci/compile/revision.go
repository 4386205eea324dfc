// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/v1alpha1"
)

// revisions returns the fields of OCIBundle.spec that an agent must know, with the
// v1alpha1.AgentRevision that they came with. A path is that of JSON, with [] for an element of an
// array: "volumes[].image", "config.linux.newField".
//
// A field that every agent may ignore needs no entry if it came with revision 1. Later ones always
// do: from revision 1 on, an agent refuses a field that it does not know.
func revisions() map[string]int32 {
	out := map[string]int32{
		"seccompProfile": 1,
		// An agent that does not watch the namespace of its node does not see an OCIBundle there.
		"containerRef.namespace": 2,
		"former":                 2,
		"former.uid":             2,
		"former.generation":      2,

		"restartBackOff":                2,
		"restartBackOff.initialSeconds": 2,
		"restartBackOff.maxSeconds":     2,
		"logging":                       2,
		"logging.maxSize":               2,
		"logging.maxFiles":              2,

		"process.ulimits":        3,
		"process.ulimits[].name": 3,
		"process.ulimits[].soft": 3,
		"process.ulimits[].hard": 3,

		"devices":           3,
		"subPaths":          3,
		"subPaths[].mount":  3,
		"subPaths[].source": 3,
		"subPaths[].path":   3,
		"subPaths[].expand": 3,

		"allDevices":              3,
		"devices[].path":          3,
		"devices[].containerPath": 3,
		"devices[].permissions":   3,
		"devices[].cdi":           3,

		"userNamespace":                             3,
		"hostUsers":                                 3,
		"security":                                  3,
		"security.fsGroup":                          3,
		"security.fsGroupChangePolicy":              3,
		"security.appArmorProfile":                  3,
		"security.localhostSeccompProfile":          3,
		"security.appArmorProfile.type":             3,
		"security.appArmorProfile.localhostProfile": 3,

		"security.seLinuxOptions":       3,
		"security.seLinuxOptions.user":  3,
		"security.seLinuxOptions.role":  3,
		"security.seLinuxOptions.type":  3,
		"security.seLinuxOptions.level": 3,

		"image.pullSecrets":  3,
		"serviceAccountName": 3,
		"volumePullSecrets":  3,

		"onConfigChange":     3,
		"configChangeSignal": 3,

		"dependsOn":             3,
		"dependsOn[].name":      3,
		"dependsOn[].condition": 3,

		"network":      2,
		"network.none": 2,

		"network.networks":           3,
		"network.networks[].name":    3,
		"network.networks[].aliases": 3,

		"network.container": 3,

		"network.ports":                 2,
		"network.ports[].hostPort":      2,
		"network.ports[].hostIP":        2,
		"network.ports[].containerPort": 2,
		"network.ports[].protocol":      2,
	}
	newest := environmentFields + nameFields + bandwidthFields + claimFields + " " + volumeFields()
	for _, path := range strings.Fields(newest) {
		out[path] = 3
	}
	return out
}

// volumeFields returns the fields of volumes that came with revision 3, with all that they may
// hold.
func volumeFields() string {
	const items = "items items[].key items[].path items[].mode items[].user"
	const fields = `items items[].path items[].mode items[].user items[].fieldRef
		items[].fieldRef.apiVersion items[].fieldRef.fieldPath items[].resourceFieldRef
		items[].resourceFieldRef.containerName items[].resourceFieldRef.resource
		items[].resourceFieldRef.divisor`
	const defaults = " defaultMode defaultUser "
	out := "downward downward[].path downward[].value"
	for _, list := range []string{
		"configMap name optional" + defaults + items,
		"secret secretName optional" + defaults + items,
		"downwardAPI" + defaults + fields,
		"projected sources defaultMode",
		"projected.sources[].configMap name optional " + items,
		"projected.sources[].secret name optional " + items,
		"projected.sources[].downwardAPI " + fields,
		"projected.sources[].serviceAccountToken audience expirationSeconds path user",
		"persistentVolumeClaim claimName readOnly",
		"container name volume",
		"image reference pullPolicy",
	} {
		at, below, _ := strings.Cut(list, " ")
		at = "volumes[]." + at
		out += " " + at
		for _, field := range strings.Fields(below) {
			out += " " + at + "." + field
		}
	}
	return out
}

// environmentFields are process.env and process.envFrom with all that they may hold.
const environmentFields = `process.env process.env[].name process.env[].value process.env[].valueFrom
	process.env[].valueFrom.fieldRef
	process.env[].valueFrom.fieldRef.apiVersion
	process.env[].valueFrom.fieldRef.fieldPath
	process.env[].valueFrom.resourceFieldRef
	process.env[].valueFrom.resourceFieldRef.containerName
	process.env[].valueFrom.resourceFieldRef.resource
	process.env[].valueFrom.resourceFieldRef.divisor
	process.env[].valueFrom.configMapKeyRef
	process.env[].valueFrom.configMapKeyRef.name
	process.env[].valueFrom.configMapKeyRef.key
	process.env[].valueFrom.configMapKeyRef.optional
	process.env[].valueFrom.secretKeyRef
	process.env[].valueFrom.secretKeyRef.name
	process.env[].valueFrom.secretKeyRef.key
	process.env[].valueFrom.secretKeyRef.optional
	process.env[].valueFrom.fileKeyRef
	process.env[].valueFrom.fileKeyRef.volumeName
	process.env[].valueFrom.fileKeyRef.path
	process.env[].valueFrom.fileKeyRef.key
	process.env[].valueFrom.fileKeyRef.optional
	process.envFrom process.envFrom[].prefix
	process.envFrom[].configMapRef process.envFrom[].configMapRef.name
	process.envFrom[].configMapRef.optional
	process.envFrom[].secretRef process.envFrom[].secretRef.name process.envFrom[].secretRef.optional`

// bandwidthFields are network.bandwidth with all that it may hold.
const bandwidthFields = ` network.bandwidth network.bandwidth.ingress network.bandwidth.egress`

// claimFields are claims with all that they may hold.
const claimFields = ` claims claims[].name claims[].uid claims[].volumeName claims[].kind claims[].path
	claims[].type claims[].readOnly `

// nameFields are names with all that it may hold.
const nameFields = ` names names.subdomain names.setHostnameAsFQDN names.dnsPolicy
	names.hostAliases names.hostAliases[].ip names.hostAliases[].hostnames
	names.dnsConfig names.dnsConfig.nameservers names.dnsConfig.searches
	names.dnsConfig.options names.dnsConfig.options[].name names.dnsConfig.options[].value`

// MinAgentRevision returns the lowest revision of an agent that knows every field which the spec
// uses. A spec that uses nothing new has a low one, so that agents of several versions work side by
// side during an upgrade.
func MinAgentRevision(spec *v1alpha1.OCIBundleSpec) int32 {
	lowest := minRevision(spec, revisions())
	if spec.Image != nil && strings.HasPrefix(spec.Image.Reference, archivePrefix) {
		lowest = max(lowest, archiveRevision)
	}
	if slices.ContainsFunc(spec.Volumes, func(v v1alpha1.Volume) bool {
		return v.EmptyDir != nil && (isHugePages(v.EmptyDir.Medium) ||
			v.EmptyDir.Medium == "" && v.EmptyDir.SizeLimit != nil)
	}) {
		lowest = max(lowest, emptyDirRevision)
	}
	if limitsSwap(spec) {
		lowest = max(lowest, swapRevision)
	}
	return lowest
}

// archiveRevision is the first AgentRevision that knows references of archivePrefix.
const archiveRevision = 1

// swapRevision is the first AgentRevision that refuses a limit of swap on a node that cannot hold
// it; earlier ones drop it there.
const swapRevision = 3

// limitsSwap reports whether a document has another limit of memory and swap than of memory alone.
func limitsSwap(spec *v1alpha1.OCIBundleSpec) bool {
	var document specs.Spec
	if err := json.Unmarshal(spec.Config.Raw, &document); err != nil || document.Linux == nil {
		return false
	}
	r := document.Linux.Resources
	return r != nil && r.Memory != nil && r.Memory.Swap != nil &&
		(r.Memory.Limit == nil || *r.Memory.Limit != *r.Memory.Swap)
}

// emptyDirRevision is the first AgentRevision that honours the sizeLimit of an emptyDir on disk,
// and huge pages.
const emptyDirRevision = 3

func minRevision(spec *v1alpha1.OCIBundleSpec, table map[string]int32) int32 {
	if len(table) == 0 {
		return 0
	}
	var document any
	if text, err := json.Marshal(spec); err != nil || json.Unmarshal(text, &document) != nil {
		return v1alpha1.AgentRevision // it is no JSON: whoever can read it knows everything
	}
	var lowest int32
	walk("", document, func(path string) { lowest = max(lowest, table[path]) })
	return lowest
}

// walk calls visit with the path of every field of a JSON value.
func walk(path string, value any, visit func(path string)) {
	switch value := value.(type) {
	case map[string]any:
		for name, v := range value {
			at := name
			if path != "" {
				at = path + "." + name
			}
			visit(at)
			walk(at, v, visit)
		}
	case []any:
		for _, v := range value {
			walk(path+"[]", v, visit)
		}
	}
}
