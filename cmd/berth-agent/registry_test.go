// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/registrytest"
)

// untilPullFailed waits for a failed pull whose message has all words, and returns the message.
func (h *host) untilPullFailed(name string, words ...string) string {
	h.t.Helper()
	var message string
	h.until(name+" has a failed pull: "+strings.Join(words, ", "), func() bool {
		c := h.get(name)
		if c == nil {
			return false
		}
		image := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionImageReady)
		if image == nil || image.Reason != v1alpha1.ReasonImagePullFailed {
			return false
		}
		message = image.Message
		for _, w := range words {
			if !strings.Contains(message, w) {
				return false
			}
		}
		return true
	})
	return message
}

// logShowsNo fails the test if the agent's log has a text.
func (h *host) logShowsNo(secret string) {
	h.t.Helper()
	log, err := os.ReadFile(h.path("agent.log"))
	if err != nil {
		h.t.Fatal(err)
	}
	if strings.Contains(string(log), secret) {
		h.t.Errorf("the agent's log shows %q", secret)
	}
}

// TestStandaloneRegistryConfig pulls from a private registry with TLS, whose authority is in a
// hosts.toml. The password in the file of
// --registry-config is wrong at first, and the file is corrected while the agent runs.
func TestStandaloneRegistryConfig(t *testing.T) {
	t.Parallel()
	reg := registrytest.Start(t, registrytest.Options{TLS: true, Private: true})
	h := newHost(t)
	config := h.path("config.json")
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(config, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reference := reg.Push(t, "team/app:1", registrytest.ReadArchive(t, programs+"/busybox.tar"))
	write(registrytest.Config("not the password", reg.Host))
	dir := h.path("certs.d/" + strings.ReplaceAll(reg.Host, ":", "_") + "_")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/hosts.toml", []byte("ca = \""+reg.CA+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.flags = []string{"--registry-config", config, "--registry-hosts-dir", h.path("certs.d")}
	h.start()
	h.write("app.yaml", "  image: "+reference+"\n  command: [sleep, \"1000\"]\n")
	message := h.untilPullFailed("app", "image "+reference, "refuses the credentials", reg.Host,
		" of "+config)
	if strings.Contains(message, "not the password") {
		t.Errorf("the message shows the password: %s", message)
	}
	write(registrytest.Config(registrytest.Password, reg.Host+"/team"))
	h.run("", "start", "--no-wait", "app")
	h.untilRunning("app")
	h.logShowsNo("not the password")
	h.logShowsNo(registrytest.Password)
	h.removeAll("app.yaml")
}

// TestStandaloneSamplePrivateRegistry applies the sample without its Secret, then with a wrong
// password, and then as it is. Another Container, which has no credentials, does not get the image
// that is on the node then.
func TestStandaloneSamplePrivateRegistry(t *testing.T) {
	t.Parallel()
	reg := registrytest.Start(t, registrytest.Options{TLS: true, Private: true})
	h := newHost(t)
	reference := reg.Push(t, "team/app:1", registrytest.ReadArchive(t, programs+"/busybox.tar"))
	h.tracer = []string{"/usr/bin/env", "SSL_CERT_FILE=" + reg.CA}
	h.flags = []string{"--registry-config", h.path("config.json")}
	if err := os.WriteFile(h.path("config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	text, err := os.ReadFile("../../config/samples/standalone/private-registry.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sample := strings.ReplaceAll(string(text), "registry.example.com", reg.Host)
	secret, container, _ := strings.Cut(sample, "\n---\n")
	const name = "private-registry"

	h.raw(name+".yaml", container)
	h.untilPullFailed(name, "image "+reference+": the registry refuses an anonymous pull",
		"there is no Secret default/login", "podman login")
	h.raw("secret.yaml", strings.ReplaceAll(secret, registrytest.Password, "not the password"))
	message := h.untilPullFailed(name, "refuses the credentials", "of Secret default/login")
	if strings.Contains(message, "not the password") {
		t.Errorf("the message shows the password: %s", message)
	}
	h.raw("secret.yaml", secret)
	h.untilRunning(name)

	h.write("other.yaml", "  image: "+reference+"\n  command: [sleep, \"1000\"]\n")
	h.untilPullFailed("other", "the registry refuses an anonymous pull")
	h.logShowsNo("not the password")
	h.logShowsNo(registrytest.Password)
	h.removeAll(name+".yaml", "secret.yaml", "other.yaml")
}
