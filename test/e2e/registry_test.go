// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/base64"
	"testing"

	"github.com/berth-run/berth/internal/registrytest"
)

// TestPrivateRegistry: a Container with a Secret of credentials gets its image from a private
// registry, and another one without them does not, although the image is on the node by then.
func TestPrivateRegistry(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{Private: true})
	reference := reg.Push(t, "team/app:1", registrytest.ReadArchive(t, "/var/lib/berth/archives/hello.tar"))
	cleanAfter(t, "mine", "other")
	t.Cleanup(func() { kube(t, "delete", "secret", "registry-login", "--ignore-not-found") })
	spec := func(name, more string) string {
		return "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata: {name: " + name + "}\nspec:\n  image: " +
			reference + "\n  command: [sleep, \"3600\"]\n  terminationGracePeriodSeconds: 1\n" + more
	}
	const secrets = "  imagePullSecrets: [{name: registry-login}]\n"
	apply(t, spec("mine", secrets))
	condition(t, "mine", "ImageReady", "ImagePullFailed", "there is no Secret default/registry-login")
	config := base64.StdEncoding.EncodeToString(registrytest.Config(registrytest.Password, reg.Host))
	apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: registry-login}\n"+
		"type: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: "+config+"}\n")
	condition(t, "mine", "Ready", "Started", "")
	apply(t, spec("other", ""))
	condition(t, "other", "ImageReady", "ImagePullFailed", "the registry refuses an anonymous pull")
	kube(t, "delete", "container", "other", "--timeout=3m")
	apply(t, spec("other", secrets))
	condition(t, "other", "Ready", "Started", "")
}
