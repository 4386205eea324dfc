// SPDX-License-Identifier: Apache-2.0

// Package validate says everything that is wrong with a runtime-spec document:
// every fault at once, each with the path of its field, what was found there
// and what is allowed.
//
//	spec, faults := validate.JSON(document, validate.Options{})
//	for _, f := range faults.Errors() {
//		fmt.Println(f) // mounts[3].destination: found ""; allowed: an absolute path
//	}
//
// The rules are those of the OCI runtime specification 1.3 and of the kernel
// interfaces that it names; docs/validation.md lists them and says where they
// are milder than the habits of other runtimes.
//
// The functions are pure: the same document gets the same answer on the
// controller, on the agent and in `berth validate`. Only OnHost looks at a file
// system, and only at the one it is given. This package must not know
// Kubernetes, a handler, a node, nor the tables of system calls of the native
// runtime (Options.KnownSyscall carries that knowledge in).
package validate
