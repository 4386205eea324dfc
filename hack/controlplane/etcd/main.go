// SPDX-License-Identifier: Apache-2.0

// Command etcd is etcd's own server, built from its module: the module ships
// no main package of its own under a path that `go build` can name.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
