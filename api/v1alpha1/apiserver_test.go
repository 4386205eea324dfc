// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// server is a kube-apiserver with Berth's kinds, started by the first test that
// asks for it and shared by all of the package.
var server struct {
	sync.Once
	env    *envtest.Environment
	config *rest.Config
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if server.env != nil {
		if err := server.env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the API server:", err)
		}
	}
	os.Exit(code)
}

// restConfig returns the configuration of clients of the API server.
func restConfig(t *testing.T) *rest.Config {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Fatal("KUBEBUILDER_ASSETS is not set: run make test, or export KUBEBUILDER_ASSETS=$(hack/controlplane/build.sh)")
	}
	server.Do(func() {
		server.env = &envtest.Environment{
			CRDDirectoryPaths:     []string{filepath.Join("..", "..", "config", "crd", "bases")},
			ErrorIfCRDPathMissing: true,
			CRDInstallOptions:     envtest.CRDInstallOptions{MaxTime: 5 * time.Minute},
		}
		if server.config, server.err = server.env.Start(); server.err != nil {
			return
		}
		// The policies of config/ hold a namespace without this label to restricted, once a test
		// has installed them.
		var c dynamic.Interface
		if c, server.err = dynamic.NewForConfig(server.config); server.err != nil {
			return
		}
		_, server.err = c.Resource(schema.GroupVersionResource{
			Version:  "v1",
			Resource: "namespaces",
		}).Patch(t.Context(), "default", types.MergePatchType,
			[]byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`),
			metav1.PatchOptions{})
	})
	if server.err != nil {
		t.Fatal("start the API server:", server.err)
	}
	return server.config
}

// controllerUser may create OCIBundles, also where a test has installed the policies.
func controllerUser() rest.ImpersonationConfig {
	return rest.ImpersonationConfig{
		UserName: "system:serviceaccount:berth-system:berth-controller",
		Groups:   []string{"system:masters", "system:authenticated"},
	}
}

func dynamicClient(t *testing.T) dynamic.Interface {
	t.Helper()
	c, err := dynamic.NewForConfig(restConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestKindsAreServed(t *testing.T) { dynamicClient(t) }
