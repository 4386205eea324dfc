// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"crypto/sha256"
	"encoding/hex"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source"
)

// ContainerID returns the id that the container of a bundle has with the supervisor:
// NAMESPACE_NAME_ and the first 8 characters of the UID, at most 128 characters. The name is
// shortened, and made sure of by a hash, where it would be longer.
func ContainerID(key source.Key, uid types.UID) string {
	u := string(uid)
	return shorten(key.Namespace+"_"+key.Name, "_"+u[:min(8, len(u))], 128)
}

// LogDirName returns the name of the directory of a container's logs: NAMESPACE_NAME_UID, shortened
// like ContainerID where it would be longer than a file name may be.
func LogDirName(key source.Key, uid types.UID) string {
	return shorten(key.Namespace+"_"+key.Name, "_"+string(uid), bundle.MaxNameLength)
}

func shorten(name, suffix string, limit int) string {
	if len(name)+len(suffix) <= limit {
		return name + suffix
	}
	sum := sha256.Sum256([]byte(name))
	hash := "+" + hex.EncodeToString(sum[:6])
	return name[:limit-len(suffix)-len(hash)] + hash + suffix
}
