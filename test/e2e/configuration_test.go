// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestConfiguration applies the samples with ConfigMaps and Secrets as their comments say. A change
// of an object reaches the files of a running container, and restarts the one that asks for that.
// No value of a Secret is in an OCIBundle.
func TestConfiguration(t *testing.T) {
	cleanAfter(t, "configfiles", "configuration")
	t.Cleanup(func() {
		kube(t, "delete", "configmaps,secrets", "shop", "shop-login", "greeting", "login",
			"--ignore-not-found")
	})
	sample := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, "config/samples", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	logged := func(name, want string) {
		t.Helper()
		eventually(t, 3*time.Minute, func() error {
			status := get(t, name).Status
			if status.LogPath == "" {
				return fmt.Errorf("%s: found %+v", name, status)
			}
			data, err := os.ReadFile(status.LogPath)
			if err == nil && !strings.Contains(string(data), want) {
				err = fmt.Errorf("%s: found the log %q; want %q", name, data, want)
			}
			return err
		})
	}
	files, variables := sample("configfiles.yaml"), sample("configuration.yaml")

	// Without its objects, a container waits for them and says so.
	docs := strings.Split(files, "\n---\n")
	apply(t, docs[len(docs)-1])
	condition(t, "configfiles", "Running", "CreateContainerConfigError",
		"spec.volumes[0].configMap: found no ConfigMap shop")
	apply(t, files)
	apply(t, variables)
	logged("configfiles", "currency = EUR, the password has 13 characters, team shop\n")
	logged("configuration", "Hello, world; the password has 13 characters")
	pid := get(t, "configfiles").Status.PID

	apply(t, strings.Replace(files, "currency = EUR", "currency = CHF", 1))
	apply(t, strings.Replace(variables, "GREETING: Hello", "GREETING: Good night", 1))
	logged("configfiles", "currency = CHF, the password has 13 characters, team shop\n")
	logged("configuration", "Good night, world; the password has 13 characters")
	if now := get(t, "configfiles").Status; now.PID != pid || now.RestartCount != 0 {
		t.Errorf("configfiles: found %+v; want the process %d", now, pid)
	}
	bundles := kube(t, "get", "ocibundles", "--all-namespaces", "-o", "yaml")
	if !strings.Contains(bundles, "shop-login") {
		t.Errorf("found OCIBundles that do not name the Secret:\n%s", bundles)
	}
	for _, value := range []string{"correct horse", "Y29ycmVjdCBob3JzZQ"} {
		if strings.Contains(bundles, value) {
			t.Errorf("found the value of a Secret in an OCIBundle")
		}
	}
}
