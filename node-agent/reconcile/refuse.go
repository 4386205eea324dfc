// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	strictjson "sigs.k8s.io/json"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// olderAgent explains a refusal to people.
const olderAgent = "this agent is older than the controller: upgrade berth-agent on the node"

// unowned explains why a bundle is not run that belongs to no Container. Admission control lets
// only the controller create OCIBundles; the agent does not rely on it.
const unowned = "spec.containerRef: found none, so the OCIBundle belongs to no Container; allowed: what berth-controller compiles from a Container. " +
	"Create a Container in its place"

// refusal returns the reason why this agent does not honour a bundle, or "" if it does.
func refusal(b *v1alpha1.OCIBundle) (reason, message string) {
	if b.Owner().UID == "" {
		return v1alpha1.ReasonUnowned, unowned
	}
	if why := b.Annotations[source.AnnotationUnresolved]; why != "" {
		return v1alpha1.ReasonUnresolved, why
	}
	return v1alpha1.ReasonAgentTooOld, tooOld(b)
}

// tooOld returns a field of a bundle that this agent does not know, or "".
func tooOld(b *v1alpha1.OCIBundle) string {
	if fields := b.Annotations[source.AnnotationUnknownFields]; fields != "" {
		return fmt.Sprintf(
			"found %s, which this agent does not know; allowed: the fields of revision %d: %s", fields,
			v1alpha1.AgentRevision, olderAgent)
	}
	if least := b.Spec.MinAgentRevision; least > v1alpha1.AgentRevision {
		return fmt.Sprintf("spec.minAgentRevision: found %d; allowed: at most %d: %s", least,
			v1alpha1.AgentRevision, olderAgent)
	}
	return ""
}

// unknownInConfig returns why this agent cannot honour the document of a bundle, "" if it can.
func unknownInConfig(spec *v1alpha1.OCIBundleSpec) string {
	strict, err := strictjson.UnmarshalStrict(spec.Config.Raw, &specs.Spec{},
		strictjson.DisallowUnknownFields)
	if err != nil || len(strict) == 0 {
		return "" // what is no document at all is reported where it is read
	}
	return fmt.Sprintf("spec.config: found %s; allowed: the fields of runtime-spec %s: %s", strict[0],
		specs.Version, olderAgent)
}

// refuse finds out whether this agent can honour the desired spec.
func (in *Input) refuse() {
	if in.Desired == nil {
		return
	}
	in.RefusedReason, in.Refused = refusal(in.Desired)
	if in.Refused == "" && (in.Record == nil || in.Record.Hash != in.Hash) {
		in.Refused = unknownInConfig(&in.Desired.Spec)
	}
}
