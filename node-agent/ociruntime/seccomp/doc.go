// SPDX-License-Identifier: Apache-2.0

// Package seccomp compiles the seccomp section of an OCI runtime spec
// (config-linux.md, "Seccomp") into a seccomp BPF program, in pure Go.
//
// The verdicts are those that runc gets from libseccomp for the same section;
// see Compile for the rules. The package knows nothing of containers, processes
// or the rest of the spec: it turns data into data, and loads no filter.
package seccomp
