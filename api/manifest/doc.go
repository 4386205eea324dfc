// SPDX-License-Identifier: Apache-2.0

// Package manifest reads Containers, and the ConfigMaps, Secrets and PersistentVolumeClaims that
// they refer to, from the text of a file: YAML or JSON, with any number of documents and Lists.
//
//	for _, d := range manifest.Parse(data) {
//		if d.Container != nil {
//			_, faults := compile.Bundle(d.Container)
//			d.Report(faults)
//		}
//		for _, f := range d.Faults {
//			fmt.Printf("web.yaml:%v\n", f) // web.yaml:7:3: spec.comand: found an unknown field; did you mean "command"?
//		}
//	}
//
// Every document is returned, and every fault of it at once, each with line, column and field path.
// Text is read as kubectl reads it: YAML 1.1 booleans, case-sensitive names, no unknown and no
// repeated fields. Messages name what was found and what is allowed, and recognize what people
// bring from Pods, compose files and docker's command line.
//
// The package is pure. It knows the types of Container, and not what compiles.
package manifest
