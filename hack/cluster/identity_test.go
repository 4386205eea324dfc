// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func TestIdentities(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	ca, err := openAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.client("agent", "berth:node:n1", "berth:nodes"); err != nil {
		t.Fatal(err)
	}
	before, _, err := readPair(dir, "agent")
	if err != nil {
		t.Fatal(err)
	}
	if before.Subject.CommonName != "berth:node:n1" || !slices.Equal(before.Subject.Organization,
		[]string{"berth:nodes"}) {
		t.Errorf("subject = %v", before.Subject)
	}

	// What a second cluster-up finds stays as it is, and still verifies.
	ca, err = openAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.client("agent", "berth:node:n1", "berth:nodes"); err != nil {
		t.Fatal(err)
	}
	after, _, err := readPair(dir, "agent")
	if err != nil {
		t.Fatal(err)
	}
	if !after.Equal(before) {
		t.Error("the certificate was made anew")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	if _, err := after.Verify(x509.VerifyOptions{
		Roots:     roots,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		t.Error(err)
	}

	// Another user under the same name is another certificate.
	if err := ca.client("agent", "berth:node:n2", "berth:nodes"); err != nil {
		t.Fatal(err)
	}
	if other, _, err := readPair(dir, "agent"); err != nil ||
		other.Subject.CommonName != "berth:node:n2" {
		t.Errorf("subject = %v, err = %v", other.Subject, err)
	}

	path := filepath.Join(dir, "kubeconfig")
	if err := ca.kubeconfig(path, "https://127.0.0.1:1", "agent"); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://127.0.0.1:1" || len(config.CAData) == 0 || len(config.CertData) == 0 ||
		len(config.KeyData) == 0 {
		t.Errorf("kubeconfig reads as %v", config)
	}

	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", e.Name(), info.Mode())
		}
	}
}
