// SPDX-License-Identifier: Apache-2.0

// Package deletion honours the grace period of a deletion: `kubectl delete --grace-period`, --now
// and --force on a Container. For custom resources the API server drops it, and stores a grace
// period of 0 whatever was asked for. So an admission webhook reads it from the request and writes
// it into spec.terminationGracePeriodSeconds of the Container before it allows the deletion. It
// refuses nothing, and the API server goes on without it where it does not answer (config/webhook).
//
// Every replica of the controller serves the webhook, with one certificate that they share in a
// Secret. The libraries for that, such as open-policy-agent/cert-controller, want to read all
// Secrets of the namespace and to have this one mounted, which delays the first certificate by a
// minute; so the package keeps it by itself.
package deletion
