// SPDX-License-Identifier: Apache-2.0

// Package document decodes the documents of the runtime specification, config.json and the
// process.json of `exec --process`, and reports every fault of their form with its path and
// position: text that is no JSON, a value of a wrong type, a name that an object has twice, a
// required field that is missing.
//
//	d := document.Decode(text)
//	for _, f := range d.Faults() {
//		fmt.Println(f) // process.user.uid: found "-1" at line 3, offset 87; allowed: a whole number ...
//	}
//	d.Value.Hostname // d.Value is nil if the text is no JSON object
//
// Fault is also the type in which api/oci/validate reports faults of the values. This package must
// not know which values are good, nor Kubernetes, a handler or a host.
package document
